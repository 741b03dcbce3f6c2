//! `livediffusion bench`.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use livediffusion_bench::bare::BareFrame;
use livediffusion_bench::overhead;
use livediffusion_io::{Input, Next, Output};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::Networks;
use livediffusion_pipeline::stats::MonotonicClock;
use serde_json::json;

use crate::args::{BenchArgs, BenchCommand, OverheadArgs};
use crate::config::{self, ConfigFile};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::run::progress::Progress;
use crate::run::report::round;
use crate::run::stream::{Frames, Stream};
use crate::run::{open_file, open_sink, packed};
use crate::session::{OpenPack, Session};

pub(crate) fn command(args: &BenchArgs) -> Outcome<()> {
    match &args.command {
        BenchCommand::Overhead(args) => measure_overhead(args),
    }
}

fn measure_overhead(args: &OverheadArgs) -> Outcome<()> {
    let open = OpenPack::open(&args.model)?;
    let parameters = config::parameters(&open.pack.defaults, &open.folder, &ConfigFile::default(), &args.parameters)?;
    if parameters.similarity.is_some() || !parameters.stream_batch {
        let what = "overhead is measured with the stream batch and without the similarity filter";
        return Err(Failure::usage(what, "leave --similarity and --stream-batch out"));
    }
    let size = open.size(&parameters);
    let facts = open.facts.clone();
    let folder = tempfile::tempdir().map_err(|error| Failure::new(RUNNING, format!("temporary folder: {error}")))?;
    let mut input = Input::parse(&args.input)?;
    if !args.as_is {
        input = fitted(&input, &folder.path().join("in.mp4"), size)?;
    }
    let output = Output::parse(&folder.path().join("out.mp4").display().to_string())?;

    let mut session = Session::load(&args.model, open)?;
    let settings = session.settings(parameters, size)?;
    let (provider, precision) = (session.loaded.provider.to_string(), session.loaded.precision.to_string());
    let control = Control::new(settings.clone());
    let clock = MonotonicClock::start();
    let make = |networks: Networks| -> Outcome<Engine> {
        Ok(Engine::new(networks, facts.clone(), size, control.clone(), Box::new(clock))?)
    };
    // Both measurements use the very same networks; they pass them on through this cell.
    let engine = make(session.loaded.networks)?;
    let mut bare = BareFrame::new(&facts, engine.plan(), size, &settings)?;
    let networks = RefCell::new(Some(engine.into_networks()));
    let take = || networks.borrow_mut().take().ok_or_else(|| Failure::new(RUNNING, "the last round failed"));

    let frames = std::cell::Cell::new(0);
    let whole = || -> Outcome<f64> {
        let mut engine = make(take()?)?;
        let fps = run_file(&mut engine, &input, &output, size, &clock)?;
        frames.set(engine.stats().frames_out);
        networks.replace(Some(engine.into_networks()));
        Ok(fps)
    };
    let bare = || -> Outcome<f64> {
        let mut taken = take()?;
        // As many frames as the file has; before that is known, enough to warm the networks up.
        let fps = bare.fps(&mut taken, frames.get().max(60), &clock)?;
        networks.replace(Some(taken));
        Ok(fps)
    };
    let result = overhead::measure(usize::from(args.rounds), whole, bare)?;
    if args.json {
        say!(
            "{:#}",
            json!({
                "ratio": round(result.ratio),
                "ratio_min": round(result.ratios.min),
                "ratio_max": round(result.ratios.max),
                "run_fps": round(result.run_fps.median),
                "bare_fps": round(result.bare_fps.median),
                "as_is": args.as_is,
                "rounds": result.rounds,
                "frames": frames.get(),
                "size": size.to_string(),
                "provider": provider,
                "precision": precision,
            })
        );
    } else {
        say!("{} at {size} on {provider} {precision}, {} frames, {} rounds", args.input, frames.get(), result.rounds);
        say!("file to file    {:>7.1} fps (median)", result.run_fps.median);
        say!("bare networks   {:>7.1} fps", result.bare_fps.median);
        say!("ratio           {:>7.3} ({:.3} to {:.3})", result.ratio, result.ratios.min, result.ratios.max);
    }
    Ok(())
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
fn run_file(engine: &mut Engine, input: &Input, output: &Output, size: Size, clock: &MonotonicClock) -> Outcome<f64> {
    let mut source = open_file(input, size)?;
    let sink = open_sink(output, size, &mut source)?;
    let (stop, progress) = (AtomicBool::new(false), Progress::hidden());
    let mut stream = Stream { clock, stop: &stop, progress: &progress, before_frame: &mut |_| {} };
    let counts = stream.run(engine, Frames::Video(Box::new(source)), sink)?;
    Ok(engine.stats().frames_out as f64 / counts.streaming.as_secs_f64())
}
