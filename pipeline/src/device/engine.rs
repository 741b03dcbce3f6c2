//! One stream on a device: frames in, repainted frames out.

use std::collections::VecDeque;
use std::sync::Arc;

use livediffusion_kernels::gpu::{Collected, DType, Overlap, Queue, Queues, Tensor};
use livediffusion_kernels::{Normalise, rgb8_to_chw};

use super::album::Album;
use super::batch::DeviceBatch;
use super::noise::{DeviceNoise, NoiseStore};
use super::stages::{Handovers, Stages, once};
use super::timeline::{Timeline, milliseconds};
use super::{DeviceNetworks, DeviceStream};
use crate::controlnet::Preprocessing;
use crate::emit::MAX_FAILED_IN_A_ROW;
use crate::emitted::Emitted;
use crate::error::EngineError;
use crate::facts::{ModelFacts, make_plan};
use crate::frame::{FrameMeta, PictureView, Size};
use crate::layout::noise_origin;
use crate::model::ModelError;
use crate::noise::{NoiseSource, SeededNoise, SeededUniform};
use crate::params::{Parameters, PromptPolicy};
use crate::plan::Plan;
use crate::schedule::NoiseSchedule;
use crate::settings::{Control, Settings};
use crate::similarity::{Decision, SimilarityFilter};
use crate::slot::Fate;
use crate::stats::{Clock, Stage, Stats};
use crate::stream_batch::Admission;

/// Why a stream under these parameters cannot be a [`DeviceEngine`]; `None` if it can.
pub fn refusal(parameters: &Parameters) -> Option<&'static str> {
    if parameters.frame_buffer > 1 {
        return Some("a frame buffer of several frames");
    }
    parameters.target_fps.map(|_| "a frame rate that is held (--target-fps)")
}

/// A frame, or the lack of one, whose turn comes when those before it have left.
pub(super) enum Flight {
    /// A set of buffers whose picture is this frame's.
    Painted(FrameMeta),
    /// A set of buffers without a picture: the stream batch was not full.
    Nothing,
    /// The picture before it again.
    Repeat(FrameMeta),
}

/// What comes into the stream with a piece of work.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// The picture that was written into the set's buffer.
    Picture(FrameMeta),
    /// The noise that was written into the set's staging memory.
    Noise(FrameMeta),
}

/// What belongs to a set of the overlap's buffers.
pub(super) struct Desk<Q: Queue> {
    pub(super) timeline: Timeline<Q>,
    /// Pinned: x and x0_ref of a txt2img frame, or the noise of a posterior in the first.
    pub(super) staging: Option<[Tensor; 2]>,
}

/// A running stream whose latents, noise and tensors are in a device's memory.
pub struct DeviceEngine<Q: Queue> {
    queues: Queues<Q>,
    handovers: Handovers<Q>,
    networks: DeviceNetworks<Q>,
    facts: ModelFacts,
    schedule: NoiseSchedule,
    size: Size,
    len: usize,
    control: Control,
    settings: Arc<Settings>,
    seen: Arc<Settings>,
    admission: Admission,
    noise: Arc<DeviceNoise>,
    noises: NoiseStore,
    recorded_noise: bool,
    filter: SimilarityFilter,
    uniform: Box<dyn FnMut() -> f64 + Send>,
    /// The frame as the similarity filter looks at it.
    looked_at: Vec<f32>,
    preprocessing: Preprocessing,
    batch: DeviceBatch,
    overlap: Overlap<Q>,
    desks: Vec<Desk<Q>>,
    /// Noise of a posterior, and its sample.
    sampled: Option<[Tensor; 2]>,
    flights: VecDeque<Flight>,
    /// Frames that may be on their way when a call returns.
    ahead: usize,
    generating: bool,
    failed_in_a_row: u32,
    album: Album,
    clock: Box<dyn Clock>,
    stats: Stats,
}

