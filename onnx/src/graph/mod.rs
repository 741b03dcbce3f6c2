//! What an ONNX file says about itself: inputs, outputs, operator set; and small edits of it in memory.
//!
//! It is read before any session exists, so that a pack can be checked, listed and repaired without ONNX Runtime and
//! without reading its weights.

mod halves;
mod pads;
pub mod proto;
mod rewrite;
mod sides;
mod upsample;
mod weight;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use prost::Message;

pub(crate) use self::halves::reckons_in_halves;
pub use self::halves::{Halves, to_halves};
pub(crate) use self::pads::has_uneven_pads;
pub use self::pads::split_uneven_pads;
use self::proto::{NodeProto, OperatorSetIdProto, ValueInfoProto};
pub(crate) use self::rewrite::weights;
pub use self::rewrite::{Change, Part, rewrite};
pub use self::sides::fold_known_sides;
pub(crate) use self::sides::has_known_sides;
pub use self::upsample::fold_upsampling;
use self::weight::Weight;
pub use self::wire::GraphError;
use self::wire::{Payload, Source};

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// Anything else, by its number in `onnx.TensorProto.DataType`.
    Other(i32),
}

impl DType {
    fn from_onnx(number: i32) -> Self {
        match number {
            1 => Self::F32,
            6 => Self::I32,
            7 => Self::I64,
            10 => Self::F16,
            16 => Self::Bf16,
            other => Self::Other(other),
        }
    }
}

impl DType {
    pub(crate) fn to_onnx(self) -> i32 {
        match self {
            Self::F32 => 1,
            Self::I32 => 6,
            Self::I64 => 7,
            Self::F16 => 10,
            Self::Bf16 => 16,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::I64 => f.write_str("i64"),
            Self::I32 => f.write_str("i32"),
            Self::Other(number) => write!(f, "type{number}"),
        }
    }
}

/// One side of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Always that many.
    Fixed(usize),
    /// Chosen at run time; equal names mean equal sides.
    Symbol(String),
    /// Nothing is known.
    Unknown,
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(side) => write!(f, "{side}"),
            Self::Symbol(name) => f.write_str(name),
            Self::Unknown => f.write_str("?"),
        }
    }
}

/// Name, type and shape of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the graph.
    pub name: String,
    /// Type of the elements.
    pub dtype: DType,
    /// The sides, outermost first; `None` where even the rank is unknown.
    pub dims: Option<Vec<Dim>>,
}

impl TensorInfo {
    /// Number of sides, where it is known.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(Vec::len)
    }

    /// Side `axis`, where it is the same for every call.
    pub fn fixed(&self, axis: usize) -> Option<usize> {
        match self.dims.as_ref()?.get(axis)? {
            Dim::Fixed(side) => Some(*side),
            _ => None,
        }
    }
}

impl TensorInfo {
    /// The name of side `axis`, where the graph leaves that side open and gives it one.
    pub(crate) fn symbol(&self, axis: usize) -> Option<&str> {
        match self.dims.as_ref()?.get(axis)? {
            Dim::Symbol(name) => Some(name),
            _ => None,
        }
    }

    pub(crate) fn to_proto(&self) -> ValueInfoProto {
        let number = self.dtype.to_onnx();
        let Some(dims) = &self.dims else {
            return ValueInfoProto::unshaped(&self.name, number);
        };
        let side = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Unknown => format!("{}_{axis}", self.name),
            known => known.to_string(),
        };
        let sides: Vec<String> = dims.iter().enumerate().map(side).collect();
        ValueInfoProto::tensor(&self.name, number, &sides.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.dtype)?;
        match &self.dims {
            None => f.write_str("[..]"),
            Some(dims) => {
                let sides: Vec<String> = dims.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", sides.join(","))
            }
        }
    }
}

