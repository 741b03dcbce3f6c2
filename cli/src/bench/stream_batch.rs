//! `livediffusion bench stream-batch`: what it gains that frames at different steps share one U-Net call.

use std::cell::RefCell;

use livediffusion_bench::bare::BareFrame;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{alternate, ratios};
use livediffusion_bench::summary::Spread;
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::Clock;
use serde_json::{Value, json};

use super::args::StepsArgs;
use super::findings::Findings;
use super::setup::{Reach, Setup};
use crate::failure::{Failure, Outcome};
use crate::units::round;

pub(crate) fn command(args: &StepsArgs) -> Outcome<()> {
    let mut setup = Setup::load_for(&args.setup, 1, Reach::steps(args.each()))?;
    let (mut figures, mut list) = (Vec::new(), Vec::new());
    for steps in args.each().map(usize::from) {
        let (sequential, batched) = times(&mut setup, steps, args)?;
        let gain = ratios(&sequential, &batched);
        list.push(json!({
            "steps": steps,
            "sequential_over_batched": gain.map(|gain| round(gain.median)),
            "sequential_ms": round(Spread::of(&sequential).median),
            "batched_ms": round(Spread::of(&batched).median),
        }));
        let case = format!("N={steps}");
        let rounds = sequential.len();
        figures.push(Figure::spread(&case, "N calls of one row", "ms", Some(Spread::of(&sequential)), rounds));
        figures.push(Figure::spread(&case, "one call of N rows", "ms", Some(Spread::of(&batched)), rounds));
        let note = if steps == 1 { "the same call: shows the noise" } else { "" };
        figures.push(Figure::spread(&case, "sequential over batched", "ratio", gain, rounds).note(note));
    }
    Findings::of(one_or_list(list), setup.context, figures).hand_out("stream-batch", &args.setup.output)
}

/// The only entry itself, or all of them under `steps`.
pub(crate) fn one_or_list(mut list: Vec<Value>) -> Value {
    if list.len() == 1 { list.remove(0) } else { json!({ "steps": list }) }
}

/// Mean milliseconds of a round's denoising: by as many calls as rows, and by one call.
fn times(setup: &mut Setup, steps: usize, args: &StepsArgs) -> Outcome<(Vec<f64>, Vec<f64>)> {
    let settings = setup.settings(steps, CfgType::None)?;
    let facts = setup.session.open.facts.clone();
    let (clock, size) = (setup.clock, setup.size);
    let control = Control::new(settings.clone());
    let engine = Engine::new(setup.session.loaded.shared.fork(), facts.clone(), size, control, Box::new(clock))?;
    let frame = BareFrame::new(&facts, engine.plan(), size, &settings)?;
    let both = RefCell::new((frame, engine.into_networks()));
    let calls = args.setup.frames;
    let measure = |one_by_one: bool| -> Outcome<f64> {
        let (frame, networks) = &mut *both.borrow_mut();
        let started = clock.now();
        for _ in 0..calls {
            if one_by_one {
                frame.denoise_one_by_one(networks).map_err(Failure::from)?;
            } else {
                frame.denoise_at_once(networks).map_err(Failure::from)?;
            }
        }
        Ok(clock.now().saturating_sub(started).as_secs_f64() * 1e3 / f64::from(calls))
    };
    let rounds = usize::from(args.setup.rounds);
    let mut measured = alternate(rounds, &mut [Box::new(|| measure(true)), Box::new(|| measure(false))])?;
    let batched = measured.pop().unwrap_or_default();
    Ok((measured.pop().unwrap_or_default(), batched))
}
