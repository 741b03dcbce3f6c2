//! One network on ONNX Runtime, with fixed tensors per shape.
//!
//! A frame must not allocate: tensors are made when a shape is first seen and kept; afterwards a call writes into them,
//! runs, and reads from them. Outside everything is f32; a network's own f16, bf16, i32 or i64 is converted at the edge.

use std::borrow::Cow;
use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use livediffusion_pipeline::model::ModelError;
use ort::AsPointer as _;
use ort::memory::Allocator;
use ort::session::RunOptions;
use ort::value::DynTensor;

use crate::commit::{Committed, commit};
use crate::device::Paddings;
use crate::error::{OnnxError, run_error};
use crate::exclusive::TurnSession;
use crate::graph::{DType, Dim, TensorInfo};
use crate::provider::{Chosen, Provider, SessionSettings};
use crate::runtime::Runtime;
use crate::values::{element, read_values, write_ids, write_values};

/// Shapes kept per network. A stream needs one or two (a guidance change, a flush); each further one costs its tensors.
pub(crate) const MAX_SHAPES: usize = 8;

/// Inputs or outputs of one network; SDXL's U-Net with a ControlNet takes seven, and eight sinusoids.
pub(crate) const MAX_PORTS: usize = 16;

/// Where a network's graph comes from.
#[derive(Clone, Copy)]
pub(crate) enum Model<'a> {
    /// A file.
    File(&'a Path),
    /// An edited copy of the file at that path.
    Edited(&'a Path, &'a [u8]),
}

impl<'a> Model<'a> {
    /// The file that it is or was.
    pub(crate) fn path(&self) -> &'a Path {
        let (Self::File(path) | Self::Edited(path, _)) = *self;
        path
    }

    /// Its bytes, read where they are not in memory yet.
    pub(crate) fn bytes(&self) -> Result<Cow<'a, [u8]>, OnnxError> {
        match *self {
            Self::Edited(_, bytes) => Ok(Cow::Borrowed(bytes)),
            Self::File(path) => std::fs::read(path).map(Cow::Owned).map_err(|error| {
                OnnxError::failed(format!("{}: {error}", path.display())).hint("copy or export it anew")
            }),
        }
    }
}

/// A session, the inputs and outputs of it that are used, and their tensors. The session (weights, compiled code) may be
/// shared with other networks; the tensors are this one's own.
pub(crate) struct Network {
    label: &'static str,
    inputs: Arc<[Port]>,
    outputs: Arc<[Port]>,
    /// Before the session: fields are dropped in this order, and what a device holds for a session goes before it.
    shapes: Vec<Tensors>,
    session: Arc<TurnSession>,
    /// What every call is told; `None` for nothing.
    options: Option<Arc<RunOptions>>,
    /// Whether ONNX Runtime keeps memory for every call that it is told not to wait for.
    keeps_staging: bool,
    /// Where every call of another shape than the one before has to be planned anew: the rows that calls are to have.
    paddings: Option<Arc<Paddings>>,
    /// CUDA graphs that calls of it and of its forks were given.
    graphs: Arc<AtomicU32>,
    calls: u64,
}

pub(crate) struct Port {
    pub(crate) name: CString,
    pub(crate) info: TensorInfo,
}

struct Tensors {
    input_dims: Vec<Vec<usize>>,
    inputs: Vec<DynTensor>,
    outputs: Vec<DynTensor>,
    last_call: u64,
}

/// Tensors of one shape, as found by [`Network::bind`].
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// Below [`MAX_SHAPES`].
    pub(crate) index: usize,
    /// Whether the tensors were made just now: nothing written earlier is in them.
    pub(crate) fresh: bool,
}

impl Network {
    /// Makes the session. `inputs` are all inputs of the graph, `outputs` those wanted.
    pub(crate) fn load(
        runtime: &Runtime,
        label: &'static str,
        model: &Model<'_>,
        (inputs, outputs): (&[&TensorInfo], &[&TensorInfo]),
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        Self::load_for(runtime, label, model, (inputs, outputs, &[]), chosen, settings)
    }

