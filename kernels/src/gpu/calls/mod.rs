//! A function for each kernel. They return when the kernel is launched, not when it has run.

mod latents;
mod pictures;

use std::ffi::c_void;

use crate::gpu::error::GpuError;
use crate::gpu::launch::{Kernel, Launch, Limits, Shape};
use crate::gpu::tensor::{DType, View};

pub use latents::{Ring, Slot, SlotGuidance, admit, advance, blend, narrow, posterior, unscale, widen};
pub use pictures::{DevicePicture, SimilarityScratch, chw_to_rgb8, picture_to_chw, similarity};

/// Launches, with the arguments in the order of the kernel's parameters.
macro_rules! launch {
    ($queue:expr, $kernel:expr, $shape:expr, $($argument:expr),+ $(,)?) => {{
        // In variables of their own, since the launch reads them through pointers.
        #[allow(unsafe_code, reason = "arguments travel as addresses")]
        // SAFETY: the caller of this macro matches the kernel's parameters and has checked its tensors with `check`; the
        // addresses come from views that are borrowed here.
        unsafe {
            $queue.launch($kernel, $shape, &mut [$(crate::gpu::calls::address_of(&$argument)),+])
        }
    }};
}
pub(crate) use launch;

fn address_of<T>(argument: &T) -> *mut c_void {
    std::ptr::from_ref(argument).cast_mut().cast()
}

/// Pieces of work for one thread in a row, of `count` values at `wide` each.
fn shape(count: usize, wide: usize, limits: Limits) -> Shape {
    Shape::for_items(count.div_ceil(wide), 1, limits)
}

/// Whether a tensor is what a kernel takes.
fn check(queue: &impl Launch, what: &str, view: View<'_>, dtype: DType, len: usize) -> Result<u64, GpuError> {
    if view.place() != queue.place() {
        return Err(GpuError::misuse(format!("{what}: in {:?}, not in {:?}", view.place(), queue.place())));
    }
    if view.dtype() != dtype || view.len() != len {
        let have = (view.len(), view.dtype());
        return Err(GpuError::misuse(format!("{what}: {} values of {}, not {len} of {dtype}", have.0, have.1)));
    }
    Ok(view.address())
}

/// The kernel for values in f32 or f16.
fn by_type(what: &str, dtype: DType, f32: Kernel, f16: Kernel) -> Result<Kernel, GpuError> {
    match dtype {
        DType::F32 => Ok(f32),
        DType::F16 => Ok(f16),
        other => Err(GpuError::misuse(format!("{what}: values of {other}"))),
    }
}
