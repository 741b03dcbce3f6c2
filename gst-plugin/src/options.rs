//! The options that say which model runs on what, as properties: those of `livediffusion run`, by the same names.

use std::path::PathBuf;

use livediffusion_session::ModelOptions;

/// What an option's property holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Text; empty for the default.
    Text,
    /// A whole number up to this; 0 for the default, unless that is what it means.
    Count(u32),
    /// Yes or no.
    Switch,
}

/// An option.
pub(crate) struct OptionSpec {
    pub(crate) name: &'static str,
    pub(crate) holds: Holds,
    /// One sentence for `gst-inspect-1.0`.
    pub(crate) doc: &'static str,
    apply: fn(&mut ModelOptions, &str) -> Result<(), String>,
}

impl OptionSpec {
    /// Sets the option from text.
    pub(crate) fn set(&self, options: &mut ModelOptions, text: &str) -> Result<(), String> {
        (self.apply)(options, text.trim()).map_err(|error| format!("{}: {error}", self.name))
    }
}

/// Empty text is the default.
fn path(text: &str) -> Option<PathBuf> {
    Some(text).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn word<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|error: T::Err| error.to_string()) }
}

/// 0 is the default.
fn count<T: TryFrom<u32>>(text: &str) -> Result<Option<T>, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is no whole number"))?;
    if number == 0 {
        return Ok(None);
    }
    T::try_from(number).map(Some).map_err(|_| format!("{number} is too large"))
}

macro_rules! option {
    ($name:literal, $holds:expr, $doc:literal, |$o:ident, $t:ident| $body:expr) => {
        OptionSpec {
            name: $name,
            holds: $holds,
            doc: $doc,
            apply: |$o: &mut ModelOptions, $t: &str| {
                $body;
                Ok(())
            },
        }
    };
}

/// All options, in the order in which `gst-inspect-1.0` numbers them.
pub(crate) static OPTIONS: &[OptionSpec] = &[
    option!(
        "model",
        Holds::Text,
        "Model pack: a folder in the diffusers ONNX layout, the name of one that `livediffusion models list` shows, or the \
         org/name of one that `livediffusion models pull` brought; empty for the default one",
        |o, t| o.model = path(t)
    ),
    option!(
        "provider",
        Holds::Text,
        "What executes the networks: auto, cpu, openvino, cuda, tensorrt, tensorrt-rtx, coreml, directml, migraphx or webgpu",
        |o, t| o.provider = word(t)?
    ),
    option!("precision", Holds::Text, "Arithmetic of the networks: auto, f32, bf16, f16 or int8", |o, t| o.precision =
        word(t)?),
    option!("threads", Holds::Count(1024), "Threads of the networks; 0 for one on each core", |o, t| o.threads =
        count(t)?),
    option!(
        "lanes",
        Holds::Count(64),
        "Frames worked on at once, each on its share of the threads: a few more frames a second, each of them later; for files \
         that nobody watches; 0 for one",
        |o, t| o.lanes = count(t)?
    ),
    option!(
        "ort-lib",
        Holds::Text,
        "The ONNX Runtime library, or the folder that holds it; empty for the one that `livediffusion doctor` shows",
        |o, t| o.ort_lib = path(t)
    ),
    option!("openvino-device", Holds::Text, "What OpenVINO runs on: cpu, gpu or npu", |o, t| o.openvino_device =
        word(t)?),
    option!("gpu", Holds::Count(255), "Number of the card, for providers that use one", |o, t| o.gpu = count(t)?),
    option!("tf32", Holds::Switch, "Multiply f32 matrices in TF32 on NVIDIA cards", |o, t| o.tf32 = t == "true"),
    option!(
        "cuda-lib-dir",
        Holds::Text,
        "Folder with the libraries of CUDA, cuDNN, NVRTC and TensorRT; empty for cuda/ beside ONNX Runtime",
        |o, t| o.cuda_lib_dir = path(t)
    ),
    option!("cuda-graph", Holds::Switch, "Capture the networks' kernels as CUDA graphs", |o, t| o.cuda_graph =
        t == "true"),
    option!(
        "vae-streams",
        Holds::Switch,
        "Encode the next frame and decode the last beside the work on this one, on NVIDIA cards",
        |o, t| o.vae_streams = t == "true"
    ),
    option!("cudnn-search", Holds::Text, "How cuDNN picks convolutions: exhaustive or heuristic", |o, t| o
        .cudnn_search =
        word(t)?),
    option!(
        "channels-last",
        Holds::Switch,
        "Keep channels last with cuda also where a network reckons with shapes",
        |o, t| {
            o.channels_last = t == "true";
        }
    ),
    option!(
        "frames-on-host",
        Holds::Switch,
        "Let frames pass through the host between the networks also on NVIDIA cards",
        |o, t| o.frames_on_host = t == "true"
    ),
];
