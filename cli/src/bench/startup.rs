//! `livediffusion bench startup`: how long a user waits for the first picture.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use livediffusion_bench::record::Figure;
use livediffusion_bench::summary::Times;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_session::locate;
use serde_json::{Value, json};

use super::args::StartupArgs;
use super::context::context_of;
use super::findings::Findings;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::{milliseconds, round};

/// One process.
struct Start {
    /// As the process itself counts: from the begin of `main` to the first picture at the sink.
    first_frame: Duration,
    /// From here: from before the process is made to after it ended, with one frame.
    whole: Duration,
    report: Value,
}

pub(crate) fn command(args: &StartupArgs) -> Outcome<()> {
    let clock = MonotonicClock::start();
    let folder = tempfile::tempdir().map_err(|error| Failure::new(RUNNING, format!("temporary folder: {error}")))?;
    let output = folder.path().join("out.mp4");
    let cold = start(args, &output, &clock)?;
    let warm = (0..args.rounds).map(|_| start(args, &output, &clock)).collect::<Outcome<Vec<_>>>()?;

    let text = |key: &str| cold.report[key].as_str().unwrap_or("unknown").to_owned();
    let (width, height) = text("size").split_once('x').map_or((0, 0), |(w, h)| (number(w), number(h)));
    let pack = locate::pack(args.model.model.as_deref())?;
    let size = Size::new(width, height);
    let context = context_of(&args.model, &pack, &text("provider"), &text("precision"), size)?;
    let first: Vec<Duration> = warm.iter().map(|start| start.first_frame).collect();
    let whole: Vec<Duration> = warm.iter().map(|start| start.whole).collect();
    let (first, whole) = (Times::of(&first), Times::of(&whole));
    let body = json!({
        "ms": first.map(|times| round(times.p50)),
        "cold_ms": round(milliseconds(cold.first_frame)),
        "process_ms": whole.map(|times| round(times.p50)),
        "rounds": args.rounds,
    });
    let note = "the first process of this run; the system may have had its files in memory already";
    let figures = vec![
        Figure::times("", "first frame", first),
        Figure::value("cold", "first frame", "ms", milliseconds(cold.first_frame)).note(note),
        Figure::times("", "whole process, one frame", whole),
    ];
    Findings::of(body, context, figures).hand_out("startup", &args.output)
}

fn number(text: &str) -> usize {
    text.parse().unwrap_or(0)
}

fn start(args: &StartupArgs, output: &Path, clock: &MonotonicClock) -> Outcome<Start> {
    let failed = |what: String| Failure::new(RUNNING, format!("the measured process: {what}"));
    let binary = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(binary);
    command.args(["run", "--frames", "1", "--json", "--quiet", "--input", &args.input, "--output"]).arg(output);
    let model = &args.model;
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            command.args([name, &value]);
        }
    };
    flag("--model", model.model.as_ref().map(|path| path.display().to_string()));
    flag("--provider", model.provider.map(|provider| provider.to_string()));
    flag("--precision", model.precision.map(|precision| precision.to_string()));
    flag("--threads", model.threads.map(|threads| threads.to_string()));
    flag("--lanes", model.lanes.map(|lanes| lanes.to_string()));
    flag("--ort-lib", model.ort_lib.as_ref().map(|path| path.display().to_string()));
    model.unet_server.iter().for_each(|address| flag("--unet-server", Some(address.clone())));
    let started = clock.now();
    let done = command.output().map_err(|error| failed(error.to_string()))?;
    let whole = clock.now().saturating_sub(started);
    if !done.status.success() {
        return Err(failed(String::from_utf8_lossy(&done.stderr).into_owned()));
    }
    let report: Value = serde_json::from_slice(&done.stdout).map_err(|error| failed(error.to_string()))?;
    let first = report["time_to_first_frame_ms"].as_f64().ok_or_else(|| failed("it gave no picture".into()))?;
    Ok(Start { first_frame: Duration::from_secs_f64(first / 1e3), whole, report })
}
