//! `livediffusion bench rcfg`: what residual guidance saves of full guidance, next to the paper's Table 2.
//!
//! Guidance changes the denoising alone: its time is what `full_over_self` compares. Beside it, the whole frame's: there the
//! VAE, which costs the same under any guidance, makes the gain smaller the smaller the U-Net is.

use std::time::Duration;

use livediffusion_bench::frames::patterns;
use livediffusion_bench::frames::{Source, Subject};
use livediffusion_bench::paper;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::{Spread, Times};
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::Stage;
use serde_json::json;

use super::args::StepsArgs;
use super::findings::Findings;
use super::setup::{Reach, Setup, cfg_name};
use super::stream_batch::one_or_list;
use crate::failure::{Failure, Outcome};
use crate::units::{milliseconds, round};

const TYPES: [CfgType; 3] = [CfgType::Full, CfgType::SelfNegative, CfgType::Initialize];

pub(crate) fn command(args: &StepsArgs) -> Outcome<()> {
    let mut setup = Setup::load_for(&args.setup, 1, Reach::steps(args.each()))?;
    if setup.session.loaded.networks.denoiser.timestep_cond_width().is_some() {
        let what = "this model takes the guidance scale as an input: it runs without guidance of ours";
        return Err(Failure::usage(what, "give --model a model without timestep_cond"));
    }
    let pictures = patterns(setup.size);
    let (mut figures, mut list) = (Vec::new(), Vec::new());
    for steps in args.each().map(usize::from) {
        let mut subjects = TYPES.map(|cfg| setup.subject(steps, cfg)).into_iter().collect::<Outcome<Vec<_>>>()?;
        let (clock, frames) = (setup.clock, usize::from(args.setup.frames));
        for subject in &mut subjects {
            // The first pictures leave when the stream batch is full.
            subject.run(Source::Pictures(&pictures), steps, &clock)?;
        }
        let mut variants: Vec<Variant<'_, Round, Failure>> = Vec::new();
        for subject in &mut subjects {
            let source = Source::Pictures(&pictures);
            variants.push(Box::new(move || {
                let before = denoising(subject);
                let run = subject.run(source, frames, &clock)?;
                let after = denoising(subject);
                let calls = (after.1 - before.1).max(1) as f64;
                let denoise_ms = milliseconds(after.0.saturating_sub(before.0)) / calls;
                Ok(Round { frame_ms: run.ms(), denoise_ms, intervals: run.intervals })
            }));
        }
        let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
        drop(variants);
        let of = |what: fn(&Round) -> f64| -> Vec<Vec<f64>> {
            measured.iter().map(|rounds| rounds.iter().map(what).collect()).collect()
        };
        let (frame, denoise) = (of(|round| round.frame_ms), of(|round| round.denoise_ms));
        let over = |ms: &[Vec<f64>], cheaper: usize| ratios(&ms[0], &ms[cheaper]);
        let paper = paper::full_over(steps);

        let case = format!("N={steps}");
        for (cfg, rounds) in TYPES.iter().zip(&measured) {
            let times: Vec<Duration> = rounds.iter().flat_map(|round| round.intervals.clone()).collect();
            figures.push(Figure::times(&case, cfg_name(*cfg), Times::of(&times)));
        }
        let ratio = |name, spread: Option<Spread>| Figure::spread(&case, name, "ratio", spread, frame[0].len());
        let note = "the denoising alone: U-Net, guidance and solver";
        figures.push(ratio("full over self", over(&denoise, 1)).note(note));
        figures.push(ratio("full over initialize", over(&denoise, 2)).note(note));
        let note = "whole frames, as the paper measures: the VAE costs the same under any guidance";
        figures.push(ratio("frame, full over self", over(&frame, 1)).paper(paper.map(|paper| paper.0)).note(note));
        let onetime = paper.map(|paper| paper.1);
        figures.push(ratio("frame, full over initialize", over(&frame, 2)).paper(onetime).note(note));
        let median = |spread: Option<Spread>| spread.map(|spread| round(spread.median));
        list.push(json!({
            "steps": steps,
            "full_over_self": median(over(&denoise, 1)),
            "full_over_initialize": median(over(&denoise, 2)),
            "frame_full_over_self": median(over(&frame, 1)),
            "frame_full_over_initialize": median(over(&frame, 2)),
            "paper_full_over_self": paper.map(|paper| paper.0),
            "paper_full_over_initialize": paper.map(|paper| paper.1),
        }));
    }
    Findings::of(one_or_list(list), setup.context, figures).hand_out("rcfg", &args.setup.output)
}

/// One run of one guidance type.
struct Round {
    frame_ms: f64,
    /// Mean time of a call of the stream batch.
    denoise_ms: f64,
    intervals: Vec<Duration>,
}

/// Time of all calls of the stream batch so far, and their number.
fn denoising(subject: &Subject) -> (Duration, u64) {
    let stats = subject.painter().stats();
    (stats.total(Stage::Denoise) + stats.total(Stage::Advance), stats.count(Stage::Denoise))
}
