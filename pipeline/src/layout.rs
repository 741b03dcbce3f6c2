//! Which slot is which row of the U-Net's batch, and how each is guided: the same wherever their latents lie.

use std::collections::VecDeque;
use std::sync::Arc;

use livediffusion_kernels::StepCoefficients;

use crate::model::{Branch, Row};
use crate::params::CfgType;
use crate::slot::Slot;
use crate::stream_batch::GuidanceSettings;

/// The rows of a call: those of the negative prompt first, then one for each slot; in both, groups from the newest to the
/// oldest, frames of a group in their order (the reference's layout).
#[derive(Default)]
pub(crate) struct Layout {
    /// The slot of each row of the prompt.
    pub(crate) order: Vec<usize>,
    /// The slot of each row of the negative prompt.
    pub(crate) negatives: Vec<usize>,
    pub(crate) rows: Vec<Row>,
}

/// How a slot is guided in a call: [`Guidance`](livediffusion_kernels::Guidance) without its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    None,
    Full,
    Residual,
    Initialize,
}

impl Layout {
    /// The call over all slots that the U-Net has work for.
    pub(crate) fn lay_out<L>(&mut self, slots: &VecDeque<Slot<L>>, guidance: GuidanceSettings) {
        let cfg = guidance.effective();
        self.order.clear();
        let mut end = slots.len();
        while end > 0 {
            let group = slots[end - 1].group;
            let start = slots.partition_point(|slot| slot.group < group);
            self.order.extend((start..end).filter(|&index| slots[index].needs_unet()));
            end = start;
        }
        self.negatives.clear();
        self.negatives.extend(self.order.iter().copied().filter(|&index| match cfg {
            CfgType::Full => true,
            CfgType::Initialize => slots[index].step == 0,
            CfgType::None | CfgType::SelfNegative => false,
        }));
        self.rows.clear();
        let negatives = self.negatives.iter().map(|&index| (index, Branch::Negative));
        let prompts = self.order.iter().map(|&index| (index, Branch::Prompt));
        for (index, branch) in negatives.chain(prompts) {
            let slot = &slots[index];
            let conditioning = match branch {
                Branch::Negative => &slot.prompts.negative,
                Branch::Prompt => &slot.prompts.prompt,
            };
            self.rows.push(Row {
                frame: slot.meta.id,
                step: slot.step,
                timestep: slot.plan.timesteps[slot.step],
                branch,
                conditioning: Arc::clone(conditioning),
                control: slot.control.clone(),
                control_scale: if slot.is_controlled { guidance.control } else { 0.0 },
            });
        }
    }

    /// The slots of all rows.
    pub(crate) fn indices(&self) -> impl Iterator<Item = usize> {
        self.negatives.iter().chain(&self.order).copied()
    }

    /// The row of the negative prompt that belongs to a slot.
    pub(crate) fn negative_of(&self, index: usize) -> Option<usize> {
        self.negatives.iter().position(|&other| other == index)
    }
}

impl<L> Slot<L> {
    /// How it is guided, and that it was.
    pub(crate) fn way(&mut self, cfg: CfgType, has_negative: bool) -> Way {
        match (cfg, has_negative) {
            (CfgType::Full, true) => Way::Full,
            (CfgType::Initialize, true) => {
                self.negative_known = true;
                Way::Initialize
            }
            // After `initialize` the frame's own latent is gone: a frame in flight goes on with what it has.
            (CfgType::SelfNegative, _) => Way::Residual,
            // A frame admitted before guidance was turned on has no negative prediction of its own: it ends unguided rather
            // than guided by something else.
            (CfgType::Initialize, false) if self.negative_known => Way::Residual,
            _ => Way::None,
        }
    }
}

/// The latent that the noise of a step would have made `x` from.
pub(crate) fn noise_origin(step: &StepCoefficients, x: &[f32], noise: &[f32], origin: &mut [f32]) {
    for ((origin, x), z) in origin.iter_mut().zip(x).zip(noise) {
        *origin = (x - step.sigma * z) / step.alpha;
    }
}
