//! The stream batch (paper §3.1): frames at different denoising steps side by side in one U-Net call.
//!
//! The slots form a queue in order of admission. A [`tick`](StreamBatch::tick) makes one U-Net call over all slots that
//! have steps left and advances each by its own plan's row; frames leave at the front, in the order in which they came,
//! whatever the lengths of their plans.

use std::collections::VecDeque;
use std::sync::Arc;

use livediffusion_kernels::{Guidance, History, admit, advance, all_finite};

use crate::frame::{FrameMeta, LatentShape};
use crate::model::{Branch, DenoiseBatch, Denoiser, ModelError, Row};
use crate::noise::NoiseSource;
use crate::params::CfgType;
use crate::plan::Plan;
use crate::slot::{Fate, PromptPair, Slot};
use crate::stats::{Clock, Stage, Stats};

/// Guidance as it stands at this tick: it may change at any frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceSettings {
    /// Type.
    pub cfg: CfgType,
    /// γ.
    pub scale: f32,
    /// δ.
    pub delta: f32,
}

impl GuidanceSettings {
    /// The type that takes effect: γ ≤ 1 turns guidance off, and costs no extra rows.
    fn effective(self) -> CfgType {
        if self.scale > 1.0 { self.cfg } else { CfgType::None }
    }
}

/// What frames are admitted under.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) plan: Arc<Plan>,
    pub(crate) noise: Arc<dyn NoiseSource>,
    pub(crate) prompts: Arc<PromptPair>,
}

/// The slots in flight and the buffers of their U-Net calls. Allocates until it has seen its largest batch, then never.
pub(crate) struct StreamBatch {
    shape: LatentShape,
    slots: VecDeque<Slot>,
    spare: Vec<Slot>,
    groups: u64,
    order: Vec<usize>,
    negatives: Vec<usize>,
    rows: Vec<Row>,
    sample: Vec<f32>,
    prediction: Vec<f32>,
}

