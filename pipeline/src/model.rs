//! The seam between the algorithm and whatever runs the networks: four small traits.
//!
//! ONNX Runtime (`livediffusion-onnx`) and the tests' closed forms ([`crate::fake`]) implement them. All tensors are
//! f32 and NCHW here, whatever the network's own precision: at t = 999 an error in a latent is amplified 14.6 times.

use std::sync::{Arc, Mutex, PoisonError};

use crate::controlnet::ControlImage;
use crate::frame::{LatentShape, Size};

/// Why a network could not be run: what happened, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ModelError {
    /// What failed, with the name of the network and of the tensor.
    pub what: String,
    /// The next command or setting to try.
    pub hint: Option<String>,
}

impl ModelError {
    /// An error without a hint.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// The same error with the next step to try.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A prompt as the U-Net takes it. Immutable and shared: a slot holds the one it was admitted under, and a backend may
/// recognise by its address that nothing changed since the last call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditioning {
    /// `encoder_hidden_states`, [length, width] row-major (77 × 768 for SD 1.5).
    pub tokens: Vec<f32>,
    /// Tokens in the sequence.
    pub length: usize,
    /// Values per token.
    pub width: usize,
    /// SDXL's `text_embeds` (pooled output of the second encoder).
    pub pooled: Option<Vec<f32>>,
    /// SDXL's `time_ids`: original height and width, crop top and left, target height and width.
    pub time_ids: Option<[f32; 6]>,
    /// LCM full models' embedding of the guidance scale, `timestep_cond`.
    pub timestep_cond: Option<Vec<f32>>,
    /// The end of the prompt, if it has more tokens than the encoder takes: it is not in the others. Else empty.
    pub unused: String,
}

/// Which branch of classifier-free guidance a U-Net row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// Conditioned on the negative prompt.
    Negative,
    /// Conditioned on the prompt.
    Prompt,
}

/// One row of a U-Net call.
#[derive(Clone, Debug)]
pub struct Row {
    /// The frame that the row belongs to.
    pub frame: u64,
    /// Denoising step of that frame, 0 for a frame just admitted.
    pub step: usize,
    /// Diffusion time, 0..=999; fractional for some Euler tables.
    pub timestep: f32,
    /// Guidance branch.
    pub branch: Branch,
    /// The prompt that the row is denoised under.
    pub conditioning: Arc<Conditioning>,
    /// What a ControlNet is shown of the frame; `None` where there is none, the frame comes of noise, or the picture lies on a device.
    pub control: Option<Arc<ControlImage>>,
    /// How strongly that steers the row (diffusers' `conditioning_scale`): 0 not at all.
    pub control_scale: f32,
}

/// One U-Net call: rows at different noise levels and of different frames side by side (paper §3.1).
#[derive(Clone, Copy, Debug)]
pub struct DenoiseBatch<'a> {
    /// Noisy latents, [rows, C, h, w].
    pub sample: &'a [f32],
    /// Shape of one latent.
    pub shape: LatentShape,
    /// What each row is.
    pub rows: &'a [Row],
}

/// Pictures to latents (the VAE's encoder).
pub trait Encoder: Send {
    /// Encodes `images`, [batch, 3, H, W] in [-1, 1], to `latents`, [batch, C, h, w], multiplied by the VAE's scaling
    /// factor. With `posterior_noise` (as large as `latents`, standard normal) a KL VAE's posterior is sampled, without
    /// it the mean is taken; a deterministic VAE (TAESD) ignores it.
    fn encode(
        &mut self,
        images: &[f32],
        batch: usize,
        size: Size,
        posterior_noise: Option<&[f32]>,
        latents: &mut [f32],
    ) -> Result<(), ModelError>;
}

/// The U-Net.
pub trait Denoiser: Send {
    /// Writes the network's raw prediction (noise, velocity or sample, as the pack's `prediction_type` says) for every
    /// row to `out`, [rows, C, h, w].
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError>;

    /// Width of `timestep_cond` where the network takes one (LCM full models), else `None`.
    fn timestep_cond_width(&self) -> Option<usize> {
        None
    }

    /// Whether it has a ControlNet, which takes [`Row::control`] and [`Row::control_scale`].
    fn takes_control(&self) -> bool {
        false
    }
}

/// Latents to pictures (the VAE's decoder).
pub trait Decoder: Send {
    /// Decodes `latents`, [batch, C, h, w] as the encoder gave them, to `images`, [batch, 3, H, W], nominally in
    /// [-1, 1] and not clamped.
    fn decode(
        &mut self,
        latents: &[f32],
        batch: usize,
        shape: LatentShape,
        images: &mut [f32],
    ) -> Result<(), ModelError>;
}

/// Prompts to conditionings: the tokenizers and text encoders. It runs off the frame path.
pub trait TextEncoder: Send {
    /// Encodes a prompt of any length; what does not fit is cut off with one warning. `size` is the picture size, which
    /// SDXL's `time_ids` carry.
    fn encode(&mut self, prompt: &str, size: Size) -> Result<Conditioning, ModelError>;
}

/// A text encoder that several streams share. Cheap to clone; one prompt is encoded at a time.
#[derive(Clone)]
pub struct SharedText(Arc<Mutex<Box<dyn TextEncoder>>>);

impl SharedText {
    /// Shares `text`.
    pub fn new(text: Box<dyn TextEncoder>) -> Self {
        Self(Arc::new(Mutex::new(text)))
    }
}

impl TextEncoder for SharedText {
    fn encode(&mut self, prompt: &str, size: Size) -> Result<Conditioning, ModelError> {
        // An encoder that panicked in another stream has no state that could be half done: each call starts anew.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).encode(prompt, size)
    }
}

/// The networks of one stream.
pub struct Networks {
    /// VAE encoder; `None` for a pack that can only do txt2img.
    pub encoder: Option<Box<dyn Encoder>>,
    /// U-Net.
    pub denoiser: Box<dyn Denoiser>,
    /// VAE decoder.
    pub decoder: Box<dyn Decoder>,
}
