//! `livediffusion bench`: speed, mostly as ratios.

mod ablation;
pub(crate) mod args;
pub(crate) mod clips;
mod compare;
mod context;
mod findings;
mod gpu;
mod latency;
mod overhead;
mod plot;
mod prompts;
mod rcfg;
mod report;
mod roofline;
mod scaling;
mod setup;
mod similarity;
mod startup;
mod stream_batch;
mod throughput;

use self::args::{BenchArgs, BenchCommand};
use crate::failure::Outcome;

pub(crate) fn command(args: &BenchArgs) -> Outcome<()> {
    match &args.command {
        BenchCommand::Overhead(args) => overhead::command(args),
        BenchCommand::StreamBatch(args) => stream_batch::command(args),
        BenchCommand::Rcfg(args) => rcfg::command(args),
        BenchCommand::Startup(args) => startup::command(args),
        BenchCommand::Throughput(args) => throughput::command(args),
        BenchCommand::Ablation(args) => ablation::command(args),
        BenchCommand::Similarity(args) => similarity::command(args),
        BenchCommand::Latency(args) => latency::command(args),
        BenchCommand::Prompts(args) => prompts::command(args),
        BenchCommand::Roofline(args) => roofline::command(args),
        BenchCommand::Scaling(args) => scaling::command(args),
        BenchCommand::Compare(args) => compare::command(args),
        BenchCommand::Gpu(args) => gpu::command(args),
        BenchCommand::Plot(args) => plot::command(args),
        BenchCommand::Report(args) => report::command(args),
    }
}
