//! Deciding on a provider, by rule.

use livediffusion_kernels::cuda::Driver;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::value::Tensor;

use crate::cpu;
use crate::error::{CARD_IS_FULL, OnnxError, is_full, one_line};
use crate::exclusive::TurnSession;
use crate::graph::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::memory::LESS_MEMORY;
use crate::provider::options::EngineOptions;
use crate::provider::register::{Builder, builder};
use crate::provider::{Chosen, GpuSettings, OpenVinoDevice, Precision, Provider, ProviderChoice, SessionSettings};
use crate::runtime::{Runtime, is_in_cache};

/// Decides on provider and precision by rule: `auto` is the first of cuda, openvino and cpu that really registers, in bf16
/// where the CPU has it. What is measured on a machine is a better word where there is one; [`load_networks_on`] takes it.
///
/// [`load_networks_on`]: crate::load_networks_on
pub fn choose_provider(runtime: &Runtime, settings: &SessionSettings) -> Result<Chosen, OnnxError> {
    let (provider, mut why) = match settings.provider {
        ProviderChoice::Fixed(provider) => {
            probe_provider(runtime, provider, settings)?;
            (provider, "asked for".to_owned())
        }
        ProviderChoice::Auto => choose_automatically(runtime, settings),
    };
    if (settings.provider, settings.precision, provider) == (ProviderChoice::Auto, Precision::F16, Provider::Cpu) {
        // Nobody who leaves the provider open asks for a CPU that does as if.
        return Err(OnnxError::missing(format!("no provider that has f16 works here ({why})")).hint("--precision auto"));
    }
    let (precision, reason) = precision(provider, settings, cpu::has_bf16())?;
    why += reason;
    Ok(Chosen { provider, precision, why })
}

/// What to say where the choice was open and fell on something else than the NVIDIA card that is here.
pub fn idle_card(runtime: &Runtime, provider: Provider) -> Option<&'static str> {
    if provider.is_on_cuda() || Driver::find().is_err() {
        return None;
    }
    Some(if runtime.compiled_providers().contains(&Provider::Cuda) {
        // One process holds one library, and this one is loaded: its CPU provider is what is left.
        if provider == Provider::Cpu && !runtime.is_named() && is_in_cache(Provider::OpenVino) {
            "the NVIDIA card is not used: `livediffusion doctor` says why; until then --provider openvino may be faster"
        } else {
            "the NVIDIA card is not used: `livediffusion doctor` says why"
        }
    } else if runtime.is_named() {
        "the NVIDIA card is not used: the ONNX Runtime that --ort-lib or ORT_DYLIB_PATH names has no CUDA"
    } else {
        "the NVIDIA card is not used: `make setup-cuda` fetches what it takes, README lists a smaller way"
    })
}

/// The arithmetic, and what to say about it.
fn precision(
    provider: Provider,
    settings: &SessionSettings,
    bf16: bool,
) -> Result<(Precision, &'static str), OnnxError> {
    let on_cpu = !provider.is_on_device(settings.openvino);
    let refused =
        |what: &str, hint: &str| Err(OnnxError::invalid(format!("the {provider} provider {what}")).hint(hint));
    match (provider, settings.precision) {
        (_, Precision::Int8) => Ok((Precision::Int8, "")),
        (Provider::OpenVino, Precision::Bf16) if on_cpu => Ok((Precision::Bf16, "")),
        (_, Precision::Bf16) => {
            refused("has no bf16 arithmetic for f32 networks", "--precision auto, or --provider openvino")
        }
        (Provider::OpenVino, Precision::F16) if !on_cpu => Ok((Precision::F16, "")),
        (Provider::TensorRt | Provider::MiGraphX, Precision::F16) => Ok((Precision::F16, "")),
        (Provider::Cpu, Precision::F16) => Ok((Precision::F16, "; f16: rounded as a GPU would round, slower than f32")),
        (provider, Precision::F16) if provider.takes_types_of_the_graph() => Ok((Precision::F16, "")),
        (_, Precision::F16) => refused(
            "does not convert networks to f16",
            "--precision auto, or the provider of a GPU: `livediffusion doctor` shows those that work",
        ),
        (Provider::OpenVino, Precision::Auto) if on_cpu && bf16 => {
            Ok((Precision::Bf16, "; bf16: this CPU has it in hardware"))
        }
        (Provider::OpenVino, Precision::Auto) if on_cpu => Ok((Precision::F32, "; f32: this CPU has no bf16")),
        (Provider::OpenVino, Precision::Auto) if settings.openvino == OpenVinoDevice::Npu => {
            Ok((Precision::F16, "; f16: an NPU has no f32"))
        }
        (_, Precision::F32 | Precision::Auto) => Ok((Precision::F32, "")),
    }
}

