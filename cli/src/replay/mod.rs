//! `livediffusion replay`: runs one golden case through the engine and compares every tensor that both have.

mod case;
mod complete;
mod emulation;
mod ledger;
mod networks;
mod picture;
mod setup;

use std::sync::Arc;

use livediffusion_kernels::StepCoefficients;
use livediffusion_onnx::{Precision, Provider, ProviderChoice};
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::stats::StoppedClock;
use livediffusion_pipeline::{Control, Emitted, Settings};
use serde_json::json;

use self::case::{Case, ReferenceBug, Tensor};
use self::ledger::Ledger;
use self::networks::{RecordedNoise, Recording, SharedLedger, lock};
use self::setup::TURBO;
use crate::args::{Level, ReplayArgs};
use crate::failure::{Failure, Outcome, RUNNING};

/// What passes.
struct Tolerance {
    /// Largest error over the tensor's peak.
    error: f64,
    /// Share of picture bytes that may differ.
    bytes: f64,
    /// By how much.
    byte: u8,
    /// By how much all of them may differ on average.
    mean: f64,
}

impl Level {
    /// Largest error over the tensor's peak that passes where the networks run on the CPU in f32, as the recording did.
    fn tolerance(self) -> f64 {
        match self {
            Self::Arithmetic => 5e-6,
            Self::Networks => 1e-4,
            Self::EndToEnd => 2e-4,
        }
    }
}

impl Tolerance {
    fn of(args: &ReplayArgs, case: &Case) -> Self {
        let own = Self { error: args.level.tolerance(), bytes: 2e-3, byte: 1, mean: 1.0 };
        let same_sums = args.provider == ProviderChoice::Fixed(Provider::Cpu) && args.precision == Precision::F32;
        if same_sums || args.level == Level::Arithmetic {
            return own;
        }
        // A picture's peak is 127.5 levels from its middle.
        let levels = |error: f64| 127.5 * error;
        if args.precision == Precision::F32 {
            let error = 1e-3;
            // A value moves over the border between two levels as often as its error is a part of their distance, on either side;
            // then it is off by one.
            let share = (2.0 * levels(error) + own.bytes).min(1.0);
            return Self { error, bytes: share, byte: levels(error).ceil() as u8, mean: share };
        }
        // Guidance takes predictions apart: u + g·(c − u) = g·c − (g − 1)·u has the errors of both, so often.
        let guidance = f64::from(case.config.guidance_scale).max(1.0);
        let grown = match case.config.cfg_type.as_str() {
            "full" | "initialize" => 2.0 * guidance - 1.0,
            "self" => guidance,
            _ => 1.0,
        };
        // A latent that is off by a part of its peak, which with guidance is far above what a decoder has room for, is off by more than
        // that part where the decoder looks: single bytes by some times as much (14 levels are the most of the committed cases, where
        // 31 pass), while of errors spread evenly up to the largest the mean is half.
        let error = 2e-2 * grown;
        Self { error, bytes: 1.0, byte: (4.0 * levels(error)).ceil() as u8, mean: levels(error) / 2.0 }
    }
}

pub(crate) fn command(args: &ReplayArgs) -> Outcome<()> {
    let case = Arc::new(Case::load(&args.case)?);
    complete::check(&case)?;
    let ledger: SharedLedger = Arc::default();
    let replay = Replay::prepare(args, &case, &ledger)?;
    replay.run()?;
    let mut ledger = lock(&ledger);
    let deviates = match case.bug {
        Some(bug) => Some(emulation::check(&case, bug, args.level, &mut ledger)?),
        None => None,
    };
    let passed = report(args, &case, &ledger, deviates.as_ref());
    if passed {
        Ok(())
    } else {
        let hint = "the tensor named above is the first place to look".to_owned();
        Err(Failure::new(RUNNING, format!("{} fails at the level {}", case.name, args.level)).with_hint(Some(hint)))
    }
}

/// What a case with a defect of the reference must show.
pub(super) struct Deviation {
    /// Error of the defect's emulation against the recording: it must vanish, or the defect is not what we think.
    emulation: Option<f64>,
    /// How far our corrected outputs are from the recorded ones: they must differ.
    difference: f64,
}

