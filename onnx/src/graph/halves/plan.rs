//! What of a network is in f16, and what stays in f32.

use std::collections::{HashMap, HashSet};

use super::super::proto::NodeProto;
use super::super::{DType, Graph, GraphError};
use super::types::types;

/// Operators that are most of a network's work, and in f16 whatever they are given.
const MATRICES: [&str; 14] = [
    "Conv",
    "ConvTranspose",
    "MatMul",
    "Gemm",
    "Einsum",
    "Attention",
    "MultiHeadAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "FusedMatMul",
    "FusedConv",
    "FusedGemm",
    "NhwcConv",
    "NhwcFusedConv",
];

/// Of those the ones that hold the product of queries and keys.
const ATTENTIONS: [&str; 4] = ["Attention", "MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention"];

/// Operators whose results f16 may have no room for (above 65504 there is nothing), or too few digits.
const WIDE: [&str; 15] = [
    "CumSum",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "ReduceMean",
    "ReduceSum",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "Softplus",
    "LpNormalization",
];

/// Operators whose inputs have to be exact, and all that these come from: at a time step of 999 f16 knows an angle to half a radian.
const EXACT: [&str; 6] = ["Sin", "Cos", "Range", "Floor", "Ceil", "Round"];

/// Whether a graph's products of matrices are in f16, or some of them: then somebody has decided already what is.
pub(crate) fn reckons_in_halves(graph: &Graph) -> bool {
    types(graph).is_ok_and(|types| has_half_matrices(graph, &types))
}

fn has_half_matrices(graph: &Graph, types: &HashMap<&str, DType>) -> bool {
    let is_half = |name: &String| types.get(name.as_str()) == Some(&DType::F16);
    graph.nodes.iter().any(|node| is_matrix(node) && node.input.iter().any(is_half))
}

/// What is in f16 and what is not.
pub(super) struct Plan<'a> {
    types: HashMap<&'a str, DType>,
    /// Of each node whether it reckons in f32.
    pub(super) wide: Vec<bool>,
    /// Of each node whether what it comes from does so too.
    widened: Vec<bool>,
    /// The node that gives a tensor.
    makers: HashMap<&'a str, usize>,
    /// The graph's.
    pub(super) outputs: HashSet<&'a str>,
    /// What names of new tensors end with: no tensor of the graph does.
    pub(super) mark: String,
}

impl<'a> Plan<'a> {
    /// `None` for a graph that has f16 among its products already.
    pub(super) fn of(graph: &'a Graph, wide_attention: bool) -> Result<Option<Self>, GraphError> {
        if let Some(unread) = graph.unread {
            return Err(GraphError::Unknown(unread.to_owned()));
        }
        let types = types(graph).map_err(GraphError::Unknown)?;
        if has_half_matrices(graph, &types) {
            return Ok(None);
        }
        let named = |(at, node): (usize, &'a NodeProto)| node.output.iter().map(move |name| (name.as_str(), at));
        let makers = graph.nodes.iter().enumerate().flat_map(named).collect();
        let outputs = graph.outputs.iter().map(|output| output.name.as_str()).collect();
        let still = vec![false; graph.nodes.len()];
        let is_taken = |mark: &String| types.keys().any(|name| name.ends_with(mark.as_str()));
        let mark = (0..=types.len()).map(|count| format!("@{count}")).find(|mark| !is_taken(mark)).unwrap_or_default();
        let mut plan = Self { types, wide: still.clone(), widened: still, makers, outputs, mark };
        for (at, node) in graph.nodes.iter().enumerate() {
            let op = node.op_type.as_str();
            let is_softmax = wide_attention && op == "Softmax";
            plan.wide[at] |= is_wide(node, graph.opset)
                || plan.is_exact(node)
                || is_softmax
                || (wide_attention && ATTENTIONS.contains(&op));
            for (input, name) in node.input.iter().enumerate() {
                if plan.is_exact(node) || is_softmax || needs_floats(node, input) {
                    plan.widen(&graph.nodes, name, is_softmax);
                }
            }
        }
        plan.spread(graph);
        Ok(Some(plan))
    }

    pub(super) fn is_float(&self, name: &str) -> bool {
        self.types.get(name) == Some(&DType::F32)
    }

    /// Whether a tensor that was in f32 is in f16 now.
    pub(super) fn is_half(&self, name: &str) -> bool {
        self.is_float(name) && self.makers.get(name).is_some_and(|at| !self.wide[*at])
    }

    /// Whether what goes into a node has to be exact: angles, and what becomes an integer.
    fn is_exact(&self, node: &NodeProto) -> bool {
        let becomes_integer = || node.op_type == "Cast" && node.output.iter().all(|name| !self.is_float(name));
        EXACT.contains(&node.op_type.as_str()) || becomes_integer()
    }

    /// Has a tensor reckoned in f32, and all that it comes from, up to a product of matrices or with it.
    fn widen(&mut self, nodes: &'a [NodeProto], name: &'a str, with_product: bool) {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let Some(&at) = self.makers.get(name).filter(|_| self.is_float(name)) else { continue };
            let is_product = is_matrix(&nodes[at]);
            if self.widened[at] || (is_product && !with_product) {
                continue;
            }
            (self.wide[at], self.widened[at]) = (true, true);
            if !is_product {
                open.extend(nodes[at].input.iter().map(String::as_str));
            }
        }
    }

