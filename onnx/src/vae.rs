//! Pictures to latents and back: TAESD-like and KL autoencoders.

use livediffusion_kernels::{sample_posterior, unscale};
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Decoder, Encoder, ModelError};

use crate::error::OnnxError;
use crate::pack::{Pack, Part, PartName, VaeKind, vae_ports};
use crate::provider::{Chosen, OpenVinoDevice, Precision, Provider, SessionSettings, channels_of};
use crate::runtime::Runtime;
use crate::session::{Model, Network};

/// Red, green and blue.
const PICTURE_CHANNELS: usize = 3;

/// What both halves know.
struct Half {
    network: Network,
    factor: usize,
    channels: usize,
    scale: f32,
    shift: f32,
    /// Whether the graph takes only one picture a call.
    is_single: bool,
}

impl Half {
    fn load(
        runtime: &Runtime,
        label: &'static str,
        (pack, part): (&Pack, &Part),
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let (input, output) = vae_ports(part)?;
        let mut settings = *settings;
        let mut chosen = chosen.clone();
        if stays_in_f32(pack, &chosen, &settings) {
            chosen.precision = Precision::F32;
            // Whoever takes f16 for the rest does not want digits of its convolutions at a fraction of the speed.
            settings.gpu.tf32 = true;
        }
        let channels = if part.name == PartName::VaeEncoder { PICTURE_CHANNELS } else { pack.latent_channels };
        let sides = channels_of(&[input], channels);
        let (model, io) = (Model::File(&part.file), (&[input][..], &[output][..], &sides[..]));
        Ok(Self {
            network: Network::load_for(runtime, label, &model, io, &chosen, &settings)?,
            factor: pack.vae_factor,
            channels: pack.latent_channels,
            scale: pack.scaling_factor,
            shift: pack.shift_factor,
            is_single: input.fixed(0) == Some(1),
        })
    }

    fn fork(&self) -> Self {
        Self { network: self.network.fork(), ..*self }
    }

    fn parts(&self) -> (&Network, (f32, f32), usize) {
        (&self.network, (self.scale, self.shift), self.factor)
    }

    fn picture(&self, batch: usize, shape: LatentShape) -> [usize; 4] {
        [batch, PICTURE_CHANNELS, shape.height * self.factor, shape.width * self.factor]
    }
}

/// Whether the VAE is in f32 though f16 is chosen, since its values overflow there.
pub(crate) fn stays_in_f32(pack: &Pack, chosen: &Chosen, settings: &SessionSettings) -> bool {
    let has_no_f32 = chosen.provider == Provider::OpenVino && settings.openvino == OpenVinoDevice::Npu;
    chosen.precision == Precision::F16 && pack.vae_overflows && !has_no_f32
}

/// The encoder.
pub(crate) struct OnnxEncoder {
    half: Half,
    kind: VaeKind,
    /// Mean and log-variance of a KL posterior.
    moments: Vec<f32>,
}

/// The decoder.
pub(crate) struct OnnxDecoder {
    half: Half,
    /// Latents with scale and shift undone.
    plain: Vec<f32>,
}

impl OnnxEncoder {
    pub(crate) fn load(
        runtime: &Runtime,
        pack: &Pack,
        (part, kind): (&Part, VaeKind),
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let half = Half::load(runtime, "VAE encoder", (pack, part), chosen, settings)?;
        Ok(Self { half, kind, moments: Vec::new() })
    }

    /// Its network, scale and shift, and the picture's side over the latent's.
    pub(crate) fn parts(&self) -> (&Network, (f32, f32), usize) {
        self.half.parts()
    }

    /// What it gives.
    pub(crate) fn kind(&self) -> VaeKind {
        self.kind
    }

    /// Another encoder on the same weights, with tensors of its own: both may run at once.
    pub(crate) fn fork(&self) -> Self {
        Self { half: self.half.fork(), kind: self.kind, moments: Vec::new() }
    }

