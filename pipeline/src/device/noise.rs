//! Fixed noise in the device's memory.

use std::sync::Arc;

use livediffusion_kernels::gpu::{DType, GpuError, Queue, Tensor, View};

use crate::noise::NoiseSource;

/// The noise of every step: it is the same for all frames, so that it is copied once.
pub(super) struct DeviceNoise(Vec<Step>);

/// z of a step, and where the host writes it.
struct Step {
    noise: Tensor,
    staging: Tensor,
}

impl DeviceNoise {
    fn new<Q: Queue>(queue: &Q, steps: usize, len: usize) -> Result<Self, GpuError> {
        let step = |_| Ok(Step { noise: queue.zeros(DType::F32, &[len])?, staging: queue.pinned(DType::F32, &[len])? });
        (0..steps).map(step).collect::<Result<_, GpuError>>().map(Self)
    }

    /// Puts the copies into the queue, behind whatever reads what was there before.
    fn write<Q: Queue>(&mut self, queue: &Q, from: &dyn NoiseSource) -> Result<(), GpuError> {
        for (step, Step { noise, staging }) in self.0.iter_mut().enumerate() {
            staging.as_mut_slice::<f32>()?.copy_from_slice(from.step(step, 0));
            queue.upload(staging, noise.view_mut())?;
        }
        Ok(())
    }

    /// z of a step; `None` behind the last one, where nothing is added.
    pub(super) fn step(&self, step: usize) -> Option<View<'_>> {
        self.0.get(step).map(|step| step.noise.view())
    }
}

/// Noise that is used, and memory of noise that was. A transition between seeds brings another noise many times a second, and the device
/// stands still whenever memory is made or freed.
#[derive(Default)]
pub(super) struct NoiseStore(Vec<Arc<DeviceNoise>>);

/// Memory kept for later where nobody uses it: a transition needs one more than there are frames on their way.
const SPARE: usize = 8;

impl NoiseStore {
    /// Of `steps` steps, each for latents of `len` values. `queue` is where the work that reads it goes.
    pub(super) fn take<Q: Queue>(
        &mut self,
        queue: &Q,
        from: &dyn NoiseSource,
        steps: usize,
        len: usize,
    ) -> Result<Arc<DeviceNoise>, GpuError> {
        let mut spare = 0;
        self.0.retain(|noise| {
            let is_used = Arc::strong_count(noise) > 1;
            spare += usize::from(!is_used);
            is_used || (noise.0.len() == steps && spare <= SPARE)
        });
        let free = self.0.iter().position(|noise| Arc::strong_count(noise) == 1 && noise.0.len() == steps);
        let free = free.and_then(|at| Arc::into_inner(self.0.swap_remove(at)));
        let mut noise = free.map_or_else(|| DeviceNoise::new(queue, steps, len), Ok)?;
        noise.write(queue, from)?;
        let noise = Arc::new(noise);
        self.0.push(Arc::clone(&noise));
        Ok(noise)
    }
}
