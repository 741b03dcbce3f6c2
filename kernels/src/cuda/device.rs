//! One card, with the kernels on it.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, sys};

use crate::cuda::capture::NotCapturing;
use crate::cuda::compile::Image;
use crate::cuda::driver::{Driver, error};
use crate::cuda::memory::{DeviceMemory, PinnedMemory};
use crate::cuda::stream::Stream;
use crate::gpu::{DType, GpuError, Kernel, Limits, Tensor};

/// A card whose primary context, which ONNX Runtime uses too, is held.
#[derive(Debug)]
pub struct Card {
    context: Arc<CudaContext>,
    driver: Driver,
}

/// A card with the kernels loaded.
#[derive(Debug)]
pub struct Cuda {
    card: Card,
    functions: Vec<CudaFunction>,
    limits: Limits,
}

impl Card {
    /// The card of that number.
    #[allow(unsafe_code, reason = "event tracking is turned off")]
    pub fn open(ordinal: usize) -> Result<Self, GpuError> {
        let driver = Driver::find()?;
        if ordinal >= driver.devices() {
            let what = format!("there is no CUDA card {ordinal}: the driver sees {}", driver.devices());
            return Err(GpuError::missing(what, "see `nvidia-smi`"));
        }
        let context = CudaContext::new(ordinal).map_err(|e| error("opening the card", e))?;
        // SAFETY: cudarc's own slices, whose use it would track, are not made here: memory is `DeviceMemory`, freed only when the
        // card stands still, and streams are ordered by events of our own.
        unsafe { context.disable_event_tracking() };
        Ok(Self { context, driver })
    }

    /// Its compute capability.
    pub fn capability(&self) -> Result<(u32, u32), GpuError> {
        let (major, minor) =
            self.context.compute_capability().map_err(|e| error("asking for the compute capability", e))?;
        Ok((major as u32, minor as u32))
    }

    /// Its name.
    pub fn name(&self) -> Result<String, GpuError> {
        self.context.name().map_err(|e| error("asking for the card's name", e))
    }

    /// Where it is on the PCI bus, as NVIDIA's tools write it (`0000:65:00.0`): they count cards in another order than CUDA, and know
    /// nothing of `CUDA_VISIBLE_DEVICES`.
    pub fn bus_id(&self) -> Result<String, GpuError> {
        use sys::CUdevice_attribute_enum as Ask;
        let ask = |what| self.context.attribute(what).map_err(|e| error("asking where the card is", e));
        let (domain, bus, device) = (
            ask(Ask::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
            ask(Ask::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
            ask(Ask::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
        );
        Ok(format!("{domain:04x}:{bus:02x}:{device:02x}.0"))
    }

    /// The driver.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Bytes of its memory that are free, and all.
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        let _call = NotCapturing::wait();
        let (free, all) = self.context.mem_get_info().map_err(|e| error("asking for free memory", e))?;
        Ok((free as u64, all as u64))
    }

    /// Loads the kernels.
    pub fn with_kernels(self, image: Image) -> Result<Arc<Cuda>, GpuError> {
        use sys::CUdevice_attribute_enum as Ask;
        let _call = NotCapturing::wait();
        let ask = |what| self.context.attribute(what).map_err(|e| error("asking for the card's limits", e));
        let limits = Limits {
            multiprocessors: ask(Ask::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            threads_per_multiprocessor: ask(Ask::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)? as u32,
        };
        let module = self.context.load_module(image.into_ptx()).map_err(|e| error("loading the kernels", e))?;
        let function = |kernel: &Kernel| module.load_function(kernel.name()).map_err(|e| error(kernel.name(), e));
        let functions = Kernel::ALL.iter().map(function).collect::<Result<_, _>>()?;
        Ok(Arc::new(Cuda { card: self, functions, limits }))
    }
}

impl Cuda {
    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.card.context.ordinal()
    }

    /// A stream of its own, which waits for no other.
    pub fn stream(self: &Arc<Self>) -> Result<Stream, GpuError> {
        Stream::new(self)
    }

    /// Zeros in the card's memory.
    pub fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError> {
        let memory = DeviceMemory::zeros(&self.card.context, crate::gpu::bytes(dtype, shape))?;
        Ok(Tensor::device(memory, dtype, shape))
    }

    /// Zeros in pinned memory of the host, which is copied from and to while nobody waits.
    pub fn pinned(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError> {
        let memory = PinnedMemory::zeros(&self.card.context, crate::gpu::bytes(dtype, shape))?;
        Ok(Tensor::pinned(memory, dtype, shape))
    }

    pub(crate) fn context(&self) -> &Arc<CudaContext> {
        &self.card.context
    }

    pub(crate) fn function(&self, kernel: Kernel) -> &CudaFunction {
        &self.functions[kernel as usize]
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }
}
