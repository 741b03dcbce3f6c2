//! `livediffusion bench gpu`: a card's frames, stage by stage, with its memory and energy.

use livediffusion_bench::frames::{Source, Subject};
use livediffusion_bench::nvml::GpuMeter;
use livediffusion_bench::record::Figure;
use livediffusion_bench::summary::{Spread, Times};
use livediffusion_kernels::gpu::Queues;
use livediffusion_onnx::{Provider, ProviderChoice};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::{FrameMeta, PictureView};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::Stage;
use serde_json::{Value, json};

use super::args::{GpuArgs, SetupArgs};
use super::clips::patterns;
use super::findings::{Findings, Section};
use super::setup::{Reach, Setup, cfg_name};
use crate::args::ModelArgs;
use crate::config;
use crate::failure::Outcome;
use crate::units::{milliseconds, round};

/// The stages that are networks.
const NETWORKS: [(Stage, &str); 3] =
    [(Stage::Encode, "encode"), (Stage::Denoise, "denoise"), (Stage::Decode, "decode")];

pub(crate) fn command(args: &GpuArgs) -> Outcome<()> {
    let providers = match (&args.providers[..], args.setup.model.provider) {
        ([], Some(asked)) => vec![asked],
        ([], None) => [Provider::Cuda, Provider::TensorRt].map(ProviderChoice::Fixed).to_vec(),
        (given, _) => given.to_vec(),
    };
    let cfgs = match &args.cfg[..] {
        [] => vec![CfgType::None, CfgType::SelfNegative, CfgType::Initialize, CfgType::Full],
        given => given.to_vec(),
    };
    let meter = GpuMeter::open(args.setup.model.gpu.unwrap_or(0));
    let mut sections = Vec::new();
    for provider in providers {
        let model = ModelArgs { provider: Some(provider), ..args.setup.model.clone() };
        let before = used(&meter);
        // As a file is repainted: with several frames on their way. --lanes 1 measures what live input has.
        let lanes = config::lanes_on(&model, provider);
        let mut setup = Setup::load_sized(&model, args.setup.size, lanes, Reach::steps(args.steps.iter().copied()))?;
        let (mut figures, mut list) = (Vec::new(), Vec::new());
        for steps in args.steps.iter().copied().map(usize::from) {
            for cfg in &cfgs {
                list.push(case(&mut setup, &args.setup, (steps, *cfg), &meter, &mut figures)?);
            }
        }
        figures.extend(parity(&mut setup)?);
        // The session's: engines and arenas grow until the largest case has run.
        figures.push(match (before, used(&meter)) {
            (Ok(before), Ok(after)) => {
                let megabytes = after.saturating_sub(before) as f64 / 1e6;
                Figure::value("", "memory of the card", "MB", megabytes).note("all that was taken since the start")
            }
            (Err(why), _) | (_, Err(why)) => {
                Figure::absent("", "memory of the card", "MB", &format!("not measured: {why}"))
            }
        });
        sections.push(Section { context: setup.context, figures, body: json!({ "cases": list }) });
    }
    Findings(sections).hand_out("gpu", &args.setup.output)
}

/// Steps with which the two ways are compared.
const STEPS: usize = 2;

/// By how many levels the pictures of frames that stay on a card are off those of frames that pass through the host; nothing where
/// they do not stay there.
fn parity(setup: &mut Setup) -> Outcome<Option<Figure>> {
    let settings = setup.settings(STEPS, CfgType::SelfNegative)?;
    let (session, size) = (&setup.session, setup.size);
    let stays = session.painter(size, Control::new(settings.clone()))?;
    if !matches!(stays, Painter::Device(_)) {
        return Ok(None);
    }
    let (networks, facts) = (session.loaded.shared.fork(), session.open.facts.clone());
    let passes = Engine::new(networks, facts, size, Control::new(settings), Box::new(setup.clock))?;
    let mut pictures = [Vec::new(), Vec::new()];
    for (mut painter, pictures) in [stays, Painter::Whole(passes)].into_iter().zip(&mut pictures) {
        for (id, rgb) in patterns(size).iter().enumerate() {
            let meta = FrameMeta { id: id as u64, ..FrameMeta::default() };
            let emitted = painter.step(meta, PictureView::packed(size, rgb))?;
            pictures.extend(emitted.iter().map(|picture| picture.rgb.to_vec()));
        }
        pictures.extend(painter.flush()?.iter().map(|picture| picture.rgb.to_vec()));
    }
    let [stay, pass] = &pictures;
    let name = "frames on the card off those through the host";
    if stay.len() != pass.len() {
        return Ok(Some(Figure::absent("", name, "levels", "another number of pictures")));
    }
    let bytes = stay.iter().flatten().zip(pass.iter().flatten());
    let largest = bytes.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    Ok(Some(Figure::value("", name, "levels", f64::from(largest)).note("the largest of all pictures' bytes")))
}

