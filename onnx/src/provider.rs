//! Which execution provider runs the networks, and in which precision.
//!
//! A provider that was asked for and does not register is an error, never a silent fall-back to the CPU.

use std::fmt;
use std::str::FromStr;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ExecutionProviderDispatch};
use ort::logging::LogLevel;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::cpu;
use crate::error::OnnxError;
use crate::graph::proto::{ModelProto, NodeProto, ValueInfoProto};
use crate::runtime::Runtime;

/// An ONNX Runtime execution provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// ONNX Runtime's own kernels; in every library.
    Cpu,
    /// Intel's OpenVINO on the CPU (of any x86-64 make).
    OpenVino,
    /// CUDA and cuDNN.
    Cuda,
    /// TensorRT, with CUDA for what it does not take.
    TensorRt,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::OpenVino, Self::Cuda, Self::TensorRt];
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::OpenVino => "openvino",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        })
    }
}

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
            OnnxError::invalid(format!("unknown provider {text:?}")).hint("auto, cpu, openvino, cuda or tensorrt")
        })
    }
}

/// Arithmetic of the U-Net and the VAE. The text encoder stays in f32: it is off the frame path, and an error in the
/// prompt's embedding goes into every frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// bf16 where the CPU has it in hardware and the provider can use it, else what the graph says.
    #[default]
    Auto,
    /// As the graph says: f32 for an f32 graph.
    F32,
    /// bf16 inside, f32 outside and for the sinusoids of time: about twice as fast, within 1 % or 2 % of the peak for
    /// a trained network.
    Bf16,
    /// As the graphs say that a pack has in 8 bits beside those in f32.
    Int8,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for Precision {
    type Err = OnnxError;

    fn from_str(text: &str) -> Result<Self, OnnxError> {
        let all = [Self::Auto, Self::F32, Self::Bf16, Self::Int8];
        let found = all.into_iter().find(|p| p.to_string() == text);
        found.ok_or_else(|| OnnxError::invalid(format!("unknown precision {text:?}")).hint("auto, f32, bf16 or int8"))
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
}

/// What runs the networks, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The provider.
    pub provider: Provider,
    /// [`Precision::F32`] (as the graph says), [`Precision::Bf16`] or [`Precision::Int8`].
    pub precision: Precision,
    /// The reasons for both, as one line for the user.
    pub why: String,
}

/// Decides on provider and precision by rule: `auto` is the first of cuda, openvino and cpu that really registers, in bf16
/// where the CPU has it. What is measured on a machine is a better word where there is one; [`load_networks_on`] takes it.
///
/// [`load_networks_on`]: crate::load_networks_on
pub fn choose_provider(runtime: &Runtime, settings: &SessionSettings) -> Result<Chosen, OnnxError> {
    let (provider, mut why) = match settings.provider {
        ProviderChoice::Fixed(provider) => {
            probe_provider(runtime, provider)?;
            (provider, "asked for".to_owned())
        }
        ProviderChoice::Auto => choose_automatically(runtime),
    };
    let precision = match (provider, settings.precision) {
        (_, Precision::Int8) => Precision::Int8,
        (Provider::OpenVino, Precision::Bf16) => Precision::Bf16,
        (_, Precision::Bf16) => {
            let what = format!("the {provider} provider has no bf16 arithmetic for f32 networks");
            return Err(OnnxError::invalid(what).hint("--precision auto, or --provider openvino"));
        }
        (Provider::OpenVino, Precision::Auto) if cpu::has_bf16() => {
            why += "; bf16: this CPU has it in hardware";
            Precision::Bf16
        }
        (Provider::OpenVino, Precision::Auto) => {
            why += "; f32: this CPU has no bf16";
            Precision::F32
        }
        (_, Precision::F32 | Precision::Auto) => Precision::F32,
    };
    Ok(Chosen { provider, precision, why })
}

