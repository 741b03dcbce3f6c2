//! How much arithmetic a network is: counted from its graph and the shapes of its tensors.
//!
//! Exported graphs compute many shapes at run time, so the shapes are asked of ONNX Runtime: a copy of the graph that
//! gives the shapes of the tensors in question is run once on the CPU.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use livediffusion_pipeline::frame::{LatentShape, Size};
use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue};
use ort::value::DynTensor;

use crate::error::OnnxError;
use crate::graph::proto::{NodeProto, ValueInfoProto};
use crate::graph::{Change, Dim, Graph, Part as GraphPart, TensorInfo, rewrite};
use crate::names;
use crate::pack::{Pack, Part, PartName};
use crate::provider::{Builder, Precision, Provider, SessionSettings, builder};
use crate::runtime::Runtime;
use crate::values::element;

/// Operators whose arithmetic is counted; all others are element-wise or move data, and are small beside these.
const COUNTED: [&str; 5] = ["Conv", "ConvTranspose", "MatMul", "Gemm", "MultiHeadAttention"];

/// Operators that would need counting but are not known here.
const UNKNOWN: [&str; 5] = ["Einsum", "Attention", "QLinearConv", "ConvInteger", "MatMulInteger"];

/// The arithmetic of one network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flops {
    /// Floating-point operations of a call; a multiplication and an addition are two.
    pub total: f64,
    /// The same by operator.
    pub by_operator: BTreeMap<String, f64>,
    /// Operators that may have arithmetic and were not counted.
    pub not_counted: BTreeSet<String>,
}

/// What a call of the networks looks like.
#[derive(Clone, Copy, Debug)]
pub struct CallShape {
    /// Rows of the U-Net, pictures of the VAE.
    pub batch: usize,
    /// Pictures.
    pub size: Size,
    /// Latents.
    pub latent: LatentShape,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Width of a token.
    pub width: usize,
}

/// Counts a part of a pack (U-Net or VAE) at a shape.
///
/// # Errors
/// A file that cannot be read, an input that is not known, a graph that ONNX Runtime refuses.
pub fn count_flops(runtime: &Runtime, pack: &Pack, name: PartName, call: &CallShape) -> Result<Flops, OnnxError> {
    let part = pack.part(name).ok_or_else(|| OnnxError::invalid(format!("the pack has no {name}")))?;
    let failed = |what: String| OnnxError::failed(format!("counting {}: {what}", part.file.display()));
    if let Some(address) = &part.elsewhere {
        return Err(OnnxError::invalid(format!("the U-Net on {address} cannot be counted"))
            .hint("measure it where it runs, or leave --unet-server out"));
    }
    let model = std::fs::read(&part.file).map_err(|error| failed(error.to_string()))?;
    let graph = Graph::from_bytes(&model).map_err(|error| failed(error.to_string()))?;
    let wanted = wanted(&graph.nodes);
    let edited = with_shapes(&model, &wanted).map_err(|error| failed(error.to_string()))?;
    let shapes = ask_shapes(runtime, part, &edited, &wanted, call).map_err(|error| failed(error.to_string()))?;
    count(&graph.nodes, &shapes).ok_or_else(|| failed("a shape is missing".into()))
}

