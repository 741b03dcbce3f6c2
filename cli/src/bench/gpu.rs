//! `livediffusion bench gpu`: a card's frames, stage by stage, with its memory and energy, and how near its networks come to what it can.

use std::time::Duration;

use livediffusion_bench::frames::patterns;
use livediffusion_bench::frames::{Source, Subject};
use livediffusion_bench::nvml::GpuMeter;
use livediffusion_bench::record::Figure;
use livediffusion_bench::summary::{Spread, Times};
use livediffusion_kernels::cuda::Card;
use livediffusion_kernels::gpu::Queues;
use livediffusion_onnx::{CudnnSearch, Flops, GpuSettings, PartName, Provider, ProviderChoice};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::{FrameMeta, PictureView};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::CfgType;
use livediffusion_pipeline::stats::{STAGES, Stage, Stats};
use livediffusion_session::ModelOptions;
use serde_json::{Value, json};

use super::args::{GpuArgs, SetupArgs};
use super::findings::Running;
use super::roofline::{arithmetic, arithmetic_figures, matmul, rate};
use super::setup::{Reach, Setup, cfg_name};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::{milliseconds, round};

/// The stages that are networks.
const NETWORKS: [Stage; 3] = [Stage::Encode, Stage::Denoise, Stage::Decode];

pub(crate) fn command(args: &GpuArgs) -> Outcome<()> {
    let (providers, are_named) = match (&args.providers[..], args.setup.model.provider) {
        ([], Some(asked)) => (vec![asked], true),
        ([], None) => ([Provider::Cuda, Provider::TensorRt].map(ProviderChoice::Fixed).to_vec(), false),
        (given, _) => (given.to_vec(), true),
    };
    let number = args.setup.model.gpu.unwrap_or(0);
    let card = Card::open(number as usize).and_then(|card| card.bus_id()).map_err(|error| error.to_string());
    let meter = card.and_then(|bus_id| GpuMeter::open(&bus_id));
    let (mut measured, mut failures) = (0, Vec::new());
    for provider in &providers {
        match section(args, (*provider, providers.len() == 1), &meter) {
            Ok(figures) => {
                measured += 1;
                failures.extend(unlike(&figures).map(|failure| (provider, failure)));
            }
            Err(failure) => failures.push((provider, failure)),
        }
    }
    let is_wrong = |failure: &Failure| failure.code() == RUNNING;
    failures.sort_by_key(|(_, failure)| !is_wrong(failure));
    let is_failure = measured == 0 || are_named || failures.iter().any(|(_, failure)| is_wrong(failure));
    // One is told as the command's own.
    for (provider, failure) in failures.iter().skip(usize::from(is_failure)) {
        tracing::warn!("{provider}: {}", failure.message());
    }
    failures.into_iter().next().filter(|_| is_failure).map_or(Ok(()), |(_, failure)| Err(failure))
}

/// A failure where pictures of the card are not those of the host.
fn unlike(figures: &[Figure]) -> Option<Failure> {
    let off = |figure: &&Figure| figure.figure == PARITY && figure.p50.is_some_and(|levels| levels > MOST_OFF);
    let Figure { case, p50: Some(levels), .. } = figures.iter().find(off)? else { return None };
    let by = format!("{levels} of 255 levels, and {MOST_OFF} are allowed");
    let hint = "--frames-on-host is the other way; please report it with the card, the driver and the model";
    Some(
        Failure::new(RUNNING, format!("{case}: frames that stay on the card are off those through the host: {by}"))
            .with_hint(Some(hint.into())),
    )
}

