//! The networks alone, called back to back on fixed buffers: the speed that a pipeline around them can at best have.

use std::sync::Arc;
use std::time::Duration;

use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::{Branch, DenoiseBatch, ModelError, Networks, Row};
use livediffusion_pipeline::params::{CfgType, Parameters};
use livediffusion_pipeline::plan::Plan;
use livediffusion_pipeline::stats::Clock;
use livediffusion_pipeline::{EngineError, Settings};

/// Inputs of one steady-state frame: what the engine gives the networks once its stream batch is full.
pub struct BareFrame {
    size: Size,
    frames: usize,
    images: Vec<f32>,
    latents: Vec<f32>,
    sample: Vec<f32>,
    prediction: Vec<f32>,
    rows: Vec<Row>,
    shape: livediffusion_pipeline::frame::LatentShape,
}

impl BareFrame {
    /// Buffers for the settings' frame buffer, steps and guidance.
    ///
    /// # Errors
    /// A size that the model cannot do.
    pub fn new(facts: &ModelFacts, plan: &Plan, size: Size, settings: &Settings) -> Result<Self, EngineError> {
        let shape = facts.latent_shape(size)?;
        let frames = settings.parameters.frame_buffer;
        let mut image = ControlImage::new(size);
        image.rgb_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7919 % 251) as u8);
        let image = Arc::new(image);
        let row = |step: usize, branch| Row {
            control: Some(Arc::clone(&image)),
            control_scale: settings.parameters.control.scale,
            frame: 0,
            step,
            timestep: plan.timesteps[step],
            branch,
            conditioning: Arc::clone(match branch {
                Branch::Negative => &settings.prompts.negative,
                Branch::Prompt => &settings.prompts.prompt,
            }),
        };
        let steps = || (0..plan.len()).flat_map(|step| std::iter::repeat_n(step, frames));
        let mut rows: Vec<Row> = match guidance(&settings.parameters) {
            CfgType::Full => steps().map(|step| row(step, Branch::Negative)).collect(),
            CfgType::Initialize => (0..frames).map(|_| row(0, Branch::Negative)).collect(),
            CfgType::None | CfgType::SelfNegative => Vec::new(),
        };
        rows.extend(steps().map(|step| row(step, Branch::Prompt)));
        // Values of an ordinary picture's and latent's size, without pattern: zeros would be faster on some machines.
        let values = |len: usize| (0..len).map(|i| ((i * 7919 % 2003) as f32 / 1001.5) - 1.0).collect::<Vec<f32>>();
        Ok(Self {
            size,
            frames,
            images: values(frames * 3 * size.pixels()),
            latents: values(frames * shape.len()),
            sample: values(rows.len() * shape.len()),
            prediction: vec![0.0; rows.len() * shape.len()],
            rows,
            shape,
        })
    }

    /// Encoder, U-Net and decoder, once each: one frame, or one frame buffer of them.
    ///
    /// # Errors
    /// A failing network.
    pub fn call(&mut self, networks: &mut Networks) -> Result<(), ModelError> {
        if let Some(encoder) = &mut networks.encoder {
            encoder.encode(&self.images, self.frames, self.size, None, &mut self.latents)?;
        }
        let batch = DenoiseBatch { sample: &self.sample, shape: self.shape, rows: &self.rows };
        networks.denoiser.denoise(&batch, &mut self.prediction)?;
        networks.decoder.decode(&self.latents, self.frames, self.shape, &mut self.images)
    }

    /// The U-Net alone, all rows in one call.
    ///
    /// # Errors
    /// A failing network.
    pub fn denoise_at_once(&mut self, networks: &mut Networks) -> Result<(), ModelError> {
        let batch = DenoiseBatch { sample: &self.sample, shape: self.shape, rows: &self.rows };
        networks.denoiser.denoise(&batch, &mut self.prediction)
    }

    /// The U-Net alone, a call for each row.
    ///
    /// # Errors
    /// A failing network.
    pub fn denoise_one_by_one(&mut self, networks: &mut Networks) -> Result<(), ModelError> {
        let len = self.shape.len();
        let samples = self.sample.chunks(len).zip(self.prediction.chunks_mut(len));
        for (row, (sample, prediction)) in self.rows.iter().zip(samples) {
            let batch = DenoiseBatch { sample, shape: self.shape, rows: std::slice::from_ref(row) };
            networks.denoiser.denoise(&batch, prediction)?;
        }
        Ok(())
    }

    /// Rows of the U-Net's call.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Frames a second over at least `frames` frames.
    ///
    /// # Errors
    /// A failing network.
    pub fn fps(&mut self, networks: &mut Networks, frames: u64, clock: &dyn Clock) -> Result<f64, ModelError> {
        let calls = frames.div_ceil(self.frames as u64).max(1);
        let started = clock.now();
        for _ in 0..calls {
            self.call(networks)?;
        }
        let time: Duration = clock.now().saturating_sub(started);
        Ok((calls * self.frames as u64) as f64 / time.as_secs_f64())
    }
}

/// The guidance that costs rows: none at γ ≤ 1.
fn guidance(parameters: &Parameters) -> CfgType {
    if parameters.guidance > 1.0 { parameters.cfg } else { CfgType::None }
}
