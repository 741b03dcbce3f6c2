//! The engine's networks in a replay: recorded outputs, or the real networks with their inputs watched.

use std::sync::{Arc, Mutex};

use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Branch, Decoder, DenoiseBatch, Denoiser, Encoder, ModelError, Row};
use livediffusion_pipeline::noise::NoiseSource;

use super::case::{Case, ReferenceBug, Tensor};
use super::ledger::Ledger;
use crate::failure::{Failure, Outcome};
use crate::lock;

pub(super) type SharedLedger = Arc<Mutex<Ledger>>;

/// Finds recorded tensors by what the engine knows of a row: frame, step and branch.
pub(super) struct Recording {
    pub(super) case: Arc<Case>,
}

impl Recording {
    /// The recorded frame that the engine's frame `id` belongs to, and its row in a frame buffer.
    pub(super) fn frame_of(&self, id: u64) -> (usize, usize) {
        let frames = self.case.config.frame_buffer_size;
        (id as usize / frames, id as usize % frames)
    }

    /// The recorded frame during whose call the engine's frame was at `step`: in the stream batch each step happens
    /// one processed frame later. `None` after the recording's end.
    pub(super) fn call_of(&self, id: u64, step: usize) -> Option<usize> {
        let (frame, _) = self.frame_of(id);
        if !self.case.config.use_denoising_batch {
            return Some(frame);
        }
        let position = self.case.processed.iter().position(|&processed| processed == frame)?;
        self.case.processed.get(position + step).copied()
    }

    /// A row of `sample` or `out` of the recorded U-Net call.
    pub(super) fn unet_row(&self, row: &Row, what: &str) -> Outcome<Option<Vec<f32>>> {
        let Some(call) = self.call_of(row.frame, row.step) else { return Ok(None) };
        let config = &self.case.config;
        let (frames, in_batch) = (config.frame_buffer_size, config.use_denoising_batch);
        let number = if in_batch { 0 } else { row.step };
        let tensor = self.case.tensor(&format!("f{call:02}/unet{number}/{what}"))?;
        let prompt_rows = if in_batch { frames * self.case.steps() } else { frames };
        let (_, f) = self.frame_of(row.frame);
        let place = if in_batch { row.step * frames + f } else { f };
        let index = match row.branch {
            Branch::Prompt => tensor.rows().checked_sub(prompt_rows).map(|first| first + place),
            // Full guidance has a negative row for each prompt row, initialize one for each new frame.
            Branch::Negative if config.cfg_type == "full" => Some(place),
            Branch::Negative => Some(f),
        };
        Ok(index.and_then(|index| tensor.row(index)).map(<[f32]>::to_vec))
    }
}

/// Compares the U-Net's inputs with recorded ones.
pub(super) struct WatchedRows {
    recording: Recording,
    ledger: SharedLedger,
    /// Rows whose inputs are compared: all, unless the reference has a defect.
    compares: fn(&Row) -> bool,
}

impl WatchedRows {
    /// Of a case, as far as its defect lets them be compared.
    pub(super) fn of(case: &Arc<Case>, ledger: &SharedLedger) -> Self {
        Self {
            recording: Recording { case: Arc::clone(case) },
            ledger: Arc::clone(ledger),
            compares: compares(case.bug, case.config.frame_buffer_size),
        }
    }

    /// Looks at the rows of a call: their samples side by side, and their times.
    pub(super) fn look_at(&self, rows: &[Row], samples: &[f32]) -> Result<(), ModelError> {
        let len = samples.len() / rows.len().max(1);
        for (row, sample) in rows.iter().zip(samples.chunks(len.max(1))) {
            if !(self.compares)(row) {
                continue;
            }
            if let Some(recorded) = self.recording.unet_row(row, "sample").map_err(|failure| failed(&failure))? {
                lock(&self.ledger).compare(format!("unet sample, step {}", row.step), sample, &recorded);
            }
            if let Some(recorded) = self.recording.unet_row(row, "timestep").map_err(|failure| failed(&failure))? {
                lock(&self.ledger).compare("unet timestep", &[row.timestep], &recorded);
            }
        }
        Ok(())
    }
}

/// Rows whose U-Net inputs the reference's defect does not reach.
fn compares(bug: Option<ReferenceBug>, frames: usize) -> fn(&Row) -> bool {
    match (bug, frames) {
        (None, _) => |_| true,
        (Some(ReferenceBug::OneStepSelf | ReferenceBug::NoNoiseResidual | ReferenceBug::BoundaryResidual), _) => {
            |row| row.step == 0
        }
        (Some(ReferenceBug::SequentialNoise), 2) => |row| row.frame < 2,
        (Some(ReferenceBug::SequentialNoise), _) => |row| row.frame == 0,
        (Some(_), _) => |row| row.frame == 0 && row.step == 0,
    }
}

/// A network cannot fail otherwise.
fn failed(failure: &Failure) -> ModelError {
    ModelError::new(failure.message().to_owned())
}

/// Watches the U-Net's inputs and answers with recorded outputs, or lets the real network answer.
pub(super) struct WatchedDenoiser {
    pub(super) rows: WatchedRows,
    pub(super) real: Option<Box<dyn Denoiser>>,
}