    /// As [`load`](Self::load), where some sides of the inputs are the same in every call: by the names that the graph gives them.
    /// On a device ONNX Runtime then reckons with shapes once, at the load, in place of every call, which would be waited for; a CPU does it
    /// on the way.
    pub(crate) fn load_for(
        runtime: &Runtime,
        label: &'static str,
        model: &Model<'_>,
        (inputs, outputs, sides): (&[&TensorInfo], &[&TensorInfo], &[(String, i64)]),
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let sides = if chosen.provider.is_on_device(settings.openvino) { sides } else { &[] };
        let Committed { session, options } = commit(runtime, label, (model, inputs, sides), chosen, settings)?;
        let on_cuda = matches!(chosen.provider, Provider::Cuda | Provider::TensorRt);
        let ports =
            |infos: &[&TensorInfo]| infos.iter().map(|&info| Port::new(info)).collect::<Result<Arc<[Port]>, _>>();
        let (inputs, outputs) = (ports(inputs)?, ports(outputs)?);
        if inputs.len().max(outputs.len()) > MAX_PORTS {
            return Err(OnnxError::invalid(format!("{}: more than {MAX_PORTS} inputs", model.path().display())));
        }
        let session = Arc::new(session);
        let keeps_staging = on_cuda && runtime.is_before(1, 27);
        // What is captured is launched as it was planned.
        let plans_by_shape = chosen.provider == Provider::Cuda && options.is_none();
        let paddings = plans_by_shape.then(Arc::default);
        Ok(Self {
            keeps_staging,
            paddings,
            graphs: Arc::default(),
            label,
            session,
            inputs,
            outputs,
            shapes: Vec::with_capacity(MAX_SHAPES),
            options,
            calls: 0,
        })
    }

    /// Another network on the same session, with tensors of its own: both may run at once.
    pub(crate) fn fork(&self) -> Self {
        Self {
            label: self.label,
            session: Arc::clone(&self.session),
            inputs: Arc::clone(&self.inputs),
            outputs: Arc::clone(&self.outputs),
            shapes: Vec::with_capacity(MAX_SHAPES),
            options: self.options.clone(),
            keeps_staging: self.keeps_staging,
            paddings: self.paddings.clone(),
            graphs: Arc::clone(&self.graphs),
            calls: 0,
        }
    }

    /// The rows of calls, where one of another shape than the one before is dear: ONNX Runtime's convolutions on CUDA remember the plan of
    /// one shape.
    pub(crate) fn paddings(&self) -> Option<&Arc<Paddings>> {
        self.paddings.as_ref()
    }

    /// Whether there may be one more CUDA graph of this session. Says once if there may not.
    pub(crate) fn takes_graph(&self, most: u32) -> bool {
        let before = self.graphs.fetch_add(1, Ordering::Relaxed);
        if before == most {
            tracing::warn!(
                "the {} has {most} CUDA graphs, which is as many as it gets: further calls run without",
                self.label
            );
        }
        before < most
    }

    /// Whether a call now and then has to be waited for: ONNX Runtime before 1.27 frees the pinned memory through which it hands lists
    /// to kernels only at the end of a call that is (31 MB after 4000 calls of a tiny U-Net).
    pub(crate) fn keeps_staging(&self) -> bool {
        self.keeps_staging
    }

    /// Its session, for calls on tensors that are not its own.
    pub(crate) fn session(&self) -> &TurnSession {
        &self.session
    }

    /// ONNX Runtime's error from doing something with it.
    pub(crate) fn failed(&self, doing: &str, error: &ort::Error) -> ModelError {
        run_error(self.label, self.session.is_on_card(), doing, error)
    }

