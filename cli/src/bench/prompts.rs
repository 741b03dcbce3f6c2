//! `livediffusion bench prompts`: whether a change of the prompt makes live frames late.

use std::sync::Arc;
use std::time::Duration;

use livediffusion_bench::record::Figure;
use livediffusion_bench::summary::Times;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, Prompts, Sizes, Tuner};
use serde_json::json;

use super::args::PromptsArgs;
use super::clips::frames;
use super::findings::Findings;
use super::latency::{PICTURES, Pace, live};
use super::setup::Setup;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::{milliseconds, round};

pub(crate) fn command(args: &PromptsArgs) -> Outcome<()> {
    if !(0.1..=10_000.0).contains(&args.fps) {
        return Err(Failure::usage(format!("--fps {}", args.fps), "give a rate from 0.1 to 10000"));
    }
    let mut setup = Setup::load(&args.setup, 1)?;
    let settings = setup.session.settings(setup.parameters.clone(), setup.size)?;
    let pictures: Vec<Arc<Vec<u8>>> = frames(&args.input, setup.size, PICTURES)?.into_iter().map(Arc::new).collect();
    let pace = Pace { rate: args.fps, seconds: f64::from(args.setup.frames) / args.fps };
    let (mut steady, mut changing) = (Arm::default(), Arm::default());
    let mut number = 0_u64;
    for round in 0..args.setup.rounds {
        // In turn, and each first in every other round: the machine's moods fall on both.
        for is_changing in if round % 2 == 0 { [false, true] } else { [true, false] } {
            let control = Control::new(settings.clone());
            let width = setup.session.loaded.networks.denoiser.timestep_cond_width();
            let prompts = Prompts::new(Box::new(setup.session.loaded.text.clone()), width);
            let (facts, sizes) = (setup.session.open.facts.clone(), Sizes::Fixed(setup.size));
            let tuner = Tuner::start(prompts, facts, sizes, control.clone(), MonotonicClock::start())?;
            let tuning = tuner.handle();
            let arm = if is_changing { &mut changing } else { &mut steady };
            let mut on_frame = |id: u64| {
                if is_changing && id.is_multiple_of(u64::from(args.every)) {
                    number += 1;
                    // Never seen before: each costs the text encoder a run.
                    let prompt = format!("oil painting number {number}");
                    tuning.set("prompt", &prompt).map_err(|what| Failure::new(RUNNING, what))?;
                    arm.changes += 1;
                }
                Ok(())
            };
            let lives = live(&setup, &control, &pictures, pace, &mut on_frame)?;
            arm.sent += lives.sent;
            arm.dropped += lives.dropped;
            arm.ages.extend(lives.end_to_end);
        }
    }
    let frame = Duration::from_secs_f64(1.0 / args.fps);
    let median = Times::of(&steady.ages).map_or(0.0, |times| times.p50);
    let bound = Duration::from_secs_f64(median / 1e3) + frame;
    let mut figures = Vec::new();
    let mut body = json!({ "fps": round(args.fps), "late_after_ms": round(milliseconds(bound)) });
    for (name, arm) in [("steady", &steady), ("changing", &changing)] {
        let late = arm.ages.iter().filter(|age| **age > bound).count();
        let worst = milliseconds(arm.ages.iter().max().copied().unwrap_or_default());
        figures.push(Figure::times(name, "end to end", Times::of(&arm.ages)));
        figures.push(Figure::value(name, "worst", "ms", worst));
        figures.push(Figure::value(name, "late by more than a frame", "frames", late as f64));
        figures.push(Figure::value(name, "dropped", "frames", arm.dropped as f64));
        body[name] = json!({
            "frames": arm.sent,
            "changes": arm.changes,
            "late": late,
            "dropped": arm.dropped,
            "worst_ms": round(worst),
            "p50_ms": Times::of(&arm.ages).map(|times| round(times.p50)),
            "p99_ms": Times::of(&arm.ages).map(|times| round(times.p99)),
        });
    }
    Findings::of(body, setup.context, figures).hand_out("prompts", &args.setup.output)
}

/// Frames under one condition.
#[derive(Default)]
struct Arm {
    sent: u64,
    dropped: u64,
    changes: u64,
    ages: Vec<Duration>,
}
