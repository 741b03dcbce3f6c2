//! The command line of what needs GStreamer.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use livediffusion_io::{Fit, Retry};
use livediffusion_session::ModelOptions;

use crate::args::is_duration;
use crate::parameter_args::{Given, ParameterArgs};

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) flags: Given,

    /// What to repaint: a file (video or picture), URI, folder of images, camera://, screen://, /dev/videoN, test://PATTERN,
    /// noise:// (txt2img) or a gst-launch fragment
    #[arg(short, long, value_name = "URI")]
    pub(crate) input: Option<String>,

    /// Where it goes: .mp4, .mov, .mkv or .webm file, .png or .jpg (one picture), a folder for PNGs, window, rtmp://, srt://,
    /// rtsp://, whip://, an HLS playlist (.m3u8), /dev/videoN (a virtual camera), or a gst-launch fragment. May be given several
    /// times
    #[arg(short, long, value_name = "URI")]
    pub(crate) output: Vec<String>,

    /// Record into this .mp4, .mov, .mkv or .webm file beside the outputs
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) model: ModelOptions,

    /// How a picture of another shape is brought to the size: cover (crop), contain (borders) or stretch
    #[arg(long, value_name = "NAME")]
    pub(crate) fit: Option<Fit>,

    /// Take changes of parameters while the stream runs, as Open Sound Control messages: /prompt, /strength (0 to 1), or any
    /// hot parameter by its name. The config file is read again whenever it changes
    #[arg(long, value_name = "osc://127.0.0.1:9000")]
    pub(crate) control: Option<String>,

    /// Longest pause in seconds before a live input or network output that was lost is tried again, or off: its loss ends
    /// the run. Meanwhile the last picture is shown [default: 30]
    #[arg(long, value_name = "S|off")]
    pub(crate) retry: Option<RetryArg>,

    /// Begin again at the end of the input, without a gap: at its own speed, as a camera, or into files every frame, as many as
    /// --frames or --duration say. A single picture is shown 25 times a second
    #[arg(id = "loop", long)]
    pub(crate) looped: bool,

    /// Print gst-launch-1.0 commands that try the input and each output alone, and exit
    #[arg(long)]
    pub(crate) print_pipeline: bool,

    /// Stop after N frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) frames: Option<u64>,

    /// Stop after S seconds of video
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub(crate) duration: Option<f64>,

    /// Settings from a TOML file; flags win over it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print the summary as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) parameters: ParameterArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct WebcamArgs {
    /// Address and port of the page; port 0 takes a free one. Beyond this machine (0.0.0.0:7860, say) every visitor needs the
    /// token
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:7860")]
    pub(crate) bind: SocketAddr,

    /// Visitors who are painted at a time, sharing the machine; others wait in line
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) max_sessions: u16,

    /// Longest side of the picture that a visitor may ask for, in pixels: a large one holds up everybody's [default: 1024, or
    /// the start's own if that is larger]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(8..=8192))]
    pub(crate) max_size: Option<u16>,

    /// What visitors must know [default: beyond this machine, one that is made and printed; else none]
    #[arg(long, value_name = "TEXT", env = "LIVEDIFFUSION_TOKEN", hide_env_values = true, value_parser = crate::listen::token)]
    pub(crate) token: Option<String>,

    /// Server that tells WebRTC peers (/whip, /whep) the address by which others see this machine: stun://HOST:PORT
    #[arg(long, value_name = "URL", value_parser = stun_server)]
    pub(crate) stun_server: Option<String>,

    /// Certificate chain for HTTPS, as a PEM file. Browsers give the camera only to https:// pages and to this machine's own
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The certificate's private key, as a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Settings from a TOML file, as for run; flags win over it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) model: ModelOptions,

    #[command(flatten)]
    pub(crate) parameters: ParameterArgs,
}

/// An address as GStreamer takes it.
fn stun_server(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("stun://").and_then(|rest| rest.rsplit_once(':'));
    let letters = |c: char| c.is_ascii_alphanumeric() || ".-_[]:".contains(c);
    match host {
        Some((host, port)) if !host.is_empty() && host.chars().all(letters) && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("an address such as stun://host:3478 is needed".into()),
    }
}

/// Whether and how what was lost is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryArg(pub(crate) Option<Retry>);

impl Default for RetryArg {
    fn default() -> Self {
        Self(Some(Retry::default()))
    }
}

impl std::str::FromStr for RetryArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let longest = seconds(text).map_err(|error| format!("{error}, or off"))?;
        Ok(Self(Some(Retry::up_to(std::time::Duration::from_secs_f64(longest)))))
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| is_duration(*value)).ok_or_else(|| "a number of seconds over 0 is needed".into())
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// The clip to repaint
    #[arg(short, long, value_name = "FILE", default_value = "assets/bigbuckbunny.mp4")]
    pub(crate) input: String,

    /// Folder for demo.mp4 and demo.png
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) model: ModelOptions,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Print the devices as one JSON object on stdout
    #[arg(long)]
    pub(crate) json: bool,
}
