//! The command line.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use livediffusion_onnx::{Precision, ProviderChoice};
use livediffusion_pipeline::frame::Size;
use livediffusion_session::{ModelOptions, hub};
use tracing_subscriber::EnvFilter;

use crate::bench::args::BenchArgs;
#[cfg(feature = "media")]
pub(crate) use crate::media_args::{DemoArgs, DevicesArgs, RunArgs, WebcamArgs};
#[cfg(not(feature = "media"))]
pub(crate) use crate::without_media::{
    Anything as DemoArgs, Anything as DevicesArgs, Anything as RunArgs, Anything as WebcamArgs,
};

#[cfg(feature = "media")]
const EXAMPLES: &str = "Examples:
  livediffusion run --input clip.mp4 --output painted.mp4 --prompt \"oil painting\"
  livediffusion run --input camera:// --output window --prompt \"pencil sketch\"
  livediffusion run --input test://ball --output frames/ --frames 30 --prompt \"watercolor\"
  livediffusion run --input \"v4l2src ! jpegdec\" --output fakesink --json
  livediffusion webcam
  livediffusion doctor";
#[cfg(not(feature = "media"))]
const EXAMPLES: &str =
    "This binary was built without GStreamer: run, webcam, demo, devices and the benchmarks that need
video (overhead, startup, latency, prompts) are not in it.

Examples:
  livediffusion bench gpu --model DIR
  livediffusion bench throughput --model DIR --json
  livediffusion doctor";

/// A live video filter: repaints every frame of a camera, screen, file or stream under a prompt.
#[derive(Debug, Parser)]
#[command(name = "livediffusion", version, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Say more on stderr; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Say nothing on stderr but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Repaint a video: file, camera, screen or stream in; file, window or stream out
    Run(Box<RunArgs>),
    /// Serve a page on which visitors see themselves repainted
    Webcam(Box<WebcamArgs>),
    /// Repaint a clip in several styles: a video and a contact sheet
    Demo(DemoArgs),
    /// Measure speed
    Bench(BenchArgs),
    /// Run a recorded case of the Python reference and compare every tensor
    Replay(ReplayArgs),
    /// Check what this machine has and how to mend what it lacks
    Doctor(DoctorArgs),
    /// List cameras and screens
    Devices(DevicesArgs),
    /// List and inspect model packs
    Models(ModelsArgs),
    /// Run a model's U-Net for streams on other machines: what --unet-server takes
    UnetServer(Box<UnetServerArgs>),
}

/// Over 0 and under a year: more is a typing mistake, and would overflow nanoseconds in the end.
pub(crate) fn is_duration(seconds: f64) -> bool {
    seconds > 0.0 && seconds < 31_536_000.0
}

