//! The command line of `livediffusion bench`.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use livediffusion_onnx::ProviderChoice;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::{CfgType, Parameters};
use livediffusion_session::ModelOptions;

#[cfg(not(feature = "media"))]
pub(crate) use crate::without_media::{
    Anything as LatencyArgs, Anything as OverheadArgs, Anything as PromptsArgs, Anything as StartupArgs,
};

#[cfg(feature = "media")]
pub(crate) use super::video_args::{LatencyArgs, OverheadArgs, PromptsArgs, StartupArgs};

/// Where measurements are kept where nothing else is said.
pub(crate) const RECORD: &str = "bench/record";

/// The bundled clip.
pub(super) const CLIP: &str = "assets/bigbuckbunny.mp4";

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Frames per second of `run` on a file over those of the bare networks called back to back, in one process
    Overhead(OverheadArgs),
    /// One U-Net call over N rows against N calls of one row
    StreamBatch(StepsArgs),
    /// Full guidance against residual guidance (R-CFG), at 1 to 5 steps
    Rcfg(StepsArgs),
    /// From the start of a process to its first picture
    Startup(StartupArgs),
    /// Frames per second over steps, guidance, sizes, providers, img2img and txt2img
    Throughput(ThroughputArgs),
    /// What each optimisation gains: all on, then each of them off in turn
    Ablation(AblationArgs),
    /// Frames, processor time and energy that the similarity filter saves on a static, a talking and a moving clip
    Similarity(SimilarityArgs),
    /// From the capture of a live frame to its picture, at a steady rate and overloaded
    Latency(LatencyArgs),
    /// Live frames that are late because the prompt changes
    Prompts(PromptsArgs),
    /// Arithmetic of the networks a second over what matrix multiplications reach in the same run
    Roofline(RooflineArgs),
    /// Several streams at once in one process, on the same weights
    Scaling(ScalingArgs),
    /// The same model in Python, side by side: StreamDiffusion on torch, and its loop on OpenVINO
    Compare(CompareArgs),
    /// A card's frames per second over providers, steps and guidance, stage by stage, with its memory and energy
    Gpu(GpuArgs),
    /// Draw recorded measurements as SVG
    Plot(PlotArgs),
    /// Write recorded measurements into the README
    Report(ReportArgs),
}

/// Where findings go.
#[derive(Clone, Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,

    /// Append the figures to DIR/DEVICE/DATE.csv
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = RECORD)]
    pub(crate) record: Option<PathBuf>,
}

/// Which networks, at which size, for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct SetupArgs {
    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// Size of the pictures [default: the model's own]
    #[arg(long, value_name = "WxH", value_parser = size)]
    pub(crate) size: Option<Size>,

    /// Rounds of all variants in turn; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) rounds: u16,

    /// Frames of each variant in each round
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) frames: u16,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn size(text: &str) -> Result<Size, String> {
    let mut parameters = Parameters::default();
    parameters.set("size", text).map_err(|error| format!("{error}: {}", error.hint))?;
    parameters.size.ok_or_else(|| "a size such as 512x288 is needed".into())
}

/// A word of `--cfg`.
fn cfg(text: &str) -> Result<CfgType, String> {
    let mut parameters = Parameters::default();
    parameters.set("cfg", text).map_err(|error| format!("{error}: {}", error.hint))?;
    Ok(parameters.cfg)
}

#[derive(Clone, Debug, Args)]
pub(crate) struct StepsArgs {
    /// Denoising steps [default: 1 to 5 in turn]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) steps: Option<u8>,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

impl StepsArgs {
    /// The numbers of steps, each in turn.
    pub(crate) fn each(&self) -> RangeInclusive<u8> {
        self.steps.map_or(1..=5, |steps| steps..=steps)
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ThroughputArgs {
    /// Denoising steps, each in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2, 4], value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) steps: Vec<u8>,

    /// Guidance, each in turn [default: none,self,initialize,full]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = cfg)]
    pub(crate) cfg: Vec<CfgType>,

    /// Sizes, each in turn [default: 256x256]
    #[arg(long, value_name = "WxH,…", value_delimiter = ',', value_parser = size)]
    pub(crate) sizes: Vec<Size>,

    /// Providers, each in turn [default: --provider]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) providers: Vec<ProviderChoice>,

    /// Frames that enter together, each in turn; more than one without guidance and in img2img and txt2img alike
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 12], value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) frame_buffers: Vec<u8>,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct GpuArgs {
    /// Denoising steps, each in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2, 4], value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) steps: Vec<u8>,

    /// Guidance, each in turn [default: none,self,initialize,full]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = cfg)]
    pub(crate) cfg: Vec<CfgType>,

    /// Providers, each in turn [default: --provider, else cuda,tensorrt]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) providers: Vec<ProviderChoice>,

    /// Side of the matrices that the networks' arithmetic is compared with [default: 2048, on NVIDIA cards 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(16..=16_384))]
    pub(crate) matrix: Option<u16>,

    /// Speed, memory and energy alone: neither the comparison with frames that pass through the host nor that with matrices
    #[arg(long)]
    pub(crate) brief: bool,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct AblationArgs {
    /// Denoising steps
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) steps: u8,

    /// The clip to run on
    #[arg(short, long, value_name = "FILE", default_value = CLIP)]
    pub(crate) input: String,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SimilarityArgs {
    /// The moving clip; the other two are made of its first frame
    #[arg(short, long, value_name = "FILE", default_value = CLIP)]
    pub(crate) input: String,

    /// Threshold η of the filter
    #[arg(long, value_name = "X", default_value_t = 0.98)]
    pub(crate) threshold: f64,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RooflineArgs {
    /// Side of the matrices that are multiplied [default: 2048, on NVIDIA cards 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(16..=16_384))]
    pub(crate) matrix: Option<u16>,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ScalingArgs {
    /// Streams at once, each number in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2, 4, 8], value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) streams: Vec<u8>,

    /// Denoising steps that the streams have by turns: 1,4 is every other one with one step, the rest with four [default: the pack's own]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) steps: Vec<u8>,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Denoising steps, each in turn
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(u8).range(1..=50))]
    pub(crate) steps: Vec<u8>,

    /// The same model in the diffusers torch layout [default: the ONNX graphs themselves, through onnx2torch]
    #[arg(long, value_name = "DIR")]
    pub(crate) torch_model: Option<PathBuf>,

    /// Python of the environment that tools/peers/setup.sh makes [default: ~/.cache/livediffusion/peers/bin/python]
    #[arg(long, value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,

    /// The peer's program
    #[arg(long, value_name = "FILE", default_value = "tools/peers/peer.py")]
    pub(crate) peer: PathBuf,

    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PlotArgs {
    /// Folder of the record
    #[arg(long, value_name = "DIR", default_value = RECORD)]
    pub(crate) record: PathBuf,

    /// Folder for the SVG files
    #[arg(short, long, value_name = "DIR", default_value = "out/bench")]
    pub(crate) output: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReportArgs {
    /// Folder of the record
    #[arg(long, value_name = "DIR", default_value = RECORD)]
    pub(crate) record: PathBuf,

    /// The file whose part between the two marks is written anew
    #[arg(long, value_name = "FILE", default_value = "README.md")]
    pub(crate) readme: PathBuf,
}
