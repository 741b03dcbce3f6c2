//! The way out: frames that are ready are decoded, turned into 8-bit pictures and handed over in order.

use livediffusion_kernels::{all_finite, chw_to_rgb8};

use crate::controlnet::ControlImage;
use crate::emitted::{Emitted, Exit};
use crate::error::EngineError;
use crate::frame::{FrameMeta, LatentShape, Size};
use crate::model::Decoder;
use crate::slot::{Fate, Slot};
use crate::stats::{Clock, Stage, Stats};
use crate::stream_batch::StreamBatch;

/// Broken frames in a row after which the stream stops: one or two may be an accident of the content, three are a
/// broken model, and going on would show a frozen picture without a reason.
pub(crate) const MAX_FAILED_IN_A_ROW: u32 = 3;

/// The place of a frame that has nothing to show.
const NOWHERE: usize = usize::MAX;

/// Buffers of the way out.
#[derive(Debug)]
pub(crate) struct Emitter {
    size: Size,
    shape: LatentShape,
    len: usize,
    /// Latents decoded by one call: the frame buffer, so that the decoder sees one batch size.
    frames: usize,
    exits: Vec<Exit>,
    latents: Vec<f32>,
    images: Vec<f32>,
    /// Place 0 holds the last picture of the call before; the call's own follow.
    pictures: Vec<u8>,
    painted: usize,
    has_last: bool,
    failed_in_a_row: u32,
    warned: bool,
    /// Painted frames waiting for the decoder, as (exit, latent place).
    waiting: Vec<usize>,
}

impl Emitter {
    pub(crate) fn new(size: Size, shape: LatentShape, frames: usize) -> Self {
        Self {
            size,
            shape,
            len: shape.len(),
            frames,
            exits: Vec::with_capacity(frames),
            latents: Vec::with_capacity(frames * shape.len()),
            images: vec![0.0; frames * 3 * size.pixels()],
            pictures: vec![0; (frames + 1) * 3 * size.pixels()],
            painted: 0,
            has_last: false,
            failed_in_a_row: 0,
            warned: false,
            waiting: Vec::with_capacity(frames),
        }
    }

    /// Forgets the pictures of the call before, all but the last one.
    pub(crate) fn clear(&mut self) {
        let bytes = 3 * self.size.pixels();
        if self.painted > 0 {
            self.pictures.copy_within(self.painted * bytes..(self.painted + 1) * bytes, 0);
            self.has_last = true;
        }
        self.painted = 0;
        self.exits.clear();
        self.latents.clear();
        // Not empty only after a decoder failed: those frames are lost with that call.
        self.waiting.clear();
    }

