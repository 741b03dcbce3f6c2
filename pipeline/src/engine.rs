//! One stream: frames in, repainted frames out.

use std::sync::Arc;

use livediffusion_kernels::{Normalise, all_finite, rgb8_to_chw};

use crate::controlnet::{ControlImage, Preprocessing};
use crate::emit::Emitter;
use crate::emitted::Emitted;
use crate::error::EngineError;
pub use crate::facts::ModelFacts;
use crate::facts::make_plan;
use crate::frame::{FrameMeta, PictureView, Size};
use crate::model::Networks;
use crate::noise::{NoiseSource, SeededNoise, SeededUniform};
use crate::params::PromptPolicy;
use crate::plan::Plan;
use crate::schedule::NoiseSchedule;
use crate::settings::{Control, Settings};
use crate::similarity::{Decision, SimilarityFilter};
use crate::slot::Fate;
use crate::stats::{Clock, Stage, Stats};
use crate::stream_batch::{Admission, StreamBatch};

/// A running stream. Every buffer is its own: nothing is allocated by [`step`](Self::step) once it has seen its largest
/// batch.
pub struct Engine {
    networks: Networks,
    facts: ModelFacts,
    schedule: NoiseSchedule,
    size: Size,
    control: Control,
    /// In force.
    settings: Arc<Settings>,
    /// Last seen in `control`: those in force, or refused ones.
    seen: Arc<Settings>,
    admission: Admission,
    recorded_noise: bool,
    filter: SimilarityFilter,
    uniform: Box<dyn FnMut() -> f64 + Send>,
    batch: StreamBatch,
    pending: Vec<(FrameMeta, Decision)>,
    /// Whether the pending frames start from noise (txt2img) rather than from pictures.
    generating: bool,
    images: Vec<f32>,
    latents: Vec<f32>,
    posterior: Vec<f32>,
    /// Of the pending frames that are not skipped, if the U-Net has a ControlNet.
    controls: Vec<Arc<ControlImage>>,
    takes_control: bool,
    preprocessing: Preprocessing,
    emitter: Emitter,
    decisions: Vec<(FrameMeta, Decision)>,
    clock: Box<dyn Clock>,
    stats: Stats,
}

impl Engine {
    /// Makes a stream of pictures of `size` under the settings that `control` holds.
    ///
    /// # Errors
    /// A size or a t_index_list that the model cannot do.
    pub fn new(
        networks: Networks,
        facts: ModelFacts,
        size: Size,
        control: Control,
        clock: Box<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let shape = facts.latent_shape(size)?;
        let schedule = NoiseSchedule::new(&facts.scheduler)?;
        let settings = control.load();
        facts.check_rows(&settings.parameters)?;
        let plan = Arc::new(make_plan(&facts.scheduler, &schedule, &settings.parameters)?);
        let seed = settings.parameters.seed;
        let noise = Arc::new(SeededNoise::blend(&settings.parameters.seed_weights(), plan.len(), shape.len()));
        let mut uniform = SeededUniform::new(seed);
        let admission = Admission { plan, noise, prompts: Arc::clone(&settings.prompts) };
        let frames = settings.parameters.frame_buffer;
        let mut batch = StreamBatch::new(shape);
        batch.set_feedback(settings.parameters.feedback);
        Ok(Self {
            facts,
            schedule,
            size,
            control,
            admission,
            recorded_noise: false,
            filter: SimilarityFilter::default(),
            uniform: Box::new(move || uniform.next_uniform()),
            batch,
            pending: Vec::with_capacity(frames),
            generating: false,
            images: vec![0.0; frames * 3 * size.pixels()],
            latents: vec![0.0; frames * shape.len()],
            posterior: vec![0.0; frames * shape.len()],
            controls: Vec::with_capacity(frames),
            takes_control: networks.denoiser.takes_control(),
            preprocessing: Preprocessing::default(),
            emitter: Emitter::new(size, shape, frames),
            decisions: Vec::with_capacity(frames),
            seen: Arc::clone(&settings),
            settings,
            networks,
            clock,
            stats: Stats::default(),
        })
    }

