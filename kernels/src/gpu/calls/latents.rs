//! What happens to latents between the networks.

use crate::advance::{MAX_HISTORY, StepCoefficients};
use crate::gpu::arguments::{BatchArguments, SlotArguments};
use crate::gpu::calls::{by_type, check, launch, shape};
use crate::gpu::error::GpuError;
use crate::gpu::launch::{Kernel, Launch, Shape};
use crate::gpu::queue::Queue;
use crate::gpu::tensor::{DType, Tensor, View, ViewMut};

/// [`admit`](crate::admit) of what the encoder gave, in f32 or f16: `latent` becomes (given − shift) · scale, and `x`
/// alpha · latent + sigma · noise.
pub fn admit(
    queue: &impl Launch,
    (alpha, sigma): (f32, f32),
    (shift, scale): (f32, f32),
    given: View<'_>,
    noise: View<'_>,
    latent: ViewMut<'_>,
    x: ViewMut<'_>,
) -> Result<(), GpuError> {
    let (len, dtype) = (given.len(), given.dtype());
    let kernel = by_type("latent as given", dtype, Kernel::AdmitF32, Kernel::AdmitF16)?;
    let given = check(queue, "latent as given", given, dtype, len)?;
    let noise = check(queue, "noise", noise, DType::F32, len)?;
    let latent = check(queue, "latent", latent.into_view(), DType::F32, len)?;
    let x = check(queue, "x", x.into_view(), DType::F32, len)?;
    let (count, shape) = (len as u64, shape(len, 4, queue.limits()));
    launch!(queue, kernel, shape, alpha, sigma, shift, scale, given, noise, latent, x, count)
}

/// [`sample_posterior`](crate::sample_posterior) of moments in f32 or f16, both of one type.
pub fn posterior(
    queue: &impl Launch,
    mean: View<'_>,
    log_variance: View<'_>,
    noise: View<'_>,
    out: ViewMut<'_>,
) -> Result<(), GpuError> {
    let (len, dtype) = (mean.len(), mean.dtype());
    let kernel = by_type("mean", dtype, Kernel::PosteriorF32, Kernel::PosteriorF16)?;
    let mean = check(queue, "mean", mean, dtype, len)?;
    let log_variance = check(queue, "log-variance", log_variance, dtype, len)?;
    let noise = check(queue, "noise", noise, DType::F32, len)?;
    let out = check(queue, "sample", out.into_view(), DType::F32, len)?;
    let (count, shape) = (len as u64, shape(len, 4, queue.limits()));
    launch!(queue, kernel, shape, mean, log_variance, noise, out, count)
}

/// [`unscale`](crate::unscale) into f32 or f16.
pub fn unscale(
    queue: &impl Launch,
    (scale, shift): (f32, f32),
    latent: View<'_>,
    out: ViewMut<'_>,
) -> Result<(), GpuError> {
    let (len, out) = (latent.len(), out.into_view());
    let dtype = out.dtype();
    let kernel = by_type("latent for the decoder", dtype, Kernel::UnscaleF32, Kernel::UnscaleF16)?;
    let latent = check(queue, "latent", latent, DType::F32, len)?;
    let out = check(queue, "latent for the decoder", out, dtype, len)?;
    let (count, shape) = (len as u64, shape(len, 16 / dtype.size(), queue.limits()));
    launch!(queue, kernel, shape, scale, shift, latent, out, count)
}

/// [`blend`](crate::blend).
pub fn blend(queue: &impl Launch, weight: f32, other: View<'_>, x: ViewMut<'_>) -> Result<(), GpuError> {
    let len = other.len();
    let other = check(queue, "other", other, DType::F32, len)?;
    let x = check(queue, "x", x.into_view(), DType::F32, len)?;
    let (count, shape) = (len as u64, shape(len, 4, queue.limits()));
    launch!(queue, Kernel::Blend, shape, weight, other, x, count)
}

/// [`f16_to_f32`](crate::f16_to_f32).
pub fn widen(queue: &impl Launch, from: View<'_>, to: ViewMut<'_>) -> Result<(), GpuError> {
    convert(queue, Kernel::Widen, (from, DType::F16), (to, DType::F32))
}

/// [`f32_to_f16`](crate::f32_to_f16).
pub fn narrow(queue: &impl Launch, from: View<'_>, to: ViewMut<'_>) -> Result<(), GpuError> {
    convert(queue, Kernel::Narrow, (from, DType::F32), (to, DType::F16))
}