    pub(crate) fn emitted(&self) -> Emitted<'_> {
        let bytes = 3 * self.size.pixels();
        Emitted { exits: &self.exits, pictures: &self.pictures, bytes, latents: &self.latents, len: self.len }
    }

    /// Takes every frame that is ready out of the batch, decodes it and lines its picture up, or its control image if those are shown.
    pub(crate) fn emit(
        &mut self,
        batch: &mut StreamBatch,
        shows_control: bool,
        decoder: &mut dyn Decoder,
        clock: &dyn Clock,
        stats: &mut Stats,
    ) -> Result<(), EngineError> {
        while let Some(slot) = batch.pop_ready() {
            // Of broken frames too, as nobody looks at the picture: so it is on a device, where that alone would tell.
            let left = match slot.control.as_ref().filter(|_| shows_control) {
                Some(image) => self.decode_waiting(decoder, clock, stats).map(|()| self.show(&slot, image, stats)),
                None => self.line_up(&slot, decoder, clock, stats),
            };
            batch.recycle(slot);
            left?;
        }
        self.decode_waiting(decoder, clock, stats)?;
        if self.failed_in_a_row >= MAX_FAILED_IN_A_ROW {
            return Err(EngineError::NotFinite { frames: self.failed_in_a_row });
        }
        Ok(())
    }

    fn line_up(
        &mut self,
        slot: &Slot,
        decoder: &mut dyn Decoder,
        clock: &dyn Clock,
        stats: &mut Stats,
    ) -> Result<(), EngineError> {
        if slot.fate == Fate::Painted {
            self.waiting.push(self.exits.len());
            self.exits.push(Exit { meta: slot.meta, place: 0, latent: Some(self.latents.len() / self.len) });
            self.latents.extend_from_slice(&slot.latents.x);
            if self.waiting.len() == self.frames {
                self.decode_waiting(decoder, clock, stats)?;
            }
            return Ok(());
        }
        // A repeated picture is that of the frame before it, which must be painted by now.
        self.decode_waiting(decoder, clock, stats)?;
        if slot.fate == Fate::Failed {
            self.count_failure(slot.meta);
        }
        self.repeat(slot.meta, stats);
        Ok(())
    }

    /// Lines up a frame's control image as its picture. Those before it have theirs.
    fn show(&mut self, slot: &Slot, image: &ControlImage, stats: &mut Stats) {
        let bytes = image.rgb().len();
        self.painted += 1;
        self.failed_in_a_row = 0;
        let end = (self.painted + 1) * bytes;
        if self.pictures.len() < end {
            self.pictures.resize(end, 0);
        }
        self.pictures[end - bytes..end].copy_from_slice(image.rgb());
        self.exits.push(Exit { meta: slot.meta, place: self.painted, latent: Some(self.latents.len() / self.len) });
        self.latents.extend_from_slice(&slot.latents.x);
        stats.frames_out += 1;
    }

    /// Lines up the last picture again; before the first picture there is nothing to show and the frame is dropped.
    fn repeat(&mut self, meta: FrameMeta, stats: &mut Stats) {
        if self.painted > 0 || self.has_last {
            self.exits.push(Exit { meta, place: self.painted, latent: None });
            stats.frames_out += 1;
        }
    }

    fn count_failure(&mut self, meta: FrameMeta) {
        self.failed_in_a_row += 1;
        if !self.warned {
            self.warned = true;
            tracing::warn!(frame = meta.id, "a network gave NaN or infinity; the picture before is shown again");
        }
    }

    fn decode_waiting(
        &mut self,
        decoder: &mut dyn Decoder,
        clock: &dyn Clock,
        stats: &mut Stats,
    ) -> Result<(), EngineError> {
        let Some(&first) = self.waiting.first() else { return Ok(()) };
        let count = self.waiting.len();
        let Self { len, size, .. } = *self;
        let from = self.exits[first].latent.unwrap_or(0) * len;
        let started = clock.now();
        let (pixels, bytes) = (3 * size.pixels(), 3 * size.pixels());
        let images = &mut self.images[..count * pixels];
        decoder.decode(&self.latents[from..from + count * len], count, self.shape, images)?;
        let decoded = clock.now();
        stats.record(Stage::Decode, decoded.saturating_sub(started));
        let needed = (self.painted + count + 1) * bytes;
        if self.pictures.len() < needed {
            self.pictures.resize(needed, 0);
        }
        for (image, at) in self.images.chunks(pixels).zip(0..count) {
            let exit = self.waiting[at];
            if all_finite(image) {
                self.painted += 1;
                self.failed_in_a_row = 0;
                let picture = &mut self.pictures[self.painted * bytes..(self.painted + 1) * bytes];
                chw_to_rgb8(image, size.width, size.height, picture);
                self.exits[exit].place = self.painted;
                stats.frames_out += 1;
            } else {
                stats.frames_failed += 1;
                self.failed_in_a_row += 1;
                let shows = self.painted > 0 || self.has_last;
                self.exits[exit].place = if shows { self.painted } else { NOWHERE };
                self.exits[exit].latent = None;
                stats.frames_out += u64::from(shows);
            }
        }
        self.waiting.clear();
        // Before anything was painted, a frame whose decoding failed has no picture to repeat.
        self.exits.retain(|exit| exit.place != NOWHERE);
        stats.record(Stage::Postprocess, clock.now().saturating_sub(decoded));
        Ok(())
    }
}
