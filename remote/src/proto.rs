//! The messages of KServe's v2 protocol that are sent or read here, with the field numbers of its specification
//! (`inference.GRPCInferenceService`), and what Triton adds of its configuration.

use bytes::Bytes;
use prost::Message;

/// Names of the calls, as gRPC has them in its paths.
pub mod path {
    /// Whether the server runs.
    pub const SERVER_LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
    /// Whether it answers calls.
    pub const SERVER_READY: &str = "/inference.GRPCInferenceService/ServerReady";
    /// Whether it answers those of a model.
    pub const MODEL_READY: &str = "/inference.GRPCInferenceService/ModelReady";
    /// What the server is.
    pub const SERVER_METADATA: &str = "/inference.GRPCInferenceService/ServerMetadata";
    /// A model's inputs and outputs.
    pub const MODEL_METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
    /// Triton's own: how a model is run.
    pub const MODEL_CONFIG: &str = "/inference.GRPCInferenceService/ModelConfig";
    /// Runs a model.
    pub const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
}

/// `ServerLiveRequest`, `ServerReadyRequest` and `ServerMetadataRequest`, which are the same.
#[derive(Clone, PartialEq, Message)]
pub struct ServerRequest {}

/// `ServerLiveResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerLiveResponse {
    /// Whether it runs.
    #[prost(bool, tag = "1")]
    pub live: bool,
}

/// `ServerReadyResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerReadyResponse {
    /// Whether it answers calls.
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

/// `ModelReadyResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelReadyResponse {
    /// Whether it answers the model's calls.
    #[prost(bool, tag = "1")]
    pub ready: bool,
}

/// `ServerMetadataResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ServerMetadataResponse {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// `ModelReadyRequest`, `ModelMetadataRequest`, and Triton's `ModelConfigRequest`, which are the same.
#[derive(Clone, PartialEq, Message)]
pub struct ModelRequest {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Version.
    #[prost(string, tag = "2")]
    pub version: String,
}

/// `ModelMetadataResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelMetadataResponse {
    /// The model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Versions that are there.
    #[prost(string, repeated, tag = "2")]
    pub versions: Vec<String>,
    /// What runs the model.
    #[prost(string, tag = "3")]
    pub platform: String,
    /// Inputs.
    #[prost(message, repeated, tag = "4")]
    pub inputs: Vec<TensorMetadata>,
    /// Outputs.
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<TensorMetadata>,
}

/// `ModelMetadataResponse.TensorMetadata`, and without `contents` a request's `InferInputTensor`.
#[derive(Clone, PartialEq, Message)]
pub struct TensorMetadata {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `FP32`, `FP16`, `BF16`, `INT64`, `INT32` and others.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// -1 for a side that a call decides.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
}

/// Triton's `ModelConfigResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelConfigResponse {
    /// The configuration.
    #[prost(message, optional, tag = "1")]
    pub config: Option<ModelConfig>,
}

/// Triton's `ModelConfig`, of which one number is of interest.
#[derive(Clone, PartialEq, Message)]
pub struct ModelConfig {
    /// The model.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Rows that a call may have; 0 where the first side of tensors is like any other.
    #[prost(int32, tag = "4")]
    pub max_batch_size: i32,
}

/// `ModelInferRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Its version; empty for the one that the server chooses.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// What the answer bears too.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Inputs.
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<TensorMetadata>,
    /// Outputs.
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<RequestedOutput>,
    /// The inputs' values in their order, little-endian.
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub raw_input_contents: Vec<Bytes>,
}

/// `ModelInferRequest.InferRequestedOutputTensor`.
#[derive(Clone, PartialEq, Message)]
pub struct RequestedOutput {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `ModelInferResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelInferResponse {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_name: String,
    /// Its version.
    #[prost(string, tag = "2")]
    pub model_version: String,
    /// The request's.
    #[prost(string, tag = "3")]
    pub id: String,
    /// Outputs.
    #[prost(message, repeated, tag = "5")]
    pub outputs: Vec<OutputTensor>,
    /// The outputs' values in their order, where they are not in `outputs`.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub raw_output_contents: Vec<Bytes>,
}

/// `ModelInferResponse.InferOutputTensor`.
#[derive(Clone, PartialEq, Message)]
pub struct OutputTensor {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(string, tag = "2")]
    pub datatype: String,
    /// Its sides.
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    /// Its values, where they are not in `raw_output_contents`.
    #[prost(message, optional, tag = "5")]
    pub contents: Option<TensorContents>,
}

/// `InferTensorContents`, of which a U-Net's answer can use one: there is none for 16 bits.
#[derive(Clone, PartialEq, Message)]
pub struct TensorContents {
    /// Values of `FP32`.
    #[prost(float, repeated, tag = "6")]
    pub fp32_contents: Vec<f32>,
}