/// All cases on a provider, each of which is handed out when it is done: what comes after it may fail. `is_only`: no other provider's.
fn section(
    args: &GpuArgs,
    (provider, is_only): (ProviderChoice, bool),
    meter: &Result<GpuMeter, String>,
) -> Outcome<Vec<Figure>> {
    let cfgs = match &args.cfg[..] {
        [] => vec![CfgType::None, CfgType::SelfNegative, CfgType::Initialize, CfgType::Full],
        given => given.to_vec(),
    };
    let model = ModelOptions { provider: Some(provider), ..args.setup.model.clone() };
    let before = used(meter);
    // As a file is repainted: with several frames on their way. --lanes 1 measures what live input has.
    let lanes = model.lanes_on(provider);
    let mut setup = Setup::load_sized(&model, args.setup.size, lanes, Reach::steps(args.steps.iter().copied()))?;
    let widest = cfgs.iter().flat_map(|cfg| args.steps.iter().map(|steps| plain_name(usize::from(*steps), *cfg).len()));
    let said: usize = said(&model.session_settings(1).gpu).iter().map(String::len).sum();
    let widths = (widest.max().unwrap_or(0) + said, PARITY.len());
    let mut running = Running::new("gpu", &args.setup.output, setup.context.clone(), widths);
    // Figures of cases that failed before one did not: if none does, there is nothing but the failure.
    let (mut waiting, mut cases, mut failed) = (Vec::new(), Vec::new(), None);
    for steps in args.steps.iter().copied().map(usize::from) {
        for cfg in &cfgs {
            match case(&mut setup, &args.setup, (steps, *cfg), meter) {
                Ok(case) => {
                    waiting.extend(case.figures());
                    cases.push(case);
                }
                Err(failure) => {
                    let name = plain_name(steps, *cfg);
                    waiting.push(Figure::absent(&name, "speed", "fps", failure.message()));
                    failed = failed.or(Some(failure));
                }
            }
            if !cases.is_empty() {
                running.add(std::mem::take(&mut waiting))?;
            }
        }
    }
    if let (true, Some(failure)) = (cases.is_empty(), failed) {
        return Err(failure);
    }
    // One is enough to tell, and dear on a card: the engine on the host calls with other numbers of rows, for each of which cuDNN plans.
    if let Some(Case { name, steps, cfg, .. }) = cases.last().filter(|_| !args.brief) {
        let absent = |failure: Failure| Some(Figure::absent(name, PARITY, "levels", failure.message()));
        running.add(parity(&mut setup, name, (*steps, *cfg)).unwrap_or_else(absent).into_iter().collect())?;
    }
    // The session's: engines and arenas grow until the largest case has run.
    running.add(vec![match (before, used(meter)) {
        (Ok(before), Ok(after)) => {
            let megabytes = after.saturating_sub(before) as f64 / 1e6;
            Figure::value("", "memory of the card", "MB", megabytes).note("all that was taken since the start")
        }
        (Err(why), _) | (_, Err(why)) => {
            Figure::absent("", "memory of the card", "MB", &format!("not measured: {why}"))
        }
    }])?;
    if !args.brief {
        let absent = |failure: Failure| vec![Figure::absent("", "networks over matmul", "ratio", failure.message())];
        running.add(roof(&mut setup, (&model, args.matrix), &cases).unwrap_or_else(absent))?;
    }
    let list: Vec<Value> = cases.iter().map(Case::json).collect();
    Ok(running.end(json!({ "cases": list }), is_only))
}

const ALONE: &str = "end to end, one frame at a time";

const PARITY: &str = "frames on the card off those through the host";

/// Levels that they may be off: the networks of both are the same, but a library may choose another kernel for another call.
const MOST_OFF: f64 = 3.0;

/// By how many levels the pictures of frames that stay on a card are off those of frames that pass through the host; nothing where
/// they do not stay there.
fn parity(setup: &mut Setup, case: &str, (steps, cfg): (usize, CfgType)) -> Outcome<Option<Figure>> {
    let settings = setup.settings(steps, cfg)?;
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
    if stay.len() != pass.len() {
        let what = format!("{case}: {} pictures came from the card, and {} through the host", stay.len(), pass.len());
        return Err(Failure::new(RUNNING, what));
    }
    let bytes = stay.iter().flatten().zip(pass.iter().flatten());
    let largest = bytes.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
    Ok(Some(Figure::value(case, PARITY, "levels", f64::from(largest)).note("the largest of all pictures' bytes")))
}

fn used(meter: &Result<GpuMeter, String>) -> Result<u64, String> {
    meter.as_ref().map_err(Clone::clone)?.used_bytes()
}

fn joules(meter: &Result<GpuMeter, String>) -> Result<f64, String> {
    meter.as_ref().map_err(Clone::clone)?.joules()
}

/// What one number of steps with one guidance took.
struct Case {
    name: String,
    steps: usize,
    cfg: CfgType,
    /// Of each round.
    fps: Vec<f64>,
    intervals: Option<Times>,
    delays: Option<Times>,
    /// Delays where frames come one at a time, as live ones do; `None` where that is how all were measured.
    alone: Option<Result<Times, String>>,
    pictures: usize,
    /// Of all rounds together.
    wall: Duration,
    /// What was counted meanwhile.
    stats: Stats,
    /// Whether networks ran beside each other, so that their times say nothing of what was outside of them.
    is_apart: bool,
    energy: Result<f64, String>,
}

