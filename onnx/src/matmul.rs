//! A matrix multiplication as a network of its own: what the machine's arithmetic can at best do.

use std::time::Duration;

use half::f16;
use livediffusion_kernels::cuda::Stream;
use livediffusion_kernels::gpu::{self, Mark, Queue as _, Tensor};
use livediffusion_pipeline::model::ModelError;
use livediffusion_pipeline::stats::Clock;
use prost::Message;

use crate::device::cuda::user_stream;
use crate::device::vae::Half;
use crate::error::OnnxError;
use crate::graph::proto::{ModelProto, NodeProto, ValueInfoProto};
use crate::graph::{DType, Dim, TensorInfo};
use crate::networks::queues;
use crate::pack::Pack;
use crate::provider::{Chosen, GpuSettings, Precision, Provider, SessionSettings};
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
    on: On,
    side: usize,
    precision: String,
}

/// Where the matrices are.
enum On {
    /// In the host's memory.
    Host(Box<Network>, Bound),
    /// On a card, where they stay.
    Card(Box<Half>, Stream),
}

impl Matmul {
    /// Makes the network, with matrices of `side` × `side` values of the type that the pack's U-Net reckons in under `chosen`: f16 where
    /// its graph is in f16 or is made so; else f32, which a provider may round inside (bf16). On an NVIDIA card the
    /// matrices stay there.
    ///
    /// # Errors
    /// A provider that does not take it.
    pub fn load(
        runtime: &Runtime,
        pack: &Pack,
        chosen: &Chosen,
        settings: &SessionSettings,
        side: usize,
    ) -> Result<Self, OnnxError> {
        // TensorRT would time kernels for minutes; CUDA's library for matrices is what it is compared with.
        let provider = if chosen.provider == Provider::TensorRt { Provider::Cuda } else { chosen.provider };
        let is_made_so = chosen.precision == Precision::F16 && provider.takes_types_of_the_graph();
        // The CPU has no arithmetic in f16: there it is rounding between the operators.
        let is_half = (!pack.is_in_f32() || is_made_so) && provider != Provider::Cpu;
        let (dtype, number) = if is_half { (DType::F16, 10) } else { (DType::F32, 1) };
        let precision = if is_half { "f16".to_owned() } else { chosen.precision.to_string() };
        let text = side.to_string();
        let shape = [text.as_str(), text.as_str()];
        // Ordinary values without pattern: zeros would be faster on some machines.
        let values: Vec<f32> = (0..side * side).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect();
        let weight = WeightProto {
            dims: vec![side as i64; 2],
            data_type: number,
            name: "b".to_owned(),
            raw_data: if is_half {
                values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
            } else {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            },
        };
        let model = ModelProto::new(
            vec![NodeProto::new("MatMul", &["a", "b"], &["y"])],
            vec![ValueInfoProto::tensor("a", number, &shape)],
            vec![ValueInfoProto::tensor("y", number, &shape)],
        )
        .bytes_with(vec![weight.encode_to_vec()], 17);
        let info = |name: &str| TensorInfo {
            name: name.to_owned(),
            dtype,
            dims: Some(vec![Dim::Fixed(side), Dim::Fixed(side)]),
        };
        let (a, y) = (info("a"), info("y"));
        let model = Model::Edited(std::path::Path::new("matmul.onnx"), &model);
        let queue = queues(runtime, provider, settings).map(|queues| queues.work);
        let stream = queue.as_ref().map(user_stream);
        // Of its own type, and for its own shape alone.
        let precision_of_graph = if is_half { Precision::F32 } else { chosen.precision };
        let plain = Chosen { provider, precision: precision_of_graph, why: String::new() };
        let gpu = GpuSettings { stream, graphs: false, ..settings.gpu };
        let settings = SessionSettings { gpu, extent: None, ..*settings };
        let mut network = Network::load(runtime, "matmul", &model, (&[&a], &[&y]), &plain, &settings)?;
        let dims = [side, side];
        let on = if let Some(queue) = queue {
            let mut half = Half::new(&queue, &network, (1.0, 0.0), (&dims, &dims))?;
            fill(half.input(), &queue, &values)?;
            On::Card(Box::new(half), queue)
        } else {
            let bound = network.bind(&[&dims], &[&dims])?;
            network.write(bound, 0, 0, &values)?;
            On::Host(Box::new(network), bound)
        };
        Ok(Self { on, side, precision })
    }

    /// What it multiplies in.
    pub fn precision(&self) -> &str {
        &self.precision
    }

    /// How long so many multiplications take, one after the other: by the card's own clock where the matrices are there.
    ///
    /// # Errors
    /// ONNX Runtime's, or the card's.
    pub fn time(&mut self, calls: u32, clock: &dyn Clock) -> Result<Duration, ModelError> {
        match &mut self.on {
            On::Host(network, bound) => {
                let started = clock.now();
                for _ in 0..calls {
                    network.run(*bound)?;
                }
                Ok(clock.now().saturating_sub(started))
            }
            On::Card(half, queue) => {
                let (started, done) = (queue.mark()?, queue.mark()?);
                queue.record(&started)?;
                for _ in 0..calls {
                    half.run()?;
                }
                queue.record(&done)?;
                done.synchronize()?;
                Ok(Duration::from_secs_f64(f64::from(Mark::ms_until(&started, &done)?) / 1e3))
            }
        }
    }

    /// Floating-point operations of a multiplication, additions counted.
    pub fn flops(&self) -> f64 {
        2.0 * (self.side as f64).powi(3)
    }
}

/// Copies values to a tensor on a card, rounded to its type.
fn fill(tensor: &mut Tensor, queue: &Stream, values: &[f32]) -> Result<(), ModelError> {
    let mut pinned = queue.pinned(tensor.dtype(), tensor.shape())?;
    if tensor.dtype() == gpu::DType::F16 {
        let narrow = pinned.as_mut_slice::<f16>()?.iter_mut().zip(values);
        narrow.for_each(|(to, from)| *to = f16::from_f32(*from));
    } else {
        pinned.as_mut_slice::<f32>()?.copy_from_slice(values);
    }
    Ok(queue.upload(&pinned, tensor.view_mut())?)
}