fn convert(
    queue: &impl Launch,
    kernel: Kernel,
    (from, from_type): (View<'_>, DType),
    (to, to_type): (ViewMut<'_>, DType),
) -> Result<(), GpuError> {
    let len = from.len();
    let from = check(queue, "from", from, from_type, len)?;
    let to = check(queue, "to", to.into_view(), to_type, len)?;
    let count = len as u64;
    launch!(queue, kernel, shape(len, 8, queue.limits()), from, to, count)
}

/// A slot's solver history on the device: as [`History`](crate::History).
#[derive(Debug)]
pub struct Ring {
    entries: Tensor,
    capacity: usize,
    newest: usize,
}

impl Ring {
    /// Over `entries`, f32 and zero, [capacity, …].
    pub fn new(entries: Tensor) -> Result<Self, GpuError> {
        let capacity = entries.shape().first().copied().unwrap_or(0);
        if capacity > MAX_HISTORY || capacity == 0 || entries.dtype() != DType::F32 {
            return Err(GpuError::misuse(format!("a history of {entries:?}")));
        }
        Ok(Self { entries, capacity, newest: 0 })
    }

    /// Entries kept.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all of them, for another frame.
    pub fn reset<Q: Queue>(&mut self, queue: &Q) -> Result<(), GpuError> {
        self.newest = 0;
        queue.clear(self.entries.view_mut())
    }
}

/// How the guided noise comes about: as [`Guidance`](crate::Guidance).
#[derive(Debug)]
pub enum SlotGuidance<'a> {
    /// m = e.
    None,
    /// Classifier-free guidance.
    Full {
        /// Raw prediction under the negative prompt.
        negative: View<'a>,
        /// γ.
        scale: f32,
    },
    /// Residual CFG (paper Eq. 5).
    Residual {
        /// The latent that the residual noise is measured against.
        reference: View<'a>,
        /// γ.
        scale: f32,
        /// δ.
        delta: f32,
    },
    /// First step of *initialize*.
    Initialize {
        /// Raw prediction under the negative prompt.
        negative: View<'a>,
        /// Receives the negative prompt's x̂0.
        reference: ViewMut<'a>,
        /// γ.
        scale: f32,
        /// δ.
        delta: f32,
    },
}

/// One slot of a stream batch, to be advanced.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The solver's row.
    pub step: StepCoefficients,
    /// How it is guided.
    pub guidance: SlotGuidance<'a>,
    /// The network's raw output for the prompt, f32 or f16; the same type in all slots.
    pub prediction: View<'a>,
    /// Noise of the step that the latent goes to; not needed where `next_z` is 0.
    pub noise: Option<View<'a>>,
    /// What the solver remembers; `None` for those of one step.
    pub history: Option<&'a mut Ring>,
    /// The latent, f32.
    pub x: ViewMut<'a>,
}

/// [`advance`](crate::advance) of all slots, in one launch for each [`MAX_SLOTS`](crate::gpu::MAX_SLOTS) of them. Allocates nothing. After an error some
/// of them may have been advanced.
pub fn advance<'a>(queue: &impl Launch, slots: impl IntoIterator<Item = Slot<'a>>) -> Result<(), GpuError> {
    let mut slots = slots.into_iter().peekable();
    let Some(first) = slots.peek() else {
        return Ok(());
    };
    let (len, dtype) = (first.x.as_view().len(), first.prediction.dtype());
    let kernel = by_type("prediction", dtype, Kernel::AdvanceF32, Kernel::AdvanceF16)?;
    let count = len as u64;
    while slots.peek().is_some() {
        let mut batch = BatchArguments::default();
        let mut rows = 0;
        for (arguments, mut slot) in batch.slots.iter_mut().zip(slots.by_ref()) {
            *arguments = slot.arguments(queue, (dtype, len))?;
            if let Some(ring) = slot.history.as_mut() {
                // As the kernel will have left it.
                ring.newest = (ring.newest + ring.capacity - 1) % ring.capacity;
            }
            rows += 1;
        }
        let shape = Shape::for_items(len.div_ceil(4), rows, queue.limits());
        launch!(queue, kernel, shape, batch, count)?;
    }
    Ok(())
}

impl Slot<'_> {
    fn arguments(&self, queue: &impl Launch, (dtype, len): (DType, usize)) -> Result<SlotArguments, GpuError> {
        let latent = |what, view| check(queue, what, view, DType::F32, len);
        let raw = |what, view| check(queue, what, view, dtype, len);
        let mut arguments = SlotArguments {
            step: self.step,
            prediction: raw("prediction", self.prediction)?,
            x: latent("x", self.x.as_view())?,
            ..SlotArguments::default()
        };
        match &self.guidance {
            SlotGuidance::None => {}
            SlotGuidance::Full { negative, scale } => {
                (arguments.guidance, arguments.scale) = (1, *scale);
                arguments.negative = raw("negative prediction", *negative)?;
            }
            SlotGuidance::Residual { reference, scale, delta } => {
                (arguments.guidance, arguments.scale, arguments.delta) = (2, *scale, *delta);
                arguments.reference = latent("reference", *reference)?;
            }
            SlotGuidance::Initialize { negative, reference, scale, delta } => {
                (arguments.guidance, arguments.scale, arguments.delta) = (3, *scale, *delta);
                arguments.negative = raw("negative prediction", *negative)?;
                arguments.reference = latent("reference", reference.as_view())?;
            }
        }
        match self.noise {
            Some(noise) => arguments.noise = latent("noise", noise)?,
            None if self.step.next_z != 0.0 => return Err(GpuError::misuse("a step with noise, and none given")),
            None => {}
        }
        if let Some(ring) = &self.history {
            let entries = ring.entries.view();
            arguments.history = check(queue, "history", entries, DType::F32, ring.capacity * len)?;
            (arguments.capacity, arguments.newest) = (ring.capacity as u32, ring.newest as u32);
        }
        Ok(arguments)
    }
}
