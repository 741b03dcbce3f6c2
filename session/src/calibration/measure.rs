//! A few frames on one candidate.

use std::time::Duration;

use livediffusion_bench::frames::patterns;
use livediffusion_onnx::{Chosen, ProviderChoice, Runtime, SessionSettings, load_networks_on};
use livediffusion_pipeline::controlnet::ControlParameters;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::{FrameMeta, PictureView};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_pipeline::{Control, Prompts};

use super::choice::{Candidate, Finding, Measured};
use crate::error::Outcome;
use crate::pack::OpenPack;
use crate::parameters::parameters;

/// Frames before time counts: the first allocates, the second finds the caches as all later ones do.
const WARM_UP: usize = 2;

/// Frames of which the fastest counts: whatever else the machine does only adds to a time. With three, interruptions of all of
/// them decide it; ten take twice as long to tell the same.
const TIMED: usize = 5;

/// Time of a candidate's timed frames after which no further one is begun. Networks this slow differ by more than what
/// another frame would tell.
const ENOUGH: Duration = Duration::from_secs(5);

/// Pictures and times of one candidate.
struct Sample {
    ms: f64,
    pictures: Vec<Vec<u8>>,
}

/// Runs all candidates, one after the other: only one has its networks in memory at a time.
pub(super) fn all(
    runtime: &Runtime,
    open: &OpenPack,
    candidates: &[Candidate],
    settings: &SessionSettings,
) -> Vec<Measured> {
    let run = |candidate: &Candidate| {
        let sample = sample(runtime, open, *candidate, settings);
        tracing::debug!(%candidate, ms = ?sample.as_ref().map(|sample| sample.ms), "measured");
        (*candidate, sample)
    };
    judge(&candidates.iter().map(run).collect::<Vec<_>>())
}

/// Compares the pictures with those of f32, of the same provider where it ran.
fn judge(samples: &[(Candidate, Outcome<Sample>)]) -> Vec<Measured> {
    use livediffusion_onnx::Precision::F32;
    let exact = |of: Candidate| {
        let mut all = samples.iter().filter(|(candidate, _)| candidate.precision == F32);
        let same = all.clone().find(|(candidate, sample)| candidate.provider == of.provider && sample.is_ok());
        same.or_else(|| all.find(|(_, sample)| sample.is_ok())).and_then(|(_, sample)| sample.as_ref().ok())
    };
    let judged = |(candidate, sample): &(Candidate, Outcome<Sample>)| {
        let finding = match sample {
            Ok(sample) => {
                let exact = exact(*candidate).filter(|_| candidate.precision != F32);
                let difference = exact.and_then(|exact| difference(&sample.pictures, &exact.pictures));
                Finding::Ran { ms: sample.ms, difference }
            }
            Err(error) => Finding::Failed(error.what.split_whitespace().collect::<Vec<_>>().join(" ")),
        };
        Measured { candidate: *candidate, finding }
    };
    samples.iter().map(judged).collect()
}

/// Mean absolute difference in 8-bit levels, over the pictures that both have; `None` if there is none.
fn difference(ours: &[Vec<u8>], exact: &[Vec<u8>]) -> Option<f64> {
    let pairs = || ours.iter().zip(exact).flat_map(|(ours, exact)| ours.iter().zip(exact));
    let sum: u64 = pairs().map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let count = pairs().count();
    (count > 0).then(|| sum as f64 / count as f64)
}

fn sample(
    runtime: &Runtime,
    open: &OpenPack,
    Candidate { provider, precision }: Candidate,
    settings: &SessionSettings,
) -> Outcome<Sample> {
    let parameters = parameters(&open.pack, None, &[])?;
    // Every frame shall pass through every network, alone.
    let control = ControlParameters { is_shown: false, ..parameters.control };
    let parameters = Parameters { similarity: None, frame_buffer: 1, target_fps: None, control, ..parameters };
    let size = open.size(&parameters);
    let chosen = Chosen { provider, precision, why: String::new() };
    // This one or none: another in its place would be measured under its name.
    let settings = SessionSettings { provider: ProviderChoice::Fixed(provider), lanes: 1, ..*settings };
    let loaded = load_networks_on(runtime, &open.pack, chosen, &settings)?;
    let width = loaded.networks.denoiser.timestep_cond_width();
    let prompted = Prompts::new(Box::new(loaded.text.clone()), width).settings(parameters, size)?;
    let clock = MonotonicClock::start();
    let repaints = loaded.networks.encoder.is_some();
    let control = Control::new(prompted);
    let mut engine = Engine::new(loaded.networks, open.facts.clone(), size, control, Box::new(clock))?;

    let inputs = patterns(size);
    let (mut pictures, mut times) = (Vec::new(), Vec::<Duration>::new());
    for index in 0..WARM_UP + TIMED {
        let timed = times.iter().skip(WARM_UP);
        if timed.clone().count() >= 2 && timed.sum::<Duration>() > ENOUGH {
            break;
        }
        let meta = FrameMeta { id: index as u64, ..FrameMeta::default() };
        let started = clock.now();
        let emitted = if repaints {
            engine.step(meta, PictureView::packed(size, &inputs[index % inputs.len()]))?
        } else {
            engine.generate(meta)?
        };
        times.push(clock.now().saturating_sub(started));
        pictures.extend(emitted.iter().map(|picture| picture.rgb.to_vec()));
    }
    // Pictures of several steps are still on their way.
    pictures.extend(engine.flush()?.iter().map(|picture| picture.rgb.to_vec()));
    let fastest = times[WARM_UP..].iter().min().copied().unwrap_or_default();
    Ok(Sample { ms: fastest.as_secs_f64() * 1e3, pictures })
}

#[cfg(test)]
mod tests {
    use livediffusion_onnx::{ErrorKind, Precision, Provider};

    use super::*;
    use crate::error::SessionError;

    #[test]
    fn pictures_are_compared_with_the_f32_of_the_same_provider_and_else_with_another() {
        let candidate = |provider, precision| Candidate { provider, precision };
        let (bf16, f32) =
            (candidate(Provider::OpenVino, Precision::Bf16), candidate(Provider::OpenVino, Precision::F32));
        let cpu = candidate(Provider::Cpu, Precision::F32);
        let sample =
            |level: u8| Ok(Sample { ms: 1.0, pictures: vec![vec![level; 6], vec![level, 10, 10, 10, 10, 10]] });
        let differences = |samples: &[_]| -> Vec<Option<f64>> {
            let finding = |measured: Measured| match measured.finding {
                Finding::Ran { difference, .. } => difference,
                Finding::Failed(_) => None,
            };
            judge(samples).into_iter().map(finding).collect()
        };
        // Seven of the twelve values differ, by 3 or by 5.
        let all = [(bf16, sample(10)), (f32, sample(13)), (cpu, sample(5))];
        assert_eq!(differences(&all), [Some(21.0 / 12.0), None, None]);
        let failed = || Err(SessionError::new(ErrorKind::Failed, "no\nmemory"));
        let without = [(bf16, sample(10)), (f32, failed()), (cpu, sample(5))];
        assert_eq!(differences(&without), [Some(35.0 / 12.0), None, None]);
        let alone = judge(&[(bf16, sample(10)), (f32, failed())]);
        assert_eq!(alone[0].finding, Finding::Ran { ms: 1.0, difference: None });
        assert_eq!(alone[1].finding, Finding::Failed("no memory".into()));
    }
}
