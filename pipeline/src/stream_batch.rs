//! The stream batch (paper §3.1): frames at different denoising steps side by side in one U-Net call.
//!
//! The slots form a queue in order of admission. A [`tick`](StreamBatch::tick) makes one U-Net call over all slots that
//! have steps left and advances each by its own plan's row; frames leave at the front, in the order in which they came,
//! whatever the lengths of their plans.

use std::collections::VecDeque;
use std::sync::Arc;

use livediffusion_kernels::{Guidance, History, admit, advance, all_finite, blend};

use crate::controlnet::ControlImage;
use crate::frame::{FrameMeta, LatentShape, Size};
use crate::layout::{Layout, Way, noise_origin};
use crate::model::{DenoiseBatch, Denoiser, ModelError};
use crate::noise::NoiseSource;
use crate::params::CfgType;
use crate::plan::Plan;
use crate::slot::{Fate, Latents, PromptPair, Slot};
use crate::stats::{Clock, Stage, Stats};

/// Guidance and control as they stand at this tick: they may change at any frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceSettings {
    /// Type.
    pub cfg: CfgType,
    /// γ.
    pub scale: f32,
    /// δ.
    pub delta: f32,
    /// How strongly a ControlNet steers (`conditioning_scale`).
    pub control: f32,
}

