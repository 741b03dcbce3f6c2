//! The sinusoids of time, computed in f32 apart from a U-Net that runs in bf16.
//!
//! A U-Net begins with sin(t·f) and cos(t·f). bf16 has 8 bits, so that t = 999 becomes 1000 and an angle of 700 is off
//! by up to 2 radians: another time step, or none at all. So the graph is cut behind these nodes: what leads to them
//! becomes a network of its own on the CPU provider (some microseconds), and its results become inputs of the rest.

use std::collections::{BTreeSet, HashMap, HashSet};

use livediffusion_pipeline::model::{ModelError, Row};

use crate::error::OnnxError;
use crate::graph::proto::{ModelProto, NodeProto, ValueInfoProto};
use crate::graph::{Change, DType, Dim, Graph, GraphError, Part, TensorInfo, rewrite, weights};
use crate::pack::UnetPorts;
use crate::provider::{Chosen, Precision, Provider, SessionSettings};
use crate::runtime::Runtime;
use crate::session::{Bound, Model, Network};

/// Time steps and SDXL's sizes have a sine and a cosine each, and a ControlNet may have its own; more is no U-Net that is known here.
pub(crate) const MAX_CUTS: usize = 8;

/// f32 in `onnx.TensorProto.DataType`.
const F32: i32 = 1;

/// Where the graph is cut.
struct Cut {
    /// Output of the sine or cosine.
    name: String,
    /// Whether it belongs to SDXL's six sizes, which are flattened to six times as many rows.
    is_size: bool,
}

/// The network of the sinusoids.
pub(crate) struct Clock {
    network: Network,
    inputs: Vec<Input>,
    cuts: Vec<CutShape>,
    values: Vec<f32>,
}

/// What the clock reads.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    Sample,
    Time,
    Sizes,
}

/// [rows × `per_row`, `width`].
#[derive(Clone, Copy)]
struct CutShape {
    per_row: usize,
    width: usize,
}

/// A clock, the graph without it, and that graph's additional inputs.
pub(crate) struct Split {
    pub(crate) clock: Clock,
    pub(crate) rest: Vec<u8>,
    pub(crate) inputs: Vec<TensorInfo>,
}

impl Clock {
    /// Cuts `model`; `None` where it has no sinusoids of time.
    pub(crate) fn cut(
        runtime: &Runtime,
        (model, path): (&[u8], &std::path::Path),
        ports: &UnetPorts,
        settings: &SessionSettings,
    ) -> Result<Option<Split>, OnnxError> {
        let wrong = |e: GraphError| OnnxError::invalid(format!("{}: {e}", path.display()));
        let graph = Graph::from_bytes(model).map_err(wrong)?;
        let (cuts, nodes, read) = find(&graph, ports);
        if cuts.is_empty() || cuts.len() > MAX_CUTS {
            return Ok(None);
        }
        let possible = [
            (Input::Sample, Some(&ports.sample)),
            (Input::Time, Some(&ports.timestep)),
            (Input::Sizes, ports.time_ids.as_ref()),
        ];
        let used: Vec<(Input, &TensorInfo)> =
            possible.into_iter().filter_map(|(i, t)| Some((i, t?))).filter(|(_, t)| read.contains(&t.name)).collect();
        let outputs: Vec<TensorInfo> =
            cuts.iter().map(|c| TensorInfo { name: c.name.clone(), dtype: DType::F32, dims: None }).collect();
        let small = clock_model(&graph, &nodes, model, &used, &cuts).map_err(wrong)?;
        let chosen = Chosen { provider: Provider::Cpu, precision: Precision::F32, why: String::new() };
        let infos: (Vec<_>, Vec<_>) = (used.iter().map(|(_, t)| *t).collect(), outputs.iter().collect());
        // One thread: there is nothing to share out, and waking others takes longer than the work.
        let settings = SessionSettings { threads: Some(1), ..*settings };
        let ports = (&infos.0[..], &infos.1[..]);
        let network = Network::load(runtime, "U-Net's time", &Model::Edited(path, &small), ports, &chosen, &settings)?;
        let mut shapes = Vec::new();
        let mut inputs = Vec::new();
        for (i, cut) in cuts.iter().enumerate() {
            let Some(width) = network.output_width(i) else {
                return Ok(None);
            };
            shapes.push(CutShape { per_row: if cut.is_size { 6 } else { 1 }, width });
            let dims = Some(vec![Dim::Symbol(format!("time_rows_{i}")), Dim::Fixed(width)]);
            inputs.push(TensorInfo { name: cut.name.clone(), dtype: DType::F32, dims });
        }
        let rest = without(model, &cuts, &inputs).map_err(wrong)?;
        let clock = Self { network, inputs: used.iter().map(|(i, _)| *i).collect(), cuts: shapes, values: Vec::new() };
        Ok(Some(Split { clock, rest, inputs }))
    }

    /// Another clock on the same network, with tensors of its own.
    pub(crate) fn fork(&self) -> Self {
        let Self { network, inputs, cuts, .. } = self;
        Self { network: network.fork(), inputs: inputs.clone(), cuts: cuts.clone(), values: Vec::new() }
    }

    /// Shapes of the results for a number of rows.
    pub(crate) fn shapes(&self, rows: usize) -> ([[usize; 2]; MAX_CUTS], usize) {
        let mut shapes = [[0; 2]; MAX_CUTS];
        for (shape, cut) in shapes.iter_mut().zip(&self.cuts) {
            *shape = [rows * cut.per_row, cut.width];
        }
        (shapes, self.cuts.len())
    }

