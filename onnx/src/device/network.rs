//! One network on tensors of a device.

use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::{self, ThreadId};

use livediffusion_kernels::gpu::{DType, Queue, Tensor};
use livediffusion_pipeline::model::ModelError;
use ort::AsPointer as _;
use ort::session::RunOptions;

use super::bridge::Bridge;
use crate::graph::{self, TensorInfo};
use crate::session::{MAX_PORTS, Network};

/// A call in so many is waited for, where ONNX Runtime keeps something for each that is not: one frame's time is not seen in 128.
const WAITED_FOR: u32 = 128;

/// The values of one call, and what it is told.
pub(super) struct Call {
    inputs: Vec<Bridge>,
    output: Bridge,
    options: RunOptions,
    /// For the call that is waited for, where there has to be one.
    waiting: Option<RunOptions>,
    calls: u32,
    captures: bool,
    /// The thread that captured the call as a CUDA graph: ONNX Runtime has a graph of its own for each.
    captured_by: Option<ThreadId>,
}

/// Graphs of a network at most. ONNX Runtime frees them with the session, and each keeps the memory that it was captured with: new
/// visitors, sizes and numbers of rows must not fill the card. A stream of four steps has eight, for each size.
const MOST_GRAPHS: u32 = 64;

/// What a call is told that is not to be captured.
const NOT_CAPTURED: i32 = -1;

/// The number of a CUDA graph. None is given twice in a process: a session launches what it captured under a number, on the memory that
/// it was captured with, whatever a later call under it brings.
fn next_graph() -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Call {
    /// # Safety
    /// As of [`Bridge::over`], for all of the tensors.
    #[allow(unsafe_code, reason = "ONNX Runtime is given addresses")]
    pub(super) unsafe fn new(
        network: &Network,
        inputs: &[(&Tensor, &[usize])],
        output: (&Tensor, &[usize]),
    ) -> Result<Self, ModelError> {
        let label = network.label();
        let (ports, _) = network.ports();
        for (port, (_, dims)) in ports.iter().zip(inputs) {
            port.check(label, dims)?;
        }
        let bridge = |(tensor, dims): (&Tensor, &[usize])| {
            // SAFETY: the caller's word is what is asked for.
            unsafe { Bridge::over(tensor, dims) }.map_err(|e| network.failed("making a tensor", &e))
        };
        let captures = network.captures() && network.takes_graph(MOST_GRAPHS);
        let options = || -> ort::Result<RunOptions> {
            let mut options = RunOptions::new()?;
            // Who wants the result waits for it; the next kernel is behind it anyway.
            options.disable_device_sync()?;
            if network.captures() {
                let number = if captures { next_graph() } else { NOT_CAPTURED };
                options.set("gpu_graph_id", number.to_string())?;
            }
            Ok(options)
        };
        let waiting = (network.keeps_staging() && !network.captures()).then(RunOptions::new).transpose();
        Ok(Self {
            inputs: inputs.iter().copied().map(bridge).collect::<Result<_, _>>()?,
            output: bridge(output)?,
            options: options().map_err(|e| network.failed("making options", &e))?,
            waiting: waiting.map_err(|e| network.failed("making options", &e))?,
            calls: 0,
            captures,
            captured_by: None,
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
        let this = thread::current().id();
        let captures = self.captures && self.captured_by != Some(this);
        self.calls = self.calls.wrapping_add(1);
        let waits = self.waiting.as_ref().filter(|_| self.calls.is_multiple_of(WAITED_FOR));
        let options = waits.unwrap_or(&self.options);
        let _turn = network.session().turn(captures);
        // SAFETY: names, values and options are alive and as many as told (at most MAX_PORTS, checked on load); whoever made the
        // values answers for the memory under them; the session is kept alive by the network, and it is our turn; the output
        // exists, so that ONNX Runtime makes none that somebody would have to free.
        let status = unsafe {
            (ort::api().Run)(
                network.session().ptr().cast_mut(),
                options.ptr(),
                input_names.as_ptr(),
                values.as_ptr(),
                self.inputs.len().min(inputs.len()),
                output_names.as_ptr(),
                1,
                output.as_mut_ptr(),
            )
        };
        // SAFETY: `status` was returned just now and is owned by nobody else.
        unsafe { ort::Error::result_from_status(status) }.map_err(|e| network.failed("running", &e))?;
        self.captured_by = self.captures.then_some(this);
        Ok(())
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