fn report(args: &ReplayArgs, case: &Case, ledger: &Ledger, deviation: Option<&Deviation>) -> bool {
    let Tolerance { error: tolerance, bytes, byte, mean } = Tolerance::of(args, case);
    let (worst, tensor) = ledger.worst();
    let bytes_pass = ledger.byte_share() <= bytes && ledger.bytes.largest <= byte && ledger.byte_mean() <= mean;
    let expects_pictures = args.level == Level::EndToEnd && case.bug.is_none();
    let mut passed = ledger.compared > 0 && worst <= tolerance && bytes_pass && ledger.decisions_differ == 0;
    passed &= ledger.bytes.compared > 0 || !expects_pictures;
    if let Some(deviation) = deviation {
        // By the CPU's measure also where more is allowed: in f16 that would be more than some defects come to.
        passed &= deviation.difference > args.level.tolerance();
        passed &= deviation.emulation.is_none_or(|error| error <= Level::Arithmetic.tolerance());
    }
    if args.json {
        let deviation = deviation
            .map(|deviation| json!({ "difference": deviation.difference, "emulation_error": deviation.emulation }));
        say!(
            "{:#}",
            json!({
                "case": case.name,
                "level": args.level.to_string(),
                "provider": args.provider.to_string(),
                "precision": args.precision.to_string(),
                "passed": passed,
                "worst_error": worst,
                "worst_tensor": tensor,
                "tolerance": tolerance,
                "tensors_compared": ledger.compared,
                "bytes_compared": ledger.bytes.compared,
                "bytes_differing_share": ledger.byte_share(),
                "bytes_largest_difference": ledger.bytes.largest,
                "bytes_mean_difference": ledger.byte_mean(),
                "filter_decisions": ledger.decisions,
                "filter_decisions_differ": ledger.decisions_differ,
                "reference_bug": deviation,
            })
        );
        return passed;
    }
    say!("{} at the level {}: {}", case.name, args.level, if passed { "pass" } else { "FAIL" });
    say!("worst error      {worst:.2e} in {tensor} (tolerance {tolerance:.0e}, {} tensors)", ledger.compared);
    if ledger.bytes.compared > 0 {
        say!(
            "picture bytes    {:.2e} of {} differ, by {} at most, by {:.2e} on average",
            ledger.byte_share(),
            ledger.bytes.compared,
            ledger.bytes.largest,
            ledger.byte_mean()
        );
    }
    if ledger.decisions > 0 {
        say!("filter           {} of {} decisions differ", ledger.decisions_differ, ledger.decisions);
    }
    if let Some(Deviation { emulation, difference }) = deviation {
        say!("reference bug    ours differs by {difference:.2e}, as it must");
        if let Some(error) = emulation {
            say!("                 the bug emulated gives the recording to {error:.2e}");
        }
    }
    passed
}

/// A case ready to run.
struct Replay<'a> {
    case: &'a Arc<Case>,
    level: Level,
    ledger: &'a SharedLedger,
    engine: Engine,
    control: Control,
    updated: Option<Settings>,
    size: Size,
    frames: Option<Tensor>,
}

impl<'a> Replay<'a> {
    fn prepare(args: &ReplayArgs, case: &'a Arc<Case>, ledger: &'a SharedLedger) -> Outcome<Self> {
        let config = &case.config;
        let folder = args.models.join(&config.model);
        let size = Size::new(config.width, config.height);
        let noise = RecordedNoise::of(case)?;
        let parameters = setup::parameters(case, &noise, size)?;
        let loaded = match args.level {
            Level::Arithmetic => None,
            Level::Networks | Level::EndToEnd => Some(setup::load(args, case, &folder, (&parameters, size))?),
        };
        let facts = setup::facts(case, &folder, size)?;

        let mut real = loaded;
        let text = real.as_mut().map(|loaded| &mut loaded.text);
        let (settings, updated) = setup::prompts(case, args.level, parameters, size, text, ledger)?;
        let networks = setup::networks(case, args.level, real, ledger);
        let control = Control::new(settings);
        let mut engine = Engine::new(networks, facts, size, control.clone(), Box::new(StoppedClock))?;
        let mut samples: std::vec::IntoIter<f64> =
            case.filter.iter().filter_map(|record| record.sample).collect::<Vec<_>>().into_iter();
        engine.replay_randomness(Arc::new(noise), Box::new(move || samples.next().unwrap_or(0.0)));
        let frames = if case.is_img2img() { Some(case.tensor("input/frames_u8")?) } else { None };
        let replay = Self { case, level: args.level, ledger, engine, control, updated, size, frames };
        replay.compare_constants()?;
        Ok(replay)
    }