impl GuidanceSettings {
    /// The type that takes effect: γ ≤ 1 turns guidance off, and costs no extra rows.
    pub(crate) fn effective(self) -> CfgType {
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
    spare: Vec<Latents>,
    spare_controls: Vec<Arc<ControlImage>>,
    /// Share of the last picture's latent in that of a frame, and that latent; empty before there is one.
    feedback: (f32, Vec<f32>),
    groups: u64,
    layout: Layout,
    sample: Vec<f32>,
    prediction: Vec<f32>,
}

impl StreamBatch {
    pub(crate) fn new(shape: LatentShape) -> Self {
        Self {
            shape,
            slots: VecDeque::new(),
            spare: Vec::new(),
            spare_controls: Vec::new(),
            feedback: (0.0, Vec::new()),
            groups: 0,
            layout: Layout::default(),
            sample: Vec::new(),
            prediction: Vec::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Steps left of each slot that has some.
    pub(crate) fn left(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.slots.iter().filter(|slot| slot.needs_unet()).map(|slot| slot.plan.len().saturating_sub(slot.step))
    }

    /// Whether some slot waits for the U-Net.
    pub(crate) fn has_unready(&self) -> bool {
        self.slots.iter().any(|slot| !slot.is_ready())
    }

    /// Starts a new group: the frames admitted until the next call belong together.
    pub(crate) fn begin_group(&mut self) {
        self.groups += 1;
    }

    /// A control image to write on, which nobody else has.
    pub(crate) fn take_control(&mut self, size: Size) -> Arc<ControlImage> {
        let spare = self.spare_controls.pop().filter(|image| Arc::strong_count(image) == 1);
        spare.unwrap_or_else(|| Arc::new(ControlImage::new(size)))
    }

    /// Takes a control image back for a later frame.
    pub(crate) fn recycle_control(&mut self, control: Option<Arc<ControlImage>>) {
        self.spare_controls.extend(control);
    }

    /// From here on frames have that share of the last picture. Without it none is kept: what was last long ago is not what is seen.
    pub(crate) fn set_feedback(&mut self, share: f32) {
        self.feedback.0 = share;
        if share == 0.0 {
            self.forget_last();
        }
    }

    /// The next frame has no last picture: what is before it is not seen before it, or broke.
    pub(crate) fn forget_last(&mut self) {
        self.feedback.1.clear();
    }

    /// Admits a frame's clean latent, into which that of the last picture is blended by its share: x = A_0·latent + S_0·z_0.
    pub(crate) fn admit_latent(
        &mut self,
        meta: FrameMeta,
        admission: &Admission,
        latent: &[f32],
        control: Option<Arc<ControlImage>>,
    ) {
        let mut slot = self.take_slot(meta, Fate::Painted, admission);
        (slot.is_controlled, slot.control) = (control.is_some(), control);
        let first = &admission.plan.steps[0];
        let noise = admission.noise.step(0, meta.id);
        let Latents { x, x0_ref, .. } = &mut slot.latents;
        x0_ref.copy_from_slice(latent);
        let (share, last) = &self.feedback;
        if !last.is_empty() {
            blend(*share, last, x0_ref);
        }
        admit(first.alpha, first.sigma, x0_ref, noise, x);
        self.slots.push_back(slot);
    }

    /// Admits a txt2img frame: x is fresh noise, and x0_ref the latent that z_0 would have made it from, so that the
    /// first virtual residual noise is z_0 (the reference's choice, as there is no input frame).
    pub(crate) fn admit_noise(&mut self, meta: FrameMeta, admission: &Admission) {
        let mut slot = self.take_slot(meta, Fate::Painted, admission);
        let first = &admission.plan.steps[0];
        let Latents { x, x0_ref, .. } = &mut slot.latents;
        admission.noise.initial(meta.id, x);
        noise_origin(first, x, admission.noise.step(0, meta.id), x0_ref);
        self.slots.push_back(slot);
    }

    /// Admits a frame that costs no work and leaves as the picture before it.
    pub(crate) fn admit_without_work(&mut self, meta: FrameMeta, fate: Fate, admission: &Admission) {
        let slot = self.take_slot(meta, fate, admission);
        self.slots.push_back(slot);
    }

    fn take_slot(&mut self, meta: FrameMeta, fate: Fate, admission: &Admission) -> Slot {
        let len = self.shape.len();
        let mut latents = self.spare.pop().unwrap_or_else(|| Latents {
            x: vec![0.0; len],
            x0_ref: vec![0.0; len],
            history: History::default(),
        });
        latents.history.reset(admission.plan.history, len);
        Slot::admitted(meta, fate, self.groups, admission, latents)
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
        while let Some(slot) = self.slots.pop_front() {
            self.recycle(slot);
        }
        self.forget_last();
    }

    /// Takes a slot back for a later frame.
    pub(crate) fn recycle(&mut self, slot: Slot) {
        let (share, last) = &mut self.feedback;
        if slot.fate != Fate::Skipped {
            last.clear();
        }
        if *share > 0.0 && slot.fate == Fate::Painted {
            last.extend_from_slice(&slot.latents.x);
        }
        self.spare.push(slot.latents);
        self.recycle_control(slot.control);
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
        self.gather(guidance);
        if !self.layout.rows.is_empty() {
            let started = clock.now();
            let batch = DenoiseBatch { sample: &self.sample, shape: self.shape, rows: &self.layout.rows };
            let denoised = denoiser.denoise(&batch, &mut self.prediction);
            // Whose frame leaves is for a later one.
            self.layout.rows.iter_mut().for_each(|row| row.control = None);
            denoised?;
            stats.unet_rows += self.layout.rows.len() as u64;
            let denoised = clock.now();
            stats.record(Stage::Denoise, denoised.saturating_sub(started));
            self.advance(guidance, stats);
            stats.record(Stage::Advance, clock.now().saturating_sub(denoised));
        }
        Ok(())
    }

    /// Lays the U-Net's batch out and its rows side by side.
    fn gather(&mut self, guidance: GuidanceSettings) {
        self.layout.lay_out(&self.slots, guidance);
        self.sample.clear();
        for index in self.layout.indices() {
            self.sample.extend_from_slice(&self.slots[index].latents.x);
        }
        self.prediction.resize(self.sample.len(), 0.0);
    }

    fn advance(&mut self, settings: GuidanceSettings, stats: &mut Stats) {
        let len = self.shape.len();
        let cfg = settings.effective();
        let GuidanceSettings { scale, delta, .. } = settings;
        let (negative_rows, prompt_rows) = self.prediction.split_at(self.layout.negatives.len() * len);
        for (row, &index) in self.layout.order.iter().enumerate() {
            let slot = &mut self.slots[index];
            let negative = self.layout.negative_of(index).map(|at| &negative_rows[at * len..(at + 1) * len]);
            let prediction = &prompt_rows[row * len..(row + 1) * len];
            let way = slot.way(cfg, negative.is_some());
            let Latents { x, x0_ref, history } = &mut slot.latents;
            let guidance = match (way, negative) {
                (Way::Full, Some(negative)) => Guidance::Full { negative, scale },
                (Way::Initialize, Some(negative)) => Guidance::Initialize { negative, reference: x0_ref, scale, delta },
                (Way::Residual, _) => Guidance::Residual { reference: x0_ref, scale, delta },
                _ => Guidance::None,
            };
            let step = &slot.plan.steps[slot.step];
            let noise = if step.next_z == 0.0 { &[] } else { slot.noise.step(slot.step + 1, slot.meta.id) };
            advance(step, guidance, prediction, noise, history, x);
            slot.step += 1;
            if !all_finite(&slot.latents.x) {
                slot.fate = Fate::Failed;
                stats.frames_failed += 1;
            }
        }
    }
}