impl<Q: Queue> DeviceEngine<Q> {
    /// Makes a stream of pictures of `size` under the settings that `control` holds, with up to `lanes` frames on their way: 1
    /// waits for each picture, the least delay; more overlap copies with work, and hand pictures out calls later.
    ///
    /// # Errors
    /// A size or a t_index_list that the model cannot do, more rows than its U-Net was compiled for, settings that [`refusal`] names, a device without memory.
    pub fn new(
        queues: Queues<Q>,
        networks: DeviceNetworks<Q>,
        (facts, size): (ModelFacts, Size),
        control: Control,
        lanes: usize,
        clock: Box<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let shape = facts.latent_shape(size)?;
        let schedule = NoiseSchedule::new(&facts.scheduler)?;
        let settings = control.load();
        let parameters = &settings.parameters;
        if let Some(why) = refusal(parameters) {
            return Err(ModelError::new(format!("a stream on a device cannot have {why}")).into());
        }
        facts.check_rows(parameters)?;
        let plan = Arc::new(make_plan(&facts.scheduler, &schedule, parameters)?);
        let (len, bytes) = (shape.len(), 3 * size.pixels());
        let seeded = SeededNoise::blend(&parameters.seed_weights(), plan.len(), len);
        let mut noises = NoiseStore::default();
        let noise = noises.take(&queues.work, &seeded, plan.len(), len)?;
        let mut uniform = SeededUniform::new(parameters.seed);
        let admission = Admission { plan, noise: Arc::new(seeded), prompts: Arc::clone(&settings.prompts) };
        let mut batch = DeviceBatch::new(shape, size);
        batch.set_feedback(parameters.feedback);
        let sets = lanes.max(1);
        // What a ControlNet is shown of a frame goes up behind it, in one copy.
        let frame_bytes = if networks.denoiser.takes_control() { 2 * bytes } else { bytes };
        let overlap = Overlap::new(&queues, sets, (frame_bytes, bytes))?;
        let desks = (0..sets).map(|_| Desk { timeline: Timeline::new(queues.is_apart()), staging: None }).collect();
        Ok(Self {
            handovers: Handovers::new(&queues)?,
            queues,
            networks,
            facts,
            schedule,
            size,
            len,
            control,
            seen: Arc::clone(&settings),
            settings,
            admission,
            noise,
            noises,
            recorded_noise: false,
            filter: SimilarityFilter::default(),
            uniform: Box::new(move || uniform.next_uniform()),
            looked_at: Vec::new(),
            preprocessing: Preprocessing::default(),
            batch,
            overlap,
            desks,
            sampled: None,
            flights: VecDeque::with_capacity(2 * sets),
            ahead: sets - 1,
            generating: false,
            failed_in_a_row: 0,
            album: Album::new(bytes),
            clock,
            stats: Stats::default(),
        })
    }

    /// As [`Engine::replay_randomness`](crate::engine::Engine::replay_randomness). A step's noise is that of frame 0 for all frames.
    ///
    /// # Errors
    /// A device without memory.
    pub fn replay_randomness(
        &mut self,
        noise: Arc<dyn NoiseSource>,
        uniform: Box<dyn FnMut() -> f64 + Send>,
    ) -> Result<(), EngineError> {
        self.noise = self.noises.take(&self.queues.work, &*noise, self.admission.plan.len(), self.len)?;
        self.admission.noise = noise;
        self.uniform = uniform;
        self.recorded_noise = true;
        Ok(())
    }

    /// Starts a call: as [`Engine`](crate::engine::Engine) does.
    fn begin(&mut self, generating: bool) -> Result<(), EngineError> {
        self.album.clear();
        if self.generating != generating {
            self.finish_frames()?;
            self.batch.forget_last();
            self.generating = generating;
        }
        let old = &self.settings;
        if let Some((new, plan)) = self.facts.new_settings(&self.control, &mut self.seen, old, &self.schedule) {
            if !self.facts.can_carry(&self.batch.left(), &new.parameters)
                && let Err(error) = self.finish_frames()
            {
                // They are not in force.
                self.seen = Arc::clone(&self.settings);
                return Err(error);
            }
            self.take_up(new, plan)?;
        }
        Ok(())
    }