impl Denoiser for WatchedDenoiser {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let len = batch.shape.len();
        self.rows.look_at(batch.rows, batch.sample)?;
        if let Some(real) = &mut self.real {
            return real.denoise(batch, out);
        }
        for (row, out) in batch.rows.iter().zip(out.chunks_mut(len)) {
            match self.rows.recording.unet_row(row, "out").map_err(|failure| failed(&failure))? {
                Some(recorded) if recorded.len() == len => out.copy_from_slice(&recorded),
                Some(recorded) => {
                    let what = format!("a recorded U-Net row has {} values, not {len}", recorded.len());
                    return Err(ModelError::new(what));
                }
                // After the end of the recording: whatever comes out is not compared.
                None => out.fill(0.0),
            }
        }
        Ok(())
    }

    fn takes_control(&self) -> bool {
        self.real.as_ref().is_some_and(|real| real.takes_control())
    }
}

/// Hands out recorded latents, or watches those of the real encoder. Frames come in the order of processing.
pub(super) struct WatchedEncoder {
    pub(super) case: Arc<Case>,
    pub(super) real: Option<Box<dyn Encoder>>,
    pub(super) ledger: SharedLedger,
    pub(super) encoded: usize,
}

impl Encoder for WatchedEncoder {
    fn encode(
        &mut self,
        images: &[f32],
        batch: usize,
        size: Size,
        posterior: Option<&[f32]>,
        latents: &mut [f32],
    ) -> Result<(), ModelError> {
        if let Some(real) = &mut self.real {
            real.encode(images, batch, size, posterior, latents)?;
        }
        let frames = self.case.config.frame_buffer_size;
        let len = latents.len() / batch;
        for latent in latents.chunks_mut(len) {
            let (position, row) = (self.encoded / frames, self.encoded % frames);
            self.encoded += 1;
            let Some(frame) = self.case.processed.get(position) else { continue };
            let key = format!("f{frame:02}/x0_latent");
            let tensor = self.case.tensor(&key).map_err(|failure| failed(&failure))?;
            let recorded = tensor.row(row).filter(|recorded| recorded.len() == len);
            let recorded =
                recorded.ok_or_else(|| ModelError::new(format!("{key} has the shape {:?}", tensor.shape)))?;
            if self.real.is_some() {
                lock(&self.ledger).compare("x0_latent", latent, recorded);
            } else {
                latent.copy_from_slice(recorded);
            }
        }
        Ok(())
    }
}

/// Stands in for the decoder where pictures are not compared.
pub(super) struct NoDecoder;

impl Decoder for NoDecoder {
    fn decode(&mut self, _: &[f32], _: usize, _: LatentShape, images: &mut [f32]) -> Result<(), ModelError> {
        images.fill(0.0);
        Ok(())
    }
}

/// The case's own noise.
pub(super) struct RecordedNoise {
    /// Rows: the fixed noise of each step.
    fixed: Vec<Vec<f32>>,
    /// Fresh noise of a frame's steps, where the reference draws it anew (sequential mode).
    fresh: Vec<Vec<Tensor>>,
    initial: Vec<Option<Tensor>>,
    posterior: Vec<Option<Tensor>>,
    frames: usize,
}

impl RecordedNoise {
    pub(super) fn of(case: &Case) -> Outcome<Self> {
        let frames = case.config.frame_buffer_size;
        let init = case.tensor("const/init_noise")?;
        let rows = if case.config.use_denoising_batch { case.steps() } else { 1 };
        // All frames of a frame buffer share the first one's noise: neighbours in time, they must not flicker.
        let fixed = (0..rows).filter_map(|step| init.row(step * frames).map(<[f32]>::to_vec)).collect();
        let first = |frame, kind: &str| -> Outcome<Option<Tensor>> {
            case.draws(frame, kind)?.first().map(|key| case.tensor(key)).transpose()
        };
        let mut noise = Self { fixed, fresh: Vec::new(), initial: Vec::new(), posterior: Vec::new(), frames };
        for frame in 0..case.config.frames {
            let keys = case.draws(frame, "randn_like")?;
            noise.fresh.push(keys.iter().map(|key| case.tensor(key)).collect::<Outcome<_>>()?);
            noise.initial.push(first(frame, "randn")?);
            noise.posterior.push(first(frame, "randn_gen")?);
        }
        Ok(noise)
    }

    /// Whether frames have noise of their own behind the first step.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh.iter().any(|frame| !frame.is_empty())
    }

    /// Whether the reference sampled its VAE's posterior.
    pub(super) fn samples_posterior(&self) -> bool {
        self.posterior.iter().any(Option::is_some)
    }

    fn fill(&self, from: &[Option<Tensor>], id: u64, out: &mut [f32]) {
        let (frame, row) = (id as usize / self.frames, id as usize % self.frames);
        let tensor = from.get(frame).and_then(Option::as_ref);
        match tensor.and_then(|tensor| tensor.row(row)).filter(|recorded| recorded.len() == out.len()) {
            Some(recorded) => out.copy_from_slice(recorded),
            // A missing draw shows as a failed comparison.
            None => out.fill(f32::MAX.sqrt()),
        }
    }
}

impl NoiseSource for RecordedNoise {
    fn step(&self, step: usize, id: u64) -> &[f32] {
        let (frame, row) = (id as usize / self.frames, id as usize % self.frames);
        let fresh = step.checked_sub(1).and_then(|draw| self.fresh.get(frame)?.get(draw)?.row(row));
        fresh.or_else(|| self.fixed.get(step).map(Vec::as_slice)).unwrap_or(&self.fixed[0])
    }

    fn initial(&self, id: u64, out: &mut [f32]) {
        self.fill(&self.initial, id, out);
    }

    fn posterior(&self, id: u64, out: &mut [f32]) {
        self.fill(&self.posterior, id, out);
    }
}