    /// What only values in f32 go into, beside constants and integers, stays in f32 too, up to the next product of matrices: to add a
    /// small number to a sum of squares in f16 would be as wrong as the sum. So does what is divided by such a value, which may be small,
    /// or multiplied by its inverse, which may be large, and what a mean is taken from: it is one normalisation, which ONNX Runtime knows
    /// again if it is in one type.
    fn spread(&mut self, graph: &'a Graph) {
        let mut constant: HashSet<&str> = graph.weights.keys().map(String::as_str).collect();
        for (at, node) in graph.nodes.iter().enumerate() {
            let given = || node.input.iter().filter(|name| !name.is_empty()).map(String::as_str);
            if given().all(|name| constant.contains(name)) && !is_random(node) {
                constant.extend(node.output.iter().map(String::as_str));
            }
            let is_wide = |name: &str| self.makers.get(name).is_some_and(|at| self.wide[*at]);
            // Of none: what is made of integers and constants alone is as exact as its reader wants it, such as an entry of a table.
            let mut floats = given().filter(|name| self.is_float(name) && !constant.contains(name));
            let are_wide = floats.all(is_wide);
            let maker = |name: &str| self.makers.get(name).map(|at| &graph.nodes[*at]);
            let is_inverse =
                |name: &str| maker(name).is_some_and(|maker| maker.op_type == "Reciprocal") && !constant.contains(name);
            let is_mean_of = |mean: &str, of: &String| {
                maker(mean).is_some_and(|maker| maker.op_type == "ReduceMean" && maker.input.first() == Some(of))
            };
            let is_normalised = || match (node.op_type.as_str(), &node.input[..]) {
                ("Div", [_, by]) => self.is_float(by) && !constant.contains(by.as_str()) && is_wide(by),
                ("Mul", [a, b]) => is_inverse(a) || is_inverse(b),
                ("Sub", [a, b]) => is_mean_of(b, a) || is_mean_of(a, b),
                _ => false,
            };
            self.wide[at] |= !is_matrix(node) && (are_wide || is_normalised());
        }
    }
}

/// Whether a node is in f32 by what it is.
fn is_wide(node: &NodeProto, opset: i64) -> bool {
    let op = node.op_type.as_str();
    let is_square = || op == "Mul" && matches!(&node.input[..], [a, b] if a == b);
    // Mean and deviation beside the result, which are in f32 whatever that is.
    let gives_statistics =
        || op.ends_with("LayerNormalization") && node.output.iter().skip(1).take(2).any(|name| !name.is_empty());
    // Before operator set 21 it is defined by squares in its own type.
    let squares_inside = || op == "GroupNormalization" && opset < 21;
    WIDE.contains(&op) || is_constant(node) || is_square() || gives_statistics() || squares_inside()
}

/// Whether a node is one of those that are most of the work.
pub(super) fn is_matrix(node: &NodeProto) -> bool {
    MATRICES.contains(&node.op_type.as_str())
}

/// Inputs that have to be in f32 whatever the others are: regions and factors of a Resize by ONNX, factors and shifts of a group
/// normalisation by ONNX Runtime's kernel.
pub(super) fn needs_floats(node: &NodeProto, input: usize) -> bool {
    match node.op_type.as_str() {
        "Resize" | "GroupNorm" | "SkipGroupNorm" => input == 1 || input == 2,
        "Upsample" => input == 1,
        _ => false,
    }
}

/// Nodes that name a value: it is cast where it is read, as weights are.
fn is_constant(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Constant" | "ConstantOfShape") || is_random(node)
}

fn is_random(node: &NodeProto) -> bool {
    node.op_type.starts_with("Random")
}
