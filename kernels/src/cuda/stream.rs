//! Streams: what is put into one is done in order, what is put into two may be done at once. Events order the two.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, result};

use crate::cuda::capture::NotCapturing;
use crate::cuda::device::Cuda;
use crate::cuda::driver::error;
use crate::gpu::{DType, GpuError, Kernel, Launch, Limits, Mark, Place, Queue, Shape, Tensor, View, ViewMut};

/// A stream of a card.
#[derive(Clone, Debug)]
pub struct Stream {
    cuda: Arc<Cuda>,
    stream: Arc<CudaStream>,
}

/// A place in a stream that others can wait for.
#[derive(Debug)]
pub struct Event(CudaEvent);

impl Stream {
    pub(crate) fn new(cuda: &Arc<Cuda>) -> Result<Self, GpuError> {
        let _call = NotCapturing::wait();
        let stream = cuda.context().new_stream().map_err(|e| error("making a stream", e))?;
        Ok(Self { cuda: Arc::clone(cuda), stream })
    }

    /// The card.
    pub fn cuda(&self) -> &Arc<Cuda> {
        &self.cuda
    }

    /// The driver's handle, for ONNX Runtime to put its own work into this stream. Valid as long as this is.
    pub fn handle(&self) -> *mut c_void {
        self.stream.cu_stream().cast()
    }

    /// Copies pinned memory of the host to the card. Returns at once; who writes into `from` waits until it is done.
    #[allow(unsafe_code, reason = "a copy that goes on after the call")]
    pub fn upload(&self, from: &Tensor, to: ViewMut<'_>) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        let to = to.into_view();
        let pinned = from.pinned_memory().ok_or_else(|| GpuError::misuse("a copy from memory that is not pinned"))?;
        let bytes = self.fits("upload", (from.view(), to))?;
        self.stream.wait(pinned.busy()).map_err(|e| error("ordering a copy", e))?;
        // SAFETY: the memory has at least that many bytes (`fits`) and is freed or written only after `busy`, recorded below.
        let bytes = unsafe { std::slice::from_raw_parts(pinned.address() as *const u8, bytes.min(pinned.bytes())) };
        self.bind()?;
        // SAFETY: `to` is borrowed memory of this card of the same length, freed only when the card stands still.
        unsafe { result::memcpy_htod_async(to.address(), bytes, self.stream.cu_stream()) }
            .map_err(|e| error("copying to the card", e))?;
        pinned.busy().record(&self.stream).map_err(|e| error("recording an event", e))
    }

    /// Copies from the card into pinned memory of the host. Returns at once; who reads `to` waits until it is done.
    #[allow(unsafe_code, reason = "a copy that goes on after the call")]
    pub fn download(&self, from: View<'_>, to: &mut Tensor) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        let bytes = self.fits("download", (to.view(), from))?;
        let pinned = to.pinned_memory().ok_or_else(|| GpuError::misuse("a copy into memory that is not pinned"))?;
        self.stream.wait(pinned.busy()).map_err(|e| error("ordering a copy", e))?;
        // SAFETY: as in `upload`; `to` is borrowed mutably, and whoever reads it later waits for `busy`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(pinned.address() as *mut u8, bytes.min(pinned.bytes())) };
        self.bind()?;
        // SAFETY: `from` is borrowed memory of this card of the same length, freed only when the card stands still.
        unsafe { result::memcpy_dtoh_async(bytes, from.address(), self.stream.cu_stream()) }
            .map_err(|e| error("copying from the card", e))?;
        pinned.busy().record(&self.stream).map_err(|e| error("recording an event", e))
    }

    /// Bytes of a copy between the host and this card.
    fn fits(&self, what: &str, (host, card): (View<'_>, View<'_>)) -> Result<usize, GpuError> {
        let same = host.dtype() == card.dtype() && host.len() == card.len();
        if same && card.place() == self.place() && host.place() == Place::Host {
            return Ok(host.len() * host.dtype().size());
        }
        Err(GpuError::misuse(format!("{what}: {host:?} and {card:?}")))
    }

    /// An event that nothing has been recorded in: whoever waits for it goes on at once.
    pub fn event(&self) -> Result<Event, GpuError> {
        use cudarc::driver::sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        let _call = NotCapturing::wait();
        let event = self.cuda.context().new_event(Some(CU_EVENT_BLOCKING_SYNC));
        event.map(Event).map_err(|e| error("making an event", e))
    }

