//! `livediffusion bench roofline`: how near the networks come to what the machine can do.

use livediffusion_bench::bare::BareFrame;
use livediffusion_bench::frames::Source;
use livediffusion_bench::frames::patterns;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::Spread;
use livediffusion_onnx::{CallShape, Chosen, Flops, Matmul, PartName, Runtime, count_flops};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::Clock;
use livediffusion_session::ModelOptions;
use serde_json::json;

use super::args::RooflineArgs;
use super::findings::Findings;
use super::gpu::networks_seconds;
use super::setup::Setup;
use crate::failure::{Failure, Outcome};
use crate::units::round;

/// Side of the matrices where nobody names one: enough to keep all cores busy, or all of a card.
const fn matrix_side(is_on_card: bool) -> usize {
    if is_on_card { 8192 } else { 2048 }
}

/// The arithmetic of a call of each network of a frame, the U-Net's of one row.
pub(super) fn arithmetic(setup: &mut Setup, runtime: &Runtime) -> Outcome<Vec<(PartName, Flops)>> {
    let settings = setup.settings(1, CfgType::None)?;
    let prompt = &settings.prompts.prompt;
    let (size, open) = (setup.size, &setup.session.open);
    let latent = open.facts.latent_shape(size)?;
    let call = CallShape { batch: 1, size, latent, tokens: prompt.length, width: prompt.width };
    let parts = [PartName::VaeEncoder, PartName::Unet, PartName::VaeDecoder];
    let there = parts.into_iter().filter(|part| open.pack.part(*part).is_some());
    there.map(|part| Ok((part, count_flops(runtime, &open.pack, part, &call)?))).collect()
}

/// Figures of [`arithmetic`].
pub(super) fn arithmetic_figures(counted: &[(PartName, Flops)]) -> Vec<Figure> {
    let figure = |(part, flops): &(PartName, Flops)| {
        let missed: Vec<&str> = flops.not_counted.iter().map(String::as_str).collect();
        let note = if missed.is_empty() { String::new() } else { format!("without {}", missed.join(", ")) };
        Figure::value(part.folder(), "arithmetic of a call", "GFLOP", flops.total / 1e9).note(&note)
    };
    counted.iter().map(figure).collect()
}

/// A multiplication of matrices on what runs the networks, in the type that they reckon in.
pub(super) fn matmul(
    setup: &Setup,
    (runtime, model): (&Runtime, &ModelOptions),
    side: Option<usize>,
) -> Outcome<(Matmul, String)> {
    let loaded = &setup.session.loaded;
    let chosen = Chosen { provider: loaded.provider, precision: loaded.precision, why: String::new() };
    let side = side.unwrap_or_else(|| matrix_side(chosen.provider.is_on_cuda()));
    let settings = model.session_settings(1);
    let matmul = Matmul::load(runtime, &setup.session.open.pack, &chosen, &settings, side)?;
    let name = format!("matmul {side}x{side}x{side} {}", matmul.precision());
    Ok((matmul, name))
}

/// Operations a second of so many multiplications, in GFLOP/s.
pub(super) fn rate(matmul: &mut Matmul, clock: &dyn Clock) -> Outcome<f64> {
    // A few are enough: each takes as long as several frames.
    let calls = 5;
    let seconds = matmul.time(calls, clock)?.as_secs_f64();
    Ok(f64::from(calls) * matmul.flops() / seconds / 1e9)
}

pub(crate) fn command(args: &RooflineArgs) -> Outcome<()> {
    let model = &args.setup.model;
    let mut setup = Setup::load(&args.setup, 1)?;
    let runtime = model.runtime()?;
    let gflop = arithmetic(&mut setup, &runtime)?;
    let total: f64 = gflop.iter().map(|(_, flops)| flops.total).sum();
    let settings = setup.settings(1, CfgType::None)?;
    let facts = setup.session.open.facts.clone();
    let (clock, size) = (setup.clock, setup.size);
    let (mut matmul, matrix) = matmul(&setup, (&runtime, model), args.matrix.map(usize::from))?;
    let frames = usize::from(args.setup.frames);
    // Where frames stay on a card, its own times of the networks; else the networks called one after the other.
    let mut subject = setup.subject_with(settings.clone())?;
    let is_on_card = matches!(subject.painter(), Painter::Device(_));
    let pictures = patterns(size);
    let control = Control::new(settings.clone());
    let engine = Engine::new(setup.session.loaded.shared.fork(), facts.clone(), size, control, Box::new(clock))?;
    let mut frame = BareFrame::new(&facts, engine.plan(), size, &settings)?;
    let mut networks = engine.into_networks();
    let mut variants: [Variant<'_, f64, Failure>; 2] = [
        Box::new(|| {
            if !is_on_card {
                return Ok(frame.fps(&mut networks, frames as u64, &clock)? * total / 1e9);
            }
            let before = subject.painter().stats().clone();
            subject.run(Source::Pictures(&pictures), frames, &clock)?;
            let since = subject.painter().stats().since(&before);
            Ok(frames as f64 * total / 1e9 / networks_seconds(&since))
        }),
        Box::new(|| rate(&mut matmul, &clock)),
    ];
    let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
    drop(variants);
    let (networks, roof) = (Spread::of(&measured[0]), Spread::of(&measured[1]));
    let share = ratios(&measured[0], &measured[1]);

    let rounds = measured[0].len();
    let mut figures = arithmetic_figures(&gflop);
    figures.extend([
        Figure::value("frame", "arithmetic", "GFLOP", total / 1e9),
        Figure::spread("networks", "rate", "GFLOP/s", Some(networks), rounds),
        Figure::spread(&matrix, "rate", "GFLOP/s", Some(roof), rounds),
        Figure::spread("networks over matmul", "ratio", "ratio", share, rounds),
    ]);
    let body = json!({
        "ratio": share.map(|share| round(share.median)),
        "frame_gflop": round(total / 1e9),
        "networks_gflop_per_s": round(networks.median),
        "matmul_gflop_per_s": round(roof.median),
        "matmul": matrix,
        "parts_gflop": gflop.iter().map(|(part, flops)| (part.folder().to_owned(), json!(round(flops.total / 1e9)))).collect::<serde_json::Map<_, _>>(),
    });
    Findings::of(body, setup.context, figures).hand_out("roofline", &args.setup.output)
}