    /// Takes noise from `noise` in place of the seed, and the filter's random numbers from `uniform`: how recorded runs
    /// are replayed.
    pub fn replay_randomness(&mut self, noise: Arc<dyn NoiseSource>, uniform: Box<dyn FnMut() -> f64 + Send>) {
        self.admission.noise = noise;
        self.uniform = uniform;
        self.recorded_noise = true;
    }

    /// One frame in; the pictures that became ready out: usually one, none while the first frames are in flight or a
    /// frame buffer fills, more when a shorter t_index_list lets frames catch up.
    ///
    /// # Errors
    /// A picture of another size, a failing network, or three broken frames in a row.
    pub fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError> {
        let started = self.clock.now();
        self.begin(false)?;
        self.preprocess(picture)?;
        self.filter(meta);
        self.prepare_control(picture);
        if self.pending.len() == self.settings.parameters.frame_buffer {
            self.encode_and_admit()?;
            self.denoise()?;
            self.emit()?;
        }
        self.stats.record(Stage::Step, self.clock.now().saturating_sub(started));
        Ok(self.emitter.emitted())
    }

    /// txt2img: one frame out of noise, in place of [`step`](Self::step).
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError> {
        let started = self.clock.now();
        self.begin(true)?;
        self.stats.frames_in += 1;
        self.pending.push((meta, Decision::PROCESS));
        if self.pending.len() == self.settings.parameters.frame_buffer {
            self.admit_noise();
            self.denoise()?;
            self.emit()?;
        }
        self.stats.record(Stage::Step, self.clock.now().saturating_sub(started));
        Ok(self.emitter.emitted())
    }

    /// Finishes the frames in flight, at the end of a stream: as many pictures leave as frames entered.
    ///
    /// # Errors
    /// A failing network.
    pub fn flush(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.emitter.clear();
        self.finish_frames()?;
        self.batch.forget_last();
        Ok(self.emitter.emitted())
    }

    fn finish_frames(&mut self) -> Result<(), EngineError> {
        if !self.pending.is_empty() {
            if self.generating {
                self.admit_noise();
            } else if let Err(error) = self.encode_and_admit() {
                // As of a group that is full: its frames are lost with that error.
                self.give_up_group();
                return Err(error);
            }
        }
        while !self.batch.is_empty() {
            self.tick()?;
            self.emit()?;
        }
        Ok(())
    }

    /// Starts a call: the pictures of the call before are gone, new settings are in force. A stream that turns from
    /// pictures to noise or back finishes the frames of the other kind first.
    fn begin(&mut self, generating: bool) -> Result<(), EngineError> {
        self.emitter.clear();
        if self.pending.len() >= self.settings.parameters.frame_buffer {
            // A network failed on this group in the call before: its frames are lost with that error.
            self.give_up_group();
        }
        if self.generating != generating {
            self.finish_frames()?;
            self.batch.forget_last();
            self.generating = generating;
        }
        self.adopt_settings()
    }

