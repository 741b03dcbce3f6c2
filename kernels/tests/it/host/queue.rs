//! The host as a queue: whatever is put into it is done at once, in memory that only the host has.

use livediffusion_kernels::gpu::{DType, GpuError, GpuErrorKind, Mark, Queue, Tensor, View, ViewMut};

use super::Host;

/// It has been reached when it is made.
pub(crate) struct Now;

fn copy(from: View<'_>, to: View<'_>) -> Result<(), GpuError> {
    if (from.len(), from.dtype()) != (to.len(), to.dtype()) {
        let what = format!("a copy of {from:?} to {to:?}");
        return Err(GpuError { kind: GpuErrorKind::Misuse, what, hint: None });
    }
    // SAFETY: both are borrowed memory of the host of that many bytes; a copy onto itself may overlap.
    unsafe {
        let bytes = from.len() * from.dtype().size();
        std::ptr::copy(from.address() as *const u8, to.address() as *mut u8, bytes);
    }
    Ok(())
}

impl Queue for Host {
    type Mark = Now;

    fn beside(&self) -> Result<Self, GpuError> {
        Ok(self.clone())
    }

    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError> {
        Ok(Tensor::host(dtype, shape))
    }

    fn pinned(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError> {
        Ok(Tensor::host(dtype, shape))
    }

    fn upload(&self, from: &Tensor, to: ViewMut<'_>) -> Result<(), GpuError> {
        copy(from.view(), to.as_view())
    }

    fn download(&self, from: View<'_>, to: &mut Tensor) -> Result<(), GpuError> {
        copy(from, to.view())
    }

    fn copy(&self, from: View<'_>, to: ViewMut<'_>) -> Result<(), GpuError> {
        copy(from, to.as_view())
    }

    fn clear(&self, to: ViewMut<'_>) -> Result<(), GpuError> {
        let to = to.as_view();
        // SAFETY: borrowed memory of the host of that many bytes, for nobody else.
        unsafe { std::ptr::write_bytes(to.address() as *mut u8, 0, to.len() * to.dtype().size()) };
        Ok(())
    }

    fn mark(&self) -> Result<Now, GpuError> {
        Ok(Now)
    }

    fn record(&self, _: &Now) -> Result<(), GpuError> {
        Ok(())
    }

    fn wait(&self, _: &Now) -> Result<(), GpuError> {
        Ok(())
    }
}

impl Mark for Now {
    fn synchronize(&self) -> Result<(), GpuError> {
        Ok(())
    }

    fn ms_until(&self, _: &Self) -> Result<f32, GpuError> {
        Ok(0.0)
    }
}
