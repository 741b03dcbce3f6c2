//! The options that say which model runs on what, as properties: those of `livediffusion run`, by the same names.

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
fn word<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|error: T::Err| error.to_string()) }
}

/// With spaces between them.
fn words<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<Vec<T>, String> {
    text.split_whitespace().map(|word| word.parse().map_err(|error: T::Err| error.to_string())).collect()
}

/// 0 is the default.
fn count<T: TryFrom<u32>>(text: &str) -> Result<Option<T>, String> {
    let number: u32 = text.parse().map_err(|_| format!("{text:?} is no whole number"))?;
    if number == 0 {
        return Ok(None);
    }
    T::try_from(number).map(Some).map_err(|_| format!("{number} is too large"))
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("{text:?} is neither true nor false"))
}

macro_rules! option {
    ($name:literal, $holds:expr, $doc:literal, $field:ident, $parse:ident) => {
        OptionSpec {
            name: $name,
            holds: $holds,
            doc: $doc,
            apply: |options, text| {
                options.$field = $parse(text)?;
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
        model,
        word
    ),
    option!(
        "unet-server",
        Holds::Text,
        "Servers that run the U-Net, with spaces between them: grpc://HOST:PORT/MODEL; empty to run it here",
        unet_server,
        words
    ),
    option!(
        "provider",
        Holds::Text,
        "What executes the networks: auto, cpu, openvino, cuda, tensorrt, tensorrt-rtx, coreml, directml, migraphx or webgpu",
        provider,
        word
    ),
    option!("precision", Holds::Text, "Arithmetic of the networks: auto, f32, bf16, f16 or int8", precision, word),
    option!("threads", Holds::Count(1024), "Threads of the networks; 0 for one on each core", threads, count),
    option!(
        "lanes",
        Holds::Count(64),
        "Frames worked on at once, each on its share of the threads: a few more frames a second, each of them later; for files \
         that nobody watches; 0 for one",
        lanes,
        count
    ),
    option!(
        "ort-lib",
        Holds::Text,
        "The ONNX Runtime library, or the folder that holds it; empty for the one that `livediffusion doctor` shows",
        ort_lib,
        word
    ),
    option!("openvino-device", Holds::Text, "What OpenVINO runs on: cpu, gpu or npu", openvino_device, word),
    option!("gpu", Holds::Count(255), "Number of the card, for providers that use one", gpu, count),
    option!("tf32", Holds::Switch, "Multiply f32 matrices in TF32 on NVIDIA cards", tf32, switch),
    option!(
        "cuda-lib-dir",
        Holds::Text,
        "Folder with the libraries of CUDA, cuDNN, NVRTC and TensorRT; empty for cuda/ beside ONNX Runtime",
        cuda_lib_dir,
        word
    ),
    option!("cuda-graph", Holds::Switch, "Capture the networks' kernels as CUDA graphs", cuda_graph, switch),
    option!(
        "vae-streams",
        Holds::Switch,
        "Encode the next frame and decode the last beside the work on this one, on NVIDIA cards",
        vae_streams,
        switch
    ),
    option!("cudnn-search", Holds::Text, "How cuDNN picks convolutions: exhaustive or heuristic", cudnn_search, word),
    option!(
        "channels-last",
        Holds::Switch,
        "Keep channels last with cuda also where a network reckons with shapes",
        channels_last,
        switch
    ),
    option!(
        "frames-on-host",
        Holds::Switch,
        "Let frames pass through the host between the networks also on NVIDIA cards",
        frames_on_host,
        switch
    ),
];