    /// The event stands for all that was put into this stream so far.
    pub fn record(&self, event: &Event) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        event.0.record(&self.stream).map_err(|e| error("recording an event", e))
    }

    /// What is put into this stream from now on waits for the event; the caller does not.
    pub fn wait(&self, event: &Event) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        self.stream.wait(&event.0).map_err(|e| error("waiting for an event", e))
    }

    /// Waits until all of it is done.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        self.stream.synchronize().map_err(|e| error("waiting for a stream", e))
    }

    /// Bytes of a tensor of this card.
    fn bytes(&self, what: &str, view: View<'_>) -> Result<usize, GpuError> {
        if view.place() == self.place() {
            return Ok(view.len() * view.dtype().size());
        }
        Err(GpuError::misuse(format!("{what}: {view:?}")))
    }

    fn bind(&self) -> Result<(), GpuError> {
        self.cuda.context().bind_to_thread().map_err(|e| error("taking the context", e))
    }
}

impl Event {
    /// Waits for it.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        self.0.synchronize().map_err(|e| error("waiting for an event", e))
    }

    /// Milliseconds from this one to a later one, as the card's clock has it.
    pub fn ms_until(&self, later: &Self) -> Result<f32, GpuError> {
        let _call = NotCapturing::wait();
        self.0.elapsed_ms(&later.0).map_err(|e| error("reading the card's clock", e))
    }
}

impl Queue for Stream {
    type Mark = Event;

    fn beside(&self) -> Result<Self, GpuError> {
        self.cuda.stream()
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError> {
        self.cuda.zeros(dtype, shape)
    }

    fn pinned(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError> {
        self.cuda.pinned(dtype, shape)
    }

    fn upload(&self, from: &Tensor, to: ViewMut<'_>) -> Result<(), GpuError> {
        self.upload(from, to)
    }

    fn download(&self, from: View<'_>, to: &mut Tensor) -> Result<(), GpuError> {
        self.download(from, to)
    }

    #[allow(unsafe_code, reason = "a copy that goes on after the call")]
    fn copy(&self, from: View<'_>, to: ViewMut<'_>) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        let to = to.into_view();
        let bytes = self.bytes("copy", from)?;
        if self.bytes("copy", to)? != bytes || from.dtype() != to.dtype() {
            return Err(GpuError::misuse(format!("copy: {from:?} and {to:?}")));
        }
        self.bind()?;
        // SAFETY: both are borrowed memory of this card of that many bytes, `to` for nobody else, and are freed only when the card
        // stands still; what comes later in this stream comes after the copy.
        unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, self.stream.cu_stream()) }
            .map_err(|e| error("copying within the card", e))
    }

    #[allow(unsafe_code, reason = "memory that is written after the call")]
    fn clear(&self, to: ViewMut<'_>) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        let to = to.into_view();
        let bytes = self.bytes("clear", to)?;
        self.bind()?;
        // SAFETY: as in `copy`.
        unsafe { result::memset_d8_async(to.address(), 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| error("clearing memory", e))
    }

    fn mark(&self) -> Result<Event, GpuError> {
        self.event()
    }

    fn record(&self, mark: &Event) -> Result<(), GpuError> {
        self.record(mark)
    }

    fn wait(&self, mark: &Event) -> Result<(), GpuError> {
        self.wait(mark)
    }
}

impl Mark for Event {
    fn synchronize(&self) -> Result<(), GpuError> {
        self.synchronize()
    }

    fn ms_until(&self, later: &Self) -> Result<f32, GpuError> {
        self.ms_until(later)
    }
}

#[allow(unsafe_code, reason = "a launch hands raw addresses to a device")]
impl Launch for Stream {
    fn limits(&self) -> Limits {
        self.cuda.limits()
    }

    fn place(&self) -> Place {
        Place::Device(self.cuda.ordinal())
    }

    unsafe fn launch(&self, kernel: Kernel, shape: Shape, arguments: &mut [*mut c_void]) -> Result<(), GpuError> {
        let _call = NotCapturing::wait();
        self.bind()?;
        let (grid, block) = ((shape.blocks, shape.rows, 1), (shape.threads, 1, 1));
        let function = self.cuda.function(kernel).cu_function();
        // SAFETY: the function is of this card's module, which `cuda` keeps; the caller answers for the arguments.
        unsafe { result::launch_kernel(function, grid, block, 0, self.stream.cu_stream(), arguments) }
            .map_err(|e| error(kernel.name(), e))
    }
}
