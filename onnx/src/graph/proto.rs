//! The messages of `onnx.proto` that are read or written here, with the field numbers of the ONNX specification.
//!
//! What an edit has to keep but not to understand (attributes, metadata) is declared as raw bytes: a nested message
//! and a byte string look the same on the wire.

use half::f16;
use prost::Message;

/// `onnx.ModelProto`, enough of it to write a small model.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the file format.
    #[prost(int64, tag = "1")]
    pub ir_version: i64,
    /// The network.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets that it uses.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
}

/// `onnx.OperatorSetIdProto`.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for the standard operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Version of the set.
    #[prost(int64, tag = "2")]
    pub version: i64,
}

/// `onnx.GraphProto`, without what sparse and quantised models add.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Operators in order of execution.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the graph.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Weights, as raw `TensorProto`s.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub initializer: Vec<Vec<u8>>,
    /// Inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// Outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// `onnx.NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of the tensors read.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the tensors written.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// The operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Raw `AttributeProto`s.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub attribute: Vec<Vec<u8>>,
    /// Documentation.
    #[prost(string, tag = "6")]
    pub doc_string: String,
    /// Operator set that `op_type` belongs to.
    #[prost(string, tag = "7")]
    pub domain: String,
    /// Overload of a model-local function.
    #[prost(string, tag = "8")]
    pub overload: String,
    /// Raw `StringStringEntryProto`s.
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub metadata_props: Vec<Vec<u8>>,
}

/// `onnx.AttributeProto`: an option of an operator, of the kinds that are read here.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name of the option.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value, if that is an integer.
    #[prost(int64, tag = "3")]
    pub i: i64,
    /// Its value, if that is text.
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    /// Its value, if that is a tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// Its value, if that is a list of integers.
    #[prost(int64, repeated, tag = "8")]
    pub ints: Vec<i64>,
    /// `onnx.AttributeProto.AttributeType`: 2 integer, 3 text, 4 tensor, 7 integers.
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// `onnx.TensorProto`: a weight, with its values inside.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Sides, outermost first.
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    /// `onnx.TensorProto.DataType`.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Values of an f32 tensor that has no `raw_data`.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Values of a tensor of 64-bit integers that has no `raw_data`.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// Name of the tensor.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Values as little-endian bytes, row-major.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// 1 where the values lie in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// `onnx.ValueInfoProto`: the name and type of an input, an output or an inner tensor.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name of the tensor.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type; sequences, maps and the like are read as no type at all.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// `onnx.TypeProto`, tensors only.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// The tensor type.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// `onnx.TypeProto.Tensor`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// `onnx.TensorProto.DataType`.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Absent where even the rank is unknown.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// `onnx.TensorShapeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Sides; none of them for a scalar.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// `onnx.TensorShapeProto.Dimension`; neither field is set where nothing is known.
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// A fixed side.
    #[prost(int64, optional, tag = "1")]
    pub dim_value: Option<i64>,
    /// A symbolic side.
    #[prost(string, optional, tag = "2")]
    pub dim_param: Option<String>,
}

impl ValueInfoProto {
    /// A tensor of `elem_type`; sides are numbers or symbols.
    pub fn tensor(name: &str, elem_type: i32, sides: &[&str]) -> Self {
        let side = |text: &&str| match text.parse() {
            Ok(value) => DimensionProto { dim_value: Some(value), dim_param: None },
            Err(_) => DimensionProto { dim_value: None, dim_param: Some((*text).to_owned()) },
        };
        let shape = TensorShapeProto { dim: sides.iter().map(side).collect() };
        let tensor_type = Some(TensorTypeProto { elem_type, shape: Some(shape) });
        Self { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
    }
}

impl ValueInfoProto {
    /// A tensor of `elem_type` whose shape is left to be inferred.
    pub fn unshaped(name: &str, elem_type: i32) -> Self {
        let tensor_type = Some(TensorTypeProto { elem_type, shape: None });
        Self { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
    }
}

impl NodeProto {
    /// A standard operator without attributes.
    pub fn new(op_type: &str, input: &[&str], output: &[&str]) -> Self {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        Self {
            name: format!("{op_type}:{}", output.join(",")),
            op_type: op_type.to_owned(),
            input: own(input),
            output: own(output),
            ..Self::default()
        }
    }

