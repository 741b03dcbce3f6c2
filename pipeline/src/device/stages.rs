//! What is put into the queues for a frame: its encoding, the work on all frames in flight, the decoding of the one that leaves.
//!
//! Where the three have queues of their own, two things are handed from one to another beside the buffers of the overlap's sets: the
//! latent that the encoder gives, and the one that the decoder takes. Each has one place, and a mark of its reader's last use, which
//! who writes there next waits for.

use std::collections::VecDeque;
use std::sync::Arc;

use livediffusion_kernels::gpu::calls::{self, DevicePicture};
use livediffusion_kernels::gpu::schedule::Stage as Part;
use livediffusion_kernels::gpu::{DType, GpuError, Queue, Queues, Tensor, Work};
use livediffusion_kernels::{Crop, Filter, Normalise, PixelFormat};

use super::DeviceNetworks;
use super::batch::DeviceBatch;
use super::engine::{Desk, Entry, Flight};
use super::noise::DeviceNoise;
use crate::error::EngineError;
use crate::frame::Size;
use crate::params::Parameters;
use crate::slot::Fate;
use crate::stats::{Stage, Stats};
use crate::stream_batch::Admission;

/// Who has used last what passes between two queues.
pub(super) struct Handovers<Q: Queue> {
    /// The work has taken the encoder's latent.
    encoded: Q::Mark,
    /// The decoder has read its latent.
    decoded: Q::Mark,
    is_needed: bool,
}

impl<Q: Queue> Handovers<Q> {
    pub(super) fn new(queues: &Queues<Q>) -> Result<Self, GpuError> {
        Ok(Self { encoded: queues.work.mark()?, decoded: queues.decode.mark()?, is_needed: queues.is_apart() })
    }

    /// The place is written next.
    fn wait(&self, queue: &Q, mark: &Q::Mark) -> Result<(), GpuError> {
        if self.is_needed { queue.wait(mark) } else { Ok(()) }
    }

    /// The place was read.
    fn done(&self, queue: &Q, mark: &Q::Mark) -> Result<(), GpuError> {
        if self.is_needed { queue.record(mark) } else { Ok(()) }
    }
}

/// Everything that a frame's work is made of, for one call of [`Overlap::submit`](livediffusion_kernels::gpu::Overlap::submit).
pub(super) struct Stages<'a, Q: Queue> {
    pub(super) networks: &'a mut DeviceNetworks<Q>,
    pub(super) batch: &'a mut DeviceBatch,
    pub(super) desks: &'a mut [Desk<Q>],
    pub(super) handovers: &'a Handovers<Q>,
    pub(super) of: (&'a Admission, &'a Arc<DeviceNoise>),
    /// Noise of a posterior, and its sample.
    pub(super) sampled: &'a mut Option<[Tensor; 2]>,
    pub(super) stats: &'a mut Stats,
    pub(super) parameters: &'a Parameters,
    pub(super) flights: &'a mut VecDeque<Flight>,
    pub(super) size: Size,
    pub(super) len: usize,
    /// What enters.
    pub(super) entry: Option<Entry>,
    /// Whether the U-Net is called.
    pub(super) ticks: bool,
    /// What leaves.
    pub(super) leaving: Flight,
    /// Whether its control image does, in place of its picture.
    pub(super) shows_control: bool,
}

