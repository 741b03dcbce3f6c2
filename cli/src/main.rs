//! The livediffusion binary: parses the command line, runs the command, prints an error once.

#[macro_use]
mod say;

mod args;
mod bench;
mod calibration;
mod config;
mod demo;
mod devices;
mod disk;
mod doctor;
mod failure;
mod hub;
mod live;
mod locate;
mod models;
mod parameter_args;
mod replay;
mod run;
mod session;
mod usage;
mod webcam;

use std::process::ExitCode;

fn main() -> ExitCode {
    let started = livediffusion_pipeline::stats::MonotonicClock::start();
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    args::init_logging(&cli);
    let result = match cli.command {
        args::Command::Run(args) => run::command(&args, started),
        args::Command::Webcam(args) => webcam::command(&args),
        args::Command::Demo(args) => demo::command(&args, started),
        args::Command::Bench(args) => bench::command(&args),
        args::Command::Replay(args) => replay::command(&args),
        args::Command::Doctor(args) => doctor::command(&args),
        args::Command::Devices(args) => devices::command(&args),
        args::Command::Models(args) => models::command(&args),
    };
    match result.and_then(|()| say::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