fn used(meter: &Result<GpuMeter, String>) -> Result<u64, String> {
    meter.as_ref().map_err(Clone::clone)?.used_bytes()
}

fn joules(meter: &Result<GpuMeter, String>) -> Result<f64, String> {
    meter.as_ref().map_err(Clone::clone)?.joules()
}

/// One number of steps with one guidance.
fn case(
    setup: &mut Setup,
    args: &SetupArgs,
    (steps, cfg): (usize, CfgType),
    meter: &Result<GpuMeter, String>,
    figures: &mut Vec<Figure>,
) -> Outcome<Value> {
    let mut subject = setup.subject(steps, cfg)?;
    let pictures = patterns(setup.size);
    let source = Source::Pictures(&pictures);
    let (clock, frames) = (setup.clock, usize::from(args.frames));
    // A stream batch that is not full is quicker, and the first calls build what later ones find.
    subject.run(source, steps + 1, &clock)?;
    // What runs, not what was asked for.
    let shared = &setup.session.loaded.shared;
    let graphs = if shared.captures() { ", CUDA graphs" } else { "" };
    let apart = shared.queues().is_some_and(Queues::is_apart) && subject.painter().lanes() > 1;
    let streams = if apart { ", VAE apart" } else { "" };
    let name = format!("N={steps} {}{graphs}{streams}", cfg_name(cfg));
    let (mut fps, mut times) = (Vec::new(), Vec::new());
    let (before, energy) = (spent(&subject), joules(meter));
    for _ in 0..args.rounds {
        let run = subject.run(source, frames, &clock)?;
        fps.push(run.fps());
        times.extend(run.intervals);
    }
    let (after, energy) = (spent(&subject), joules(meter).and_then(|now| Ok(now - energy?)));
    let count = times.len().max(1) as f64;
    let (fps, times) = (Spread::of(&fps), Times::of(&times));
    figures.push(Figure::spread(&name, "speed", "fps", Some(fps), usize::from(args.rounds)));
    figures.push(Figure::times(&name, "picture to picture", times));
    let mut inside = 0.0;
    for (index, (_, stage)) in NETWORKS.iter().enumerate() {
        let ms = after[index] - before[index];
        inside += ms;
        figures.push(Figure::value(&name, stage, "ms", ms / count));
    }
    let whole = after[NETWORKS.len()] - before[NETWORKS.len()];
    let outside = 1.0 - inside / whole;
    figures.push(if apart {
        Figure::absent(&name, "outside the networks", "ratio", "the networks run beside each other")
    } else {
        Figure::value(&name, "outside the networks", "ratio", outside).note("of the engine's time")
    });
    figures.push(match &energy {
        Ok(joules) => Figure::value(&name, "energy of a picture", "J", joules / count),
        Err(why) => Figure::absent(&name, "energy of a picture", "J", &format!("not measured: {why}")),
    });
    Ok(json!({
        "steps": steps,
        "cfg": cfg_name(cfg),
        "fps": round(fps.median),
        "ms_p50": times.map(|times| round(times.p50)),
        "ms_p99": times.map(|times| round(times.p99)),
        "outside_networks": round(outside),
        "joules": energy.ok().map(|joules| round(joules / count)),
    }))
}

/// Milliseconds in each network so far, and in the engine.
fn spent(subject: &Subject) -> [f64; NETWORKS.len() + 1] {
    let stats = subject.painter().stats();
    let of = |stage| milliseconds(stats.total(stage));
    [of(NETWORKS[0].0), of(NETWORKS[1].0), of(NETWORKS[2].0), of(Stage::Step)]
}