/// Tensors whose shapes decide how much is computed.
fn wanted(nodes: &[NodeProto]) -> Vec<String> {
    let counted = nodes.iter().filter(|node| COUNTED.contains(&node.op_type.as_str()) && !is_packed(node));
    let names = counted.flat_map(|node| node.input.iter().take(2).chain(node.output.first()));
    names.cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Whether an attention has queries, keys and values in one input.
fn is_packed(node: &NodeProto) -> bool {
    node.op_type == "MultiHeadAttention" && node.input.get(1).is_none_or(String::is_empty)
}

/// The arithmetic of the nodes; `None` if a shape is missing.
fn count(nodes: &[NodeProto], shapes: &HashMap<String, Vec<usize>>) -> Option<Flops> {
    let mut flops = Flops::default();
    for node in nodes {
        let operator = node.op_type.as_str();
        if UNKNOWN.contains(&operator) || is_packed(node) {
            flops.not_counted.insert(operator.to_owned());
        }
        if !COUNTED.contains(&operator) || is_packed(node) {
            continue;
        }
        let (a, b, y) =
            (shapes.get(node.input.first()?)?, shapes.get(node.input.get(1)?)?, shapes.get(node.output.first()?)?);
        let product = |sides: &[usize]| sides.iter().map(|&side| side as f64).product::<f64>();
        let multiplications = match operator {
            // Weights [out, in/group, k…]: so many for each value written.
            "Conv" => product(y) * product(b.get(1..)?),
            // Weights [in, out/group, k…]: so many for each value read.
            "ConvTranspose" => product(a) * product(b.get(1..)?),
            "MatMul" => product(y) * *a.last()? as f64,
            // Queries [batch, tokens, width] against keys [batch, others, width], and their weights against as many values.
            "MultiHeadAttention" => (product(a) + product(y)) * *b.get(1)? as f64,
            // Y is [M, N], and A is [M, K] or, transposed, [K, M].
            _ => product(y) * product(a) / *y.first()? as f64,
        };
        *flops.by_operator.entry(operator.to_owned()).or_default() += 2.0 * multiplications;
        flops.total += 2.0 * multiplications;
    }
    Some(flops)
}

/// Name of the output that gives a tensor's shape.
fn shape_of(name: &str) -> String {
    format!("{name}:shape")
}

/// A copy of the model whose outputs are the shapes of `wanted`.
fn with_shapes(model: &[u8], wanted: &[String]) -> Result<Vec<u8>, crate::graph::GraphError> {
    let mut added = false;
    rewrite(model, |part| match part {
        GraphPart::Output(_) if added => Change::Replace(Vec::new()),
        GraphPart::Output(_) => {
            added = true;
            let nodes = wanted.iter().map(|name| GraphPart::Node(NodeProto::new("Shape", &[name], &[&shape_of(name)])));
            // 7 is int64.
            let outputs = wanted.iter().map(|name| GraphPart::Output(ValueInfoProto::unshaped(&shape_of(name), 7)));
            Change::Replace(nodes.chain(outputs).collect())
        }
        _ => Change::Keep,
    })
}

fn ask_shapes(
    runtime: &Runtime,
    part: &Part,
    model: &[u8],
    wanted: &[String],
    call: &CallShape,
) -> ort::Result<HashMap<String, Vec<usize>>> {
    let folder = part.file.parent().unwrap_or(&part.file).to_string_lossy();
    let mut session: Session =
        builder(runtime, &Builder::new(Provider::Cpu, Precision::F32, &SessionSettings::default()))?
            .with_config_entry("session.model_external_initializers_file_folder_path", folder)?
            .commit_from_memory(model)?;
    let mut inputs: Vec<(String, SessionInputValue<'_>)> = Vec::new();
    for input in &part.inputs {
        let dims =
            dims(part.name, input, call).ok_or_else(|| ort::Error::new(format!("the input {input} is not known")))?;
        let tensor = DynTensor::new(&Allocator::default(), element(input.dtype), dims)?;
        inputs.push((input.name.clone(), tensor.into()));
    }
    let outputs = session.run(inputs)?;
    let mut shapes = HashMap::new();
    for name in wanted {
        let value = outputs.get(shape_of(name)).ok_or_else(|| ort::Error::new(format!("no shape of {name}")))?;
        let (_, sides) = value.try_extract_tensor::<i64>()?;
        shapes.insert(name.clone(), sides.iter().map(|&side| side.max(0) as usize).collect());
    }
    Ok(shapes)
}

/// Sides of an input: what the graph fixes, else what the call has at that place.
fn dims(part: PartName, input: &TensorInfo, call: &CallShape) -> Option<Vec<i64>> {
    let LatentShape { channels, height, width } = call.latent;
    let rank = input.rank()?;
    let ours: Vec<usize> = match (part, rank) {
        (PartName::VaeEncoder, 4) => vec![call.batch, 3, call.size.height, call.size.width],
        (_, 4) if names::UNET_CONTROL.contains(&&*input.name) => {
            vec![call.batch, 3, call.size.height, call.size.width]
        }
        (_, 4) => vec![call.batch, channels, height, width],
        (_, 3) => vec![call.batch, call.tokens, call.width],
        // SDXL's two and LCM's one fix their widths.
        (_, 2) => vec![call.batch, 6],
        (_, 1) => vec![call.batch],
        (_, 0) => Vec::new(),
        _ => return None,
    };
    let sides = input.dims.as_ref()?.iter().zip(ours);
    Some(sides.map(|(dim, ours)| if let Dim::Fixed(side) = dim { *side as i64 } else { ours as i64 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every counted operator once, by hand.
    #[test]
    fn a_graph_small_enough_to_count_by_hand() {
        let shapes: HashMap<String, Vec<usize>> = [
            ("x", vec![1, 4, 8, 8]),
            ("k", vec![6, 2, 3, 3]),
            ("c", vec![1, 6, 4, 4]),
            ("u", vec![6, 5, 2, 2]),
            ("d", vec![1, 5, 8, 8]),
            ("m", vec![2, 3, 7]),
            ("n", vec![7, 11]),
            ("p", vec![2, 3, 11]),
            ("g", vec![13, 2]),
            ("w", vec![13, 17]),
            ("h", vec![2, 17]),
            ("q", vec![2, 9, 8]),
            ("t", vec![2, 5, 8]),
            ("o", vec![2, 9, 8]),
        ]
        .into_iter()
        .map(|(name, sides)| (name.to_owned(), sides))
        .collect();
        let nodes = [
            NodeProto::new("Conv", &["x", "k", "bias"], &["c"]),
            NodeProto::new("ConvTranspose", &["c", "u"], &["d"]),
            NodeProto::new("Relu", &["d"], &["r"]),
            NodeProto::new("MatMul", &["m", "n"], &["p"]),
            NodeProto::new("Gemm", &["g", "w"], &["h"]),
            NodeProto::new("MultiHeadAttention", &["q", "t", "t"], &["o"]),
            NodeProto::new("MultiHeadAttention", &["packed", ""], &["o2"]),
            NodeProto::new("Einsum", &["m", "n"], &["e"]),
        ];
        assert_eq!(wanted(&nodes).len(), shapes.len());
        let flops = count(&nodes, &shapes).unwrap();
        // Two groups; out 6·4·4 values of 2·9 products each. Then 6·4·4 values read, 5·4 products each. Then 2·3·11 of 7,
        // and 2·17 of 13.
        assert_eq!(flops.by_operator["Conv"], 2.0 * (6.0 * 16.0 * 18.0));
        assert_eq!(flops.by_operator["ConvTranspose"], 2.0 * (6.0 * 16.0 * 20.0));
        assert_eq!(flops.by_operator["MatMul"], 2.0 * (66.0 * 7.0));
        assert_eq!(flops.by_operator["Gemm"], 2.0 * (34.0 * 13.0));
        // 2·9 queries, 5 keys and values, 8 wide.
        assert_eq!(flops.by_operator["MultiHeadAttention"], 2.0 * (2.0 * 9.0 * 5.0 * 8.0 * 2.0));
        assert_eq!(flops.total, flops.by_operator.values().sum::<f64>());
        assert_eq!(flops.not_counted.iter().collect::<Vec<_>>(), ["Einsum", "MultiHeadAttention"]);
        assert_eq!(count(&nodes, &HashMap::new()), None);
    }
}
