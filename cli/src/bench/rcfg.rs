//! `livediffusion bench rcfg`: what residual guidance saves of full guidance, next to the paper's Table 2.

use std::time::Duration;

use livediffusion_bench::frames::{Source, Subject};
use livediffusion_bench::paper;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::{Spread, Times};
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::Stage;
use serde_json::json;

use super::args::StepsArgs;
use super::clips::patterns;
use super::findings::Findings;
use super::setup::{Setup, cfg_name};
use super::stream_batch::one_or_list;
use crate::failure::{Failure, Outcome};
use crate::run::report::{milliseconds, round};

const TYPES: [CfgType; 3] = [CfgType::Full, CfgType::SelfNegative, CfgType::Initialize];

pub(crate) fn command(args: &StepsArgs) -> Outcome<()> {
    let mut setup = Setup::load(&args.setup, 1)?;
    if setup.session.loaded.networks.denoiser.timestep_cond_width().is_some() {
        let what = "this model takes the guidance scale as an input: it runs without guidance of ours";
        return Err(Failure::usage(what, "give --model a model without timestep_cond"));
    }
    let pictures = patterns(setup.size);
    let (mut figures, mut list) = (Vec::new(), Vec::new());
    for steps in args.steps.map_or(1..=5, |steps| steps..=steps).map(usize::from) {
        let mut subjects = TYPES.map(|cfg| setup.subject(steps, cfg)).into_iter().collect::<Outcome<Vec<_>>>()?;
        let (clock, frames) = (setup.clock, usize::from(args.setup.frames));
        for subject in &mut subjects {
            // The first pictures leave when the stream batch is full.
            subject.run(Source::Pictures(&pictures), steps, &clock)?;
        }
        let mut variants: Vec<Variant<'_, (f64, Vec<Duration>), Failure>> = Vec::new();
        for subject in &mut subjects {
            let source = Source::Pictures(&pictures);
            variants.push(Box::new(move || {
                let run = subject.run(source, frames, &clock)?;
                Ok((run.ms(), run.intervals))
            }));
        }
        let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
        drop(variants);
        let ms: Vec<Vec<f64>> = measured.iter().map(|rounds| rounds.iter().map(|round| round.0).collect()).collect();
        let (over_self, over_initialize) = (ratios(&ms[0], &ms[1]), ratios(&ms[0], &ms[2]));
        let unet: Vec<f64> = subjects.iter().map(unet_ms).collect();
        let paper = paper::full_over(steps);

        let case = format!("N={steps}");
        for (cfg, rounds) in TYPES.iter().zip(&measured) {
            let times: Vec<Duration> = rounds.iter().flat_map(|round| round.1.clone()).collect();
            figures.push(Figure::times(&case, cfg_name(*cfg), Times::of(&times)));
        }
        let whole = |name, spread: Option<Spread>| Figure::spread(&case, name, "ratio", spread, ms[0].len());
        figures.push(whole("full over self", over_self).paper(paper.map(|paper| paper.0)));
        figures.push(whole("full over initialize", over_initialize).paper(paper.map(|paper| paper.1)));
        let unet_note = "the U-Net's calls alone, medians";
        figures.push(Figure::value(&case, "U-Net full over self", "ratio", unet[0] / unet[1]).note(unet_note));
        figures.push(Figure::value(&case, "U-Net full over initialize", "ratio", unet[0] / unet[2]).note(unet_note));
        let median = |spread: Option<Spread>| spread.map(|spread| round(spread.median));
        list.push(json!({
            "steps": steps,
            "full_over_self": median(over_self),
            "full_over_initialize": median(over_initialize),
            "unet_full_over_self": round(unet[0] / unet[1]),
            "unet_full_over_initialize": round(unet[0] / unet[2]),
            "paper_full_over_self": paper.map(|paper| paper.0),
            "paper_full_over_initialize": paper.map(|paper| paper.1),
        }));
    }
    Findings::of(one_or_list(list), setup.context, figures).hand_out("rcfg", &args.setup.output)
}

fn unet_ms(subject: &Subject) -> f64 {
    milliseconds(subject.painter().stats().quantile(Stage::Denoise, 0.5))
}