    /// The plan against the recorded coefficients.
    fn compare_constants(&self) -> Outcome<()> {
        let case = self.case;
        let plan = self.engine.plan();
        let mut ledger = lock(self.ledger);
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

    fn run(mut self) -> Outcome<()> {
        let config = self.case.config.clone();
        for frame in 0..config.frames {
            if config.update_prompt.as_ref().is_some_and(|update| update.frame == frame)
                && let Some(updated) = self.updated.take()
            {
                self.control.store(updated);
            }
            for row in 0..config.frame_buffer_size {
                let id = frame * config.frame_buffer_size + row;
                let meta = FrameMeta { id: id as u64, ..FrameMeta::default() };
                let emitted = match &self.frames {
                    Some(frames) => {
                        let rgb = picture::fit(frames, id, self.size, self.level == Level::EndToEnd)?;
                        self.engine.step(meta, PictureView::packed(self.size, &rgb))?
                    }
                    None => self.engine.generate(meta)?,
                };
                compare_outputs(self.case, self.level, self.ledger, emitted)?;
            }
            self.compare_decision(frame);
        }
        Ok(())
    }

    fn compare_decision(&self, frame: usize) {
        let Some(record) = self.case.filter.iter().find(|record| record.frame == frame) else { return };
        let mut ledger = lock(self.ledger);
        for (_, decision) in self.engine.decisions() {
            ledger.decisions += 1;
            ledger.decisions_differ += u64::from(decision.skip == record.processed);
            if let (Some(got), Some(recorded)) = (decision.similarity, record.cos) {
                ledger.compare("filter similarity", &[got as f32], &[recorded as f32]);
            }
        }
    }
}

/// Pictures and latents that left the engine against those of the frame's own call in the recording.
fn compare_outputs(case: &Arc<Case>, level: Level, ledger: &SharedLedger, emitted: Emitted<'_>) -> Outcome<()> {
    let recording = Recording { case: Arc::clone(case) };
    let in_batch = case.config.use_denoising_batch;
    for picture in emitted.iter() {
        let (frame, row) = recording.frame_of(picture.meta.id);
        // A skipped frame shows the last picture; with several steps the reference shows an older one (bug 12).
        let call = if picture.repeated {
            (case.steps() == 1).then_some(frame)
        } else {
            recording.call_of(picture.meta.id, if in_batch { case.steps() - 1 } else { 0 })
        };
        let Some(call) = call else { continue };
        if let Some(latent) = picture.latent {
            let recorded = case.tensor(&format!("f{call:02}/latent_out"))?;
            let recorded = recorded.row(row).unwrap_or_default().to_vec();
            let mut ledger = lock(ledger);
            match case.bug {
                None => {
                    ledger.compare("latent_out", latent, &recorded);
                }
                Some(ReferenceBug::SequentialNoise) if frame == 0 => {
                    ledger.compare("latent_out", latent, &recorded);
                }
                Some(_) => ledger.deviating.push((latent.to_vec(), recorded)),
            }
        }
        if level == Level::EndToEnd && case.has_picture(call) {
            let recorded = case.tensor(&format!("f{call:02}/image_u8"))?;
            lock(ledger).compare_bytes(picture.rgb, recorded.row(row).unwrap_or_default());
        }
    }
    Ok(())
}
