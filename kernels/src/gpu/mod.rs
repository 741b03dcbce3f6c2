//! Tensors on a device, and the kernels that work on them.
//!
//! [`calls`] has a function for each kernel: it checks shapes and types, and hands the arguments to whatever [`Launch`]es. That
//! is a CUDA stream ([`cuda`](crate::cuda)), or in tests the same source compiled for the host, so that everything but the
//! GPU itself is run there.

mod arguments;
pub mod calls;
mod error;
mod launch;
mod overlap;
mod queue;
pub mod schedule;
mod source;
mod tensor;

pub use arguments::MAX_SLOTS;
pub use error::{GpuError, GpuErrorKind};
pub use launch::{Kernel, Launch, Limits, Shape};
pub use overlap::{Collected, Overlap, Queues, Work};
pub use queue::{Mark, Queue};
pub use source::{OPTIONS, SOURCE};
pub(crate) use tensor::bytes;
pub use tensor::{DType, Element, Place, Tensor, View, ViewMut};
