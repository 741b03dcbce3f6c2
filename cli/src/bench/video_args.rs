//! The command line of the benchmarks that need video.

use clap::Args;
use livediffusion_session::ModelOptions;

use super::args::{CLIP, OutputArgs, SetupArgs};
use crate::parameter_args::ParameterArgs;

#[derive(Clone, Debug, Args)]
pub(crate) struct OverheadArgs {
    /// The clip to run on
    #[arg(short, long, value_name = "FILE", default_value = CLIP)]
    pub(crate) input: String,

    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// Take the clip as it is: decoding a large picture then counts as overhead. Without it the clip is first brought to
    /// the networks' size
    #[arg(long)]
    pub(crate) as_is: bool,

    /// Rounds of both measurements, alternating; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) parameters: ParameterArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StartupArgs {
    /// The clip to run on
    #[arg(short, long, value_name = "FILE", default_value = CLIP)]
    pub(crate) input: String,

    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// Processes started after the first one, whose time is reported apart; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct LatencyArgs {
    /// Rate of the steady source, in frames a second
    #[arg(long, value_name = "X", default_value_t = 30.0)]
    pub(crate) fps: f64,

    /// The clip whose frames are captured
    #[arg(short, long, value_name = "FILE", default_value = CLIP)]
    pub(crate) input: String,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PromptsArgs {
    /// Rate of the source, in frames a second
    #[arg(long, value_name = "X", default_value_t = 20.0)]
    pub(crate) fps: f64,

    /// Frames from one change of the prompt to the next
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) every: u16,

    /// The clip whose frames are captured
    #[arg(short, long, value_name = "FILE", default_value = CLIP)]
    pub(crate) input: String,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}
