//! `livediffusion bench throughput`: frames a second, from 8-bit pictures in memory to 8-bit pictures in memory.

use livediffusion_bench::frames::Source;
use livediffusion_bench::frames::patterns;
use livediffusion_bench::record::{Context, Figure};
use livediffusion_bench::summary::{Spread, Times};
use livediffusion_onnx::ProviderChoice;
use livediffusion_pipeline::Control;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::CfgType;
use livediffusion_session::ModelOptions;
use serde_json::{Value, json};

use super::args::{SetupArgs, ThroughputArgs};
use super::findings::{Findings, Section};
use super::setup::{Reach, Setup, cfg_name, file_lanes, steps_and_guidance};
use crate::failure::Outcome;
use crate::units::round;

const SIZE: Size = Size::new(256, 256);

/// One combination of what is asked for.
#[derive(Clone, Copy)]
struct Case {
    steps: usize,
    cfg: CfgType,
    frame_buffer: usize,
    generate: bool,
}

pub(crate) fn command(args: &ThroughputArgs) -> Outcome<()> {
    let or = |given: &[CfgType]| match given {
        [] => vec![CfgType::None, CfgType::SelfNegative, CfgType::Initialize, CfgType::Full],
        given => given.to_vec(),
    };
    let sizes = if args.sizes.is_empty() { vec![args.setup.size.unwrap_or(SIZE)] } else { args.sizes.clone() };
    let providers = match &args.providers[..] {
        [] => vec![args.setup.model.provider.unwrap_or_default()],
        given => given.to_vec(),
    };
    let cases = cases(&args.steps, &or(&args.cfg), &args.frame_buffers);
    let mut sections = Vec::new();
    for provider in providers {
        for size in &sizes {
            sections.extend(measure(&args.setup, provider, *size, &cases)?);
        }
    }
    Findings(sections).hand_out("throughput", &args.setup.output)
}

/// Every number of steps with every guidance, as img2img; as txt2img without guidance; and with larger frame buffers
/// without guidance.
fn cases(steps: &[u8], cfgs: &[CfgType], frame_buffers: &[u8]) -> Vec<Case> {
    let mut cases = Vec::new();
    for steps in steps.iter().copied().map(usize::from) {
        for frame_buffer in frame_buffers.iter().copied().map(usize::from) {
            for cfg in if frame_buffer == 1 { cfgs } else { &[CfgType::None] } {
                cases.push(Case { steps, cfg: *cfg, frame_buffer, generate: false });
            }
            cases.push(Case { steps, cfg: CfgType::None, frame_buffer, generate: true });
        }
    }
    cases
}

/// One section for all cores on a frame, one for a frame a core.
fn measure(args: &SetupArgs, provider: ProviderChoice, size: Size, cases: &[Case]) -> Outcome<Option<Section>> {
    let model = ModelOptions { provider: Some(provider), ..args.model.clone() };
    let most = |of: fn(&Case) -> usize| cases.iter().map(of).max().unwrap_or(1);
    let reach = Reach { steps: most(|case| case.steps), frames: most(|case| case.frame_buffer) };
    let mut whole = Setup::load_sized(&model, Some(size), 1, reach)?;
    let lanes = file_lanes(&model, &whole.session.open.pack, &whole.parameters);
    let mut many = if lanes > 1 { Some(Setup::load_sized(&model, Some(size), lanes, reach)?) } else { None };
    let (mut figures, mut list) = (Vec::new(), Vec::new());
    for case in cases {
        run_case(&mut whole, args, case, &mut figures, &mut list)?;
        if case.frame_buffer == 1
            && let Some(many) = &mut many
        {
            run_case(many, args, case, &mut figures, &mut list)?;
        }
    }
    let context: Context = whole.context;
    Ok(Some(Section { context, figures, body: json!({ "cases": list }) }))
}

fn run_case(
    setup: &mut Setup,
    args: &SetupArgs,
    case: &Case,
    figures: &mut Vec<Figure>,
    list: &mut Vec<Value>,
) -> Outcome<()> {
    let mut parameters = steps_and_guidance(&setup.parameters, case.steps, case.cfg);
    parameters.frame_buffer = case.frame_buffer;
    let settings = setup.session.settings(parameters, setup.size)?;
    let painter = setup.session.painter(setup.size, Control::new(settings))?;
    let lanes = painter.lanes();
    let mut subject = livediffusion_bench::frames::Subject::new(painter, setup.size);
    let pictures = patterns(setup.size);
    let source = if case.generate { Source::Noise } else { Source::Pictures(&pictures) };
    let frames = usize::from(args.frames).next_multiple_of(case.frame_buffer);
    // A batch that is not full is quicker: it is filled before anything counts.
    subject.run(source, case.frame_buffer * (case.steps + 1), &setup.clock)?;
    let (mut fps, mut times) = (Vec::new(), Vec::new());
    for _ in 0..args.rounds {
        let run = subject.run(source, frames, &setup.clock)?;
        fps.push(run.fps());
        times.extend(run.intervals);
    }
    let (fps, times) = (Spread::of(&fps), Times::of(&times));
    let mode = if case.generate { "txt2img" } else { "img2img" };
    let name = format!("{mode} N={} {} F={} lanes={lanes}", case.steps, cfg_name(case.cfg), case.frame_buffer);
    figures.push(Figure::spread(&name, "speed", "fps", Some(fps), usize::from(args.rounds)));
    figures.push(Figure::times(&name, "picture to picture", times));
    list.push(json!({
        "mode": mode,
        "steps": case.steps,
        "cfg": cfg_name(case.cfg),
        "frame_buffer": case.frame_buffer,
        "lanes": lanes,
        "fps": round(fps.median),
        "ms_p50": times.map(|times| round(times.p50)),
        "ms_p95": times.map(|times| round(times.p95)),
        "ms_p99": times.map(|times| round(times.p99)),
    }));
    Ok(())
}
