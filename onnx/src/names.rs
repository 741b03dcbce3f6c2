//! Names that exporters give to the same tensor.
//!
//! First Optimum's and diffusers' own, then those of the StreamDiffusion TensorRT export, of Olive and of web exports. An
//! input or output is looked up by these names and, where a network has only one, taken whatever its name.

use crate::graph::TensorInfo;

pub(crate) const UNET_SAMPLE: &[&str] = &["sample", "latent_sample", "latent_model_input", "latents", "latent", "x"];
pub(crate) const UNET_TIMESTEP: &[&str] = &["timestep", "timesteps", "t"];
pub(crate) const UNET_TOKENS: &[&str] =
    &["encoder_hidden_states", "text_embeddings", "prompt_embeds", "context", PROMPT_KV];
/// Keys and values of the prompt for all cross-attentions, side by side, where a graph of their own makes them.
pub(crate) const PROMPT_KV: &str = "prompt_kv";
pub(crate) const UNET_POOLED: &[&str] = &["text_embeds", "pooled_prompt_embeds"];
pub(crate) const UNET_TIME_IDS: &[&str] = &["time_ids", "add_time_ids"];
pub(crate) const UNET_GUIDANCE: &[&str] = &["timestep_cond"];
pub(crate) const UNET_CONTROL: &[&str] = &["controlnet_cond", "control_image"];
pub(crate) const UNET_CONTROL_SCALE: &[&str] = &["conditioning_scale", "controlnet_conditioning_scale"];
pub(crate) const UNET_OUT: &[&str] = &["out_sample", "latent", "noise_pred", "sample", "output"];

pub(crate) const VAE_PICTURE: &[&str] = &["sample", "images", "image", "pixel_values", "x"];
pub(crate) const VAE_LATENT: &[&str] =
    &["latent_sample", "latent_parameters", "latent", "latents", "moments", "latent_dist", "z"];

pub(crate) const TEXT_IDS: &[&str] = &["input_ids", "tokens"];
pub(crate) const TEXT_MASK: &[&str] = &["attention_mask"];
pub(crate) const TEXT_LAST: &[&str] = &["last_hidden_state", "text_embeddings", "hidden_states", "prompt_embeds"];
pub(crate) const TEXT_POOLED: &[&str] = &["text_embeds", "pooled_prompt_embeds", "pooled_output", "text_embeddings"];

/// The tensor of the first name that is there.
pub(crate) fn named<'a>(tensors: &'a [TensorInfo], names: &[&str]) -> Option<&'a TensorInfo> {
    names.iter().find_map(|name| tensors.iter().find(|t| t.name == *name))
}

/// Likewise; a lone tensor is taken by any name.
pub(crate) fn named_or_only<'a>(tensors: &'a [TensorInfo], names: &[&str]) -> Option<&'a TensorInfo> {
    named(tensors, names).or(match tensors {
        [only] => Some(only),
        _ => None,
    })
}

/// The layer before the last: of `hidden_states.0` to `hidden_states.n` (0 is the embedding) the one numbered n - 1.
pub(crate) fn penultimate(tensors: &[TensorInfo]) -> Option<&TensorInfo> {
    let number = |t: &TensorInfo| {
        let tail = t.name.strip_prefix("hidden_states")?;
        tail.trim_start_matches(['.', '_']).parse::<usize>().ok()
    };
    let mut layers: Vec<_> = tensors.iter().filter_map(|t| Some((number(t)?, t))).collect();
    layers.sort_by_key(|(n, _)| *n);
    match layers[..] {
        // Only the layer that is wanted was exported.
        [(_, only)] => Some(only),
        [.., (_, before), _] => Some(before),
        [] => None,
    }
}
