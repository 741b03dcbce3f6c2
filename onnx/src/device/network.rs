//! One network on tensors of a device.

use std::ptr;

use livediffusion_kernels::gpu::{DType, Queue, Tensor};
use livediffusion_pipeline::model::ModelError;
use ort::AsPointer as _;
use ort::session::RunOptions;

use super::bridge::Bridge;
use crate::error::run_error;
use crate::graph::{self, TensorInfo};
use crate::session::{MAX_PORTS, Network};

/// The values of one call, and what it is told.
pub(super) struct Call {
    inputs: Vec<Bridge>,
    output: Bridge,
    options: RunOptions,
}

impl Call {
    /// `id` tells calls of different shapes apart where they are captured as CUDA graphs.
    ///
    /// # Safety
    /// As of [`Bridge::over`], for all of the tensors.
    #[allow(unsafe_code, reason = "ONNX Runtime is given addresses")]
    pub(super) unsafe fn new(
        network: &Network,
        inputs: &[(&Tensor, &[usize])],
        output: (&Tensor, &[usize]),
        id: usize,
    ) -> Result<Self, ModelError> {
        let label = network.label();
        let (ports, _) = network.ports();
        for (port, (_, dims)) in ports.iter().zip(inputs) {
            port.check(label, dims)?;
        }
        let bridge = |(tensor, dims): (&Tensor, &[usize])| {
            // SAFETY: the caller's word is what is asked for.
            unsafe { Bridge::over(tensor, dims) }.map_err(|e| run_error(label, "making a tensor", &e))
        };
        let options = || -> ort::Result<RunOptions> {
            let mut options = RunOptions::new()?;
            // Who wants the result waits for it; the next kernel is behind it anyway.
            options.disable_device_sync()?;
            if network.captures() {
                options.set("gpu_graph_id", id.to_string())?;
            }
            Ok(options)
        };
        Ok(Self {
            inputs: inputs.iter().copied().map(bridge).collect::<Result<_, _>>()?,
            output: bridge(output)?,
            options: options().map_err(|e| run_error(label, "making options", &e))?,
        })
    }

    /// Runs the network. Where it runs on a card, it has not run when this returns.
    #[allow(unsafe_code, reason = "ort's own run allocates for every input and output of every call")]
    pub(super) fn run(&mut self, network: &Network) -> Result<(), ModelError> {
        let (inputs, outputs) = network.ports();
        let mut input_names = [ptr::null(); MAX_PORTS];
        let mut values = [ptr::null(); MAX_PORTS];
        for (at, (port, value)) in inputs.iter().zip(&self.inputs).enumerate() {
            (input_names[at], values[at]) = (port.name.as_ptr(), value.ptr());
        }
        let output_names = [outputs.first().map_or(ptr::null(), |port| port.name.as_ptr())];
        let mut output = [self.output.ptr_mut()];
        let _turn = network.session().turn();
        // SAFETY: names, values and options are alive and as many as told (at most MAX_PORTS, checked on load); whoever made the
        // values answers for the memory under them; the session is kept alive by the network, and Run may be called from several threads at
        // once; the output exists, so that ONNX Runtime makes none that somebody would have to free.
        let status = unsafe {
            (ort::api().Run)(
                network.session().ptr().cast_mut(),
                self.options.ptr(),
                input_names.as_ptr(),
                values.as_ptr(),
                self.inputs.len().min(inputs.len()),
                output_names.as_ptr(),
                1,
                output.as_mut_ptr(),
            )
        };
        // SAFETY: `status` was returned just now and is owned by nobody else.
        unsafe { ort::Error::result_from_status(status) }.map_err(|e| run_error(network.label(), "running", &e))
    }
}

/// The type of a network's tensor in a device's memory.
pub(super) fn dtype(label: &str, info: &TensorInfo) -> Result<DType, ModelError> {
    match info.dtype {
        graph::DType::F16 => Ok(DType::F16),
        graph::DType::F32 => Ok(DType::F32),
        graph::DType::I32 => Ok(DType::I32),
        graph::DType::I64 => Ok(DType::I64),
        graph::DType::Bf16 | graph::DType::Other(_) => {
            Err(ModelError::new(format!("{label}: the tensor {info} has a type that kernels do not have")))
        }
    }
}

/// Zeros for a network's tensor.
pub(super) fn zeros<Q: Queue>(queue: &Q, label: &str, info: &TensorInfo, dims: &[usize]) -> Result<Tensor, ModelError> {
    Ok(queue.zeros(dtype(label, info)?, dims)?)
}
