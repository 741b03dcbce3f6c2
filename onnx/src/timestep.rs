//! One time step per row of the U-Net.
//!
//! The stream batch puts rows of different noise levels side by side (StreamDiffusion, §3.1). Current exporters give the
//! U-Net a scalar `timestep`, one for all rows. Two edits of the graph make it a vector: the input gets the shape
//! [batch], and the node that made a vector of it becomes `Identity`.

use crate::graph::proto::{NodeProto, ValueInfoProto};
use crate::graph::{Change, Dim, Graph, GraphError, Part, TensorInfo, rewrite};
use crate::pack::UnetPorts;

/// How a U-Net gets its time steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timesteps {
    /// A vector, one per row, as exported.
    PerRow,
    /// A vector since the graph was repaired on load.
    Repaired,
    /// One for all rows, so that every row is a call of its own.
    SlotBySlot,
}

/// What the graph's description alone says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    /// As many time steps as rows.
    PerRow,
    /// A vector of a length of its own name: a trial run has to tell.
    Doubtful,
    /// A scalar, or a vector of one.
    Shared,
}

pub(crate) fn declared(timestep: &TensorInfo, sample: &TensorInfo) -> Declared {
    let rows = sample.dims.as_ref().and_then(|d| d.first());
    match timestep.dims.as_deref() {
        Some([] | [Dim::Fixed(1)]) => Declared::Shared,
        Some([side @ Dim::Symbol(_)]) if Some(side) == rows => Declared::PerRow,
        _ => Declared::Doubtful,
    }
}

/// Whether a U-Net takes one time step for each row, as far as its description says: a trial run tells for sure, where it does.
pub fn has_time_of_each_row(unet: &UnetPorts) -> bool {
    unet.sample.fixed(0) != Some(1) && declared(&unet.timestep, &unet.sample) != Declared::Shared
}

/// A copy of `model` whose time step is a vector; `None` where the graph uses it in a way that is not known here.
pub(crate) fn repair(model: &[u8], timestep: &str, sample: &str) -> Result<Option<Vec<u8>>, GraphError> {
    let graph = Graph::from_bytes(model)?;
    let (Some(input), Some(rows)) = (graph.input(timestep), graph.input(sample)) else {
        return Ok(None);
    };
    let rows = match rows.dims.as_ref().and_then(|d| d.first()) {
        Some(Dim::Symbol(name)) => name.clone(),
        _ => "batch_size".to_owned(),
    };
    // A vector of one is only misdeclared: nodes that spread it over the rows do no harm to a longer one.
    let Some(path) = (if input.rank() == Some(0) { vectorising(&graph, timestep) } else { Some(Path::default()) })
    else {
        return Ok(None);
    };
    let edit = |part: &Part| match part {
        Part::Input(value) if value.name == timestep => {
            let element = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type);
            Change::Replace(vec![Part::Input(ValueInfoProto::tensor(timestep, element, &[&rows]))])
        }
        Part::Node(node) if is_one_of(node, &path.bypassed) => {
            let identity = NodeProto {
                op_type: "Identity".to_owned(),
                input: node.input[..1].to_vec(),
                attribute: Vec::new(),
                ..node.clone()
            };
            Change::Replace(vec![Part::Node(identity)])
        }
        // Their recorded shapes are those of the scalar.
        Part::Inner(value) if path.scalars.contains(&value.name) || path.bypassed.contains(&value.name) => {
            Change::Replace(Vec::new())
        }
        _ => Change::Keep,
    };
    rewrite(model, edit).map(Some)
}

/// How the scalar spreads through the graph before it becomes a vector.
#[derive(Default)]
struct Path {
    /// The scalar under its names: the input and casts of it.
    scalars: Vec<String>,
    /// Outputs of the nodes that make a vector of it.
    bypassed: Vec<String>,
}

fn vectorising(graph: &Graph, timestep: &str) -> Option<Path> {
    let mut path = Path { scalars: vec![timestep.to_owned()], bypassed: Vec::new() };
    // Nodes are in order of execution, so that one pass sees every cast before its users.
    for node in &graph.nodes {
        if !node.input.iter().any(|name| path.scalars.contains(name)) {
            continue;
        }
        let reads_as_data = node.input.first().is_some_and(|name| path.scalars.contains(name));
        match (node.op_type.as_str(), reads_as_data) {
            ("Cast" | "Identity", true) => path.scalars.extend(node.output.iter().cloned()),
            ("Unsqueeze" | "Reshape" | "Expand", true) => {
                path.bypassed.extend(node.output.iter().cloned());
            }
            ("Shape", _) => {}
            _ => return None,
        }
    }
    (!path.bypassed.is_empty()).then_some(path)
}

fn is_one_of(node: &NodeProto, outputs: &[String]) -> bool {
    node.output.iter().any(|name| outputs.contains(name))
}
