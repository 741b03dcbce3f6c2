//! Which model runs on what.

use std::path::PathBuf;

use livediffusion_onnx::{
    CudnnSearch, GpuSettings, Libraries, OnnxError, OpenVinoDevice, Precision, ProviderChoice, Runtime, SessionSettings,
};
/// Which model runs on what.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
#[allow(clippy::struct_excessive_bools, reason = "switches")]
pub struct ModelOptions {
    /// Model pack: a folder in the diffusers ONNX layout, the name of one that `models list` shows, or the org/name of one
    /// that `models pull` brought
    #[cfg_attr(feature = "clap", arg(short, long, value_name = "DIR", help_heading = "Model"))]
    pub model: Option<PathBuf>,

    /// Run the U-Net on a server that speaks KServe v2 over gRPC, such as Triton, and all else here: grpc://HOST:PORT/MODEL, grpcs:// over
    /// TLS. Given several times, servers share the work, and go on where one is away
    // As text: what cannot be parsed is said without the token in it.
    #[cfg_attr(feature = "clap", arg(long, value_name = "ADDRESS", help_heading = "Model"))]
    pub unet_server: Vec<String>,

    /// What executes the networks: auto (the fastest by a few frames on each at the first start), cpu, openvino, cuda,
    /// tensorrt, tensorrt-rtx, coreml, directml, migraphx or webgpu
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME", help_heading = "Model"))]
    pub provider: Option<ProviderChoice>,

    /// Arithmetic of the networks: auto (bf16 on a CPU, f16 with cuda, where that is faster and the pictures stay the same to
    /// the eye), f32, bf16, f16 (on GPUs, also of a model in f32), or int8 where the model has it
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME", help_heading = "Model"))]
    pub precision: Option<Precision>,

    /// Threads of the networks [default: one for each core]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model"))]
    pub threads: Option<u16>,

    /// Frames worked on at once, each on its share of the threads: more frames a second, each of them later [default: for
    /// files one a core, up to 4; for live input and models over 256 MB 1]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64), help_heading = "Model"))]
    pub lanes: Option<u8>,

    /// The ONNX Runtime library, or the folder that holds it [default: found as `doctor` shows]
    #[cfg_attr(feature = "clap", arg(long, value_name = "PATH", help_heading = "Model"))]
    pub ort_lib: Option<PathBuf>,

    /// What OpenVINO runs on: cpu, gpu or npu [default: cpu]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME", help_heading = "Model"))]
    pub openvino_device: Option<OpenVinoDevice>,

    /// Number of the card, for providers that use one [default: 0]
    #[cfg_attr(feature = "clap", arg(long, value_name = "N", help_heading = "Model"))]
    pub gpu: Option<u32>,

    /// Multiply f32 matrices in TF32 on NVIDIA cards since Ampere: faster, with 10 bits of mantissa; networks in f16 do so
    /// anyway, and so does TensorRT
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Model"))]
    pub tf32: bool,

    /// Folder with the libraries of CUDA, cuDNN, NVRTC and TensorRT [default: cuda/ beside ONNX Runtime; for NVRTC also pip's
    /// folders, CUDA_HOME and the system]
    #[cfg_attr(feature = "clap", arg(long, value_name = "DIR", help_heading = "Model"))]
    pub cuda_lib_dir: Option<PathBuf>,

    /// Capture the networks' kernels as CUDA graphs, where all of a network is on the card: less work for the processor
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Model"))]
    pub cuda_graph: bool,

    /// Encode the next frame and decode the last beside the work on this one, in streams of their own: on NVIDIA cards, where
    /// several frames are on their way (files, or --lanes 2)
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Model"))]
    pub vae_streams: bool,

    /// How cuDNN picks convolutions with cuda: exhaustive (by how fast it expects each to be) or heuristic (by a table: starts
    /// sooner, may run slower) [default: exhaustive]
    #[cfg_attr(feature = "clap", arg(long, value_name = "NAME", help_heading = "Model"))]
    pub cudnn_search: Option<CudnnSearch>,

    /// Keep channels last with cuda also where a network reckons with shapes: what tensor cores want, but the card then waits
    /// for that reckoning
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Model"))]
    pub channels_last: bool,

    /// Let frames pass through the host between the networks also on NVIDIA cards
    #[cfg_attr(feature = "clap", arg(long, help_heading = "Model"))]
    pub frames_on_host: bool,

    /// A file above whose folder `models/` is looked for too, as it is above the running program.
    #[cfg_attr(feature = "clap", arg(skip))]
    pub beside: Option<PathBuf>,
}

impl ModelOptions {
    /// The ONNX Runtime that is named, or the one that is found.
    ///
    /// # Errors
    /// There is none, or none that can be used.
    pub fn runtime(&self) -> Result<Runtime, OnnxError> {
        Runtime::load_with(&Libraries {
            ort: self.ort_lib.as_deref(),
            cuda: self.cuda_lib_dir.as_deref(),
            provider: self.provider.unwrap_or_default(),
        })
    }

    /// What sessions of the networks are made with, for so many frames at once.
    pub fn session_settings(&self, lanes: usize) -> SessionSettings {
        SessionSettings {
            provider: self.provider.unwrap_or_default(),
            precision: self.precision.unwrap_or_default(),
            threads: self.threads.map(usize::from),
            lanes,
            openvino: self.openvino_device.unwrap_or_default(),
            gpu: GpuSettings {
                device: self.gpu.unwrap_or(0),
                tf32: self.tf32,
                graphs: self.cuda_graph,
                vae_streams: self.vae_streams,
                frames_on_host: self.frames_on_host,
                cudnn_search: self.cudnn_search.unwrap_or_default(),
                channels_last: self.channels_last,
                ..GpuSettings::default()
            },
            ..SessionSettings::default()
        }
    }

    /// Whether frames stay on a card between their two copies.
    pub(crate) fn stays_on_card(&self, provider: ProviderChoice) -> bool {
        let is_on_cuda = matches!(provider, ProviderChoice::Fixed(provider) if provider.is_on_cuda());
        is_on_cuda && !self.frames_on_host && self.unet_server.is_empty()
    }
}