    /// The same operator with an integer as its option `name`.
    #[must_use]
    pub fn with_int(self, name: &str, i: i64) -> Self {
        self.with(&AttributeProto { name: name.to_owned(), i, kind: 2, ..AttributeProto::default() })
    }

    /// The same operator with text as its option `name`.
    #[must_use]
    pub fn with_text(self, name: &str, text: &str) -> Self {
        let s = text.as_bytes().to_vec();
        self.with(&AttributeProto { name: name.to_owned(), s, kind: 3, ..AttributeProto::default() })
    }

    /// The same operator with a tensor as its option `name`.
    #[must_use]
    pub fn with_tensor(self, name: &str, t: TensorProto) -> Self {
        self.with(&AttributeProto { name: name.to_owned(), t: Some(t), kind: 4, ..AttributeProto::default() })
    }

    /// The same operator with integers as its option `name`.
    #[must_use]
    pub fn with_ints(self, name: &str, ints: &[i64]) -> Self {
        self.with(&AttributeProto { name: name.to_owned(), ints: ints.to_vec(), kind: 7, ..AttributeProto::default() })
    }

    /// The same operator with the default of its option `name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let named = |bytes: &Vec<u8>| AttributeProto::decode(&bytes[..]).is_ok_and(|attribute| attribute.name == name);
        self.attribute.retain(|bytes| !named(bytes));
        self
    }

    fn with(mut self, attribute: &AttributeProto) -> Self {
        self.attribute.push(attribute.encode_to_vec());
        self
    }

    /// The option `name`; `None` where it has its default.
    pub fn option(&self, name: &str) -> Option<AttributeProto> {
        let mut all = self.attribute.iter().filter_map(|bytes| AttributeProto::decode(&bytes[..]).ok());
        all.find(|attribute| attribute.name == name)
    }
}

impl TensorProto {
    /// An f32 tensor.
    pub fn of_f32(name: &str, dims: &[usize], values: &[f32]) -> Self {
        Self {
            name: name.to_owned(),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type: 1,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Self::default()
        }
    }

    /// 64-bit integers: a list of so many, or a scalar.
    pub fn of_i64(name: &str, len: Option<usize>, values: &[i64]) -> Self {
        Self {
            name: name.to_owned(),
            dims: len.iter().map(|&len| len as i64).collect(),
            data_type: 7,
            raw_data: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ..Self::default()
        }
    }

    /// The values of a tensor of 64-bit integers; `None` for another type and where they lie in another file or are not as many as the
    /// sides say.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        if (self.data_type, self.data_location) != (7, 0) {
            return None;
        }
        let values = if self.int64_data.is_empty() {
            self.raw_data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        } else {
            self.int64_data.clone()
        };
        (Some(values.len()) == self.count()).then_some(values)
    }

    /// How many values the sides say.
    fn count(&self) -> Option<usize> {
        self.dims.iter().try_fold(1_usize, |count, &side| count.checked_mul(usize::try_from(side).ok()?))
    }

    /// The values of an f32 or f16 tensor; `None` for another type and where they lie in another file or are not as many
    /// as the sides say.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let values: Vec<f32> = match (self.data_type, self.data_location) {
            (1, 0) if !self.float_data.is_empty() => self.float_data.clone(),
            (1, 0) => self.raw_data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            (10, 0) => self.raw_data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            _ => return None,
        };
        (Some(values.len()) == self.count()).then_some(values)
    }
}

impl ModelProto {
    /// A model of the given nodes, inputs and outputs, in operator set 17.
    pub fn new(node: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> Self {
        let graph = GraphProto { node, name: "graph".into(), initializer: Vec::new(), input, output };
        // Version 8 of the format came with operator set 15 to 18; an older library refuses a higher one.
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
        Self { ir_version: 8, graph: Some(graph), opset_import }
    }

    /// The same model, serialised, with weights (raw `TensorProto`s) and another operator set.
    pub fn bytes_with(mut self, weights: Vec<Vec<u8>>, opset: i64) -> Vec<u8> {
        if let Some(graph) = &mut self.graph {
            graph.initializer = weights;
        }
        for set in &mut self.opset_import {
            set.version = opset;
        }
        self.encode_to_vec()
    }

    /// A model without weights in operator set 17, serialised.
    pub fn bytes(node: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> Vec<u8> {
        Self::new(node, input, output).encode_to_vec()
    }
}