/// One number of steps with one guidance.
fn case(
    setup: &mut Setup,
    args: &SetupArgs,
    (steps, cfg): (usize, CfgType),
    meter: &Result<GpuMeter, String>,
) -> Outcome<Case> {
    let mut subject = setup.subject(steps, cfg)?;
    let pictures = patterns(setup.size);
    let source = Source::Pictures(&pictures);
    let (clock, frames) = (setup.clock, usize::from(args.frames));
    let gpu = args.model.session_settings(1).gpu;
    // A stream batch that is not full is quicker, and the first calls build what later ones find.
    subject.run(source, steps + 1, &clock)?;
    let before = subject.painter().stats().clone();
    let (mut fps, mut intervals, mut delays, mut wall) = (Vec::new(), Vec::new(), Vec::new(), Duration::ZERO);
    let energy = joules(meter);
    for _ in 0..args.rounds {
        let run = subject.run(source, frames, &clock)?;
        fps.push(run.fps());
        intervals.extend(run.intervals);
        delays.extend(run.delays);
        wall += run.wall;
    }
    let pictures = intervals.len();
    let energy = joules(meter).and_then(|now| Ok((now - energy?) / pictures.max(1) as f64));
    let (name, stats) = (name(setup, &subject, &gpu, (steps, cfg)), subject.painter().stats().since(&before));
    let is_apart = runs_apart(setup, &subject);
    let overlaps = matches!(subject.painter(), Painter::Device(_)) && subject.painter().lanes() > 1;
    let alone = overlaps.then(|| match subject.run_alone(source, frames, &clock) {
        Ok(run) => Times::of(&run.delays).ok_or_else(|| "nothing was measured".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    Ok(Case {
        name,
        steps,
        cfg,
        fps,
        intervals: Times::of(&intervals),
        delays: Times::of(&delays),
        alone,
        pictures,
        wall,
        stats,
        is_apart,
        energy,
    })
}

fn plain_name(steps: usize, cfg: CfgType) -> String {
    format!("N={steps} {}", cfg_name(cfg))
}

/// What is asked for beside that, as a case's name has it.
fn said(gpu: &GpuSettings) -> Vec<String> {
    let asked = [
        (gpu.graphs, ", CUDA graphs".to_owned()),
        (gpu.vae_streams, ", VAE apart".to_owned()),
        (gpu.channels_last, ", channels last".to_owned()),
        (gpu.cudnn_search != CudnnSearch::default(), format!(", {} search", gpu.cudnn_search)),
    ];
    asked.into_iter().filter_map(|(is_so, what)| is_so.then_some(what)).collect()
}

/// What runs, not what was asked for.
fn name(setup: &Setup, subject: &Subject, gpu: &GpuSettings, (steps, cfg): (usize, CfgType)) -> String {
    let (graphs, vae_streams) = (setup.session.loaded.shared.captures(), runs_apart(setup, subject));
    plain_name(steps, cfg) + &said(&GpuSettings { graphs, vae_streams, ..*gpu }).concat()
}

fn runs_apart(setup: &Setup, subject: &Subject) -> bool {
    let has_streams = setup.session.loaded.shared.queues().is_some_and(Queues::is_apart);
    let are_several = !matches!(subject.painter(), Painter::Device(_)) || has_streams;
    are_several && subject.painter().lanes() > 1
}

/// Seconds of all calls of the networks.
pub(super) fn networks_seconds(stats: &Stats) -> f64 {
    NETWORKS.iter().map(|stage| stats.total(*stage).as_secs_f64()).sum()
}

impl Case {
    /// The share of the time in which no network ran; `None` where that cannot be told.
    fn outside(&self) -> Option<f64> {
        (!self.is_apart).then(|| outside(&self.stats, self.wall))
    }

    fn figures(&self) -> Vec<Figure> {
        let Self { name, fps, stats, .. } = self;
        let mut figures = vec![
            Figure::spread(name, "speed", "fps", Some(Spread::of(fps)), fps.len()),
            Figure::times(name, "picture to picture", self.intervals),
            Figure::times(name, "end to end", self.delays)
                .note("from 8-bit pixels to 8-bit pixels, in the stream batch too"),
        ];
        figures.extend(self.alone.as_ref().map(|alone| match alone {
            Ok(times) => Figure::times(name, ALONE, Some(*times)).note("as live input, as fast as it is taken"),
            Err(why) => Figure::absent(name, ALONE, "ms", &format!("not measured: {why}")),
        }));
        for (stage, stage_name) in STAGES.iter().filter(|(stage, _)| *stage != Stage::Step) {
            let at = |quantile| milliseconds(stats.quantile(*stage, quantile));
            let samples = stats.count(*stage) as usize;
            if samples > 0 {
                let times = Times { p50: at(0.50), p95: at(0.95), p99: at(0.99), samples };
                figures.push(Figure::times(name, stage_name, Some(times)));
            }
        }
        figures.push(match self.outside() {
            Some(outside) => {
                Figure::value(name, "outside the networks", "ratio", outside).note("of the time of all frames")
            }
            None => Figure::absent(name, "outside the networks", "ratio", "the networks run beside each other"),
        });
        figures.push(match &self.energy {
            Ok(joules) => Figure::value(name, "energy of a picture", "J", *joules),
            Err(why) => Figure::absent(name, "energy of a picture", "J", &format!("not measured: {why}")),
        });
        figures
    }

    fn json(&self) -> Value {
        let alone = self.alone.as_ref().and_then(|alone| alone.as_ref().ok());
        json!({
            "steps": self.steps,
            "cfg": cfg_name(self.cfg),
            "fps": round(Spread::of(&self.fps).median),
            "ms_p50": self.intervals.map(|times| round(times.p50)),
            "ms_p99": self.intervals.map(|times| round(times.p99)),
            "end_to_end_ms_p50": self.delays.map(|times| round(times.p50)),
            "end_to_end_ms_p99": self.delays.map(|times| round(times.p99)),
            "alone_ms_p50": alone.map(|times| round(times.p50)),
            "alone_ms_p99": alone.map(|times| round(times.p99)),
            "outside_networks": self.outside().map(round),
            "joules": self.energy.as_ref().ok().map(|joules| round(*joules)),
        })
    }
}

/// The share of the wall clock's time in which no network ran. Frames that were on their way are waited for within it.
fn outside(stats: &Stats, wall: Duration) -> f64 {
    1.0 - networks_seconds(stats) / wall.as_secs_f64()
}

/// The networks' arithmetic over what the card does in one multiplication of matrices.
fn roof(setup: &mut Setup, (model, side): (&ModelOptions, Option<u16>), cases: &[Case]) -> Outcome<Vec<Figure>> {
    let runtime = model.runtime()?;
    let counted = arithmetic(setup, &runtime)?;
    let (mut matmul, name) = matmul(setup, (&runtime, model), side.map(usize::from))?;
    // The first chooses among kernels.
    rate(&mut matmul, &setup.clock)?;
    let rates: Vec<f64> = (0..3).map(|_| rate(&mut matmul, &setup.clock)).collect::<Outcome<_>>()?;
    let roof = Spread::of(&rates);
    let mut figures = arithmetic_figures(&counted);
    figures.push(Figure::spread(&name, "rate", "GFLOP/s", Some(roof), rates.len()));
    for case in cases {
        // A row of the U-Net for each that it computed, the VAE's halves once a picture.
        let of = |(part, flops): &(PartName, Flops)| {
            let calls = if *part == PartName::Unet { case.stats.unet_rows } else { case.pictures as u64 };
            calls as f64 * flops.total
        };
        let gflop = counted.iter().map(of).sum::<f64>() / 1e9;
        let ratio = gflop / networks_seconds(&case.stats) / roof.median;
        figures.push(Figure::value(&case.name, "networks over matmul", "ratio", ratio));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_of_the_networks_is_of_the_whole_time() {
        let mut stats = Stats::default();
        let ms = Duration::from_millis;
        // 20 frames, two of which were waited for after the last call: the engine's own calls took less than the frames.
        for _ in 0..20 {
            stats.record(Stage::Encode, ms(1));
            stats.record(Stage::Denoise, ms(7));
            stats.record(Stage::Decode, ms(1));
            stats.record(Stage::Postprocess, ms(1));
        }
        for _ in 0..18 {
            stats.record(Stage::Step, ms(10));
        }
        assert!((outside(&stats, ms(200)) - 0.1).abs() < 1e-9);
        assert!((networks_seconds(&stats) - 0.18).abs() < 1e-9);
    }

    #[test]
    fn pictures_that_are_off_are_a_failure() {
        let of = |levels: f64| Figure::value("N=2 self", PARITY, "levels", levels);
        assert!(unlike(&[of(0.0), of(MOST_OFF)]).is_none());
        let failure = unlike(&[of(0.0), of(9.0)]).unwrap();
        assert!(
            failure.message().contains("N=2 self") && failure.message().contains("9 of 255"),
            "{}",
            failure.message()
        );
        // What was not compared says nothing.
        assert!(unlike(&[Figure::absent("N=1 none", PARITY, "levels", "out of memory")]).is_none());
    }
}
