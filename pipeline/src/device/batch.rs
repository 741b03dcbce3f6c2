//! The stream batch with its latents on a device: the books of [`StreamBatch`](crate::stream_batch::StreamBatch).

use std::collections::VecDeque;
use std::sync::Arc;

use livediffusion_kernels::gpu::calls::{self, DevicePicture, Ring, SlotGuidance};
use livediffusion_kernels::gpu::{DType, GpuError, Queue, Tensor, View, ViewMut};
use livediffusion_kernels::{Crop, Filter, Normalise, PixelFormat};

use super::DeviceDenoiser;
use super::noise::DeviceNoise;
use super::stages::once;
use super::timeline::Timeline;
use crate::error::EngineError;
use crate::frame::{FrameMeta, LatentShape, Size};
use crate::layout::{Layout, Way};
use crate::slot::{Fate, PromptPair, Slot};
use crate::stats::{Stage, Stats};
use crate::stream_batch::{Admission, GuidanceSettings};

/// The tensors of a slot: as [`Latents`](crate::slot::Latents).
pub(super) struct Resident {
    pub(super) x: Tensor,
    x0_ref: Tensor,
    history: Option<Ring>,
    noise: Arc<DeviceNoise>,
    /// What a ControlNet is shown of the frame: packed RGB.
    control: Option<Tensor>,
}

/// What of the last picture goes into the next frame.
#[derive(Default)]
struct Feedback {
    share: f32,
    /// The last picture's latent, and a frame's before the two are blended.
    latents: Option<[Tensor; 2]>,
    /// Whether there is a last picture.
    is_there: bool,
}

/// The slots in flight. Allocates until it has seen its largest batch.
pub(super) struct DeviceBatch {
    shape: LatentShape,
    /// Of the pictures.
    size: Size,
    slots: VecDeque<Slot<Resident>>,
    spare: Vec<Resident>,
    feedback: Feedback,
    groups: u64,
    layout: Layout,
}

