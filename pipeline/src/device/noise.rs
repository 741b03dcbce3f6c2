//! Fixed noise in the device's memory.

use livediffusion_kernels::gpu::{DType, GpuError, Queue, Tensor, View};

use crate::noise::NoiseSource;

/// The noise of every step: it is the same for all frames, so that it is copied once.
pub(super) struct DeviceNoise(Vec<Tensor>);

impl DeviceNoise {
    /// Of `steps` steps, each for latents of `len` values.
    pub(super) fn new<Q: Queue>(
        queue: &Q,
        noise: &dyn NoiseSource,
        steps: usize,
        len: usize,
    ) -> Result<Self, GpuError> {
        let mut staging = queue.pinned(DType::F32, &[len])?;
        let mut tensors = Vec::with_capacity(steps);
        for step in 0..steps {
            staging.as_mut_slice::<f32>()?.copy_from_slice(noise.step(step, 0));
            let mut tensor = queue.zeros(DType::F32, &[len])?;
            queue.upload(&staging, tensor.view_mut())?;
            tensors.push(tensor);
        }
        Ok(Self(tensors))
    }

    /// z of a step; `None` behind the last one, where nothing is added.
    pub(super) fn step(&self, step: usize) -> Option<View<'_>> {
        self.0.get(step).map(Tensor::view)
    }
}