/// How much of a recorded case is computed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    /// The arithmetic between the networks, on the recorded outputs of the U-Net
    Arithmetic,
    /// The U-Net too, on recorded latents and embeddings
    Networks,
    /// Everything, from the case's pictures and texts
    EndToEnd,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Arithmetic => "arithmetic",
            Self::Networks => "networks",
            Self::EndToEnd => "end-to-end",
        })
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArgs {
    /// NAME.json of a case; NAME.safetensors lies beside it. Of several, neighbours with the same model share its networks
    #[arg(value_name = "CASE.json", required = true)]
    pub(crate) cases: Vec<PathBuf>,

    /// Folder with the packs that cases name
    #[arg(long, value_name = "DIR")]
    pub(crate) models: PathBuf,

    /// How much is computed anew; noise always comes from the case
    #[arg(long, value_enum, default_value_t = Level::EndToEnd)]
    pub(crate) level: Level,

    /// What executes the networks; beside cpu errors up to 1e-3 of the peak pass, in f16 and bf16 up to 2e-2, times what
    /// guidance makes of it
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) provider: ProviderChoice,

    /// Arithmetic of the networks
    #[arg(long, value_name = "NAME", default_value = "f32")]
    pub(crate) precision: Precision,

    /// Number of the card, for providers that use one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) gpu: u32,

    /// Folder with the libraries of CUDA, cuDNN and TensorRT [default: cuda/ beside ONNX Runtime]
    #[arg(long, value_name = "DIR")]
    pub(crate) cuda_lib_dir: Option<PathBuf>,

    /// The ONNX Runtime library, or the folder that holds it [default: found as `doctor` shows]
    #[arg(long, value_name = "PATH")]
    pub(crate) ort_lib: Option<PathBuf>,

    /// Print the result of each case as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// Measure providers and precisions for the model now, also where that was done before or the model is over 1 GB
    #[arg(long)]
    pub(crate) calibrate: bool,

    /// Print the checks as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct UnetServerArgs {
    /// Address and port; port 0 takes a free one. Beyond this machine (0.0.0.0:8001, say) every client needs the token
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:8001")]
    pub(crate) bind: SocketAddr,

    /// What clients call the model
    #[arg(long, value_name = "TEXT", default_value = "unet", value_parser = model_name)]
    pub(crate) name: String,

    /// Rows that a call may have, and to which calls that wait are put together
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) max_rows: u8,

    /// Longest side of the pictures that a call may be of, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(8..=8192))]
    pub(crate) max_size: u16,

    /// Size of the pictures that TensorRT's engines are built for [default: the model's]
    #[arg(long, value_name = "WxH", value_parser = crate::bench::args::size)]
    pub(crate) size: Option<Size>,

    /// What clients must know [default: beyond this machine, one that is made and printed; else none]
    #[arg(long, value_name = "TEXT", env = "LIVEDIFFUSION_TOKEN", hide_env_values = true, value_parser = crate::listen::token)]
    pub(crate) token: Option<String>,

    /// Certificate chain for TLS, as a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The certificate's private key, as a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) model: ModelOptions,
}

/// It goes into an address as it is.
fn model_name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits { Ok(text.to_owned()) } else { Err("1 to 64 letters, digits, or any of -_. are needed".into()) }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the model packs that --model takes by name
    List {
        /// Print them as one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Download a model pack from a Hugging Face repository
    #[command(after_help = pull_help())]
    Pull(PullArgs),
    /// List the presets of a model pack: what --preset takes
    Presets {
        /// Folder or name of the pack
        #[arg(short, long, value_name = "DIR", default_value = "default")]
        model: PathBuf,
        /// Print them as one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Show what a model pack is made of and what it can do
    Inspect {
        /// Folder or name of the pack
        #[arg(value_name = "DIR", default_value = "default")]
        model: PathBuf,
        /// Print it as one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PullArgs {
    /// The repository as org/name, its address, or a known name
    #[arg(value_name = "REPO|URL|NAME")]
    pub(crate) source: String,

    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "REV")]
    pub(crate) revision: Option<String>,

    /// Ask no server: only look whether it was downloaded before
    #[arg(long)]
    pub(crate) offline: bool,

    /// Download again what is there already
    #[arg(long, conflicts_with = "offline")]
    pub(crate) force: bool,

    /// How often in a row a connection that brings nothing is tried anew; the next call goes on from there
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(..=20))]
    pub(crate) retries: u32,
}

fn pull_help() -> String {
    format!(
        "Known names, the repositories with ONNX files they stand for, and what others say of these.
NONE WAS VERIFIED: a repository may be gone, or hold no pack that loads.
{}

Only what a pack needs is downloaded, into the cache that all Hugging Face tools share.
HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.",
        hub::table()
    )
}

/// Logs go to stderr; `RUST_LOG` has the last word.
pub(crate) fn init_logging(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        // What ONNX Runtime says of an error comes with the error, but for what TensorRT told it.
        (true, _) => "error,ort=off",
        (_, 0) => "warn,ort=off",
        (_, 1) => "info,ort=warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    lines.with_ansi(colours).init();
}
