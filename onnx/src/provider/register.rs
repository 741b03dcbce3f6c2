//! From settings to a session builder with its providers.

use std::path::Path;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::cpu;
use crate::edits::Nature;
use crate::provider::options::{self, EngineOptions, Options};
use crate::provider::plugin::{Devices, Plugin};
use crate::provider::{Precision, Provider, SessionSettings};
use crate::runtime::{Runtime, user_cache};

/// What a session builder is made of.
pub(crate) struct Builder<'a> {
    provider: Provider,
    precision: Precision,
    settings: &'a SessionSettings,
    engines: EngineOptions,
    nature: Nature,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(provider: Provider, precision: Precision, settings: &'a SessionSettings) -> Self {
        Self { provider, precision, settings, engines: EngineOptions::default(), nature: Nature::default() }
    }

    /// Where TensorRT keeps its engines, and for which shapes.
    pub(crate) fn engines(mut self, engines: EngineOptions) -> Self {
        self.engines = engines;
        self
    }

    /// What the graph is like.
    pub(crate) fn nature(mut self, nature: Nature) -> Self {
        self.nature = nature;
        self
    }
}

/// Options of every session.
pub(crate) fn builder(runtime: &Runtime, of: &Builder<'_>) -> ort::Result<SessionBuilder> {
    let Builder { provider, settings, .. } = *of;
    if provider == Provider::TensorRt {
        runtime.preload_tensorrt();
    }
    let threads = settings.threads.unwrap_or_else(cpu::physical_cores).max(1);
    let lanes = settings.lanes.clamp(1, threads);
    let builder = Session::builder(runtime.environment())?
        .with_log_level(LogLevel::Error)?
        .with_optimization_level(optimization(provider))?
        // A session's own threads help whoever calls, and each lane calls from a thread of its own: n stands for n − 1.
        .with_intra_threads(threads - lanes + 1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(settings.spinning)?
        // With it, every new shape adds an arena of its own: gigabytes for a U-Net that needs a few hundred megabytes.
        .with_memory_pattern(false)?;
    let builder = match left_out(provider) {
        Some(passes) => builder.with_disabled_optimizers(passes)?,
        None => builder,
    };
    if let Some(plugin) = Plugin::of(provider)
        && let Some(library) = plugin.library(runtime.path())
    {
        let (devices, options) = match provider {
            Provider::TensorRtRtx => {
                (Devices::Card(settings.gpu.device), options::tensorrt_rtx(&settings.gpu, &of.engines, true))
            }
            _ => (Devices::All, options::webgpu()),
        };
        return plugin.register(runtime.environment(), builder, &library, (devices, &options));
    }
    Ok(builder.with_execution_providers(registrations(of, (threads, lanes)))?)
}

/// OpenVINO compiles the graph itself; what ONNX Runtime does to it before only takes time (30 ms for a small U-Net).
fn optimization(provider: Provider) -> GraphOptimizationLevel {
    if provider == Provider::OpenVino { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::Level3 }
}

/// Passes of ONNX Runtime that a provider does without, TensorRT for what it leaves to CUDA. Putting a border into the convolution
/// behind it makes one that cuDNN may have no plan for (`graph/pads.rs`), for the sake of one short kernel.
fn left_out(provider: Provider) -> Option<&'static str> {
    matches!(provider, Provider::Cuda | Provider::TensorRt).then_some("Pad_Fusion")
}

/// The provider, and before the CPU the one that takes what it leaves.
fn registrations(of: &Builder<'_>, threads: (usize, usize)) -> Vec<ExecutionProviderDispatch> {
    let gpu = &of.settings.gpu;
    let cuda = || dispatch(with(ep::CUDA::default(), options::cuda(gpu, of.nature)).build());
    match of.provider {
        Provider::Cpu => Vec::new(),
        Provider::OpenVino => {
            let options = options::openvino(of.settings.openvino, of.precision, threads);
            vec![dispatch(with(ep::OpenVINO::default(), options).build())]
        }
        Provider::Cuda => vec![cuda()],
        Provider::TensorRt => {
            let options = options::tensorrt(gpu, (of.precision, of.nature), &of.engines);
            vec![dispatch(with(ep::TensorRT::default(), options).build()), cuda()]
        }
        Provider::TensorRtRtx => {
            vec![dispatch(with(ep::NVRTX::default(), options::tensorrt_rtx(gpu, &of.engines, false)).build())]
        }
        Provider::CoreMl => {
            let cache = user_cache().map(|cache| cache.join("coreml"));
            let options = options::coreml(cache.as_deref().and_then(Path::to_str));
            vec![dispatch(with(ep::CoreML::default(), options).build())]
        }
        Provider::DirectMl => vec![dispatch(ep::DirectML::default().with_device_id(gpu.device as i32).build())],
        Provider::MiGraphX => {
            let ep = ep::MIGraphX::default().with_device_id(gpu.device as i32);
            vec![dispatch(ep.with_fp16(of.precision == Precision::F16).build())]
        }
        Provider::WebGpu => vec![dispatch(with(ep::WebGPU::default(), options::webgpu()).build())],
    }
}

/// Without this, ONNX Runtime falls back to the CPU and says nothing.
fn dispatch(provider: ExecutionProviderDispatch) -> ExecutionProviderDispatch {
    provider.error_on_failure()
}

fn with<E: ArbitrarilyConfigurableExecutionProvider>(provider: E, options: Options) -> E {
    options.into_iter().fold(provider, |provider, (name, value)| provider.with_arbitrary_config(name, value))
}
