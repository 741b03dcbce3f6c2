//! The messages of `onnx.proto` that are read or written here, with the field numbers of the ONNX specification.
//!
//! What an edit has to keep but not to understand (attributes, metadata) is declared as raw bytes: a nested message
//! and a byte string look the same on the wire.

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
