//! Memory of a card, and memory of the host that a card copies from and to by itself.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, result, sys};

use crate::cuda::capture::NotCapturing;
use crate::cuda::driver::error;
use crate::gpu::GpuError;

/// Memory of a card.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
}

impl DeviceMemory {
    /// Zeros. Waits for the card: for the start of a stream, not for a frame.
    #[allow(unsafe_code, reason = "the driver's C interface")]
    pub(crate) fn zeros(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, GpuError> {
        let _call = NotCapturing::wait();
        context.bind_to_thread().map_err(|e| error("taking the context", e))?;
        let bytes = bytes.max(1);
        // SAFETY: allocating has no precondition but a current context; the result is freed below, or in `drop` alone.
        let address =
            unsafe { result::malloc_sync(bytes) }.map_err(|e| error(&format!("allocating {bytes} bytes"), e))?;
        // SAFETY: the memory was made just now, of that many bytes.
        let cleared = unsafe { result::memset_d8_sync(address, 0, bytes) };
        // In spite of its name it may return early, and streams of their own do not wait for it.
        if let Err(e) = cleared.and_then(|()| context.synchronize()) {
            // Not by `drop`, which would wait for its turn while this holds it.
            // SAFETY: nobody knows the address yet.
            let _ = unsafe { result::free_sync(address) };
            return Err(error("clearing memory", e));
        }
        Ok(Self { context: Arc::clone(context), address })
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn ordinal(&self) -> usize {
        self.context.ordinal()
    }
}

impl Drop for DeviceMemory {
    #[allow(unsafe_code, reason = "the driver's C interface")]
    fn drop(&mut self) {
        let _call = NotCapturing::wait();
        // What was launched may still use it. Errors have been or will be met elsewhere: nothing is to be done about them here.
        if self.context.synchronize().is_ok() {
            // SAFETY: the address is from `malloc_sync`, nothing on the card is running, and nobody frees it again.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Page-locked memory of the host.
#[derive(Debug)]
pub(crate) struct PinnedMemory {
    context: Arc<CudaContext>,
    start: u64,
    bytes: usize,
    /// Recorded behind the last copy from or to it.
    busy: CudaEvent,
}

impl PinnedMemory {
    /// Zeros.
    #[allow(unsafe_code, reason = "the driver's C interface")]
    pub(crate) fn zeros(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, GpuError> {
        let _call = NotCapturing::wait();
        context.bind_to_thread().map_err(|e| error("taking the context", e))?;
        let bytes = bytes.max(1);
        // It sleeps rather than spins until the copy is done: the processor has video to encode.
        let busy = context
            .new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))
            .map_err(|e| error("making an event", e))?;
        // SAFETY: allocating has no precondition but a current context; the result is freed in `drop` alone.
        let start = unsafe { result::malloc_host(bytes, 0) }
            .map_err(|e| error(&format!("locking {bytes} bytes of the host's memory"), e))?;
        // SAFETY: that many bytes were allocated just now, and nobody else knows them.
        unsafe { std::ptr::write_bytes(start.cast::<u8>(), 0, bytes) };
        Ok(Self { context: Arc::clone(context), start: start as u64, bytes, busy })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn busy(&self) -> &CudaEvent {
        &self.busy
    }

    /// The first byte, once no copy is on its way.
    pub(crate) fn settled(&self) -> Result<*const u8, GpuError> {
        let _call = NotCapturing::wait();
        self.busy.synchronize().map_err(|e| error("waiting for a copy", e))?;
        Ok(self.start as *const u8)
    }
}

impl Drop for PinnedMemory {
    #[allow(unsafe_code, reason = "the driver's C interface")]
    fn drop(&mut self) {
        let _call = NotCapturing::wait();
        if self.busy.synchronize().is_ok() && self.context.bind_to_thread().is_ok() {
            // SAFETY: the address is from `malloc_host`, no copy is on its way, and nobody frees it again.
            let _ = unsafe { result::free_host(self.start as *mut _) };
        }
    }
}
