//! Which provider runs which operators of a network.
//!
//! ONNX Runtime gives what a provider does not take to the next one, down to the CPU, and says nothing of it: between the two every
//! value is copied, which costs more than many an operator. What it does on purpose is no such thing: arithmetic on shapes
//! belongs on the CPU.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::{ptr, slice};

use ort::AsPointer as _;
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use crate::provider::Provider;

/// Kinds of operators that work on values of a picture's or a prompt's size, by the names that ONNX and ONNX Runtime give them, and do not
/// occur in arithmetic on shapes. Only these are worth a word.
const HEAVY: [&str; 47] = [
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BiasAdd",
    "BiasGelu",
    "BiasSplitGelu",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "DepthToSpace",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Einsum",
    "Erf",
    "FastGelu",
    "FusedConv",
    "FusedMatMul",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GroupNorm",
    "GroupNormalization",
    "GroupQueryAttention",
    "HardSigmoid",
    "InstanceNormalization",
    "LayerNormalization",
    "LeakyRelu",
    "MatMul",
    "MatMulInteger",
    "MatMulNBits",
    "MaxPool",
    "MultiHeadAttention",
    "PRelu",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "QuickGelu",
    "RMSNormalization",
    "Relu",
    "Resize",
    "Sigmoid",
    "SimplifiedLayerNormalization",
    "SkipGroupNorm",
    "SkipLayerNormalization",
    "Softmax",
    "SpaceToDepth",
    "Tanh",
];

/// Has a session remember it.
pub(crate) fn remember(builder: SessionBuilder) -> ort::Result<SessionBuilder> {
    Ok(builder.with_config_entry("session.record_ep_graph_assignment_info", "1")?)
}

/// How many operators of each kind a provider of ONNX Runtime's has, by its name there.
pub(crate) type Assignment = BTreeMap<String, BTreeMap<String, usize>>;