impl StreamBatch {
    pub(crate) fn new(shape: LatentShape) -> Self {
        Self {
            shape,
            slots: VecDeque::new(),
            spare: Vec::new(),
            groups: 0,
            order: Vec::new(),
            negatives: Vec::new(),
            rows: Vec::new(),
            sample: Vec::new(),
            prediction: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether some slot waits for the U-Net.
    pub(crate) fn has_unready(&self) -> bool {
        self.slots.iter().any(|slot| !slot.is_ready())
    }

    /// Starts a new group: the frames admitted until the next call belong together.
    pub(crate) fn begin_group(&mut self) {
        self.groups += 1;
    }

    /// Admits a frame's clean latent: x = A_0·latent + S_0·z_0.
    pub(crate) fn admit_latent(&mut self, meta: FrameMeta, admission: &Admission, latent: &[f32]) {
        let mut slot = self.take_slot(meta, Fate::Painted, admission);
        let first = &admission.plan.steps[0];
        let noise = admission.noise.step(0, meta.id);
        admit(first.alpha, first.sigma, latent, noise, &mut slot.x);
        slot.x0_ref.copy_from_slice(latent);
        self.slots.push_back(slot);
    }

    /// Admits a txt2img frame: x is fresh noise, and x0_ref the latent that z_0 would have made it from, so that the
    /// first virtual residual noise is z_0 (the reference's choice, as there is no input frame).
    pub(crate) fn admit_noise(&mut self, meta: FrameMeta, admission: &Admission) {
        let mut slot = self.take_slot(meta, Fate::Painted, admission);
        let first = &admission.plan.steps[0];
        admission.noise.initial(meta.id, &mut slot.x);
        let (alpha, sigma) = (first.alpha, first.sigma);
        for ((reference, x), z) in slot.x0_ref.iter_mut().zip(&slot.x).zip(admission.noise.step(0, meta.id)) {
            *reference = (x - sigma * z) / alpha;
        }
        self.slots.push_back(slot);
    }

    /// Admits a frame that costs no work and leaves as the picture before it.
    pub(crate) fn admit_without_work(&mut self, meta: FrameMeta, fate: Fate, admission: &Admission) {
        let slot = self.take_slot(meta, fate, admission);
        self.slots.push_back(slot);
    }

    fn take_slot(&mut self, meta: FrameMeta, fate: Fate, admission: &Admission) -> Slot {
        let len = self.shape.len();
        let Admission { plan, noise, prompts } = admission.clone();
        let mut slot = self.spare.pop().unwrap_or_else(|| Slot {
            meta,
            fate,
            group: 0,
            step: 0,
            plan: Arc::clone(&plan),
            noise: Arc::clone(&noise),
            prompts: Arc::clone(&prompts),
            x: vec![0.0; len],
            x0_ref: vec![0.0; len],
            negative_known: false,
            history: History::default(),
        });
        slot.history.reset(plan.history, len);
        Slot { meta, fate, group: self.groups, step: 0, plan, noise, prompts, negative_known: false, ..slot }
    }

    /// Gives every frame in flight new prompts.
    pub(crate) fn replace_prompts(&mut self, prompts: &Arc<PromptPair>) {
        for slot in &mut self.slots {
            slot.prompts = Arc::clone(prompts);
        }
    }

    /// The frame at the front, if it is ready to leave.
    pub(crate) fn pop_ready(&mut self) -> Option<Slot> {
        if self.slots.front().is_some_and(Slot::is_ready) { self.slots.pop_front() } else { None }
    }

    /// Gives up all frames in flight.
    pub(crate) fn clear(&mut self) {
        self.spare.extend(self.slots.drain(..));
    }

    /// Takes a slot back for a later frame.
    pub(crate) fn recycle(&mut self, slot: Slot) {
        self.spare.push(slot);
    }

    /// One U-Net call over all slots with steps left (none: no call), then each slot's step of its plan.
    pub(crate) fn tick(
        &mut self,
        denoiser: &mut dyn Denoiser,
        guidance: GuidanceSettings,
        clock: &dyn Clock,
        stats: &mut Stats,
    ) -> Result<(), ModelError> {
        // Before the U-Net's rows: a frame that fails in this call has had its step.
        for slot in &mut self.slots {
            if !slot.is_ready() && slot.fate != Fate::Painted {
                slot.step += 1;
            }
        }
        self.gather(guidance.effective());
        if !self.rows.is_empty() {
            let started = clock.now();
            let batch = DenoiseBatch { sample: &self.sample, shape: self.shape, rows: &self.rows };
            denoiser.denoise(&batch, &mut self.prediction)?;
            stats.unet_rows += self.rows.len() as u64;
            let denoised = clock.now();
            stats.record(Stage::Denoise, denoised.saturating_sub(started));
            self.advance(guidance, stats);
            stats.record(Stage::Advance, clock.now().saturating_sub(denoised));
        }
        Ok(())
    }

    /// Lays out the U-Net's batch: rows of the negative prompt first, then one row for each slot; in both, groups from
    /// the newest to the oldest, frames of a group in their order (the reference's layout).
    fn gather(&mut self, cfg: CfgType) {
        self.order.clear();
        let mut end = self.slots.len();
        while end > 0 {
            let group = self.slots[end - 1].group;
            let start = self.slots.partition_point(|slot| slot.group < group);
            self.order.extend((start..end).filter(|&index| self.slots[index].needs_unet()));
            end = start;
        }
        self.negatives.clear();
        let slots = &self.slots;
        self.negatives.extend(self.order.iter().copied().filter(|&index| match cfg {
            CfgType::Full => true,
            CfgType::Initialize => slots[index].step == 0,
            CfgType::None | CfgType::SelfNegative => false,
        }));
        self.rows.clear();
        self.sample.clear();
        let negatives = self.negatives.iter().map(|&index| (index, Branch::Negative));
        let prompts = self.order.iter().map(|&index| (index, Branch::Prompt));
        for (index, branch) in negatives.chain(prompts) {
            let slot = &self.slots[index];
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
            });
            self.sample.extend_from_slice(&slot.x);
        }
        self.prediction.resize(self.sample.len(), 0.0);
    }

    fn advance(&mut self, settings: GuidanceSettings, stats: &mut Stats) {
        let len = self.shape.len();
        let cfg = settings.effective();
        let GuidanceSettings { scale, delta, .. } = settings;
        let (negative_rows, prompt_rows) = self.prediction.split_at(self.negatives.len() * len);
        for (row, &index) in self.order.iter().enumerate() {
            let slot = &mut self.slots[index];
            let negative = self.negatives.iter().position(|&other| other == index);
            let negative = negative.map(|at| &negative_rows[at * len..(at + 1) * len]);
            let prediction = &prompt_rows[row * len..(row + 1) * len];
            let guidance = match (cfg, negative) {
                (CfgType::Full, Some(negative)) => Guidance::Full { negative, scale },
                (CfgType::Initialize, Some(negative)) => {
                    slot.negative_known = true;
                    Guidance::Initialize { negative, reference: &mut slot.x0_ref, scale, delta }
                }
                // After `initialize` the frame's own latent is gone: a frame in flight goes on with what it has.
                (CfgType::SelfNegative, _) => Guidance::Residual { reference: &slot.x0_ref, scale, delta },
                // A frame admitted before guidance was turned on has no negative prediction of its own: it ends
                // unguided rather than guided by something else.
                (CfgType::Initialize, None) if slot.negative_known => {
                    Guidance::Residual { reference: &slot.x0_ref, scale, delta }
                }
                _ => Guidance::None,
            };
            let step = &slot.plan.steps[slot.step];
            let noise = if step.next_z == 0.0 { &[] } else { slot.noise.step(slot.step + 1, slot.meta.id) };
            advance(step, guidance, prediction, noise, &mut slot.history, &mut slot.x);
            slot.step += 1;
            if !all_finite(&slot.x) {
                slot.fate = Fate::Failed;
                stats.frames_failed += 1;
            }
        }
    }
}
