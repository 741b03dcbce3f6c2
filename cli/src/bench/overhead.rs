//! `livediffusion bench overhead`: `run` on a file against the bare networks called back to back.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use livediffusion_bench::bare::BareFrame;
use livediffusion_bench::overhead;
use livediffusion_bench::record::Figure;
use livediffusion_io::{Input, Next, Output};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_session::{OpenPack, Session};
use serde_json::json;

use super::args::OverheadArgs;
use super::context::context;
use super::findings::Findings;
use crate::config::{self, ConfigFile};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::progress::Progress;
use crate::run::stream::{Frames, Stream};
use crate::run::{open_file, open_sink, packed};
use crate::units::round;

pub(crate) fn command(args: &OverheadArgs) -> Outcome<()> {
    let mut open = OpenPack::open(&args.model)?;
    let parameters = config::parameters(&open.pack, &ConfigFile::default(), &args.parameters)?;
    if parameters.similarity.is_some() || !parameters.stream_batch {
        let what = "overhead is measured with the stream batch and without the similarity filter";
        return Err(Failure::usage(what, "leave --similarity and --stream-batch out"));
    }
    let size = open.size(&parameters);
    open.expect(&parameters, size);
    let facts = open.facts.clone();
    let folder = tempfile::tempdir().map_err(|error| Failure::new(RUNNING, format!("temporary folder: {error}")))?;
    let mut input = Input::parse(&args.input)?;
    if !args.as_is {
        input = fitted(&input, &folder.path().join("in.mp4"), size)?;
    }
    let output = Output::parse(&folder.path().join("out.mp4").display().to_string())?;

    // The bare networks get all cores for each call, which is the fastest that calls back to back can be; the whole gets
    // what `run` gives it.
    let lanes = args.model.lanes_for(&open.pack, &parameters, args.model.provider.unwrap_or_default(), false);
    let mut bare = OpenPack::open(&args.model)?;
    bare.expect(&parameters, size);
    let mut bare = Session::load(&args.model, bare, 1)?;
    let session = Session::load(&args.model, open, lanes)?;
    let settings = bare.settings(parameters, size)?;
    let context = context(&bare, &args.model, size)?;
    let control = Control::new(settings.clone());
    let clock = MonotonicClock::start();
    let engine = Engine::new(bare.loaded.networks, facts.clone(), size, control.clone(), Box::new(clock))?;
    let mut frame = BareFrame::new(&facts, engine.plan(), size, &settings)?;
    let mut networks = engine.into_networks();
    let lanes = session.loaded.lanes;

    let frames = std::cell::Cell::new(0);
    let whole = || -> Outcome<f64> {
        let mut painter = session.painter(size, control.clone())?;
        let fps = run_file(&mut painter, &input, &output, size, &clock)?;
        frames.set(painter.stats().frames_out);
        Ok(fps)
    };
    let bare = || -> Outcome<f64> {
        // As many frames as the file has; before that is known, enough to warm the networks up.
        Ok(frame.fps(&mut networks, frames.get().max(60), &clock)?)
    };
    let result = overhead::measure(usize::from(args.rounds), whole, bare)?;
    let body = json!({
        "ratio": round(result.ratio),
        "ratio_min": round(result.ratios.min),
        "ratio_max": round(result.ratios.max),
        "run_fps": round(result.run_fps.median),
        "bare_fps": round(result.bare_fps.median),
        "as_is": args.as_is,
        "lanes": lanes,
        "rounds": result.rounds,
        "frames": frames.get(),
    });
    let case = if args.as_is { "as is" } else { "" };
    let spread = |figure, unit, spread| Figure::spread(case, figure, unit, Some(spread), result.rounds);
    let figures = vec![
        spread("file to file", "fps", result.run_fps).note(&format!("{lanes} frames at once")),
        spread("bare networks", "fps", result.bare_fps),
        spread("ratio", "ratio", result.ratios),
    ];
    Findings::of(body, context, figures).hand_out("overhead", &args.output)
}

/// The clip in a file of the networks' size.
fn fitted(input: &Input, path: &Path, size: Size) -> Outcome<Input> {
    let text = path.display().to_string();
    let mut source = open_file(input, size)?;
    let mut sink = open_sink(&Output::parse(&text)?, size, &mut source)?;
    loop {
        match source.next(Duration::from_secs(1))? {
            Next::Frame(frame) => {
                sink.push(frame.meta(), &frame.with_picture(packed)?)?;
            }
            Next::TimedOut => {}
            Next::End => break,
        }
    }
    sink.finish()?;
    Ok(Input::parse(&text)?)
}

/// Frames a second of `run`'s own loop, from the first frame's arrival to the last picture's departure.
fn run_file(painter: &mut Painter, input: &Input, output: &Output, size: Size, clock: &MonotonicClock) -> Outcome<f64> {
    let mut source = open_file(input, size)?;
    let sink = open_sink(output, size, &mut source)?;
    let (stop, progress) = (AtomicBool::new(false), Progress::hidden());
    let mut stream = Stream { clock, stop: &stop, progress: &progress, before_frame: &mut |_| {}, desk: None };
    let counts = stream.run(painter, Frames::Video(Box::new(source)), sink)?;
    Ok(painter.stats().frames_out as f64 / counts.streaming.as_secs_f64())
}
