//! A slot: everything that belongs to one frame between its admission and its exit.

use std::sync::Arc;

use livediffusion_kernels::History;

use crate::controlnet::ControlImage;
use crate::frame::FrameMeta;
use crate::model::Conditioning;
use crate::noise::NoiseSource;
use crate::plan::Plan;
use crate::stream_batch::Admission;

/// The two prompts that a frame is denoised under.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptPair {
    /// The prompt.
    pub prompt: Arc<Conditioning>,
    /// The negative prompt.
    pub negative: Arc<Conditioning>,
}

/// What becomes of the frame in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is denoised and decoded.
    Painted,
    /// The similarity filter skipped it: it travels without work and leaves as the picture before it, so that frames
    /// ahead of it go on and order and delay stay as they are.
    Skipped,
    /// A network gave NaN or infinity for it: it leaves as the picture before it.
    Failed,
}

/// A frame in flight, whose latents lie in `L`: in the host's memory, or on a device.
pub(crate) struct Slot<L = Latents> {
    pub(crate) meta: FrameMeta,
    pub(crate) fate: Fate,
    /// Frames admitted together share a number: they stand in the U-Net's batch in their own order.
    pub(crate) group: u64,
    /// Steps done; equal to the plan's length when the frame is ready to leave.
    pub(crate) step: usize,
    /// The plan that it was admitted with: a change of the t_index_list concerns later frames alone.
    pub(crate) plan: Arc<Plan>,
    pub(crate) noise: Arc<dyn NoiseSource>,
    pub(crate) prompts: Arc<PromptPair>,
    /// Whether `x0_ref` holds the negative prompt's x̂0.
    pub(crate) negative_known: bool,
    /// What a ControlNet is shown of it, where that lies in the host's memory.
    pub(crate) control: Option<Arc<ControlImage>>,
    /// Whether there is such a picture, wherever it lies.
    pub(crate) is_controlled: bool,
    pub(crate) latents: L,
}

/// Its tensors.
pub(crate) struct Latents {
    /// The latent at its current noise level; clean once ready.
    pub(crate) x: Vec<f32>,
    /// What R-CFG's virtual residual noise is measured against (paper Eq. 5): the frame's VAE latent, or the negative
    /// prompt's x̂0 after the first step of `initialize`.
    pub(crate) x0_ref: Vec<f32>,
    pub(crate) history: History,
}

impl<L> Slot<L> {
    /// A frame that is admitted now, as one of that group.
    pub(crate) fn admitted(meta: FrameMeta, fate: Fate, group: u64, admission: &Admission, latents: L) -> Self {
        let Admission { plan, noise, prompts } = admission.clone();
        let (control, is_controlled) = (None, false);
        Self {
            meta,
            fate,
            group,
            step: 0,
            plan,
            noise,
            prompts,
            negative_known: false,
            control,
            is_controlled,
            latents,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.step >= self.plan.len()
    }

    /// Whether the U-Net has work to do for it.
    pub(crate) fn needs_unet(&self) -> bool {
        self.fate == Fate::Painted && !self.is_ready()
    }
}