    fn encode_some(
        &mut self,
        images: &[f32],
        (batch, shape): (usize, LatentShape),
        noise: Option<&[f32]>,
        latents: &mut [f32],
    ) -> Result<(), ModelError> {
        let Half { channels, scale, shift, .. } = self.half;
        let given = if self.kind == VaeKind::Kl { 2 * channels } else { channels };
        let picture = self.half.picture(batch, shape);
        let network = &mut self.half.network;
        let bound = network.bind(&[&picture], &[&[batch, given, shape.height, shape.width]])?;
        network.write(bound, 0, 0, images)?;
        network.run(bound)?;
        if self.kind == VaeKind::Kl {
            self.moments.resize(2 * latents.len(), 0.0);
            network.read(bound, 0, &mut self.moments)?;
            let size = shape.len();
            for (i, (latent, moments)) in
                latents.chunks_exact_mut(size).zip(self.moments.chunks_exact(2 * size)).enumerate()
            {
                let (mean, log_variance) = moments.split_at(size);
                match noise {
                    Some(noise) => sample_posterior(mean, log_variance, &noise[i * size..][..size], latent),
                    None => latent.copy_from_slice(mean),
                }
            }
        } else {
            network.read(bound, 0, latents)?;
        }
        for z in latents {
            *z = (*z - shift) * scale;
        }
        Ok(())
    }
}

impl Encoder for OnnxEncoder {
    fn encode(
        &mut self,
        images: &[f32],
        batch: usize,
        size: Size,
        posterior_noise: Option<&[f32]>,
        latents: &mut [f32],
    ) -> Result<(), ModelError> {
        let factor = self.half.factor;
        if !size.width.is_multiple_of(factor) || !size.height.is_multiple_of(factor) {
            return Err(ModelError::new(format!("VAE encoder: {size} is not a multiple of {factor}"))
                .with_hint(format!("choose a width and height that are multiples of {factor}")));
        }
        let shape =
            LatentShape { channels: self.half.channels, height: size.height / factor, width: size.width / factor };
        check_length("VAE encoder: images", images.len(), batch * 3 * size.pixels())?;
        check_length("VAE encoder: latents", latents.len(), batch * shape.len())?;
        if let Some(noise) = posterior_noise {
            check_length("VAE encoder: noise", noise.len(), batch * shape.len())?;
        }
        let step = if self.half.is_single { 1 } else { batch.max(1) };
        let (picture, latent) = (step * 3 * size.pixels(), step * shape.len());
        for (i, (images, latents)) in images.chunks_exact(picture).zip(latents.chunks_exact_mut(latent)).enumerate() {
            let noise = posterior_noise.map(|n| &n[i * latent..][..latent]);
            self.encode_some(images, (step, shape), noise, latents)?;
        }
        Ok(())
    }
}

impl OnnxDecoder {
    pub(crate) fn load(
        runtime: &Runtime,
        pack: &Pack,
        part: &Part,
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let half = Half::load(runtime, "VAE decoder", (pack, part), chosen, settings)?;
        Ok(Self { half, plain: Vec::new() })
    }

    /// As [`OnnxEncoder::parts`].
    pub(crate) fn parts(&self) -> (&Network, (f32, f32), usize) {
        self.half.parts()
    }

    /// Channels of a latent, and the picture's side over the latent's.
    pub(crate) fn geometry(&self) -> (usize, usize) {
        (self.half.channels, self.half.factor)
    }

    /// Another decoder on the same weights, with tensors of its own: both may run at once.
    pub(crate) fn fork(&self) -> Self {
        Self { half: self.half.fork(), plain: Vec::new() }
    }
}

impl Decoder for OnnxDecoder {
    fn decode(
        &mut self,
        latents: &[f32],
        batch: usize,
        shape: LatentShape,
        images: &mut [f32],
    ) -> Result<(), ModelError> {
        let Half { scale, shift, is_single, .. } = self.half;
        let step = if is_single { 1 } else { batch.max(1) };
        let picture = self.half.picture(step, shape);
        let pixels: usize = picture.iter().product();
        check_length("VAE decoder: latents", latents.len(), batch * shape.len())?;
        check_length("VAE decoder: images", images.len(), batch * pixels / step)?;
        self.plain.resize(latents.len(), 0.0);
        unscale(scale, shift, latents, &mut self.plain);
        let network = &mut self.half.network;
        let dims = [step, shape.channels, shape.height, shape.width];
        for (latents, images) in self.plain.chunks_exact(step * shape.len()).zip(images.chunks_exact_mut(pixels)) {
            let bound = network.bind(&[&dims], &[&picture])?;
            network.write(bound, 0, 0, latents)?;
            network.run(bound)?;
            network.read(bound, 0, images)?;
        }
        Ok(())
    }
}

pub(crate) fn check_length(what: &str, have: usize, want: usize) -> Result<(), ModelError> {
    if have == want { Ok(()) } else { Err(ModelError::new(format!("{what}: {have} values where {want} belong"))) }
}