fn choose_automatically(runtime: &Runtime, settings: &SessionSettings) -> (Provider, String) {
    let compiled = runtime.compiled_providers();
    let mut refused = Vec::new();
    for provider in [Provider::Cuda, Provider::OpenVino] {
        if !compiled.contains(&provider) {
            continue;
        }
        match probe_provider(runtime, provider, settings) {
            Ok(()) => return (provider, "auto: the fastest that works here".to_owned()),
            Err(error) => refused.push(error.what),
        }
    }
    let why = if refused.is_empty() {
        format!("auto: this ONNX Runtime ({}) has no other", runtime.flavour())
    } else {
        format!("auto: {}", refused.join("; "))
    };
    (Provider::Cpu, why)
}

/// Whether the provider really works here, on the device that the settings name: registers it for a tiny graph and loads that.
pub fn probe_provider(runtime: &Runtime, provider: Provider, settings: &SessionSettings) -> Result<(), OnnxError> {
    if runtime.compiled_providers().contains(&provider)
        && provider.is_on_cuda()
        && let Err(missing) = Driver::find()
    {
        // Whatever the library would say, if it bears to be asked: without a driver nothing else helps.
        let what = format!("{missing}, so that {}", no_use(runtime, provider));
        return Err(OnnxError { hint: missing.hint, ..OnnxError::missing(what) });
    }
    // The smallest that tells: no engine is kept for it, and no stream of the caller's is used.
    let gpu = GpuSettings { device: settings.gpu.device, ..GpuSettings::default() };
    let settings = SessionSettings { threads: Some(1), openvino: settings.openvino, gpu, ..SessionSettings::default() };
    let (model, runs) = match provider {
        // What cuDNN lacks, or kernels for this card, is found in the first call of a convolution.
        Provider::Cuda => (convolution(), true),
        _ => (square(), false),
    };
    let commit = || -> ort::Result<Session> {
        // TensorRT would build one for seconds at every start, only to throw it away. That it is there, and reads a graph, is enough.
        let engines = EngineOptions { none: true, ..EngineOptions::default() };
        let mut builder = builder(runtime, &Builder::new(provider, Precision::F32, &settings).engines(engines))?;
        if provider == Provider::TensorRt {
            // It says that nothing will run on TensorRT, which is so for this graph alone.
            builder = builder.with_log_level(LogLevel::Fatal)?;
        }
        if provider.is_on_device(OpenVinoDevice::Cpu) {
            // Not for real networks: their shape arithmetic belongs on the CPU.
            builder = builder.with_disable_cpu_fallback()?;
        }
        builder.commit_from_memory(&model)
    };
    let run = |mut session: TurnSession| -> ort::Result<()> {
        let picture = Tensor::from_array(([1_usize, 8, 8, 8], vec![1.0_f32; 512]))?;
        session.run_once(|session| session.run(ort::inputs!["x" => picture]).map(drop))
    };
    let probed = TurnSession::make(provider, commit).and_then(|session| if runs { run(session) } else { Ok(()) });
    probed.map_err(|e| refusal(runtime, provider, &settings, &e))
}

/// x² + x.
fn square() -> Vec<u8> {
    let shape = ["1", "8"];
    ModelProto::bytes(
        vec![NodeProto::new("Mul", &["x", "x"], &["square"]), NodeProto::new("Add", &["square", "x"], &["y"])],
        vec![ValueInfoProto::tensor("x", 1, &shape)],
        vec![ValueInfoProto::tensor("y", 1, &shape)],
    )
}

/// A convolution, 3×3 from 8 channels to 8.
fn convolution() -> Vec<u8> {
    let weight = TensorProto::of_f32("weight", &[8, 8, 3, 3], &[1.0 / 72.0; 576]);
    let nodes = vec![
        NodeProto::new("Constant", &[], &["weight"]).with_tensor("value", weight),
        NodeProto::new("Conv", &["x", "weight"], &["y"]).with_ints("pads", &[1, 1, 1, 1]),
    ];
    let shape = ["1", "8", "8", "8"];
    ModelProto::bytes(nodes, vec![ValueInfoProto::tensor("x", 1, &shape)], vec![ValueInfoProto::tensor("y", 1, &shape)])
}

fn no_use(runtime: &Runtime, provider: Provider) -> String {
    format!("the {provider} provider does not work with {}", runtime.path().display())
}