    /// Its name in messages.
    pub(crate) fn label(&self) -> &'static str {
        self.label
    }

    /// Inputs and outputs.
    pub(crate) fn ports(&self) -> (&Arc<[Port]>, &Arc<[Port]>) {
        (&self.inputs, &self.outputs)
    }

    /// Whether the session captures CUDA graphs.
    pub(crate) fn captures(&self) -> bool {
        self.options.is_some()
    }

    /// Width of a [rows, width] output as ONNX Runtime infers it.
    pub(crate) fn output_width(&self, port: usize) -> Option<usize> {
        match self.session.outputs().get(port)?.dtype().tensor_shape()?[..] {
            [_, width] => usize::try_from(width).ok(),
            _ => None,
        }
    }

    /// Finds or makes the tensors for a call with inputs of these shapes. The output shapes follow from them.
    pub(crate) fn bind(&mut self, inputs: &[&[usize]], outputs: &[&[usize]]) -> Result<Bound, ModelError> {
        self.calls += 1;
        let same = |t: &Tensors| t.input_dims.iter().zip(inputs).all(|(have, want)| have == want);
        if let Some(index) = self.shapes.iter().position(same) {
            self.shapes[index].last_call = self.calls;
            return Ok(Bound { index, fresh: false });
        }
        for (port, dims) in self.inputs.iter().zip(inputs) {
            port.check(self.label, dims)?;
        }
        let tensors = Tensors {
            input_dims: inputs.iter().map(|dims| dims.to_vec()).collect(),
            inputs: self.tensors(&self.inputs, inputs)?,
            outputs: self.tensors(&self.outputs, outputs)?,
            last_call: self.calls,
        };
        if self.shapes.len() < MAX_SHAPES {
            self.shapes.push(tensors);
            return Ok(Bound { index: self.shapes.len() - 1, fresh: true });
        }
        let oldest = (0..MAX_SHAPES).min_by_key(|&i| self.shapes[i].last_call).unwrap_or(0);
        self.shapes[oldest] = tensors;
        Ok(Bound { index: oldest, fresh: true })
    }

    /// Writes `values` into input `port`, from element `at` on.
    pub(crate) fn write(&mut self, bound: Bound, port: usize, at: usize, values: &[f32]) -> Result<(), ModelError> {
        let tensor = &mut self.shapes[bound.index].inputs[port];
        write_values(tensor, at, values).map_err(|e| self.tensor_error("writing", &self.inputs[port], &e))
    }

    /// Writes token ids into input `port`.
    pub(crate) fn write_ids(&mut self, bound: Bound, port: usize, ids: &[u32]) -> Result<(), ModelError> {
        let tensor = &mut self.shapes[bound.index].inputs[port];
        write_ids(tensor, ids).map_err(|e| self.tensor_error("writing", &self.inputs[port], &e))
    }

    /// Reads output `port`.
    pub(crate) fn read(&self, bound: Bound, port: usize, values: &mut [f32]) -> Result<(), ModelError> {
        let tensor = &self.shapes[bound.index].outputs[port];
        read_values(tensor, values).map_err(|e| self.tensor_error("reading", &self.outputs[port], &e))
    }

    /// Runs the network on the tensors.
    #[allow(unsafe_code, reason = "ort's own run allocates for every input and output of every call")]
    pub(crate) fn run(&mut self, bound: Bound) -> Result<(), ModelError> {
        let tensors = &mut self.shapes[bound.index];
        let mut input_names = [ptr::null(); MAX_PORTS];
        let mut inputs = [ptr::null(); MAX_PORTS];
        let mut output_names = [ptr::null(); MAX_PORTS];
        let mut outputs = [ptr::null_mut(); MAX_PORTS];
        for (i, (port, tensor)) in self.inputs.iter().zip(&tensors.inputs).enumerate() {
            (input_names[i], inputs[i]) = (port.name.as_ptr(), tensor.ptr());
        }
        for (i, (port, tensor)) in self.outputs.iter().zip(&mut tensors.outputs).enumerate() {
            (output_names[i], outputs[i]) = (port.name.as_ptr(), tensor.ptr_mut());
        }
        let options = self.options.as_ref().map_or(ptr::null(), |options| options.ptr());
        let _turn = self.session.turn(false);
        // SAFETY: the tensors are alive and borrowed by `&mut self`, so nobody else uses them during the call; the session
        // is kept alive by its Arc, and ONNX Runtime's Run may be called from several threads at once, or it is our turn; names and tensors are as
        // many as told (at most MAX_PORTS, checked on load); the options are alive or null, which is allowed;
        // every output tensor exists, so that ONNX Runtime makes none that somebody would have to free.
        let status = unsafe {
            (ort::api().Run)(
                self.session.ptr().cast_mut(),
                options,
                input_names.as_ptr(),
                inputs.as_ptr(),
                self.inputs.len(),
                output_names.as_ptr(),
                self.outputs.len(),
                outputs.as_mut_ptr(),
            )
        };
        // SAFETY: `status` was returned just now and is owned by nobody else.
        unsafe { ort::Error::result_from_status(status) }.map_err(|e| self.failed("running", &e))
    }

    fn tensors(&self, ports: &[Port], dims: &[&[usize]]) -> Result<Vec<DynTensor>, ModelError> {
        let make = |(port, dims): (&Port, &&[usize])| {
            let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
            DynTensor::new(&Allocator::default(), element(port.info.dtype), dims)
                .map_err(|e| self.tensor_error("making", port, &e))
        };
        ports.iter().zip(dims).map(make).collect()
    }

    fn tensor_error(&self, doing: &str, port: &Port, error: &ort::Error) -> ModelError {
        self.failed(&format!("{doing} {}", port.info), error)
    }
}

impl Port {
    fn new(info: &TensorInfo) -> Result<Self, OnnxError> {
        let known = !matches!(info.dtype, DType::Other(_));
        let name = CString::new(info.name.as_str()).ok().filter(|_| known);
        name.map(|name| Self { name, info: info.clone() })
            .ok_or_else(|| OnnxError::invalid(format!("the tensor {info} has a type that is not supported")))
    }

    /// Compares a shape with what the graph fixes, since ONNX Runtime's own message names neither size nor network.
    pub(crate) fn check(&self, label: &str, dims: &[usize]) -> Result<(), ModelError> {
        let Some(known) = &self.info.dims else {
            return Ok(());
        };
        let fits = |(known, have): (&Dim, &usize)| !matches!(known, Dim::Fixed(side) if side != have);
        if known.len() == dims.len() && known.iter().zip(dims).all(fits) {
            return Ok(());
        }
        Err(ModelError::new(format!("{label}: it takes {}, not {dims:?}", self.info))
            .with_hint("the pack was exported for fixed sizes: use that size, or export with dynamic axes"))
    }
}