impl From<ValueInfoProto> for TensorInfo {
    fn from(value: ValueInfoProto) -> Self {
        let tensor = value.r#type.and_then(|t| t.tensor_type);
        let dtype = DType::from_onnx(tensor.as_ref().map_or(0, |t| t.elem_type));
        let dims = tensor.and_then(|t| t.shape).map(|shape| {
            shape
                .dim
                .into_iter()
                .map(|dim| match (dim.dim_value, dim.dim_param) {
                    (Some(side), _) if side > 0 => Dim::Fixed(side as usize),
                    (_, Some(name)) if !name.is_empty() => Dim::Symbol(name),
                    _ => Dim::Unknown,
                })
                .collect()
        });
        Self { name: value.name, dtype, dims }
    }
}

/// The description of a graph, without its weights.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Inputs that a caller has to give.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
    /// The operators; small beside the weights.
    pub nodes: Vec<NodeProto>,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Whether weights lie in files beside the model.
    pub external_data: bool,
    /// What it holds that is passed over here, and that somebody who changes it has to know: functions, weights of another kind.
    unread: Option<&'static str>,
    /// What is known of the weights without reading them, by name.
    weights: HashMap<String, Weight>,
}

impl Graph {
    /// Reads the description of a file; its weights are passed over, so that gigabytes cost milliseconds.
    pub fn open(path: &Path) -> Result<Self, GraphError> {
        let io = |e: std::io::Error| GraphError::Io(e.to_string());
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Self::read(Source::new(BufReader::new(file), len), len)
    }

    /// Reads the description of a model in memory.
    pub fn from_bytes(model: &[u8]) -> Result<Self, GraphError> {
        Self::read(Source::new(Cursor::new(model), model.len() as u64), model.len() as u64)
    }

    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&TensorInfo> {
        self.inputs.iter().find(|t| t.name == name)
    }

    fn read<R: Read + Seek>(mut source: Source<R>, len: u64) -> Result<Self, GraphError> {
        let mut graph = Self::default();
        let mut has_graph = false;
        // Field numbers of onnx.ModelProto: 7 graph, 8 opset_import, 25 functions.
        while let Some((number, payload)) = source.field(len)? {
            match (number, payload) {
                (7, Payload::Bytes(bytes)) => {
                    has_graph = true;
                    let end = source.position() + bytes;
                    graph.read_graph(&mut source, end)?;
                }
                (8, Payload::Bytes(_)) => {
                    let opset = OperatorSetIdProto::decode(&source.bytes(payload)?[..])?;
                    if opset.domain.is_empty() || opset.domain == "ai.onnx" {
                        graph.opset = opset.version;
                    }
                }
                (25, _) => {
                    graph.unread = Some("a function of the model's own");
                    source.skip(payload)?;
                }
                _ => source.skip(payload)?,
            }
        }
        if has_graph && !graph.outputs.is_empty() {
            Ok(graph)
        } else {
            Err(GraphError::Malformed("it holds no graph".into()))
        }
    }

    fn read_graph<R: Read + Seek>(&mut self, source: &mut Source<R>, end: u64) -> Result<(), GraphError> {
        // Field numbers of onnx.GraphProto: 1 node, 5 initializer, 11 input, 12 output, 15 sparse_initializer.
        while let Some((number, payload)) = source.field(end)? {
            match (number, payload) {
                (1, _) => self.nodes.push(NodeProto::decode(&source.bytes(payload)?[..])?),
                (5, Payload::Bytes(bytes)) => {
                    let end = source.position() + bytes;
                    let (name, weight) = Weight::read(source, end)?;
                    self.external_data |= weight.is_external;
                    self.weights.insert(name, weight);
                }
                (11, _) => self.inputs.push(ValueInfoProto::decode(&source.bytes(payload)?[..])?.into()),
                (12, _) => self.outputs.push(ValueInfoProto::decode(&source.bytes(payload)?[..])?.into()),
                (15, _) => {
                    self.unread = Some("a sparse weight");
                    source.skip(payload)?;
                }
                _ => source.skip(payload)?,
            }
        }
        // Files older than version 4 of the format list their weights among the inputs.
        self.inputs.retain(|input| !self.weights.contains_key(&input.name));
        Ok(())
    }
}