fn refusal(runtime: &Runtime, provider: Provider, settings: &SessionSettings, error: &ort::Error) -> OnnxError {
    let flavour = runtime.flavour();
    let compiled = runtime.compiled_providers().contains(&provider);
    let what = format!("{}: {}", no_use(runtime, provider), one_line(error.message()));
    if compiled && provider.is_on_cuda() && is_full(error.message()) {
        return OnnxError::missing(what).hint(format!("{CARD_IS_FULL}: {LESS_MEMORY}"));
    }
    let hint = match provider {
        Provider::Cpu => "the library is damaged: remove its folder, then `make setup` fetches it anew".to_owned(),
        Provider::OpenVino if compiled && settings.openvino != OpenVinoDevice::Cpu => format!(
            "OpenVINO needs its plug-in and a driver for the {}: `pip install onnxruntime-openvino` has the plug-in, \
             --openvino-device cpu needs neither",
            settings.openvino
        ),
        Provider::WebGpu if compiled => {
            "it needs a driver for Vulkan, Metal or Direct3D 12, and the plug-in a newer ONNX Runtime than others: `make setup-webgpu` \
             fetches both"
                .to_owned()
        }
        Provider::WebGpu => {
            "`make setup-webgpu` fetches the plug-in; LIVEDIFFUSION_WEBGPU_LIB names one of your own".to_owned()
        }
        Provider::TensorRtRtx if compiled => {
            "it takes RTX cards of the 30 series and newer, with driver 560 or newer (570 for the 50 series); --provider cuda takes \
             others"
                .to_owned()
        }
        Provider::TensorRtRtx => {
            "`make setup-tensorrt-rtx` fetches the plug-in; LIVEDIFFUSION_TENSORRT_RTX_LIB names one of your own; or --provider auto"
                .to_owned()
        }
        Provider::TensorRt if compiled => {
            "`make setup-tensorrt` fetches its libraries beside those of `make setup-cuda`, --cuda-lib-dir names a folder of yours; or \
             --provider cuda"
                .to_owned()
        }
        Provider::Cuda if compiled => {
            "`make setup-cuda` fetches CUDA's libraries and cuDNN, --cuda-lib-dir names a folder of yours; `doctor` lists what is missing"
                .to_owned()
        }
        _ if compiled => format!("this library has {provider}, but something that it needs is missing: see `doctor`"),
        Provider::OpenVino => {
            format!("this library is of flavour {flavour}: `make setup` fetches the OpenVINO one")
        }
        Provider::Cuda | Provider::TensorRt => {
            format!(
                "this library is of flavour {flavour}: `make setup-cuda` fetches a CUDA build, --ort-lib names one, or --provider auto"
            )
        }
        Provider::CoreMl | Provider::DirectMl | Provider::MiGraphX => {
            format!(
                "this library is of flavour {flavour}: give a build with {provider} by --ort-lib, or --provider auto"
            )
        }
    };
    OnnxError::missing(what).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_precision_is_what_the_provider_can_do() {
        let ask = |provider, openvino, wanted, bf16| {
            let settings = SessionSettings { precision: wanted, openvino, ..SessionSettings::default() };
            precision(provider, &settings, bf16).map(|(precision, _)| precision).ok()
        };
        let (cpu, gpu, npu) = (OpenVinoDevice::Cpu, OpenVinoDevice::Gpu, OpenVinoDevice::Npu);
        assert_eq!(ask(Provider::OpenVino, cpu, Precision::Auto, true), Some(Precision::Bf16));
        assert_eq!(ask(Provider::OpenVino, cpu, Precision::Auto, false), Some(Precision::F32));
        // What the CPU has says nothing about other devices.
        assert_eq!(ask(Provider::OpenVino, gpu, Precision::Auto, true), Some(Precision::F32));
        assert_eq!(ask(Provider::OpenVino, npu, Precision::Auto, true), Some(Precision::F16));
        assert_eq!(ask(Provider::OpenVino, gpu, Precision::Bf16, true), None);
        assert_eq!(ask(Provider::OpenVino, cpu, Precision::F16, true), None);
        assert_eq!(ask(Provider::TensorRt, cpu, Precision::F16, false), Some(Precision::F16));
        // By a changed graph, where the provider has no conversion of its own.
        assert_eq!(ask(Provider::Cuda, cpu, Precision::F16, false), Some(Precision::F16));
        assert_eq!(ask(Provider::CoreMl, cpu, Precision::F16, false), None);
        assert_eq!(ask(Provider::Cuda, cpu, Precision::Auto, true), Some(Precision::F32));
        assert_eq!(ask(Provider::Cpu, cpu, Precision::Int8, true), Some(Precision::Int8));
    }
}
