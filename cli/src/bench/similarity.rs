//! `livediffusion bench similarity`: what the similarity filter saves, and on what.

use livediffusion_bench::frames::{Source, Subject};
use livediffusion_bench::machine::package_joules;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_pipeline::params::Parameters;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::args::SimilarityArgs;
use super::clips::{frames, still, talking};
use super::findings::{Findings, Section};
use super::setup::Setup;
use crate::failure::{Failure, Outcome};
use crate::units::round;

/// What a run of a clip used.
struct Used {
    cpu_seconds: f64,
    joules: Option<f64>,
    skipped: u64,
}

pub(crate) fn command(args: &SimilarityArgs) -> Outcome<()> {
    let mut setup = Setup::load(&args.setup, 1)?;
    let count = usize::from(args.setup.frames);
    let moving = frames(&args.input, setup.size, count)?;
    let first = moving[0].clone();
    let clips = [
        ("static", "one frame of the clip, repeated", still(&first, count)),
        (
            "talking",
            "one frame of the clip of which a ninth moves half of the time",
            talking(&first, setup.size, count),
        ),
        ("moving", "the clip itself", moving),
    ];
    let mut sections = Vec::new();
    for (name, made_of, clip) in &clips {
        sections.push(measure(&mut setup, args, (name, made_of), clip)?);
    }
    Findings(sections).hand_out("similarity", &args.setup.output)
}

fn measure(
    setup: &mut Setup,
    args: &SimilarityArgs,
    (name, made_of): (&str, &str),
    clip: &[Vec<u8>],
) -> Outcome<Section> {
    let clock = setup.clock;
    let mut subject = |similarity| -> Outcome<Subject> {
        let parameters = Parameters { similarity, ..setup.parameters.clone() };
        let settings = setup.session.settings(parameters, setup.size)?;
        setup.subject_with(settings)
    };
    let mut subjects = [subject(Some(args.threshold))?, subject(None)?];
    let mut variants: Vec<Variant<'_, Used, Failure>> = Vec::new();
    for subject in &mut subjects {
        variants.push(Box::new(move || {
            let skipped = subject.painter().stats().frames_skipped;
            let (cpu, joules) = (cpu_seconds(), package_joules());
            subject.run(Source::Pictures(clip), clip.len(), &clock)?;
            let skipped = subject.painter().stats().frames_skipped - skipped;
            let joules = package_joules().zip(joules).map(|(after, before)| after - before);
            // The counter starts again from 0 now and then.
            Ok(Used { cpu_seconds: cpu_seconds() - cpu, joules: joules.filter(|joules| *joules > 0.0), skipped })
        }));
    }
    let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
    drop(variants);

    let rounds = measured[0].len();
    let cpu: Vec<Vec<f64>> = measured.iter().map(|used| used.iter().map(|used| used.cpu_seconds).collect()).collect();
    let joules: Option<Vec<Vec<f64>>> =
        measured.iter().map(|used| used.iter().map(|used| used.joules).collect()).collect();
    let skipped: u64 = measured[0].iter().map(|used| used.skipped).sum();
    let share = skipped as f64 / (rounds * clip.len()) as f64;
    let cpu_ratio = ratios(&cpu[0], &cpu[1]);
    let joules_ratio = joules.and_then(|joules| ratios(&joules[0], &joules[1]));
    let figures = vec![
        Figure::value(name, "skipped", "share", share).note(made_of),
        Figure::spread(name, "processor time with over without", "ratio", cpu_ratio, rounds),
        match joules_ratio {
            Some(_) => Figure::spread(name, "energy with over without", "ratio", joules_ratio, rounds),
            None => Figure::absent(name, "energy with over without", "ratio", NO_ENERGY),
        },
    ];
    let body = json!({
        "clip": name,
        "made_of": made_of,
        "skipped_share": round(share),
        "cpu_seconds_ratio": cpu_ratio.map(|ratio| round(ratio.median)),
        "joules_ratio": joules_ratio.map(|ratio| round(ratio.median)),
        "joules_reason": joules_ratio.is_none().then_some(NO_ENERGY),
        "threshold": args.threshold,
        "frames": clip.len(),
    });
    Ok(Section { context: setup.context.clone(), figures, body })
}

const NO_ENERGY: &str = "no readable RAPL counter under /sys/class/powercap";

/// Processor time of this process so far, of all its threads.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
