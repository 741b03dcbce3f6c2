//! The frame path on a device: a frame is copied there, everything from its bytes to the picture's happens there, and the
//! picture is copied back.
//!
//! [`DeviceEngine`] keeps the same books as [`Engine`](crate::engine::Engine) (slots, plans, guidance, order) on the host, and
//! puts kernels and networks into one [`Queue`](livediffusion_kernels::gpu::Queue): it waits for finished pictures alone. Three
//! things stay on the host. The similarity filter decides there, on the frame that lies there anyway, since whether the networks
//! run must be known before they are put into the queue. Noise is drawn there, so that a seed gives the same picture everywhere. What a
//! ControlNet is shown is made there, and goes up behind the frame.

mod album;
mod batch;
mod engine;
mod noise;
mod stages;
mod timeline;

pub use engine::{DeviceEngine, refusal};

use livediffusion_kernels::gpu::{GpuError, View, ViewMut};

use crate::emitted::Emitted;
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView};
use crate::model::{ModelError, Row};
use crate::stats::Stats;

/// What an encoder gave, in the device's memory.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// [C, h, w], f32 or f16: the latent, or the mean of a KL VAE's posterior.
    pub mean: View<'a>,
    /// Its log-variance, where it is a KL VAE.
    pub log_variance: Option<View<'a>>,
    /// Shift and scale: the latent is (mean − shift) · scale.
    pub affine: (f32, f32),
}

/// The VAE's encoder on a device, for one picture of one size.
pub trait DeviceEncoder<Q>: Send {
    /// Where the picture goes: [3, H, W] in [-1, 1], f32 or f16, always at the same address.
    fn picture(&mut self) -> ViewMut<'_>;

    /// Puts the network behind what is in the queue.
    fn run(&mut self, queue: &Q) -> Result<(), ModelError>;

    /// What it gives once it has run.
    fn given(&self) -> Result<Given<'_>, GpuError>;
}

/// The U-Net on a device.
pub trait DeviceDenoiser<Q>: Send {
    /// Where the noisy latents of so many rows go: [rows, C, h, w], f32 or f16.
    fn samples(&mut self, queue: &Q, rows: usize) -> Result<ViewMut<'_>, ModelError>;

    /// Whether it has a ControlNet.
    fn takes_control(&self) -> bool {
        false
    }

    /// Where the rows' control images go once [`samples`](Self::samples) has made room for them: [rows, 3, H, W] in [0, 1], f32 or f16.
    /// What is in a row whose [`Row::control_scale`] is 0 has no effect.
    fn controls(&mut self) -> Option<ViewMut<'_>> {
        None
    }

    /// Puts the network behind what is in the queue, and before it what is new of the rows' times, prompts and scales of control.
    fn run(&mut self, queue: &Q, rows: &[Row]) -> Result<(), ModelError>;

    /// Its raw predictions for the rows of the last call, once it has run.
    fn predictions(&self) -> Result<View<'_>, GpuError>;
}

/// The VAE's decoder on a device, for one latent of one size.
pub trait DeviceDecoder<Q>: Send {
    /// Where the latent goes, divided by the scale, with the shift added: [C, h, w], f32 or f16.
    fn latent(&mut self) -> ViewMut<'_>;

    /// Scale and shift.
    fn affine(&self) -> (f32, f32);

    /// Puts the network behind what is in the queue.
    fn run(&mut self, queue: &Q) -> Result<(), ModelError>;

    /// The picture once it has run: [3, H, W], f32 or f16.
    fn picture(&self) -> View<'_>;
}

/// The networks of one stream, at one size.
pub struct DeviceNetworks<Q> {
    /// VAE encoder; `None` for a pack that can only do txt2img.
    pub encoder: Option<Box<dyn DeviceEncoder<Q>>>,
    /// U-Net.
    pub denoiser: Box<dyn DeviceDenoiser<Q>>,
    /// VAE decoder.
    pub decoder: Box<dyn DeviceDecoder<Q>>,
}

/// A [`DeviceEngine`] of whatever device: what a [`Painter`](crate::painter::Painter) needs of it.
pub trait DeviceStream: Send {
    /// See [`Engine::step`](crate::engine::Engine::step). Pictures of earlier frames, where several are on their way.
    fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError>;

    /// See [`Engine::generate`](crate::engine::Engine::generate).
    fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError>;

    /// The pictures on their way, without a new frame.
    fn ready(&mut self) -> Result<Emitted<'_>, EngineError>;

    /// See [`Engine::flush`](crate::engine::Engine::flush).
    fn flush(&mut self) -> Result<Emitted<'_>, EngineError>;

    /// What happened so far. Times of stages are the device's.
    fn stats(&self) -> &Stats;

    /// Frames on their way at once.
    fn lanes(&self) -> usize;
}

impl From<GpuError> for ModelError {
    fn from(error: GpuError) -> Self {
        Self { what: error.what, hint: error.hint }
    }
}

impl From<GpuError> for EngineError {
    fn from(error: GpuError) -> Self {
        Self::Model(error.into())
    }
}
