//! A network in f32 as one that reckons in f16, as tensor cores have it.
//!
//! No weight is touched: wherever a value in f32 (an input, a weight, a constant) meets arithmetic in f16 it is cast, and ONNX Runtime
//! folds the casts of weights at the load. Inputs and outputs stay as they are. What stays in f32 (`plan.rs`) is what f16 has no room or
//! too few digits for: most of it is what PyTorch keeps in f32 in a model of `torch.float16`, within its layers and in diffusers.

mod plan;
mod types;

use std::collections::HashSet;

pub(crate) use self::plan::reckons_in_halves;
use self::plan::{Plan, needs_floats};
use super::proto::NodeProto;
use super::{Change, DType, Graph, GraphError, Part, rewrite};

/// How f16 is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halves {
    /// The operators are in f16.
    Computed,
    /// The operators are in f32, and every value that would be in f16 is rounded as f16 rounds it: what a processor without such arithmetic
    /// can show of one with it. Sums within an operator are in f32 there, as tensor cores have them.
    Rounded,
}

/// Operators that make no new values: they move those that they are given, or have 0 in their place.
const MOVES: [&str; 15] = [
    "Reshape",
    "Transpose",
    "Slice",
    "Concat",
    "Split",
    "Gather",
    "Unsqueeze",
    "Squeeze",
    "Expand",
    "Identity",
    "Flatten",
    "DepthToSpace",
    "SpaceToDepth",
    "Tile",
    "Relu",
];

/// A copy of `model` that reckons in f16; `None` of one that does so already. With `wide_attention` the products of queries and keys stay
/// in f32, as `upcast_attention` in a U-Net's `config.json` asks for.
///
/// # Errors
/// Bytes that are no model; a model of which something is not known here.
pub fn to_halves(model: &[u8], how: Halves, wide_attention: bool) -> Result<Option<Vec<u8>>, GraphError> {
    let graph = Graph::from_bytes(model)?;
    let Some(plan) = Plan::of(&graph, wide_attention)? else { return Ok(None) };
    let mut writer = Writer { plan: &plan, how, cast: HashSet::new() };
    let mut nodes = 0..;
    rewrite(model, |part| match part {
        Part::Node(node) => Change::Replace(writer.node(nodes.next().unwrap_or_default(), node)),
        // A weight that a caller might replace is not folded, and nobody does.
        Part::Input(value) if graph.weights.contains_key(&value.name) => Change::Replace(Vec::new()),
        Part::Inner(value) if how == Halves::Computed && plan.is_half(&value.name) => {
            let mut value = value.clone();
            if let Some(tensor) = value.r#type.as_mut().and_then(|of| of.tensor_type.as_mut()) {
                tensor.elem_type = DType::F16.to_onnx();
            }
            Change::Replace(vec![Part::Inner(value)])
        }
        _ => Change::Keep,
    })
    .map(Some)
}

/// Writes the nodes, with casts between those in f32 and those in f16.
struct Writer<'a> {
    plan: &'a Plan<'a>,
    how: Halves,
    /// What casts give so far.
    cast: HashSet<String>,
}

impl Writer<'_> {
    /// A node, with the casts that it takes before it and behind.
    fn node(&mut self, at: usize, node: &NodeProto) -> Vec<Part> {
        let (plan, mut node) = (self.plan, node.clone());
        let mut written = Vec::new();
        for input in 0..node.input.len() {
            if plan.is_float(&node.input[input]) {
                let wants_half = !plan.wide[at] && !needs_floats(&node, input);
                node.input[input] = self.input(&node, &node.input[input], wants_half, &mut written);
            }
        }
        let mut behind = Vec::new();
        let gives_half = node.output.iter().any(|name| plan.is_half(name));
        match self.how {
            Halves::Computed => {
                for output in &mut node.output {
                    if plan.is_half(output) && plan.outputs.contains(output.as_str()) {
                        let stored = self.stored(output);
                        behind.push(cast(&stored, output, DType::F32));
                        *output = stored;
                    }
                }
                if node.op_type == "Cast" && gives_half {
                    node.attribute.clear();
                    node = node.with_int("to", DType::F16.to_onnx().into());
                }
            }
            Halves::Rounded if MOVES.contains(&node.op_type.as_str()) => {}
            Halves::Rounded => {
                for output in &mut node.output {
                    if plan.is_half(output) {
                        let (exact, half) = (self.made(output, "exact"), self.made(output, "f16"));
                        behind.extend([cast(&exact, &half, DType::F16), cast(&half, output, DType::F32)]);
                        *output = exact;
                    }
                }
            }
        }
        written.push(Part::Node(node));
        written.extend(behind);
        written
    }

    /// What a node reads in place of a tensor of floats.
    fn input(&mut self, node: &NodeProto, name: &str, wants_half: bool, written: &mut Vec<Part>) -> String {
        let plan = self.plan;
        let asks_for_sides = matches!(node.op_type.as_str(), "Shape" | "Size");
        match (plan.is_half(name), wants_half) {
            (true, _) if self.how == Halves::Rounded => name.to_owned(),
            (true, true) => self.stored(name),
            (true, false) if asks_for_sides => self.stored(name),
            (true, false) if plan.outputs.contains(name) => name.to_owned(),
            (true, false) => self.cast_once(name, "wide", DType::F32, written),
            (false, true) if !asks_for_sides => self.cast_once(name, "half", DType::F16, written),
            (false, _) => name.to_owned(),
        }
    }

    /// What a node that reckons in f16 calls what it gives: an output of the graph keeps its name for what it is cast to.
    fn stored(&self, name: &str) -> String {
        let is_output = self.how == Halves::Computed && self.plan.outputs.contains(name);
        if is_output { self.made(name, "half") } else { name.to_owned() }
    }

    /// A name of a new tensor.
    fn made(&self, name: &str, what: &str) -> String {
        format!("{name}/{what}{}", self.plan.mark)
    }

    /// The name of a tensor cast, once for all that read it.
    fn cast_once(&mut self, name: &str, suffix: &str, to: DType, written: &mut Vec<Part>) -> String {
        let given = self.made(name, suffix);
        if self.cast.insert(given.clone()) {
            match self.how {
                Halves::Computed => written.push(cast(name, &given, to)),
                Halves::Rounded => {
                    let half = self.made(name, "f16");
                    written.extend([cast(name, &half, DType::F16), cast(&half, &given, DType::F32)]);
                }
            }
        }
        given
    }
}

fn cast(from: &str, to: &str, of: DType) -> Part {
    Part::Node(NodeProto::new("Cast", &[from], &[to]).with_int("to", of.to_onnx().into()))
}

#[cfg(test)]
mod tests;
