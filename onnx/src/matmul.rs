//! A matrix multiplication as a network of its own: what the machine's arithmetic can at best do.

use livediffusion_pipeline::model::ModelError;
use prost::Message;

use crate::error::OnnxError;
use crate::graph::proto::{ModelProto, NodeProto, ValueInfoProto};
use crate::graph::{DType, Dim, TensorInfo};
use crate::provider::{Chosen, SessionSettings};
use crate::runtime::Runtime;
use crate::session::{Bound, Model, Network};

/// `onnx.TensorProto`, enough of it for a weight in f32.
#[derive(Clone, PartialEq, Message)]
struct WeightProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

/// Two square matrices and their product, on a provider. One is a weight, as in a network, which a provider may bring into
/// the order and precision that it likes beforehand.
pub struct Matmul {
    network: Network,
    bound: Bound,
    side: usize,
}

impl Matmul {
    /// Makes the network, with matrices of `side` × `side` f32 values (rounded inside where `chosen` says bf16).
    ///
    /// # Errors
    /// A provider that does not take it.
    pub fn load(
        runtime: &Runtime,
        chosen: &Chosen,
        settings: &SessionSettings,
        side: usize,
    ) -> Result<Self, OnnxError> {
        let text = side.to_string();
        let shape = [text.as_str(), text.as_str()];
        // Ordinary values without pattern: zeros would be faster on some machines.
        let values: Vec<f32> = (0..side * side).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
        let weight = WeightProto {
            dims: vec![side as i64; 2],
            data_type: 1,
            name: "b".to_owned(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let model = ModelProto::new(
            vec![NodeProto::new("MatMul", &["a", "b"], &["y"])],
            vec![ValueInfoProto::tensor("a", 1, &shape)],
            vec![ValueInfoProto::tensor("y", 1, &shape)],
        )
        .bytes_with(vec![weight.encode_to_vec()], 17);
        let info = |name: &str| TensorInfo {
            name: name.to_owned(),
            dtype: DType::F32,
            dims: Some(vec![Dim::Fixed(side), Dim::Fixed(side)]),
        };
        let (a, y) = (info("a"), info("y"));
        let model = Model::Edited(std::path::Path::new("matmul.onnx"), &model);
        let mut network = Network::load(runtime, "matmul", &model, (&[&a], &[&y]), chosen, settings)?;
        let dims = [side, side];
        let failed = |error: ModelError| OnnxError { hint: error.hint, ..OnnxError::failed(error.what) };
        let bound = network.bind(&[&dims], &[&dims]).map_err(failed)?;
        network.write(bound, 0, 0, &values).map_err(failed)?;
        Ok(Self { network, bound, side })
    }

    /// Multiplies once.
    ///
    /// # Errors
    /// ONNX Runtime's.
    pub fn run(&mut self) -> Result<(), ModelError> {
        self.network.run(self.bound)
    }

    /// Floating-point operations of a multiplication, additions counted.
    pub fn flops(&self) -> f64 {
        2.0 * (self.side as f64).powi(3)
    }
}
