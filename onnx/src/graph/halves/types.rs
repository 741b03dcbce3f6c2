//! What type every tensor of a graph has.

use std::collections::{HashMap, HashSet};

use super::super::proto::{AttributeProto, NodeProto};
use super::super::{DType, Graph};
use super::plan::is_matrix;

/// Booleans in `onnx.TensorProto.DataType`.
const BOOL: DType = DType::Other(9);

/// Operators with a graph of their own, or with quantised numbers: what they give is not followed here.
const NOT_FOLLOWED: [&str; 9] = [
    "If",
    "Loop",
    "Scan",
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
];

/// Operators of ONNX Runtime's own, beside products of matrices, that give what their first input is.
const KNOWN: [&str; 12] = [
    "Gelu",
    "FastGelu",
    "QuickGelu",
    "BiasGelu",
    "BiasSplitGelu",
    "BiasAdd",
    "GroupNorm",
    "SkipGroupNorm",
    "SkipLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "SimplifiedLayerNormalization",
    "RotaryEmbedding",
];

/// The types, by the names of the tensors.
///
/// # Errors
/// What is not followed: an operator, an order of nodes.
pub(super) fn types(graph: &Graph) -> Result<HashMap<&str, DType>, String> {
    let inputs = graph.inputs.iter().map(|input| (input.name.as_str(), input.dtype));
    let weights = graph.weights.iter().map(|(name, weight)| (name.as_str(), weight.dtype));
    let mut types: HashMap<&str, DType> = inputs.chain(weights).collect();
    let mut to_come: HashSet<&str> = graph.nodes.iter().flat_map(|node| &node.output).map(String::as_str).collect();
    to_come.remove("");
    for node in &graph.nodes {
        let op = node.op_type.as_str();
        let is_followed = match node.domain.as_str() {
            "" | "ai.onnx" => !NOT_FOLLOWED.contains(&op),
            _ => is_matrix(node) || KNOWN.contains(&op),
        };
        if !is_followed {
            return Err(format!("the operator {op}"));
        }
        // The format wants nodes behind what they read, and ONNX Runtime does not.
        if let Some(early) = node.input.iter().find(|name| to_come.contains(name.as_str())) {
            return Err(format!("a node that reads {early} before it is given"));
        }
        for name in &node.output {
            to_come.remove(name.as_str());
        }
        let of = |at: usize| node.input.get(at).and_then(|name| types.get(name.as_str())).copied();
        let given: Vec<(&str, DType)> = node
            .output
            .iter()
            .enumerate()
            .filter(|(_, name)| !name.is_empty())
            .filter_map(|(at, name)| Some((name.as_str(), output(node, at, of)?)))
            .collect();
        types.extend(given);
    }
    Ok(types)
}

/// The type of output `at`, by those of the inputs.
fn output(node: &NodeProto, at: usize, of: impl Fn(usize) -> Option<DType>) -> Option<DType> {
    let number = |name: &str| node.option(name).map(|option| option.i as i32).map(DType::from_onnx);
    match (node.op_type.as_str(), at) {
        ("Constant", _) => constant(node),
        ("ConstantOfShape", _) => Some(value(node.option("value")).unwrap_or(DType::F32)),
        ("Cast", _) => number("to"),
        ("RandomNormal" | "RandomUniform", _) => Some(number("dtype").unwrap_or(DType::F32)),
        ("EyeLike" | "RandomNormalLike" | "RandomUniformLike", _) => number("dtype").or_else(|| of(0)),
        ("CastLike" | "Where", _) => of(1),
        ("OneHot", _) => of(2),
        ("Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin", _) | ("TopK" | "MaxPool", 1) => Some(DType::I64),
        (
            "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "Not" | "And" | "Or" | "Xor" | "IsNaN"
            | "IsInf",
            _,
        )
        | ("Dropout", 1) => Some(BOOL),
        _ => of(0),
    }
}

fn constant(node: &NodeProto) -> Option<DType> {
    let has = |names: [&str; 2]| names.iter().any(|name| node.option(name).is_some());
    value(node.option("value"))
        .or_else(|| has(["value_float", "value_floats"]).then_some(DType::F32))
        .or_else(|| has(["value_int", "value_ints"]).then_some(DType::I64))
}

fn value(option: Option<AttributeProto>) -> Option<DType> {
    Some(DType::from_onnx(option?.t?.data_type))
}
