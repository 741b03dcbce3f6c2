//! What the user asks for, and what was chosen.

use std::fmt;
use std::str::FromStr;

use crate::error::OnnxError;
use crate::provider::{Extent, Provider};

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProviderChoice {
    /// The fastest that works here.
    #[default]
    Auto,
    /// That one or an error.
    Fixed(Provider),
}

impl fmt::Display for ProviderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(provider) => provider.fmt(f),
        }
    }
}

impl FromStr for ProviderChoice {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let found = Provider::ALL.into_iter().find(|p| p.to_string() == text);
        found.map(Self::Fixed).ok_or_else(|| {
            let names = Provider::ALL.map(|p| p.to_string()).join(", ");
            OnnxError::invalid(format!("unknown provider {text:?}")).hint(format!("auto, {names}"))
        })
    }
}

/// Arithmetic of the U-Net and the VAE. The text encoder stays in f32: it is off the frame path, and an error in the
/// prompt's embedding goes into every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 where the CPU has it in hardware and the provider can use it, else what the graph says; with CUDA f16 where that was measured to be
    /// faster and to look the same.
    #[default]
    Auto,
    /// As the graph says: f32 for an f32 graph.
    F32,
    /// bf16 inside, f32 outside and for the sinusoids of time: about twice as fast, within 1 % or 2 % of the peak for
    /// a trained network.
    Bf16,
    /// f16 inside, also where the graph says f32: by the provider (TensorRT, MIGraphX, OpenVINO on a GPU or NPU), or by a changed graph
    /// ([`to_halves`](crate::graph::to_halves): CUDA, TensorRT for RTX, DirectML, WebGPU; a CPU shows what it looks like). What f16 has no
    /// room for stays in f32: angles, sums of squares, the VAE of SDXL unless its config has `force_upcast` off.
    F16,
    /// As the graphs say that a pack has in 8 bits beside those in f32.
    Int8,
}

impl Precision {
    const ALL: [Self; 5] = [Self::Auto, Self::F32, Self::Bf16, Self::F16, Self::Int8];
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        let found = Self::ALL.into_iter().find(|p| p.to_string() == text);
        found.ok_or_else(|| {
            OnnxError::invalid(format!("unknown precision {text:?}")).hint("auto, f32, bf16, f16 or int8")
        })
    }
}

/// What OpenVINO runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OpenVinoDevice {
    /// A CPU of any x86-64 make.
    #[default]
    Cpu,
    /// Intel's graphics.
    Gpu,
    /// Intel's neural processor.
    Npu,
}

impl OpenVinoDevice {
    const ALL: [Self; 3] = [Self::Cpu, Self::Gpu, Self::Npu];

    /// As OpenVINO names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Gpu => "GPU",
            Self::Npu => "NPU",
        }
    }
}

impl fmt::Display for OpenVinoDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_lowercase())
    }
}

impl FromStr for OpenVinoDevice {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        let found = Self::ALL.into_iter().find(|device| device.to_string() == text);
        found.ok_or_else(|| OnnxError::invalid(format!("unknown device {text:?}")).hint("cpu, gpu or npu"))
    }
}

/// How cuDNN picks a convolution's algorithm. Since ONNX Runtime calls cuDNN through its frontend, nothing is timed: both ask a heuristic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CudnnSearch {
    /// By mode B, a model of how fast each would be: better choices, and a slower one where shapes are new.
    #[default]
    Exhaustive,
    /// By mode A, a table: starts sooner, may run slower.
    Heuristic,
}

impl CudnnSearch {
    const ALL: [Self; 2] = [Self::Exhaustive, Self::Heuristic];
}

impl fmt::Display for CudnnSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhaustive => "exhaustive",
            Self::Heuristic => "heuristic",
        })
    }
}

impl FromStr for CudnnSearch {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        let found = Self::ALL.into_iter().find(|search| search.to_string() == text);
        found.ok_or_else(|| OnnxError::invalid(format!("unknown search {text:?}")).hint("exhaustive or heuristic"))
    }
}

/// How a GPU's sessions are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "switches that have nothing to do with each other")]
pub struct GpuSettings {
    /// Which card.
    pub device: u32,
    /// Whether f32 matrices are multiplied in TF32: faster since Ampere, 10 bits of mantissa. Networks in f16 have it anyway.
    pub tf32: bool,
    /// How cuDNN picks convolutions.
    pub cudnn_search: CudnnSearch,
    /// Whether CUDA keeps channels last also in graphs that reckon with shapes, whose reckoning it then waits for.
    pub channels_last: bool,
    /// Whether CUDA runs a network's kernels as one graph, captured in the first calls of each shape: less work for the host.
    /// Networks of which a node is not on the card run without, and say so.
    pub graphs: bool,
    /// Whether frames pass through the host between the networks, as on devices without kernels of ours.
    pub frames_on_host: bool,
    /// Whether the VAE's halves have streams of their own beside the U-Net's, where frames stay on the card: encoding of the next
    /// frame and decoding of the last then go on under the work on this one, as far as that leaves room on the card.
    pub vae_streams: bool,
    /// A CUDA stream of the caller's, for the networks too.
    pub stream: Option<UserStream>,
}

/// A CUDA stream that ONNX Runtime puts its work into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserStream(usize);

impl UserStream {
    /// From the driver's handle.
    ///
    /// # Safety
    /// The stream lives until every session made with it is gone.
    #[allow(unsafe_code, reason = "ONNX Runtime keeps the handle")]
    pub unsafe fn new(handle: *mut std::ffi::c_void) -> Self {
        Self(handle as usize)
    }

    /// As ONNX Runtime reads it.
    pub(crate) fn address(self) -> String {
        self.0.to_string()
    }
}

/// How sessions are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionSettings {
    /// Which provider runs the networks.
    pub provider: ProviderChoice,
    /// Their arithmetic.
    pub precision: Precision,
    /// Threads for all calls together; `None` is one per physical core.
    pub threads: Option<usize>,
    /// Calls that run at once, each on its share of the threads; 0 and 1 are one call on all of them. A network alone
    /// on a core wastes nothing on dividing its work: on two cores two lanes gave 1.1 times the frames of one call on
    /// both, at 1.8 times the delay.
    pub lanes: usize,
    /// Whether waiting threads of the CPU provider burn cycles. Without it a network starts a little later and the
    /// cores are free for video and the rest of the machine.
    pub spinning: bool,
    /// What OpenVINO runs on.
    pub openvino: OpenVinoDevice,
    /// Options of CUDA and TensorRT.
    pub gpu: GpuSettings,
    /// What calls will be like, for providers that compile for it; `None` where that is not known.
    pub extent: Option<Extent>,
}

/// What runs the networks, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The provider.
    pub provider: Provider,
    /// [`Precision::F32`] (as the graph says), [`Precision::Bf16`], [`Precision::F16`] or [`Precision::Int8`].
    pub precision: Precision,
    /// The reasons for both, as one line for the user.
    pub why: String,
}
