//! Closed-form networks: the tests' stand-ins, small enough to follow by hand.

use crate::facts::ModelFacts;
use crate::frame::{LatentShape, Size};
use crate::model::{Branch, Conditioning, Decoder, DenoiseBatch, Denoiser, Encoder, ModelError, Networks, TextEncoder};
use crate::schedule::SchedulerConfig;

/// A VAE that halves nothing: one latent "pixel" for each block of `factor` × `factor` pixels, its mean, in three of
/// four channels. A picture that is constant over blocks survives encoding and decoding exactly.
#[derive(Clone, Copy, Debug)]
pub struct BlockVae {
    /// Side of a block.
    pub factor: usize,
}

impl Encoder for BlockVae {
    fn encode(
        &mut self,
        images: &[f32],
        batch: usize,
        size: Size,
        _posterior_noise: Option<&[f32]>,
        latents: &mut [f32],
    ) -> Result<(), ModelError> {
        let (w, h) = (size.width / self.factor, size.height / self.factor);
        let area = (self.factor * self.factor) as f32;
        for b in 0..batch {
            for c in 0..4 {
                for y in 0..h {
                    for x in 0..w {
                        let mut sum = 0.0;
                        for dy in 0..if c < 3 { self.factor } else { 0 } {
                            let row = ((b * 3 + c) * size.height + y * self.factor + dy) * size.width;
                            let from = row + x * self.factor;
                            sum += images[from..from + self.factor].iter().sum::<f32>();
                        }
                        latents[((b * 4 + c) * h + y) * w + x] = sum / area;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Decoder for BlockVae {
    fn decode(
        &mut self,
        latents: &[f32],
        batch: usize,
        shape: LatentShape,
        images: &mut [f32],
    ) -> Result<(), ModelError> {
        let (w, h) = (shape.width * self.factor, shape.height * self.factor);
        for b in 0..batch {
            for c in 0..3 {
                for y in 0..h {
                    for x in 0..w {
                        let from = ((b * shape.channels + c) * shape.height + y / self.factor) * shape.width;
                        images[((b * 3 + c) * h + y) * w + x] = latents[from + x / self.factor];
                    }
                }
            }
        }
        Ok(())
    }
}

/// A "U-Net" given by a function of one value: (x, diffusion time, step, branch, first value of the prompt) → prediction.
pub struct PointwiseDenoiser<F>(pub F);

impl<F> Denoiser for PointwiseDenoiser<F>
where
    F: Fn(f32, f32, usize, Branch, f32) -> f32 + Send,
{
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let len = batch.shape.len();
        for ((row, x), out) in batch.rows.iter().zip(batch.sample.chunks(len)).zip(out.chunks_mut(len)) {
            let prompt = row.conditioning.tokens.first().copied().unwrap_or(0.0);
            for (x, out) in x.iter().zip(out) {
                *out = (self.0)(*x, row.timestep, row.step, row.branch, prompt);
            }
        }
        Ok(())
    }
}

/// A "U-Net" with a "ControlNet", given by a function of three values: (x, what is shown of the pixel that the latent is of, the row's
/// control scale) → prediction. What is shown is the red of the block's first pixel, from 0 to 1; 0 where there is no control image.
pub struct ControlledDenoiser<F>(pub F);

impl<F> Denoiser for ControlledDenoiser<F>
where
    F: Fn(f32, f32, f32) -> f32 + Send,
{
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let LatentShape { height, width, .. } = batch.shape;
        let len = batch.shape.len();
        for ((row, x), out) in batch.rows.iter().zip(batch.sample.chunks(len)).zip(out.chunks_mut(len)) {
            let shown = |at: usize| {
                let Some(image) = &row.control else { return 0.0 };
                let (block, down, across) = (image.size().width / width, at / width % height, at % width);
                f32::from(image.rgb()[3 * block * (down * image.size().width + across)]) / 255.0
            };
            for (at, (x, out)) in x.iter().zip(out).enumerate() {
                *out = (self.0)(*x, shown(at), row.control_scale);
            }
        }
        Ok(())
    }

    fn takes_control(&self) -> bool {
        true
    }
}

/// The exact denoiser of a data set of one picture value, `target`: ε̂ = (x - A·target)/S. Every solver ends at `target`
/// for it, so a stream through it paints the whole picture in that value.
pub fn exact_denoiser(schedule: crate::schedule::NoiseSchedule, target: f32) -> impl Denoiser {
    PointwiseDenoiser(move |x: f32, t: f32, _, _, _| {
        let (alpha, sigma) = schedule.alpha_sigma(f64::from(t));
        (x - alpha as f32 * target) / sigma as f32
    })
}

/// A text encoder whose embedding is one number: the prompt's length in characters.
#[derive(Clone, Copy, Debug)]
pub struct LengthText;

impl TextEncoder for LengthText {
    fn encode(&mut self, prompt: &str, _size: Size) -> Result<Conditioning, ModelError> {
        let tokens = vec![prompt.chars().count() as f32];
        Ok(Conditioning { tokens, length: 1, width: 1, ..Conditioning::default() })
    }
}

/// What is known of these networks: any size in blocks of `factor`, Stable Diffusion's schedule, no ControlNet.
pub fn facts(factor: usize) -> ModelFacts {
    let scheduler = SchedulerConfig::default();
    ModelFacts {
        vae_factor: factor,
        latent_multiple: 1,
        latent_channels: 4,
        scheduler,
        has_controlnet: false,
        most_rows: None,
    }
}

/// A whole set of networks around a denoiser.
pub fn networks(factor: usize, denoiser: impl Denoiser + 'static) -> Networks {
    Networks {
        encoder: Some(Box::new(BlockVae { factor })),
        denoiser: Box::new(denoiser),
        decoder: Box::new(BlockVae { factor }),
    }
}