/// What a session, made of a builder that was told to [`remember`], has where.
#[allow(unsafe_code, reason = "ort has no call for it")]
pub(crate) fn of(session: &Session) -> ort::Result<Assignment> {
    let api = ort::api();
    let (mut parts, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive; the list that comes back is its own and lives as long.
    check(unsafe { (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut parts, &raw mut count) })?;
    let mut assignment = Assignment::new();
    // SAFETY: as many as it said, and the session is still alive.
    for part in unsafe { list(parts, count) } {
        // SAFETY: the part is one of the session's.
        let provider = unsafe { name(|out| (api.EpAssignedSubgraph_GetEpName)(*part, out)) }?;
        let (mut nodes, mut count) = (ptr::null(), 0);
        // SAFETY: as above.
        check(unsafe { (api.EpAssignedSubgraph_GetNodes)(*part, &raw mut nodes, &raw mut count) })?;
        let kinds = assignment.entry(provider).or_default();
        // SAFETY: as many as it said, and the session is still alive.
        for node in unsafe { list(nodes, count) } {
            // SAFETY: the node is one of the session's.
            let kind = unsafe { name(|out| (api.EpAssignedNode_GetOperatorType)(*node, out)) }?;
            *kinds.entry(kind).or_default() += 1;
        }
    }
    Ok(assignment)
}

#[allow(unsafe_code, reason = "ONNX Runtime's status is a pointer")]
fn check(status: ort::sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: it was returned just now and is owned by nobody else.
    unsafe { ort::Error::result_from_status(status) }
}

/// # Safety
/// `first` points to that many, or is null for none.
#[allow(unsafe_code, reason = "a list of ONNX Runtime's")]
unsafe fn list<'a, T>(first: *const T, count: usize) -> &'a [T] {
    if first.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { slice::from_raw_parts(first, count) }
}

/// # Safety
/// `ask` gives a string that ends in a zero and lives on.
#[allow(unsafe_code, reason = "a string of ONNX Runtime's")]
unsafe fn name(ask: impl FnOnce(*mut *const c_char) -> ort::sys::OrtStatusPtr) -> ort::Result<String> {
    let mut text = ptr::null();
    check(ask(&raw mut text))?;
    if text.is_null() {
        return Ok(String::new());
    }
    // SAFETY: the caller's word.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// What to say of a network of which not all is on the provider that was asked for; `None` where nothing of weight is elsewhere.
pub(crate) fn complaint(assignment: &Assignment, provider: Provider, label: &str) -> Option<String> {
    let is_elsewhere = |name: &str| match name {
        "CPUExecutionProvider" => provider != Provider::Cpu,
        "CUDAExecutionProvider" => provider != Provider::Cuda,
        _ => false,
    };
    let mut places = Vec::new();
    for (name, kinds) in assignment.iter().filter(|(name, _)| is_elsewhere(name)) {
        let heavy: Vec<_> = kinds.iter().filter(|(kind, _)| HEAVY.contains(&kind.as_str())).collect();
        if heavy.is_empty() {
            continue;
        }
        let kinds: Vec<String> = heavy.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let place = name.strip_suffix("ExecutionProvider").unwrap_or(name);
        places.push(format!("{} to {place}", kinds.join(", ")));
    }
    let all: usize = assignment.values().flat_map(BTreeMap::values).sum();
    (!places.is_empty()).then(|| {
        format!(
            "of the {label}'s {all} operators {provider} leaves {}, which costs time: -vv lists all",
            places.join(" and ")
        )
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::graph::proto::{ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto};
    use crate::provider::{Builder, Precision, SessionSettings, builder};
    use crate::runtime::Runtime;

    fn assigned(parts: &[(&str, &[(&str, usize)])]) -> Assignment {
        let kinds = |kinds: &[(&str, usize)]| kinds.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
        parts.iter().map(|(name, all)| ((*name).to_owned(), kinds(all))).collect()
    }

    #[test]
    fn only_what_has_weight_and_is_elsewhere_is_told() {
        let (cpu, cuda) = ("CPUExecutionProvider", "CUDAExecutionProvider");
        let split = assigned(&[(cpu, &[("Shape", 9), ("Conv", 2)]), (cuda, &[("Conv", 40), ("MatMul", 5)])]);
        assert_eq!(
            complaint(&split, Provider::Cuda, "U-Net").unwrap(),
            "of the U-Net's 56 operators cuda leaves 2 Conv to CPU, which costs time: -vv lists all"
        );
        let on_cuda = complaint(&split, Provider::TensorRt, "U-Net").unwrap();
        assert!(on_cuda.contains("tensorrt leaves 2 Conv to CPU and 40 Conv, 5 MatMul to CUDA"), "{on_cuda}");
        let shapes = assigned(&[(cpu, &[("Shape", 9), ("Gather", 3)]), (cuda, &[("Conv", 40)])]);
        assert_eq!(complaint(&shapes, Provider::Cuda, "U-Net"), None);
        assert_eq!(complaint(&assigned(&[(cpu, &[("Conv", 2)])]), Provider::Cpu, "U-Net"), None);
    }

    #[test]
    fn a_session_says_what_it_has_where() {
        let runtime = match Runtime::load(None) {
            Ok(runtime) => runtime,
            Err(error) => return println!("skipped: {error}"),
        };
        let port = |name| vec![ValueInfoProto::tensor(name, 1, &["2", "2"])];
        let nodes = vec![NodeProto::new("MatMul", &["x", "x"], &["m"]), NodeProto::new("Softmax", &["m"], &["y"])];
        let model = ModelProto::bytes(nodes, port("x"), port("y"));
        let settings = SessionSettings::default();
        let builder = builder(&runtime, &Builder::new(Provider::Cpu, Precision::F32, &settings)).unwrap();
        let session = remember(builder).unwrap().commit_from_memory(&model).unwrap();
        let kinds = of(&session).unwrap();
        assert_eq!(kinds, assigned(&[("CPUExecutionProvider", &[("MatMul", 1), ("Softmax", 1)])]));
    }

    #[test]
    fn what_openvino_lacks_is_found_on_the_cpu() {
        let runtime = match Runtime::load(None) {
            Ok(runtime) if runtime.compiled_providers().contains(&Provider::OpenVino) => runtime,
            Ok(runtime) => return println!("skipped: {} has no OpenVINO", runtime.path().display()),
            Err(error) => return println!("skipped: {error}"),
        };
        let port = |name| vec![ValueInfoProto::tensor(name, 1, &["1", "4", "8"])];
        let mut attention = NodeProto::new("MultiHeadAttention", &["r", "r", "r"], &["a"]).with_int("num_heads", 2);
        attention.domain = "com.microsoft".to_owned();
        let nodes = vec![NodeProto::new("Relu", &["x"], &["r"]), attention, NodeProto::new("Neg", &["a"], &["y"])];
        let mut model = ModelProto::new(nodes, port("x"), port("y"));
        model.opset_import.push(OperatorSetIdProto { domain: "com.microsoft".to_owned(), version: 1 });
        let settings = SessionSettings::default();
        let builder = builder(&runtime, &Builder::new(Provider::OpenVino, Precision::F32, &settings)).unwrap();
        let session = remember(builder).unwrap().commit_from_memory(&model.encode_to_vec()).unwrap();
        let complaint = complaint(&of(&session).unwrap(), Provider::OpenVino, "network").unwrap();
        // What stands alone before it may be left with it.
        assert!(complaint.starts_with("of the network's 3 operators openvino leaves"), "{complaint}");
        assert!(complaint.contains("1 MultiHeadAttention") && complaint.contains("to CPU"), "{complaint}");
    }
}
