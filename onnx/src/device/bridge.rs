//! A tensor of ours as a value of ONNX Runtime's.

use half::f16;
use livediffusion_kernels::gpu::{DType, Place, Tensor};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};

use ort::value::{DynValueRefMut, Shape, TensorRefMut};
use ort::{AsPointer as _, sys};

/// A value over the memory of a tensor, of which it may show the first part alone.
pub(super) struct Bridge(DynValueRefMut<'static>);

impl Bridge {
    /// `tensor` under the shape `dims`, which must not have more values than it.
    ///
    /// # Safety
    /// The tensor lives as long as the value. While a call on the value runs, which on a card is longer than the call takes,
    /// nobody touches the tensor but through the queue that the call's work is put into.
    #[allow(unsafe_code, reason = "ONNX Runtime is given an address")]
    pub(super) unsafe fn over(tensor: &Tensor, dims: &[usize]) -> ort::Result<Self> {
        let count: usize = dims.iter().product();
        if count > tensor.len() {
            return Err(ort::Error::new(format!("a tensor of {} values is no {dims:?}", tensor.len())));
        }
        let (device, number) = match tensor.place() {
            Place::Host => (AllocationDevice::CPU, 0),
            Place::Device(number) => (AllocationDevice::CUDA, number as i32),
        };
        let info = MemoryInfo::new(device, number, AllocatorType::Device, MemoryType::Default)?;
        let shape = Shape::new(dims.iter().map(|&side| side as i64));
        let address = tensor.address() as *mut std::ffi::c_void;
        // SAFETY: the memory is in the place that `info` names and has at least as many values of the type as the shape says
        // (checked above), at an address that does not change; the caller answers for how long.
        let value = unsafe {
            match tensor.dtype() {
                DType::F16 => TensorRefMut::<f16>::from_raw(info, address, shape)?.into_dyn(),
                DType::F32 => TensorRefMut::<f32>::from_raw(info, address, shape)?.into_dyn(),
                DType::I32 => TensorRefMut::<i32>::from_raw(info, address, shape)?.into_dyn(),
                DType::I64 => TensorRefMut::<i64>::from_raw(info, address, shape)?.into_dyn(),
                other => return Err(ort::Error::new(format!("networks take no {other}"))),
            }
        };
        Ok(Self(value))
    }

    /// As an input.
    pub(super) fn ptr(&self) -> *const sys::OrtValue {
        self.0.ptr()
    }

    /// As an output.
    pub(super) fn ptr_mut(&mut self) -> *mut sys::OrtValue {
        self.0.ptr().cast_mut()
    }
}
