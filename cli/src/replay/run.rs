//! One case through an engine, with everything that comes by compared with the recording.

use std::sync::Arc;

use livediffusion_kernels::StepCoefficients;
use livediffusion_kernels::gpu::{Queue, Queues};
use livediffusion_onnx::SharedNetworks;
use livediffusion_pipeline::device::{self, DeviceEngine, DeviceStream as _};
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::model::Networks;
use livediffusion_pipeline::plan::Plan;
use livediffusion_pipeline::stats::StoppedClock;
use livediffusion_pipeline::{Control, Picture, Settings};

use super::case::{Case, FilterRecord, ReferenceBug, Tensor};
use super::networks::{RecordedNoise, Recording, SharedLedger};
use super::packs::Packs;
use super::setup::TURBO;
use super::{device as watched, picture, setup};
use crate::args::{Level, ReplayArgs};
use crate::failure::Outcome;
use crate::lock;

/// A case ready to run, as often as there are engines.
pub(super) struct Replay<'a> {
    case: &'a Arc<Case>,
    level: Level,
    facts: ModelFacts,
    settings: Settings,
    updated: Option<Settings>,
    size: Size,
    frames: Option<Tensor>,
    noise: Arc<RecordedNoise>,
}

impl<'a> Replay<'a> {
    /// The case, whose networks are among the packs then, where the level asks for them. What the prompts are encoded to is compared
    /// on the way.
    pub(super) fn prepare(
        args: &ReplayArgs,
        case: &'a Arc<Case>,
        packs: &mut Packs<'_>,
        ledger: &SharedLedger,
    ) -> Outcome<Self> {
        let size = case.size();
        let noise = RecordedNoise::of(case)?;
        let parameters = setup::parameters(case, &noise, size)?;
        let text = match args.level {
            Level::Arithmetic => None,
            Level::Networks | Level::EndToEnd => Some(&mut packs.load(case)?.text),
        };
        let facts = setup::facts(case, &args.models.join(&case.config.model), size)?;
        let (settings, updated) = setup::prompts(case, args.level, parameters, size, text, ledger)?;
        let frames = if case.is_img2img() { Some(case.tensor("input/frames_u8")?) } else { None };
        Ok(Self { case, level: args.level, facts, settings, updated, size, frames, noise: Arc::new(noise) })
    }

    /// Through the engine on the host.
    pub(super) fn on_host(&self, networks: Networks, ledger: &SharedLedger) -> Outcome<()> {
        let control = Control::new(self.settings.clone());
        let (facts, clock) = (self.facts.clone(), Box::new(StoppedClock));
        let mut engine = Engine::new(networks, facts, self.size, control.clone(), clock)?;
        engine.replay_randomness(Arc::clone(&self.noise) as Arc<_>, self.filter_randomness());
        compare_constants(self.case, engine.plan(), ledger)?;
        self.each_frame(&control, |turn, entries| {
            for (meta, rgb) in entries {
                let emitted = match &rgb {
                    Some(rgb) => engine.step(meta, PictureView::packed(self.size, rgb))?,
                    None => engine.generate(meta)?,
                };
                for picture in emitted.iter() {
                    self.compare_output(ledger, &picture, picture.latent)?;
                }
            }
            if let Some(record) = self.filtered(turn) {
                for (_, decision) in engine.decisions() {
                    compare_decision(ledger, record, decision.skip);
                    if let (Some(got), Some(recorded)) = (decision.similarity, record.cos) {
                        lock(ledger).compare("filter similarity", &[got as f32], &[recorded as f32]);
                    }
                }
            }
            Ok(())
        })
    }

    /// Through the engine whose frames stay on a device, one of them on its way at a time; or why the case cannot run there.
    pub(super) fn on_device<Q: Queue>(
        &self,
        queues: &Queues<Q>,
        shared: &SharedNetworks,
        ledger: &SharedLedger,
    ) -> Outcome<Option<String>> {
        let control = Control::new(self.settings.clone());
        let fresh = self.noise.is_fresh().then_some("noise of its own for every frame");
        if let Some(why) = device::refusal(&self.settings.parameters).or(fresh) {
            return Ok(Some(why.to_owned()));
        }
        let networks = match shared.on_device(&queues.work, self.size) {
            Ok(networks) => networks,
            Err(error) => return Ok(Some(error.what)),
        };
        let (networks, latents) = watched::networks(self.case, networks, ledger);
        let (of, clock) = ((self.facts.clone(), self.size), Box::new(StoppedClock));
        let mut engine = DeviceEngine::new(queues.clone(), networks, of, control.clone(), 1, clock)?;
        engine.replay_randomness(Arc::clone(&self.noise) as Arc<_>, self.filter_randomness())?;
        self.each_frame(&control, |turn, entries| {
            for (meta, rgb) in entries {
                let skipped = engine.stats().frames_skipped;
                let emitted = match &rgb {
                    Some(rgb) => engine.step(meta, PictureView::packed(self.size, rgb))?,
                    None => engine.generate(meta)?,
                };
                for picture in emitted.iter() {
                    let latent = if picture.repeated { None } else { latents.next() };
                    self.compare_output(ledger, &picture, latent.as_deref())?;
                }
                if let Some(record) = self.filtered(turn) {
                    compare_decision(ledger, record, engine.stats().frames_skipped > skipped);
                }
            }
            Ok(())
        })?;
        Ok(None)
    }

