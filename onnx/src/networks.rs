//! From a pack to the networks of a stream.

use livediffusion_pipeline::model::{Encoder, Networks, TextEncoder};

use crate::error::OnnxError;
use crate::pack::{Pack, PartName};
use crate::provider::{Chosen, Precision, Provider, SessionSettings, choose_provider};
use crate::runtime::Runtime;
use crate::text::OnnxText;
use crate::timestep::Timesteps;
use crate::unet::OnnxUnet;
use crate::vae::{OnnxDecoder, OnnxEncoder};

/// The networks of a pack, ready to run.
pub struct LoadedPack {
    /// VAE and U-Net.
    pub networks: Networks,
    /// Tokenizers and text encoders.
    pub text: Box<dyn TextEncoder>,
    /// What they run on.
    pub provider: Provider,
    /// Arithmetic of VAE and U-Net.
    pub precision: Precision,
    /// Why that provider and precision, for the user.
    pub why: String,
    /// How the U-Net gets its time steps.
    pub timesteps: Timesteps,
}

/// Loads the networks of `pack`.
pub fn load_networks(runtime: &Runtime, pack: &Pack, settings: &SessionSettings) -> Result<LoadedPack, OnnxError> {
    let chosen = choose_provider(runtime, settings)?;
    let encoder = match (pack.part(PartName::VaeEncoder), pack.vae_kind) {
        (Some(part), Some(kind)) => {
            let encoder = OnnxEncoder::load(runtime, pack, (part, kind), &chosen, settings)?;
            Some(Box::new(encoder) as Box<dyn Encoder>)
        }
        _ => None,
    };
    let decoder = pack.part(PartName::VaeDecoder).ok_or_else(|| OnnxError::invalid("the pack has no vae_decoder"))?;
    let decoder = Box::new(OnnxDecoder::load(runtime, pack, decoder, &chosen, settings)?);
    let denoiser = OnnxUnet::load(runtime, pack, &chosen, settings)?;
    let timesteps = denoiser.timesteps();
    let text = Box::new(OnnxText::load(runtime, pack, &chosen, settings)?);
    let networks = Networks { encoder, denoiser: Box::new(denoiser), decoder };
    let Chosen { provider, precision, why } = chosen;
    Ok(LoadedPack { networks, text, provider, precision, why, timesteps })
}