    fn take_up(&mut self, new: Arc<Settings>, plan: Plan) -> Result<(), EngineError> {
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
            let seeded = SeededNoise::blend(&new.seed_weights(), steps, self.len);
            self.noise = self.noises.take(&self.queues.work, &seeded, steps, self.len)?;
            self.admission.noise = Arc::new(seeded);
        }
        self.admission.prompts = Arc::clone(&self.settings.prompts);
        if new.prompt_policy == PromptPolicy::All {
            self.batch.replace_prompts(&self.admission.prompts);
        }
        Ok(())
    }

    /// Asks the similarity filter whether the frame is worth the networks.
    fn decide(&mut self, picture: PictureView<'_>) -> Decision {
        let parameters = &self.settings.parameters;
        let Some(threshold) = parameters.similarity else {
            self.filter.reset();
            return Decision::PROCESS;
        };
        let started = self.clock.now();
        let Size { width, height } = self.size;
        self.looked_at.resize(3 * width * height, 0.0);
        rgb8_to_chw(picture.rgb, picture.stride, (width, height), Normalise::SIGNED, &mut self.looked_at);
        let (metric, most) = (parameters.similarity_metric, parameters.max_skip);
        let decision = self.filter.decide(&self.looked_at, metric, threshold, most, &mut self.uniform);
        self.stats.record(Stage::Similarity, self.clock.now().saturating_sub(started));
        decision
    }

    /// Writes a frame, and behind it what a ControlNet is shown of it, to the set that comes next.
    fn write_frame(&mut self, picture: PictureView<'_>) -> Result<(), EngineError> {
        let Some(set) = self.overlap.next_frame()? else { return Ok(()) };
        let row = 3 * self.size.width;
        let (frame, control) = set.split_at_mut(row * self.size.height);
        picture.rows().zip(frame.chunks_exact_mut(row)).for_each(|(from, to)| to.copy_from_slice(from));
        if !control.is_empty() {
            let started = self.clock.now();
            self.preprocessing.run(picture, &self.settings.parameters.control, control);
            self.stats.record(Stage::Control, self.clock.now().saturating_sub(started));
        }
        Ok(())
    }

    /// Puts a call's work into the queue: the entry, the U-Net, and the pictures that leave.
    fn work(&mut self, entry: Option<Entry>) -> Result<(), EngineError> {
        if entry.is_some() || self.batch.needs_unet() {
            self.make_room()?;
            self.submit(entry, true)?;
        } else {
            self.batch.age();
            while !self.settings.parameters.stream_batch && self.batch.has_unready() {
                self.batch.age();
            }
        }
        // What else is ready leaves too, each painted frame with a set of its own.
        while let Some((meta, fate)) = self.batch.front() {
            if fate == Fate::Painted {
                self.make_room()?;
                self.submit(None, false)?;
            } else {
                self.batch.leave(&self.queues.work, |_| Ok(()))?;
                self.flights.push_back(Flight::Repeat(meta));
            }
        }
        Ok(())
    }

    /// Puts a piece of work on one set of buffers: what enters, a call of the U-Net or several if `ticks`, and the first frame that
    /// is ready then, if it is the next to leave.
    fn submit(&mut self, entry: Option<Entry>, ticks: bool) -> Result<(), EngineError> {
        let Self { overlap, networks, batch, desks, handovers, admission, noise, sampled, stats, settings, .. } = self;
        let mut stages = Stages {
            networks,
            batch,
            desks,
            handovers,
            of: (admission, noise),
            sampled,
            stats,
            parameters: &settings.parameters,
            flights: &mut self.flights,
            size: self.size,
            len: self.len,
            entry,
            ticks,
            leaving: Flight::Nothing,
            shows_control: false,
        };
        let submitted = overlap.submit(|work| stages.put(work))?;
        debug_assert!(submitted, "room was made");
        let leaving = stages.leaving;
        self.flights.push_back(leaving);
        Ok(())
    }

    /// Waits until a set of buffers is vacant.
    fn make_room(&mut self) -> Result<(), EngineError> {
        let sets = self.desks.len();
        self.settle(sets - 1)
    }

    /// Collects pictures in order until at most `most` sets of buffers are on their way.
    fn settle(&mut self, most: usize) -> Result<(), EngineError> {
        while self.overlap.in_flight() > most || matches!(self.flights.front(), Some(Flight::Repeat(_))) {
            let Some(flight) = self.flights.pop_front() else { break };
            if let Flight::Repeat(meta) = flight {
                self.stats.frames_out += u64::from(self.album.repeat(meta));
                continue;
            }
            let number = self.overlap.next_out();
            let Some(Collected { picture, is_broken, copies }) = self.overlap.collect()? else { break };
            for (stage, ms) in [Stage::Upload, Stage::Download].into_iter().zip(copies) {
                self.stats.record(stage, milliseconds(ms));
            }
            self.desks[number].timeline.record(&mut self.stats)?;
            let Flight::Painted(meta) = flight else { continue };
            if is_broken {
                self.stats.frames_failed += 1;
                self.failed_in_a_row += 1;
                // Look-alikes of a broken frame must not repeat the picture before it, nor those that come be made of it.
                self.filter.reset();
                self.batch.forget_last();
                self.stats.frames_out += u64::from(self.album.repeat(meta));
            } else {
                self.failed_in_a_row = 0;
                self.stats.frames_out += 1;
                self.album.paint(meta, picture);
            }
        }
        if self.failed_in_a_row >= MAX_FAILED_IN_A_ROW {
            return Err(EngineError::NotFinite { frames: self.failed_in_a_row });
        }
        Ok(())
    }

    fn finish_frames(&mut self) -> Result<(), EngineError> {
        while !self.batch.is_empty() {
            self.work(None)?;
        }
        self.settle(0)
    }

    /// The staging memory of the set that comes next.
    fn staging(&mut self) -> Result<&mut [Tensor; 2], EngineError> {
        let (number, queue, len) = (self.overlap.next_in(), &self.queues.work, self.len);
        Ok(once(&mut self.desks[number].staging, || queue.pinned(DType::F32, &[len]))?)
    }
}

