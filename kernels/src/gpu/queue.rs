//! What a frame needs of a device beside kernels: memory, copies, and marks by which queues wait for each other.
//!
//! A CUDA stream is one ([`cuda::Stream`](crate::cuda::Stream)), and in tests the host behind the kernels' shim, so that
//! everything that is built on it runs where there is no GPU.

use crate::gpu::error::GpuError;
use crate::gpu::launch::Launch;
use crate::gpu::tensor::{DType, Tensor, View, ViewMut};

/// Work that is done in order. Everything but the making of things returns before it is done.
pub trait Queue: Launch + Clone + Send + 'static {
    /// A place in a queue.
    type Mark: Mark;

    /// Another queue of the same device, which waits for no other but by marks.
    fn beside(&self) -> Result<Self, GpuError>;

    /// Zeros in the memory that kernels reach. May wait for the device: for the start of a stream.
    fn zeros(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError>;

    /// Zeros in memory of the host that the device copies from and to by itself.
    fn pinned(&self, dtype: DType, shape: &[usize]) -> Result<Tensor, GpuError>;

    /// Copies from [`pinned`](Self::pinned) memory. Who writes into `from` waits until it is done.
    fn upload(&self, from: &Tensor, to: ViewMut<'_>) -> Result<(), GpuError>;

    /// Copies into [`pinned`](Self::pinned) memory. Who reads `to` waits until it is done.
    fn download(&self, from: View<'_>, to: &mut Tensor) -> Result<(), GpuError>;

    /// Copies within the device: as many values of the same type.
    fn copy(&self, from: View<'_>, to: ViewMut<'_>) -> Result<(), GpuError>;

    /// Makes all bits zero.
    fn clear(&self, to: ViewMut<'_>) -> Result<(), GpuError>;

    /// A mark that stands for nothing yet: whoever waits for it goes on at once.
    fn mark(&self) -> Result<Self::Mark, GpuError>;

    /// The mark stands for all that was put into this queue so far.
    fn record(&self, mark: &Self::Mark) -> Result<(), GpuError>;

    /// What is put into this queue from now on waits for the mark; the caller does not.
    fn wait(&self, mark: &Self::Mark) -> Result<(), GpuError>;
}

/// A place in a queue.
pub trait Mark: Send {
    /// Waits until the queue has come to it.
    fn synchronize(&self) -> Result<(), GpuError>;

    /// Milliseconds from this one to a later one, as the device's clock has it, once both have been reached.
    fn ms_until(&self, later: &Self) -> Result<f32, GpuError>;
}