    /// Computes the sinusoids of the rows and writes them into `rest` from input `port` on.
    pub(crate) fn tick(
        &mut self,
        rows: &[Row],
        (sample_dims, time_dims): (&[usize], &[usize]),
        (rest, bound, port): (&mut Network, Bound, usize),
    ) -> Result<(), ModelError> {
        let size_dims = [rows.len(), 6];
        let mut dims: [&[usize]; 3] = [&[]; 3];
        for (dims, input) in dims.iter_mut().zip(&self.inputs) {
            *dims = match input {
                // Only its shape is read.
                Input::Sample => sample_dims,
                Input::Time => time_dims,
                Input::Sizes => &size_dims,
            };
        }
        let (shapes, cuts) = self.shapes(rows.len());
        let mut outputs: [&[usize]; MAX_CUTS] = [&[]; MAX_CUTS];
        outputs.iter_mut().zip(&shapes).for_each(|(out, shape)| *out = shape);
        let mine = self.network.bind(&dims[..self.inputs.len()], &outputs[..cuts])?;
        for (i, input) in self.inputs.iter().enumerate() {
            for (r, row) in rows.iter().enumerate() {
                match (input, &row.conditioning.time_ids) {
                    (Input::Time, _) => self.network.write(mine, i, r, &[row.timestep])?,
                    (Input::Sizes, Some(ids)) => self.network.write(mine, i, 6 * r, ids)?,
                    (Input::Sample | Input::Sizes, _) => {}
                }
            }
        }
        self.network.run(mine)?;
        for (i, [height, width]) in shapes[..cuts].iter().enumerate() {
            self.values.resize(height * width, 0.0);
            self.network.read(mine, i, &mut self.values)?;
            rest.write(bound, port + i, 0, &self.values)?;
        }
        Ok(())
    }
}

/// The sines and cosines that depend on nothing but time and sizes; the nodes that lead to them, in order; and the
/// names of what these read.
fn find(graph: &Graph, ports: &UnetPorts) -> (Vec<Cut>, BTreeSet<usize>, HashSet<String>) {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        makers.extend(node.output.iter().map(|name| (name.as_str(), i)));
    }
    let mut found = (Vec::new(), BTreeSet::new(), HashSet::new());
    for (i, node) in graph.nodes.iter().enumerate() {
        if !matches!(node.op_type.as_str(), "Sin" | "Cos") {
            continue;
        }
        let Some((nodes, read)) = sources(graph, &makers, ports, i) else {
            continue;
        };
        let reads_time = read.contains(&ports.timestep.name);
        let reads_sizes = ports.time_ids.as_ref().is_some_and(|t| read.contains(&t.name));
        if reads_time != reads_sizes {
            found.0.push(Cut { name: node.output[0].clone(), is_size: reads_sizes });
            found.1.extend(nodes);
            found.2.extend(read);
        }
    }
    found
}

/// Everything that a node depends on; `None` if that includes latents or the prompt.
fn sources(
    graph: &Graph,
    makers: &HashMap<&str, usize>,
    ports: &UnetPorts,
    node: usize,
) -> Option<(BTreeSet<usize>, HashSet<String>)> {
    let (mut nodes, mut read, mut open) = (BTreeSet::new(), HashSet::new(), vec![node]);
    while let Some(i) = open.pop() {
        let node: &NodeProto = &graph.nodes[i];
        if !nodes.insert(i) {
            continue;
        }
        // A node with a graph of its own may read what is not among its inputs.
        if matches!(node.op_type.as_str(), "If" | "Loop" | "Scan") {
            return None;
        }
        for name in node.input.iter().filter(|n| !n.is_empty()) {
            if let Some(&maker) = makers.get(name.as_str()) {
                open.push(maker);
                continue;
            }
            let is_time = *name == ports.timestep.name || ports.time_ids.as_ref().is_some_and(|t| t.name == *name);
            let is_shape = *name == ports.sample.name && node.op_type == "Shape";
            if !is_time && !is_shape && graph.input(name).is_some() {
                return None;
            }
            read.insert(name.clone());
        }
    }
    Some((nodes, read))
}

fn clock_model(
    graph: &Graph,
    nodes: &BTreeSet<usize>,
    model: &[u8],
    inputs: &[(Input, &TensorInfo)],
    cuts: &[Cut],
) -> Result<Vec<u8>, GraphError> {
    let nodes: Vec<NodeProto> = nodes.iter().map(|&i| graph.nodes[i].clone()).collect();
    let read: HashSet<&str> = nodes.iter().flat_map(|n| n.input.iter().map(String::as_str)).collect();
    let weights = weights(model, &read)?;
    let inputs = inputs.iter().map(|(_, t)| t.to_proto()).collect();
    let outputs = cuts.iter().map(|c| ValueInfoProto::unshaped(&c.name, F32)).collect();
    Ok(ModelProto::new(nodes, inputs, outputs).bytes_with(weights, graph.opset))
}

/// The model with the cut tensors as additional inputs. Nodes that now lead nowhere are dropped by ONNX Runtime.
fn without(model: &[u8], cuts: &[Cut], inputs: &[TensorInfo]) -> Result<Vec<u8>, GraphError> {
    let is_cut = |name: &String| cuts.iter().any(|c| c.name == *name);
    let mut is_first = true;
    rewrite(model, |part| match part {
        Part::Node(node) if node.output.iter().any(is_cut) => Change::Replace(Vec::new()),
        Part::Inner(value) if is_cut(&value.name) => Change::Replace(Vec::new()),
        Part::Input(_) if std::mem::take(&mut is_first) => {
            let added = inputs.iter().map(|t| Part::Input(t.to_proto()));
            Change::Replace([part.clone()].into_iter().chain(added).collect())
        }
        _ => Change::Keep,
    })
}