    /// No pictures: those of the call before are gone.
    pub(crate) fn nothing(&mut self) -> Emitted<'_> {
        self.emitter.clear();
        self.emitter.emitted()
    }

    /// Gives up the frames that have not been admitted.
    fn give_up_group(&mut self) {
        self.pending.clear();
        self.controls.clear();
    }

    /// Gives up the frames in flight, after an error that was theirs.
    pub(crate) fn abandon(&mut self) {
        self.give_up_group();
        self.batch.clear();
    }

    /// The statistics so far, for which new ones begin.
    pub(crate) fn take_stats(&mut self) -> Stats {
        std::mem::take(&mut self.stats)
    }

    /// What comes next has no last picture: it is not seen after it.
    pub(crate) fn forget_last(&mut self) {
        self.batch.forget_last();
    }

    /// Where its settings come from.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Size of the pictures.
    pub fn size(&self) -> Size {
        self.size
    }

    /// What the similarity filter decided for the frames of the last group, oldest first.
    pub fn decisions(&self) -> &[(FrameMeta, Decision)] {
        &self.decisions
    }

    /// The plan that frames are admitted with now.
    pub fn plan(&self) -> &Plan {
        &self.admission.plan
    }

    /// Ends the stream and gives its networks back.
    pub fn into_networks(self) -> Networks {
        self.networks
    }

    /// Takes up new settings, if there are any, at this frame boundary. Frames in flight keep their plan and noise; where the U-Net was not
    /// compiled for them beside the new ones, they leave first.
    fn adopt_settings(&mut self) -> Result<(), EngineError> {
        let old = &self.settings;
        if let Some((new, plan)) = self.facts.new_settings(&self.control, &mut self.seen, old, &self.schedule) {
            if !self.facts.can_carry(&self.batch.left(), &new.parameters)
                && let Err(error) = self.finish_frames()
            {
                // They are not in force.
                self.seen = Arc::clone(&self.settings);
                return Err(error);
            }
            self.take_up(new, plan);
        }
        Ok(())
    }

    fn take_up(&mut self, new: Arc<Settings>, plan: Plan) {
        // What was painted under the old settings is no answer to frames under the new ones.
        self.filter.reset();
        let old = std::mem::replace(&mut self.settings, new);
        let (new, old) = (&self.settings.parameters, &old.parameters);
        self.batch.set_feedback(new.feedback);
        let steps = plan.len();
        if plan != *self.admission.plan {
            self.admission.plan = Arc::new(plan);
        }
        let is_reseeded = (new.seed, &new.seeds) != (old.seed, &old.seeds);
        if !self.recorded_noise && (is_reseeded || new.t_index.len() != old.t_index.len()) {
            let len = self.latents.len() / new.frame_buffer;
            self.admission.noise = Arc::new(SeededNoise::blend(&new.seed_weights(), steps, len));
        }
        self.admission.prompts = Arc::clone(&self.settings.prompts);
        if new.prompt_policy == PromptPolicy::All {
            self.batch.replace_prompts(&self.admission.prompts);
        }
    }

    /// 8-bit RGB to a tensor in the place of the next frame of the group.
    fn preprocess(&mut self, picture: PictureView<'_>) -> Result<(), EngineError> {
        if picture.size != self.size || !picture.is_consistent() {
            return Err(EngineError::Picture { expected: self.size, got: picture.size });
        }
        let started = self.clock.now();
        let len = 3 * self.size.pixels();
        let at = self.pending.len() * len;
        let image = &mut self.images[at..at + len];
        rgb8_to_chw(picture.rgb, picture.stride, (self.size.width, self.size.height), Normalise::SIGNED, image);
        self.stats.record(Stage::Preprocess, self.clock.now().saturating_sub(started));
        Ok(())
    }

    /// Asks the similarity filter whether the frame just preprocessed is worth the networks.
    fn filter(&mut self, meta: FrameMeta) {
        let started = self.clock.now();
        self.stats.frames_in += 1;
        let parameters = &self.settings.parameters;
        let len = 3 * self.size.pixels();
        let at = self.pending.len() * len;
        let decision = if let Some(threshold) = parameters.similarity {
            self.filter.decide(
                &self.images[at..at + len],
                parameters.similarity_metric,
                threshold,
                parameters.max_skip,
                &mut self.uniform,
            )
        } else {
            self.filter.reset();
            Decision::PROCESS
        };
        self.stats.frames_skipped += u64::from(decision.skip);
        self.pending.push((meta, decision));
        self.stats.record(Stage::Similarity, self.clock.now().saturating_sub(started));
    }

    /// Makes what a ControlNet is shown of the frame just filtered, unless that is skipped.
    fn prepare_control(&mut self, picture: PictureView<'_>) {
        if !self.takes_control || self.pending.last().is_none_or(|(_, decision)| decision.skip) {
            return;
        }
        let started = self.clock.now();
        let mut control = self.batch.take_control(self.size);
        if let Some(image) = Arc::get_mut(&mut control) {
            self.preprocessing.run(picture, &self.settings.parameters.control, image.rgb_mut());
        }
        self.controls.push(control);
        self.stats.record(Stage::Control, self.clock.now().saturating_sub(started));
    }

    /// Encodes the frames of the group that were not skipped and admits the group to the stream batch.
    fn encode_and_admit(&mut self) -> Result<(), EngineError> {
        let started = self.clock.now();
        let (pixels, len) = (3 * self.size.pixels(), self.latents.len() / self.settings.parameters.frame_buffer);
        let mut kept = 0;
        for index in 0..self.pending.len() {
            let (meta, decision) = self.pending[index];
            if decision.skip {
                continue;
            }
            if kept != index {
                self.images.copy_within(index * pixels..(index + 1) * pixels, kept * pixels);
            }
            if self.settings.parameters.vae_sample {
                self.admission.noise.posterior(meta.id, &mut self.posterior[kept * len..(kept + 1) * len]);
            }
            kept += 1;
        }
        if kept > 0 {
            let encoder = self.networks.encoder.as_mut().ok_or(EngineError::NoEncoder)?;
            let posterior = self.settings.parameters.vae_sample.then_some(&self.posterior[..kept * len]);
            let latents = &mut self.latents[..kept * len];
            encoder.encode(&self.images[..kept * pixels], kept, self.size, posterior, latents)?;
            self.stats.record(Stage::Encode, self.clock.now().saturating_sub(started));
        }
        self.batch.begin_group();
        self.decisions.clear();
        let (mut latents, mut controls) = (self.latents.chunks(len), self.controls.drain(..));
        for (meta, decision) in self.pending.drain(..) {
            self.decisions.push((meta, decision));
            let (latent, control) = if decision.skip { (None, None) } else { (latents.next(), controls.next()) };
            match latent {
                None => self.batch.admit_without_work(meta, Fate::Skipped, &self.admission),
                Some(latent) if all_finite(latent) => {
                    self.batch.admit_latent(meta, &self.admission, latent, control);
                }
                Some(_) => {
                    self.batch.recycle_control(control);
                    self.stats.frames_failed += 1;
                    self.filter.reset();
                    self.batch.admit_without_work(meta, Fate::Failed, &self.admission);
                }
            }
        }
        Ok(())
    }

    fn admit_noise(&mut self) {
        self.batch.begin_group();
        for (meta, _) in self.pending.drain(..) {
            self.batch.admit_noise(meta, &self.admission);
        }
    }

    fn emit(&mut self) -> Result<(), EngineError> {
        let shows_control = self.settings.parameters.control.is_shown;
        let (decoder, failed) = (&mut *self.networks.decoder, self.stats.frames_failed);
        let emitted = self.emitter.emit(&mut self.batch, shows_control, decoder, &*self.clock, &mut self.stats);
        if emitted.is_err() || self.stats.frames_failed > failed {
            // The decoder's: look-alikes must not repeat the picture before it, nor those that come be made of it.
            self.filter.reset();
            self.batch.forget_last();
        }
        emitted
    }

    /// One U-Net call for the stream batch; without it, as many as the group just admitted has steps.
    fn denoise(&mut self) -> Result<(), EngineError> {
        self.tick()?;
        while !self.settings.parameters.stream_batch && self.batch.has_unready() {
            self.tick()?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), EngineError> {
        let failed = self.stats.frames_failed;
        let guidance = self.settings.parameters.guidance_settings();
        self.batch.tick(&mut *self.networks.denoiser, guidance, &*self.clock, &mut self.stats)?;
        if self.stats.frames_failed > failed {
            // Look-alikes of a broken frame must not repeat the picture before it.
            self.filter.reset();
        }
        Ok(())
    }
}
