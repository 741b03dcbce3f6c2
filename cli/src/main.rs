//! The livediffusion binary: parses the command line, runs the command, prints an error once.
//!
//! Without the feature `media` it links no GStreamer, for machines that have none; what needs it says so.

#![cfg_attr(
    not(feature = "media"),
    allow(dead_code, reason = "what only commands with video use; the whole binary has none that is dead")
)]

#[macro_use]
mod say;

mod args;
mod bench;
mod config;
#[cfg(feature = "media")]
mod demo;
#[cfg(feature = "media")]
mod devices;
mod disk;
mod doctor;
mod failure;
mod hub;
mod listen;
#[cfg(feature = "media")]
mod live;
#[cfg(feature = "media")]
mod media_args;
mod models;
mod parameter_args;
mod progress;
mod replay;
#[cfg(feature = "media")]
mod run;
mod unet_server;
mod units;
mod usage;
#[cfg(feature = "media")]
mod webcam;
#[cfg(not(feature = "media"))]
mod without_media;

use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};

fn main() -> ExitCode {
    #[cfg(feature = "media")]
    let started = livediffusion_pipeline::stats::MonotonicClock::start();
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    args::init_logging(&cli);
    let result = match cli.command {
        #[cfg(feature = "media")]
        args::Command::Run(args) => run::command(&args, started),
        #[cfg(feature = "media")]
        args::Command::Webcam(args) => webcam::command(&args),
        #[cfg(feature = "media")]
        args::Command::Demo(args) => demo::command(&args, started),
        args::Command::Bench(args) => bench::command(&args),
        args::Command::Replay(args) => replay::command(&args),
        args::Command::Doctor(args) => doctor::command(&args),
        #[cfg(feature = "media")]
        args::Command::Devices(args) => devices::command(&args),
        #[cfg(not(feature = "media"))]
        args::Command::Run(_) => without_media::refuse("run"),
        #[cfg(not(feature = "media"))]
        args::Command::Webcam(_) => without_media::refuse("webcam"),
        #[cfg(not(feature = "media"))]
        args::Command::Demo(_) => without_media::refuse("demo"),
        #[cfg(not(feature = "media"))]
        args::Command::Devices(_) => without_media::refuse("devices"),
        args::Command::UnetServer(args) => unet_server::command(&args),
        args::Command::Models(args) => models::command(&args),
    };
    match result.and_then(|()| say::finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Locks `mutex` even if a thread panicked while holding it: what is guarded here is always whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
