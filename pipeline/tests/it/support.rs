//! Streams on closed-form networks, and what came out of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::fake::{self, BlockVae, LengthText};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::model::{Branch, Denoiser, Encoder, ModelError, Networks, TextEncoder};
use livediffusion_pipeline::noise::NoiseSource;
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::StoppedClock;
use livediffusion_pipeline::{Control, Emitted, PromptPair, Settings};

pub(crate) const FACTOR: usize = 4;
pub(crate) const SIZE: Size = Size::new(16, 8);

pub(crate) fn facts() -> ModelFacts {
    fake::facts(FACTOR)
}

pub(crate) fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, value) in pairs {
        parameters.set(name, value).unwrap();
    }
    parameters
}

pub(crate) fn settings(parameters: Parameters) -> Settings {
    let encode = |prompt: &str| Arc::new(LengthText.encode(prompt, SIZE).unwrap());
    let prompts = PromptPair { prompt: encode(&parameters.prompt), negative: encode(&parameters.negative_prompt) };
    Settings { parameters, prompts: Arc::new(prompts) }
}

pub(crate) fn engine_of(networks: Networks, pairs: &[(&str, &str)]) -> (Engine, Control) {
    let control = Control::new(settings(parameters(pairs)));
    let engine = Engine::new(networks, facts(), SIZE, control.clone(), Box::new(StoppedClock)).unwrap();
    (engine, control)
}

/// A stream around a pointwise "U-Net" (x, t, step, branch, prompt) → noise.
pub(crate) fn engine(
    unet: impl Fn(f32, f32, usize, Branch, f32) -> f32 + Send + 'static,
    pairs: &[(&str, &str)],
) -> (Engine, Control) {
    engine_of(fake::networks(FACTOR, fake::PointwiseDenoiser(unet)), pairs)
}

/// What left the engine, copied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Out {
    pub(crate) meta: FrameMeta,
    pub(crate) rgb: Vec<u8>,
    pub(crate) latent: Option<Vec<f32>>,
    pub(crate) repeated: bool,
}

pub(crate) fn collect(emitted: Emitted<'_>) -> Vec<Out> {
    emitted
        .iter()
        .map(|picture| Out {
            meta: picture.meta,
            rgb: picture.rgb.to_vec(),
            latent: picture.latent.map(<[f32]>::to_vec),
            repeated: picture.repeated,
        })
        .collect()
}

pub(crate) fn meta(id: u64) -> FrameMeta {
    // An uneven clock: a time stamp that is computed from the frame's number would show.
    FrameMeta { id, pts_ns: Some(id * 40_000_000 + id * id * 1_000), duration_ns: Some(40_000_000 + id) }
}

/// A flat picture of one grey.
pub(crate) fn grey(level: u8) -> Vec<u8> {
    vec![level; 3 * SIZE.pixels()]
}

/// Runs pictures through and flushes.
pub(crate) fn run(engine: &mut Engine, pictures: &[Vec<u8>]) -> Vec<Out> {
    let mut out = Vec::new();
    for (id, rgb) in pictures.iter().enumerate() {
        out.extend(collect(engine.step(meta(id as u64), PictureView::packed(SIZE, rgb)).unwrap()));
    }
    out.extend(collect(engine.flush().unwrap()));
    out
}

/// An "encoder" that hands out given latent values, one a frame, whatever the picture.
pub(crate) struct Scripted(pub(crate) Arc<Mutex<VecDeque<f32>>>);

impl Encoder for Scripted {
    fn encode(
        &mut self,
        _images: &[f32],
        batch: usize,
        _size: Size,
        _posterior: Option<&[f32]>,
        latents: &mut [f32],
    ) -> Result<(), ModelError> {
        for latent in latents.chunks_mut(latents.len() / batch) {
            latent.fill(self.0.lock().unwrap().pop_front().unwrap());
        }
        Ok(())
    }
}

pub(crate) fn scripted(values: &[f32], unet: impl Denoiser + 'static) -> Networks {
    Networks {
        encoder: Some(Box::new(Scripted(Arc::new(Mutex::new(values.iter().copied().collect()))))),
        denoiser: Box::new(unet),
        decoder: Box::new(BlockVae { factor: FACTOR }),
    }
}

/// The same value everywhere for each step.
pub(crate) struct FlatNoise {
    len: usize,
    table: Vec<f32>,
}

impl FlatNoise {
    pub(crate) fn new(values: &[f32]) -> Self {
        let len = facts().latent_shape(SIZE).unwrap().len();
        Self { len, table: values.iter().flat_map(|value| vec![*value; len]).collect() }
    }
}

impl NoiseSource for FlatNoise {
    fn step(&self, step: usize, _frame: u64) -> &[f32] {
        &self.table[step * self.len..(step + 1) * self.len]
    }

    fn initial(&self, frame: u64, out: &mut [f32]) {
        out.fill(0.1 * frame as f32 - 0.3);
    }

    fn posterior(&self, _frame: u64, out: &mut [f32]) {
        out.fill(0.0);
    }
}