    /// The recorded random numbers of the similarity filter.
    fn filter_randomness(&self) -> Box<dyn FnMut() -> f64 + Send> {
        let samples: Vec<f64> = self.case.filter.iter().filter_map(|record| record.sample).collect();
        let mut samples = samples.into_iter();
        Box::new(move || samples.next().unwrap_or(0.0))
    }

    /// What the reference's filter did with a frame.
    fn filtered(&self, frame: usize) -> Option<&FilterRecord> {
        self.case.filter.iter().find(|record| record.frame == frame)
    }

    /// Calls `turn` for every recorded frame with what comes in, one entry for each row of a frame buffer, under the prompts of then.
    fn each_frame(
        &self,
        control: &Control,
        mut turn: impl FnMut(usize, Vec<(FrameMeta, Option<Vec<u8>>)>) -> Outcome<()>,
    ) -> Outcome<()> {
        let config = &self.case.config;
        for frame in 0..config.frames {
            if config.update_prompt.as_ref().is_some_and(|update| update.frame == frame)
                && let Some(updated) = &self.updated
            {
                control.store(updated.clone());
            }
            let rows = 0..config.frame_buffer_size;
            let entries = rows.map(|row| {
                let id = frame * config.frame_buffer_size + row;
                let fit = |frames| picture::fit(frames, id, self.size, self.level == Level::EndToEnd);
                let meta = FrameMeta { id: id as u64, ..FrameMeta::default() };
                Ok((meta, self.frames.as_ref().map(fit).transpose()?))
            });
            turn(frame, entries.collect::<Outcome<_>>()?)?;
        }
        Ok(())
    }

    /// A picture and its latent that left an engine against those of the frame's own call in the recording.
    fn compare_output(&self, ledger: &SharedLedger, picture: &Picture<'_>, latent: Option<&[f32]>) -> Outcome<()> {
        let case = self.case;
        let recording = Recording { case: Arc::clone(case) };
        let in_batch = case.config.use_denoising_batch;
        let (frame, row) = recording.frame_of(picture.meta.id);
        // A skipped frame shows the last picture; with several steps the reference shows an older one (bug 12).
        let call = if picture.repeated {
            (case.steps() == 1).then_some(frame)
        } else {
            recording.call_of(picture.meta.id, if in_batch { case.steps() - 1 } else { 0 })
        };
        let Some(call) = call else { return Ok(()) };
        if let Some(latent) = latent {
            let recorded = case.tensor(&format!("f{call:02}/latent_out"))?;
            let recorded = recorded.row(row).unwrap_or_default().to_vec();
            let mut ledger = lock(ledger);
            match case.bug {
                Some(bug) if bug != ReferenceBug::SequentialNoise || frame > 0 => {
                    ledger.deviating.push((latent.to_vec(), recorded));
                }
                _ => {
                    ledger.compare("latent_out", latent, &recorded);
                }
            }
        }
        if self.level == Level::EndToEnd && case.has_picture(call) {
            let recorded = case.tensor(&format!("f{call:02}/image_u8"))?;
            lock(ledger).compare_bytes(picture.rgb, recorded.row(row).unwrap_or_default());
        }
        Ok(())
    }
}

fn compare_decision(ledger: &SharedLedger, record: &FilterRecord, skipped: bool) {
    let mut ledger = lock(ledger);
    ledger.decisions += 1;
    ledger.decisions_differ += u64::from(skipped == record.processed);
}

/// The plan against the recorded coefficients.
fn compare_constants(case: &Case, plan: &Plan, ledger: &SharedLedger) -> Outcome<()> {
    let mut ledger = lock(ledger);
    ledger.compare("const/sub_timesteps_list", &plan.timesteps, &case.tensor("const/sub_timesteps_list")?.values);
    let rows = |key: &str| -> Outcome<Vec<f32>> {
        // The stream batch repeats each step's coefficient for every frame of the frame buffer.
        let tensor = case.tensor(key)?;
        let stride = tensor.rows() / case.steps().max(1);
        Ok(tensor.values.iter().step_by(stride.max(1)).copied().collect())
    };
    let (alpha, sigma) = (rows("const/alpha_prod_t_sqrt")?, rows("const/beta_prod_t_sqrt")?);
    let ours = |f: fn(&StepCoefficients) -> f32| plan.steps.iter().map(f).collect::<Vec<_>>();
    ledger.compare("const/alpha_prod_t_sqrt", &ours(|step| step.alpha), &alpha);
    ledger.compare("const/beta_prod_t_sqrt", &ours(|step| step.sigma), &sigma);
    if case.config.mode != TURBO {
        // D = c_out·(x - S·m)/A + c_skip·x, as weights of x and m.
        let (skip, out) = (case.tensor("const/c_skip")?.values, case.tensor("const/c_out")?.values);
        let zipped = || alpha.iter().zip(&sigma).zip(skip.iter().zip(&out));
        let of_x: Vec<f32> = zipped().map(|((a, _), (skip, out))| out / a + skip).collect();
        let of_m: Vec<f32> = zipped().map(|((a, s), (_, out))| -out * s / a).collect();
        ledger.compare("const/c_skip and c_out (weight of x)", &ours(|step| step.hist_x), &of_x);
        ledger.compare("const/c_out (weight of m)", &ours(|step| step.hist_m), &of_m);
    }
    Ok(())
}