impl DeviceBatch {
    pub(super) fn new(shape: LatentShape, size: Size) -> Self {
        Self {
            shape,
            size,
            slots: VecDeque::new(),
            spare: Vec::new(),
            feedback: Feedback::default(),
            groups: 0,
            layout: Layout::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Steps left of each slot that has some.
    pub(super) fn left(&self) -> impl Iterator<Item = usize> + Clone + '_ {
        self.slots.iter().filter(|slot| slot.needs_unet()).map(|slot| slot.plan.len().saturating_sub(slot.step))
    }

    /// Whether some slot is not ready to leave.
    pub(super) fn has_unready(&self) -> bool {
        self.slots.iter().any(|slot| !slot.is_ready())
    }

    /// Whether the U-Net has work to do.
    pub(super) fn needs_unet(&self) -> bool {
        self.slots.iter().any(Slot::needs_unet)
    }

    /// A step of the frames that travel without work.
    pub(super) fn age(&mut self) {
        for slot in &mut self.slots {
            if !slot.is_ready() && slot.fate != Fate::Painted {
                slot.step += 1;
            }
        }
    }

    /// Whether the frame at the front is ready to leave.
    pub(super) fn front(&self) -> Option<(FrameMeta, Fate)> {
        self.slots.front().filter(|slot| slot.is_ready()).map(|slot| (slot.meta, slot.fate))
    }

    /// The control image of the frame at the front.
    pub(super) fn front_control(&self) -> Option<&Tensor> {
        self.slots.front().filter(|slot| slot.is_controlled)?.latents.control.as_ref()
    }

    /// Takes the frame at the front out; its tensors are for a later one once `use_it` has put its last work into the queue.
    pub(super) fn leave<Q: Queue>(
        &mut self,
        queue: &Q,
        use_it: impl FnOnce(&Resident) -> Result<(), GpuError>,
    ) -> Result<(), GpuError> {
        let Some(slot) = self.slots.pop_front() else { return Ok(()) };
        let mut used = use_it(&slot.latents);
        if used.is_ok() && self.feedback.share > 0.0 && slot.fate == Fate::Painted {
            used = self.keep(queue, &slot.latents.x);
        }
        self.spare.push(slot.latents);
        used
    }

    /// Keeps the latent of the picture that leaves for the frames that come.
    fn keep<Q: Queue>(&mut self, queue: &Q, x: &Tensor) -> Result<(), GpuError> {
        let [last, _] = once(&mut self.feedback.latents, || queue.zeros(DType::F32, &[x.len()]))?;
        queue.copy(x.view(), last.view_mut())?;
        self.feedback.is_there = true;
        Ok(())
    }

    /// As [`StreamBatch::set_feedback`](crate::stream_batch::StreamBatch::set_feedback).
    pub(super) fn set_feedback(&mut self, share: f32) {
        self.feedback.share = share;
        self.feedback.is_there &= share > 0.0;
    }

    /// As [`StreamBatch::forget_last`](crate::stream_batch::StreamBatch::forget_last).
    pub(super) fn forget_last(&mut self) {
        self.feedback.is_there = false;
    }

    /// Gives every frame in flight new prompts.
    pub(super) fn replace_prompts(&mut self, prompts: &Arc<PromptPair>) {
        for slot in &mut self.slots {
            slot.prompts = Arc::clone(prompts);
        }
    }

    /// Admits the frame that the encoder gave `given` of: x = A_0·latent + S_0·z_0.
    pub(super) fn admit<Q: Queue>(
        &mut self,
        queue: &Q,
        meta: FrameMeta,
        (admission, noise): (&Admission, &Arc<DeviceNoise>),
        given: View<'_>,
        affine: (f32, f32),
    ) -> Result<(), GpuError> {
        let mut slot = self.slot(queue, meta, Fate::Painted, (admission, noise))?;
        let first = &admission.plan.steps[0];
        let Resident { x, x0_ref, .. } = &mut slot.latents;
        let z = noise.step(0).ok_or_else(no_noise)?;
        let Feedback { share, latents, is_there } = &mut self.feedback;
        if let (true, Some([last, blended])) = (*is_there, latents) {
            // The latent alone, then with the last one in it.
            calls::admit(queue, (1.0, 0.0), affine, given, z, blended.view_mut(), x.view_mut())?;
            calls::blend(queue, *share, last.view(), blended.view_mut())?;
            let (given, affine) = (blended.view(), (0.0, 1.0));
            calls::admit(queue, (first.alpha, first.sigma), affine, given, z, x0_ref.view_mut(), x.view_mut())?;
        } else {
            calls::admit(queue, (first.alpha, first.sigma), affine, given, z, x0_ref.view_mut(), x.view_mut())?;
        }
        self.slots.push_back(slot);
        Ok(())
    }

    /// Gives the frame admitted last its control image.
    pub(super) fn control<Q: Queue>(&mut self, queue: &Q, image: View<'_>) -> Result<(), GpuError> {
        let Some(slot) = self.slots.back_mut() else { return Ok(()) };
        let place = match slot.latents.control.take() {
            Some(place) => place,
            None => queue.zeros(DType::U8, &[image.len()])?,
        };
        queue.copy(image, slot.latents.control.insert(place).view_mut())?;
        slot.is_controlled = true;
        Ok(())
    }

    /// Admits a txt2img frame of fresh noise, [x, x0_ref] in pinned memory.
    pub(super) fn admit_noise<Q: Queue>(
        &mut self,
        queue: &Q,
        meta: FrameMeta,
        of: (&Admission, &Arc<DeviceNoise>),
        [x, x0_ref]: &[Tensor; 2],
    ) -> Result<(), GpuError> {
        let mut slot = self.slot(queue, meta, Fate::Painted, of)?;
        queue.upload(x, slot.latents.x.view_mut())?;
        queue.upload(x0_ref, slot.latents.x0_ref.view_mut())?;
        self.slots.push_back(slot);
        Ok(())
    }

    /// Admits a frame that costs no work and leaves as the picture before it.
    pub(super) fn admit_without_work<Q: Queue>(
        &mut self,
        queue: &Q,
        meta: FrameMeta,
        of: (&Admission, &Arc<DeviceNoise>),
    ) -> Result<(), GpuError> {
        let slot = self.slot(queue, meta, Fate::Skipped, of)?;
        self.slots.push_back(slot);
        Ok(())
    }

    fn slot<Q: Queue>(
        &mut self,
        queue: &Q,
        meta: FrameMeta,
        fate: Fate,
        (admission, noise): (&Admission, &Arc<DeviceNoise>),
    ) -> Result<Slot<Resident>, GpuError> {
        let len = self.shape.len();
        let (noise, capacity) = (Arc::clone(noise), admission.plan.history);
        let mut latents = if let Some(spare) = self.spare.pop() {
            Resident { noise, ..spare }
        } else {
            let zeros = || queue.zeros(DType::F32, &[len]);
            Resident { x: zeros()?, x0_ref: zeros()?, history: None, noise, control: None }
        };
        match &mut latents.history {
            Some(ring) if ring.capacity() == capacity => ring.reset(queue)?,
            history => {
                let ring = || Ring::new(queue.zeros(DType::F32, &[capacity, len])?);
                *history = if capacity == 0 { None } else { Some(ring()?) };
            }
        }
        self.groups += 1;
        Ok(Slot::admitted(meta, fate, self.groups, admission, latents))
    }

    /// One U-Net call over all slots with steps left (none: no call), then each slot's step of its plan.
    pub(super) fn tick<Q: Queue>(
        &mut self,
        queue: &Q,
        denoiser: &mut dyn DeviceDenoiser<Q>,
        settings: GuidanceSettings,
        timeline: &mut Timeline<Q>,
        stats: &mut Stats,
    ) -> Result<(), EngineError> {
        self.age();
        self.layout.lay_out(&self.slots, settings);
        let (len, rows) = (self.shape.len(), self.layout.rows.len());
        if rows == 0 {
            return Ok(());
        }
        let mut samples = denoiser.samples(queue, rows)?;
        for (row, index) in self.layout.indices().enumerate() {
            let (x, to) = (self.slots[index].latents.x.view(), samples.again().part(row * len, len)?);
            if to.as_view().dtype() == DType::F16 { calls::narrow(queue, x, to) } else { queue.copy(x, to) }?;
        }
        if let Some(mut controls) = denoiser.controls() {
            self.write_controls(queue, &mut controls)?;
        }
        timeline.end(queue, Stage::Advance)?;
        denoiser.run(queue, &self.layout.rows)?;
        timeline.end(queue, Stage::Denoise)?;
        stats.unet_rows += rows as u64;
        self.advance(queue, denoiser.predictions()?, settings)?;
        Ok(timeline.end(queue, Stage::Advance)?)
    }

    /// Writes the control image of each row that has one to its place in the U-Net's input.
    fn write_controls<Q: Queue>(&self, queue: &Q, to: &mut ViewMut<'_>) -> Result<(), GpuError> {
        let sides = (self.size.width, self.size.height);
        let len = 3 * self.size.pixels();
        for (row, index) in self.layout.indices().enumerate() {
            let slot = &self.slots[index];
            let Some(control) = slot.latents.control.as_ref().filter(|_| slot.is_controlled) else { continue };
            let image = DevicePicture {
                format: PixelFormat::Rgb8,
                size: sides,
                plane: control.view(),
                stride: 3 * sides.0,
                chroma: None,
            };
            let to = to.again().part(row * len, len)?;
            calls::picture_to_chw(queue, &image, Crop::all(sides), Filter::Area, Normalise::UNIT, sides, to)?;
        }
        Ok(())
    }

    fn advance<Q: Queue>(
        &mut self,
        queue: &Q,
        predictions: View<'_>,
        settings: GuidanceSettings,
    ) -> Result<(), GpuError> {
        let (len, layout) = (self.shape.len(), &self.layout);
        let GuidanceSettings { scale, delta, .. } = settings;
        let cfg = settings.effective();
        // In the order of the slots, each of which knows its rows: no list is made.
        let mut failed = None;
        let rows = |row: usize| predictions.part(row * len, len);
        let active = self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.needs_unet());
        let slots = active.map_while(|(index, slot)| {
            let row = layout.order.iter().position(|&other| other == index)? + layout.negatives.len();
            let negative = layout.negative_of(index).map(rows).transpose();
            let (prediction, negative) = match (rows(row), negative) {
                (Ok(prediction), Ok(negative)) => (prediction, negative),
                (Err(error), _) | (_, Err(error)) => {
                    failed = Some(error);
                    return None;
                }
            };
            let way = slot.way(cfg, negative.is_some());
            let step = slot.plan.steps[slot.step];
            slot.step += 1;
            let Resident { x, x0_ref, history, noise, .. } = &mut slot.latents;
            let guidance = match (way, negative) {
                (Way::Full, Some(negative)) => SlotGuidance::Full { negative, scale },
                (Way::Initialize, Some(negative)) => {
                    SlotGuidance::Initialize { negative, reference: x0_ref.view_mut(), scale, delta }
                }
                (Way::Residual, _) => SlotGuidance::Residual { reference: x0_ref.view(), scale, delta },
                _ => SlotGuidance::None,
            };
            let noise = noise.step(slot.step);
            Some(calls::Slot { step, guidance, prediction, noise, history: history.as_mut(), x: x.view_mut() })
        });
        calls::advance(queue, slots)?;
        failed.map_or(Ok(()), Err)
    }
}

fn no_noise() -> GpuError {
    GpuError { kind: livediffusion_kernels::gpu::GpuErrorKind::Misuse, what: "a plan without steps".into(), hint: None }
}
