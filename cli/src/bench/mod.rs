//! `livediffusion bench`: speed, mostly as ratios.

mod ablation;
pub(crate) mod args;
pub(crate) mod clips;
mod compare;
mod context;
mod findings;
mod gpu;
#[cfg(feature = "media")]
mod latency;
#[cfg(feature = "media")]
mod overhead;
mod plot;
#[cfg(feature = "media")]
mod prompts;
mod rcfg;
mod report;
mod roofline;
mod scaling;
mod setup;
mod similarity;
#[cfg(feature = "media")]
mod startup;
#[cfg(any(test, not(feature = "media")))]
mod stills;
mod stream_batch;
mod throughput;
#[cfg(feature = "media")]
mod video;
#[cfg(feature = "media")]
mod video_args;

use self::args::{BenchArgs, BenchCommand};
use crate::failure::Outcome;
#[cfg(not(feature = "media"))]
use crate::without_media::refuse;

pub(crate) fn command(args: &BenchArgs) -> Outcome<()> {
    match &args.command {
        #[cfg(feature = "media")]
        BenchCommand::Overhead(args) => overhead::command(args),
        BenchCommand::StreamBatch(args) => stream_batch::command(args),
        BenchCommand::Rcfg(args) => rcfg::command(args),
        #[cfg(feature = "media")]
        BenchCommand::Startup(args) => startup::command(args),
        BenchCommand::Throughput(args) => throughput::command(args),
        BenchCommand::Ablation(args) => ablation::command(args),
        BenchCommand::Similarity(args) => similarity::command(args),
        #[cfg(feature = "media")]
        BenchCommand::Latency(args) => latency::command(args),
        #[cfg(feature = "media")]
        BenchCommand::Prompts(args) => prompts::command(args),
        BenchCommand::Roofline(args) => roofline::command(args),
        BenchCommand::Scaling(args) => scaling::command(args),
        BenchCommand::Compare(args) => compare::command(args),
        BenchCommand::Gpu(args) => gpu::command(args),
        BenchCommand::Plot(args) => plot::command(args),
        BenchCommand::Report(args) => report::command(args),
        #[cfg(not(feature = "media"))]
        BenchCommand::Overhead(_) => refuse("bench overhead"),
        #[cfg(not(feature = "media"))]
        BenchCommand::Startup(_) => refuse("bench startup"),
        #[cfg(not(feature = "media"))]
        BenchCommand::Latency(_) => refuse("bench latency"),
        #[cfg(not(feature = "media"))]
        BenchCommand::Prompts(_) => refuse("bench prompts"),
    }
}