fn choose_automatically(runtime: &Runtime) -> (Provider, String) {
    let compiled = runtime.compiled_providers();
    let mut refused = Vec::new();
    for provider in [Provider::Cuda, Provider::OpenVino] {
        if !compiled.contains(&provider) {
            continue;
        }
        match probe_provider(runtime, provider) {
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

/// Whether the provider really works here: registers it for a tiny graph and loads that.
pub fn probe_provider(runtime: &Runtime, provider: Provider) -> Result<(), OnnxError> {
    let shape = ["1", "8"];
    let model = ModelProto::bytes(
        vec![NodeProto::new("Mul", &["x", "x"], &["square"]), NodeProto::new("Add", &["square", "x"], &["y"])],
        vec![ValueInfoProto::tensor("x", 1, &shape)],
        vec![ValueInfoProto::tensor("y", 1, &shape)],
    );
    let settings = SessionSettings { threads: Some(1), ..SessionSettings::default() };
    let build = || -> ort::Result<Session> {
        let mut builder = builder(runtime, provider, Precision::F32, &settings)?;
        if matches!(provider, Provider::Cuda | Provider::TensorRt) {
            // Not for real networks: their shape arithmetic belongs on the CPU.
            builder = builder.with_disable_cpu_fallback()?;
        }
        builder.commit_from_memory(&model)
    };
    build().map(drop).map_err(|e| refusal(runtime, provider, &e))
}

fn refusal(runtime: &Runtime, provider: Provider, error: &ort::Error) -> OnnxError {
    let flavour = runtime.flavour();
    let what = format!("the {provider} provider does not work with {}: {}", runtime.path().display(), error.message());
    let compiled = runtime.compiled_providers().contains(&provider);
    let hint = match provider {
        Provider::Cpu => "the library is damaged: remove its folder, then `make setup` fetches it anew".to_owned(),
        _ if compiled => format!("this library has {provider}, but something that it needs is missing: see `doctor`"),
        Provider::OpenVino => {
            format!("this library is of flavour {flavour}: `make setup` fetches the OpenVINO one")
        }
        Provider::Cuda | Provider::TensorRt => {
            format!("this library is of flavour {flavour}: give a CUDA build with --ort-lib, or --provider auto")
        }
    };
    OnnxError::missing(what).hint(hint)
}

/// Options of every session.
pub(crate) fn builder(
    runtime: &Runtime,
    provider: Provider,
    precision: Precision,
    settings: &SessionSettings,
) -> ort::Result<SessionBuilder> {
    let threads = settings.threads.unwrap_or_else(cpu::physical_cores).max(1);
    let lanes = settings.lanes.clamp(1, threads);
    Ok(Session::builder(runtime.environment())?
        .with_log_level(LogLevel::Error)?
        .with_optimization_level(optimization(provider))?
        // A session's own threads help whoever calls, and each lane calls from a thread of its own: n stands for n − 1.
        .with_intra_threads(threads - lanes + 1)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(settings.spinning)?
        // With it, every new shape adds an arena of its own: gigabytes for a U-Net that needs a few hundred megabytes.
        .with_memory_pattern(false)?
        .with_execution_providers(registrations(provider, precision, (threads, lanes)))?)
}

/// OpenVINO compiles the graph itself; what ONNX Runtime does to it before only takes time (30 ms for a small U-Net).
fn optimization(provider: Provider) -> GraphOptimizationLevel {
    if provider == Provider::OpenVino { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::Level3 }
}

fn registrations(provider: Provider, precision: Precision, threads: (usize, usize)) -> Vec<ExecutionProviderDispatch> {
    match provider {
        Provider::Cpu => Vec::new(),
        Provider::OpenVino => vec![openvino(precision, threads)],
        Provider::Cuda => vec![ep::CUDA::default().build().error_on_failure()],
        Provider::TensorRt => {
            vec![ep::TensorRT::default().build().error_on_failure(), ep::CUDA::default().build().error_on_failure()]
        }
    }
}

fn openvino(precision: Precision, (threads, lanes): (usize, usize)) -> ExecutionProviderDispatch {
    let hint = if precision == Precision::Bf16 { "bf16" } else { "f32" };
    // The provider's own `precision` option refuses bf16 on a CPU; OpenVINO's properties take it. One stream is one
    // request at a time on all threads; as many streams as lanes, no more, share the threads among requests that come.
    // Pinned threads of two networks that run at once would sit on the same cores: two lanes were half as fast with it.
    let properties = format!(
        r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"{hint}","NUM_STREAMS":"{lanes}","INFERENCE_NUM_THREADS":"{threads}","ENABLE_CPU_PINNING":"NO"}}}}"#
    );
    ep::OpenVINO::default()
        .with_device_type("CPU")
        .with_num_streams(lanes.min(usize::from(u8::MAX)) as u8)
        .with_arbitrary_config("load_config", properties)
        .build()
        .error_on_failure()
}
