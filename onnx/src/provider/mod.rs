//! Which execution provider runs the networks, in which precision, and with which options.
//!
//! A provider that was asked for and does not register is an error, never a silent fall-back to the CPU.

mod choose;
mod compiled;
mod engine_key;
mod engines;
mod options;
mod plugin;
mod profile;
mod register;
mod settings;
mod tensorrt;

use std::fmt;

use ort::ep::{self, ExecutionProvider as _};

pub use self::choose::{choose_provider, idle_card, probe_provider};
pub(crate) use self::compiled::{Compiled, weights_beside};
pub(crate) use self::options::EngineOptions;
pub(crate) use self::plugin::Plugin;
pub use self::profile::Extent;
pub(crate) use self::profile::channels_of;
pub(crate) use self::register::{Builder, builder};
pub use self::settings::{
    Chosen, CudnnSearch, GpuSettings, OpenVinoDevice, Precision, ProviderChoice, SessionSettings, UserStream,
};
pub(crate) use self::tensorrt::Prepared;

/// An ONNX Runtime execution provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// ONNX Runtime's own kernels; in every library.
    Cpu,
    /// Intel's OpenVINO on the CPU (of any x86-64 make), and on Intel's GPUs and NPUs.
    OpenVino,
    /// CUDA and cuDNN.
    Cuda,
    /// TensorRT, with CUDA for what it does not take.
    TensorRt,
    /// TensorRT for RTX, which compiles on the user's machine in seconds; built in, or from a plug-in library that brings all that it
    /// needs beside the driver.
    TensorRtRtx,
    /// Apple's CoreML.
    CoreMl,
    /// DirectML, on any GPU under Windows.
    DirectMl,
    /// AMD's MIGraphX, on ROCm. ONNX Runtime's older ROCm provider ended with its version 1.22.
    MiGraphX,
    /// WebGPU, on any GPU by Vulkan, Metal or Direct3D 12; built in, or from a plug-in library.
    WebGpu,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 9] = [
        Self::Cpu,
        Self::OpenVino,
        Self::Cuda,
        Self::TensorRt,
        Self::TensorRtRtx,
        Self::CoreMl,
        Self::DirectMl,
        Self::MiGraphX,
        Self::WebGpu,
    ];

    /// Whether the library was built with it.
    pub(crate) fn is_compiled(self) -> bool {
        let has = match self {
            Self::Cpu => Ok(true),
            Self::OpenVino => ep::OpenVINO::is_available(),
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::TensorRtRtx => ep::NVRTX::is_available(),
            Self::CoreMl => ep::CoreML::is_available(),
            Self::DirectMl => ep::DirectML::is_available(),
            Self::MiGraphX => ep::MIGraphX::is_available(),
            Self::WebGpu => ep::WebGPU::is_available(),
        };
        has.unwrap_or(false)
    }

    /// Whether it runs on an NVIDIA card with CUDA underneath, in the streams of ours: frames then stay on the card from their upload to
    /// their download.
    pub fn is_on_cuda(self) -> bool {
        matches!(self, Self::Cuda | Self::TensorRt | Self::TensorRtRtx)
    }

    /// Whether it reckons in whatever types the graph has, and has no conversion of its own: f16 is then had by changing the graph.
    pub(crate) fn takes_types_of_the_graph(self) -> bool {
        matches!(self, Self::Cpu | Self::Cuda | Self::TensorRtRtx | Self::DirectMl | Self::WebGpu)
    }

    /// What calls may be like where it builds for the shapes of a profile, and takes no others.
    ///
    /// TensorRT takes memory for the largest call of its profile, whatever calls come: for 1024 pixels a side that is four times what
    /// 512 take, and where attention is not one kernel 16 times. There sizes end at the session's own. TensorRT for RTX takes what a
    /// call needs.
    pub(crate) fn profile(self, settings: &SessionSettings) -> Option<Extent> {
        match self {
            Self::TensorRt => settings.extent.map(|extent| Extent { most_side: 0, ..extent }),
            Self::TensorRtRtx => settings.extent,
            _ => None,
        }
    }

    /// Whether everything runs on another device than the CPU, where several calls at once only wait for each other.
    pub(crate) fn is_on_device(self, openvino: OpenVinoDevice) -> bool {
        match self {
            Self::Cpu => false,
            Self::OpenVino => openvino != OpenVinoDevice::Cpu,
            _ => true,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::OpenVino => "openvino",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::TensorRtRtx => "tensorrt-rtx",
            Self::CoreMl => "coreml",
            Self::DirectMl => "directml",
            Self::MiGraphX => "migraphx",
            Self::WebGpu => "webgpu",
        })
    }
}