impl<Q: Queue> Stages<'_, Q> {
    /// Puts one of the stages into its queue.
    pub(super) fn put(&mut self, work: Work<'_, Q>) -> Result<(), EngineError> {
        match work.stage {
            Part::Encode => self.encode(&work),
            Part::Work => self.work(work),
            _ => self.decode(work),
        }
    }

    fn encode(&mut self, work: &Work<'_, Q>) -> Result<(), EngineError> {
        let (queue, timeline) = (work.queue, &mut self.desks[work.set].timeline);
        timeline.begin();
        if !matches!(self.entry, Some(Entry::Picture(_))) {
            return Ok(());
        }
        let encoder = self.networks.encoder.as_mut().ok_or(EngineError::NoEncoder)?;
        let sides = (self.size.width, self.size.height);
        let of = DevicePicture {
            format: PixelFormat::Rgb8,
            size: sides,
            plane: work.frame.view().part(0, 3 * self.size.pixels())?,
            stride: 3 * self.size.width,
            chroma: None,
        };
        let (all, normal) = (Crop::all(sides), Normalise::SIGNED);
        timeline.start(queue)?;
        calls::picture_to_chw(queue, &of, all, Filter::Area, normal, sides, encoder.picture())?;
        timeline.end(queue, Stage::Preprocess)?;
        self.handovers.wait(queue, &self.handovers.encoded)?;
        encoder.run(queue)?;
        Ok(timeline.end(queue, Stage::Encode)?)
    }

    fn work(&mut self, work: Work<'_, Q>) -> Result<(), EngineError> {
        let Work { queue, set, frame, picture, .. } = work;
        self.desks[set].timeline.start(queue)?;
        self.admit(queue, set, frame)?;
        let timeline = &mut self.desks[set].timeline;
        if self.ticks {
            let (guidance, stream_batch) = (self.parameters.guidance_settings(), self.parameters.stream_batch);
            self.batch.tick(queue, &mut *self.networks.denoiser, guidance, timeline, self.stats)?;
            while !stream_batch && self.batch.has_unready() {
                self.batch.tick(queue, &mut *self.networks.denoiser, guidance, timeline, self.stats)?;
            }
        }
        while let Some((meta, Fate::Skipped | Fate::Failed)) = self.batch.front() {
            self.batch.leave(queue, |_| Ok(()))?;
            self.flights.push_back(Flight::Repeat(meta));
        }
        if let Some((meta, Fate::Painted)) = self.batch.front() {
            if let Some(image) = self.batch.front_control().filter(|_| self.parameters.control.is_shown) {
                queue.copy(image.view(), picture.view_mut())?;
                self.batch.leave(queue, |_| Ok(()))?;
                self.shows_control = true;
            } else {
                let decoder = &mut *self.networks.decoder;
                let affine = decoder.affine();
                self.handovers.wait(queue, &self.handovers.decoded)?;
                self.batch.leave(queue, |slot| calls::unscale(queue, affine, slot.x.view(), decoder.latent()))?;
            }
            timeline.end(queue, Stage::Advance)?;
            self.leaving = Flight::Painted(meta);
        }
        Ok(())
    }

    /// Lets what enters into the stream batch.
    fn admit(&mut self, queue: &Q, set: usize, frame: &Tensor) -> Result<(), EngineError> {
        let staging = &self.desks[set].staging;
        match (self.entry, staging) {
            (Some(Entry::Picture(meta)), _) => {
                let encoder = self.networks.encoder.as_ref().ok_or(EngineError::NoEncoder)?;
                let given = encoder.given()?;
                let staged = staging.as_ref().filter(|_| self.parameters.vae_sample);
                if let (Some(log_variance), Some([staged, _])) = (given.log_variance, staged) {
                    let [z, sample] = once(self.sampled, || queue.zeros(DType::F32, &[self.len]))?;
                    queue.upload(staged, z.view_mut())?;
                    calls::posterior(queue, given.mean, log_variance, z.view(), sample.view_mut())?;
                    self.batch.admit(queue, meta, self.of, sample.view(), given.affine)?;
                } else {
                    self.batch.admit(queue, meta, self.of, given.mean, given.affine)?;
                }
                self.handovers.done(queue, &self.handovers.encoded)?;
                let pixels = 3 * self.size.pixels();
                if frame.len() > pixels {
                    self.batch.control(queue, frame.view().part(pixels, pixels)?)?;
                }
            }
            (Some(Entry::Noise(meta)), Some(staged)) => self.batch.admit_noise(queue, meta, self.of, staged)?,
            _ => {}
        }
        Ok(())
    }

    fn decode(&mut self, work: Work<'_, Q>) -> Result<(), EngineError> {
        let Work { queue, set, picture, broken, .. } = work;
        if !matches!(self.leaving, Flight::Painted(_)) || self.shows_control {
            return Ok(());
        }
        let (decoder, timeline) = (&mut *self.networks.decoder, &mut self.desks[set].timeline);
        timeline.start(queue)?;
        decoder.run(queue)?;
        self.handovers.done(queue, &self.handovers.decoded)?;
        timeline.end(queue, Stage::Decode)?;
        calls::chw_to_rgb8(queue, decoder.picture(), picture.view_mut(), Some(broken.view_mut()))?;
        Ok(timeline.end(queue, Stage::Postprocess)?)
    }
}

/// Two of a kind, made when they are first asked for.
pub(super) fn once(
    place: &mut Option<[Tensor; 2]>,
    make: impl Fn() -> Result<Tensor, GpuError>,
) -> Result<&mut [Tensor; 2], GpuError> {
    let made = match place.take() {
        Some(made) => made,
        None => [make()?, make()?],
    };
    Ok(place.insert(made))
}
