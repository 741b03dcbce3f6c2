//! `livediffusion bench scaling`: several streams at once in one process, on the same weights.

use livediffusion_bench::frames::patterns;
use livediffusion_bench::frames::{Run, Source, Subject};
use livediffusion_bench::machine::resident_mb;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::Spread;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_pipeline::{Control, Settings};
use livediffusion_session::painter_of;
use serde_json::json;

use super::args::ScalingArgs;
use super::findings::Findings;
use super::setup::{Reach, Setup, all_cores};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::round;

pub(crate) fn command(args: &ScalingArgs) -> Outcome<()> {
    // As a process of several streams has it: each stream's frame on its share of the cores.
    let reach = || Reach::steps(args.steps.iter().copied());
    let setup = Setup::load_for(&args.setup, all_cores(&args.setup.model), reach())?;
    let mut whole = Setup::load_for(&args.setup, 1, reach())?;
    let settings = by_turns(&mut whole, &args.steps)?;
    let longest = settings.iter().map(|settings| settings.parameters.t_index.len()).max().unwrap_or(1);
    let pictures = patterns(setup.size);
    let frames = usize::from(args.setup.frames);
    let (clock, size) = (setup.clock, setup.size);
    let mut groups = Vec::new();
    for &streams in &args.streams {
        // One stream alone gets all cores for its frame: the most that a single live stream can have.
        let session = if streams == 1 { &whole.session } else { &setup.session };
        let before = resident_mb();
        let mut subjects = Vec::new();
        for settings in settings.iter().cycle().take(usize::from(streams)) {
            let control = Control::new(settings.clone());
            let painter = painter_of(&session.loaded.shared, &session.open.facts, size, control)?;
            subjects.push(Subject::new(painter, size));
        }
        // Tensors are made at the first frames.
        together(&mut subjects, &pictures, longest + 1, clock)?;
        let memory = resident_mb().zip(before).map(|(after, before)| (after - before) / f64::from(streams));
        groups.push((usize::from(streams), subjects, memory));
    }
    let mut variants: Vec<Variant<'_, (f64, Vec<f64>), Failure>> = Vec::new();
    for (_, subjects, _) in &mut groups {
        let pictures = &pictures;
        variants.push(Box::new(move || {
            let started = clock.now();
            let runs = together(subjects, pictures, frames, clock)?;
            let seconds = clock.now().saturating_sub(started).as_secs_f64();
            let pictures: usize = runs.iter().map(|run| run.pictures).sum();
            Ok((pictures as f64 / seconds, runs.iter().map(Run::fps).collect()))
        }));
    }
    let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
    drop(variants);

    let totals: Vec<Vec<f64>> = measured.iter().map(|rounds| rounds.iter().map(|round| round.0).collect()).collect();
    let (mut figures, mut list) = (Vec::new(), Vec::new());
    for (index, (streams, _, memory)) in groups.iter().enumerate() {
        let each: Vec<f64> = measured[index].iter().flat_map(|round| round.1.clone()).collect();
        let (each, total) = (Spread::of(&each), Spread::of(&totals[index]));
        // Of other steps it would be other work.
        let over_first = (args.steps.len() < 2).then(|| ratios(&totals[index], &totals[0])).flatten();
        let case = format!("{streams} streams{}", of_steps(&args.steps[..args.steps.len().min(*streams)]));
        let first = format!("total over that of {}", groups[0].0);
        figures.push(Figure::spread(&case, "total", "fps", Some(total), totals[index].len()));
        figures.push(Figure::spread(&case, "each", "fps", Some(each), measured[index].len() * streams));
        if args.steps.len() < 2 {
            figures.push(Figure::spread(&case, &first, "ratio", over_first, totals[index].len()));
        }
        figures.push(match memory {
            Some(megabytes) => Figure::value(&case, "memory of a stream", "MB", *megabytes)
                .note("growth of resident memory, weights not counted"),
            None => Figure::absent(&case, "memory of a stream", "MB", "/proc/self/status tells nothing"),
        });
        list.push(json!({
            "streams": streams,
            "fps_total": round(total.median),
            "fps_each": round(each.median),
            "fps_slowest": round(each.min),
            "over_first": over_first.map(|ratio| round(ratio.median)),
            "mb_each": memory.map(round),
        }));
    }
    Findings::of(json!({ "scaling": list }), whole.context, figures).hand_out("scaling", &args.setup.output)
}

/// What streams have by turns: the pack's own settings, or those of so many steps.
fn by_turns(setup: &mut Setup, steps: &[u8]) -> Outcome<Vec<Settings>> {
    if steps.is_empty() {
        return Ok(vec![setup.session.settings(setup.parameters.clone(), setup.size)?]);
    }
    let cfg = setup.parameters.cfg;
    steps.iter().map(|&steps| setup.settings(usize::from(steps), cfg)).collect()
}

fn of_steps(steps: &[u8]) -> String {
    let steps: Vec<String> = steps.iter().map(u8::to_string).collect();
    if steps.is_empty() { String::new() } else { format!(" of {} steps", steps.join(" and ")) }
}

/// Runs all of them at once, each on a thread of its own.
fn together(subjects: &mut [Subject], pictures: &[Vec<u8>], frames: usize, clock: MonotonicClock) -> Outcome<Vec<Run>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = subjects
            .iter_mut()
            .map(|subject| scope.spawn(move || subject.run(Source::Pictures(pictures), frames, &clock)))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            let run: Result<Run, _> = thread.join().map_err(|_| Failure::new(RUNNING, "a stream's thread panicked"))?;
            run.map_err(Failure::from)
        };
        threads.into_iter().map(join).collect()
    })
}