impl<Q: Queue> DeviceStream for DeviceEngine<Q> {
    fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError> {
        let started = self.clock.now();
        self.begin(false)?;
        if picture.size != self.size || !picture.is_consistent() {
            return Err(EngineError::Picture { expected: self.size, got: picture.size });
        }
        if self.networks.encoder.is_none() {
            return Err(EngineError::NoEncoder);
        }
        self.stats.frames_in += 1;
        let decision = self.decide(picture);
        self.stats.frames_skipped += u64::from(decision.skip);
        if decision.skip {
            self.batch.admit_without_work(&self.queues.work, meta, (&self.admission, &self.noise))?;
            self.work(None)?;
        } else {
            self.make_room()?;
            self.write_frame(picture)?;
            if self.settings.parameters.vae_sample {
                let noise = Arc::clone(&self.admission.noise);
                let [staged, _] = self.staging()?;
                noise.posterior(meta.id, staged.as_mut_slice()?);
            }
            self.work(Some(Entry::Picture(meta)))?;
        }
        self.settle(self.ahead)?;
        self.stats.record(Stage::Step, self.clock.now().saturating_sub(started));
        Ok(self.album.emitted())
    }

    fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError> {
        let started = self.clock.now();
        self.begin(true)?;
        self.stats.frames_in += 1;
        self.make_room()?;
        let Admission { plan, noise, .. } = self.admission.clone();
        let [x, x0_ref] = self.staging()?;
        let x = x.as_mut_slice::<f32>()?;
        noise.initial(meta.id, x);
        noise_origin(&plan.steps[0], x, noise.step(0, meta.id), x0_ref.as_mut_slice()?);
        self.work(Some(Entry::Noise(meta)))?;
        self.settle(self.ahead)?;
        self.stats.record(Stage::Step, self.clock.now().saturating_sub(started));
        Ok(self.album.emitted())
    }

    fn ready(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.album.clear();
        self.settle(0)?;
        Ok(self.album.emitted())
    }

    fn flush(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.album.clear();
        self.finish_frames()?;
        self.batch.forget_last();
        Ok(self.album.emitted())
    }

    fn stats(&self) -> &Stats {
        &self.stats
    }

    fn lanes(&self) -> usize {
        self.desks.len()
    }
}
