//! `livediffusion bench roofline`: how near the networks come to what the machine can do.

use livediffusion_bench::bare::BareFrame;
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::Spread;
use livediffusion_onnx::{CallShape, Chosen, Matmul, PartName, count_flops};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::Clock;
use serde_json::json;

use super::args::RooflineArgs;
use super::findings::Findings;
use super::setup::Setup;
use crate::config;
use crate::failure::{Failure, Outcome};
use crate::units::round;

pub(crate) fn command(args: &RooflineArgs) -> Outcome<()> {
    let model = &args.setup.model;
    let mut setup = Setup::load(&args.setup, 1)?;
    let settings = setup.settings(1, CfgType::None)?;
    let facts = setup.session.open.facts.clone();
    let (clock, size) = (setup.clock, setup.size);
    let runtime = config::runtime(model)?;
    let prompt = &settings.prompts.prompt;
    let latent = facts.latent_shape(size)?;
    let call = CallShape { batch: 1, size, latent, tokens: prompt.length, width: prompt.width };
    let mut gflop = Vec::new();
    for part in [PartName::VaeEncoder, PartName::Unet, PartName::VaeDecoder] {
        if setup.session.open.pack.part(part).is_some() {
            gflop.push((part, count_flops(&runtime, &setup.session.open.pack, part, &call)?));
        }
    }
    let total: f64 = gflop.iter().map(|(_, flops)| flops.total).sum();

    let loaded = &setup.session.loaded;
    let chosen = Chosen { provider: loaded.provider, precision: loaded.precision, why: String::new() };
    let mut matmul = Matmul::load(&runtime, &chosen, &config::session_settings(model, 1), usize::from(args.matrix))?;
    let control = Control::new(settings.clone());
    let engine = Engine::new(loaded.shared.fork(), facts.clone(), size, control, Box::new(clock))?;
    let mut frame = BareFrame::new(&facts, engine.plan(), size, &settings)?;
    let mut networks = engine.into_networks();
    let frames = u64::from(args.setup.frames);
    let mut variants: [Variant<'_, f64, Failure>; 2] = [
        Box::new(|| Ok(frame.fps(&mut networks, frames, &clock)? * total / 1e9)),
        Box::new(|| {
            // A few are enough: each takes as long as several frames.
            let calls = 5;
            let started = clock.now();
            for _ in 0..calls {
                matmul.run()?;
            }
            let seconds = clock.now().saturating_sub(started).as_secs_f64();
            Ok(f64::from(calls) * matmul.flops() / seconds / 1e9)
        }),
    ];
    let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
    drop(variants);
    let (networks, roof) = (Spread::of(&measured[0]), Spread::of(&measured[1]));
    let share = ratios(&measured[0], &measured[1]);

    let rounds = measured[0].len();
    let mut figures: Vec<Figure> = gflop
        .iter()
        .map(|(part, flops)| {
            let missed: Vec<&str> = flops.not_counted.iter().map(String::as_str).collect();
            let note = if missed.is_empty() { String::new() } else { format!("without {}", missed.join(", ")) };
            Figure::value(part.folder(), "arithmetic of a call", "GFLOP", flops.total / 1e9).note(&note)
        })
        .collect();
    let matrix = format!("{0}x{0}x{0}", args.matrix);
    figures.extend([
        Figure::value("frame", "arithmetic", "GFLOP", total / 1e9),
        Figure::spread("networks", "rate", "GFLOP/s", Some(networks), rounds),
        Figure::spread(&format!("matmul {matrix}"), "rate", "GFLOP/s", Some(roof), rounds),
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
