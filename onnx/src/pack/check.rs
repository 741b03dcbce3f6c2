//! Finds the inputs and outputs of every network by name and checks that the networks fit together.

use super::config::{number, of_part};
use super::{Part, PartName, VaeKind, list};
use crate::error::OnnxError;
use crate::graph::{DType, TensorInfo};
use crate::names;

/// Inputs and output of a U-Net.
#[derive(Clone, Debug)]
pub struct UnetPorts {
    /// Noisy latents, [rows, channels, height, width].
    pub sample: TensorInfo,
    /// Time step.
    pub timestep: TensorInfo,
    /// Prompt, [rows, length, width].
    pub tokens: TensorInfo,
    /// SDXL's pooled prompt, [rows, width].
    pub pooled: Option<TensorInfo>,
    /// SDXL's sizes, [rows, 6].
    pub time_ids: Option<TensorInfo>,
    /// Embedding of the guidance scale, [rows, width].
    pub guidance: Option<TensorInfo>,
    /// What a ControlNet in the same graph is shown, and how strongly it steers each row.
    pub control: Option<ControlPorts>,
    /// The prediction.
    pub out: TensorInfo,
    /// Latent channels.
    pub channels: usize,
}

/// Inputs of a ControlNet that is part of the U-Net's graph.
#[derive(Clone, Debug)]
pub struct ControlPorts {
    /// RGB in [0, 1], [rows, 3, height, width] of the pictures.
    pub image: TensorInfo,
    /// diffusers' `conditioning_scale`, one for each row.
    pub scale: TensorInfo,
}

/// Inputs and outputs of a text encoder.
#[derive(Clone, Debug)]
pub struct TextPorts {
    /// Which encoder.
    pub part: PartName,
    /// Token ids, [1, length].
    pub ids: TensorInfo,
    /// Which tokens are not padding; CLIP attends to all.
    pub mask: Option<TensorInfo>,
    /// The output that goes into the U-Net's prompt, [1, length, width].
    pub hidden: TensorInfo,
    /// The pooled output, if the U-Net takes it from this encoder, [1, width].
    pub pooled: Option<TensorInfo>,
}

pub(super) fn unet(part: &Part) -> Result<UnetPorts, OnnxError> {
    let find = |aliases: &[&str], rank: Option<usize>| {
        let tensor = names::named(&part.inputs, aliases);
        tensor.map(|t| ranked(part, t, rank).cloned()).transpose()
    };
    let need = |aliases: &[&str], rank| {
        find(aliases, rank)?.ok_or_else(|| {
            wrong(part, &format!("no input {}; it has {}", aliases.join(" or "), list(&part.inputs)))
                .hint("this is not the U-Net of a Stable Diffusion pipeline, or its inputs have unusual names")
        })
    };
    let sample = need(names::UNET_SAMPLE, Some(4))?;
    let timestep = need(names::UNET_TIMESTEP, None)?;
    if timestep.rank().is_some_and(|r| r > 1) {
        return Err(wrong(part, &format!("{timestep} is neither a scalar nor a vector")));
    }
    let out = names::named_or_only(&part.outputs, names::UNET_OUT)
        .ok_or_else(|| wrong(part, &format!("no output {}", names::UNET_OUT.join(" or "))))?;
    let config = of_part(part)?;
    let channels = sample.fixed(1).or_else(|| number(&config, "in_channels").map(|n| n as usize)).unwrap_or(4);
    let ports = UnetPorts {
        tokens: need(names::UNET_TOKENS, Some(3))?,
        pooled: find(names::UNET_POOLED, Some(2))?,
        time_ids: find(names::UNET_TIME_IDS, Some(2))?,
        guidance: find(names::UNET_GUIDANCE, Some(2))?,
        control: match (find(names::UNET_CONTROL, Some(4))?, find(names::UNET_CONTROL_SCALE, Some(1))?) {
            (Some(image), Some(scale)) => Some(control(part, image, scale)?),
            (None, None) => None,
            _ => {
                return Err(wrong(part, "it takes only one of controlnet_cond and conditioning_scale")
                    .hint("export it anew with --controlnet (tools/export)"));
            }
        },
        out: ranked(part, out, Some(4))?.clone(),
        sample,
        timestep,
        channels,
    };
    if ports.pooled.is_some() != ports.time_ids.is_some() {
        return Err(wrong(part, "it takes only one of text_embeds and time_ids"));
    }
    if let Some(out) = ports.out.fixed(1).filter(|&c| c != channels) {
        return Err(wrong(part, &format!("it takes {channels} channels and gives {out}"))
            .hint("inpainting and learned-variance networks are not supported"));
    }
    let used = ports.inputs();
    if let Some(extra) = part.inputs.iter().find(|t| !used.iter().any(|u| u.name == t.name)) {
        return Err(wrong(part, &format!("it needs an input that is not supported: {extra}")).hint(
            "export it without IP-Adapter inputs, and with a ControlNet in the same graph: tools/export does that",
        ));
    }
    Ok(ports)
}

/// The inputs of a ControlNet, if they are of pictures in RGB and of fractions.
fn control(part: &Part, image: TensorInfo, scale: TensorInfo) -> Result<ControlPorts, OnnxError> {
    let is_float = |tensor: &&TensorInfo| matches!(tensor.dtype, DType::F16 | DType::F32 | DType::Bf16);
    if let Some(other) = [&image, &scale].into_iter().find(|tensor| !is_float(tensor)) {
        return Err(
            wrong(part, &format!("{other} is not of floats")).hint("export it anew with --controlnet (tools/export)")
        );
    }
    match image.fixed(1) {
        Some(channels) if channels != 3 => {
            Err(wrong(part, &format!("{image} has {channels} channels, and a picture 3"))
                .hint("ControlNets for one picture in RGB are supported"))
        }
        _ => Ok(ControlPorts { image, scale }),
    }
}

impl UnetPorts {
    /// The inputs, in the order in which they are bound.
    pub fn inputs(&self) -> Vec<&TensorInfo> {
        let optional = [&self.pooled, &self.time_ids, &self.guidance];
        let control = self.control.iter().flat_map(|control| [&control.image, &control.scale]);
        let prompt = [&self.sample, &self.timestep, &self.tokens].into_iter().chain(optional.into_iter().flatten());
        prompt.chain(control).collect()
    }
}

/// Input and output of the graph that makes keys and values of an encoded prompt.
#[derive(Clone, Debug)]
pub struct PromptKvPorts {
    /// The encoded prompt, [rows, length, width].
    pub tokens: TensorInfo,
    /// What the U-Net takes in its place, [rows, length, `width`].
    pub kv: TensorInfo,
    /// Keys and values of all layers together, in values per token.
    pub width: usize,
}

/// The ports of `prompt_kv`, where the U-Net takes what it makes.
pub(super) fn prompt_kv(parts: &[Part], unet: &UnetPorts) -> Result<Option<PromptKvPorts>, OnnxError> {
    let taken = &unet.tokens;
    if taken.name != names::PROMPT_KV {
        return Ok(None);
    }
    let part = parts.iter().find(|p| p.name == PartName::PromptKv).ok_or_else(|| {
        OnnxError::invalid(format!("the U-Net takes {taken}, but the pack has no prompt_kv/ that makes it"))
            .hint("export the pack again, with or without --prompt-kv (tools/export), or copy it whole")
    })?;
    let ([tokens], [kv]) = (&part.inputs[..], &part.outputs[..]) else {
        let have = format!("{} and {}", list(&part.inputs), list(&part.outputs));
        return Err(wrong(part, &format!("expected one input and one output; it has {have}")));
    };
    let (tokens, kv) = (ranked(part, tokens, Some(3))?.clone(), ranked(part, kv, Some(3))?.clone());
    match (kv.fixed(2), taken.fixed(2)) {
        (Some(made), Some(taken)) if made != taken => {
            Err(wrong(part, &format!("it gives {made} values, and the U-Net takes {taken}"))
                .hint("it belongs to another U-Net: export the pack again"))
        }
        (Some(width), _) | (None, Some(width)) => Ok(Some(PromptKvPorts { tokens, kv, width })),
        (None, None) => Err(wrong(part, "neither it nor the U-Net fixes the width of the keys and values")),
    }
}

pub(super) fn text(parts: &[Part], sdxl: bool) -> Result<Vec<TextPorts>, OnnxError> {
    let encoders = parts.iter().filter(|p| matches!(p.name, PartName::TextEncoder | PartName::TextEncoder2));
    let mut all = Vec::new();
    for part in encoders {
        let ids = names::named_or_only(&part.inputs, names::TEXT_IDS)
            .ok_or_else(|| wrong(part, &format!("no input input_ids; it has {}", list(&part.inputs))))?;
        let hidden = if sdxl {
            // SDXL was trained on the layer before the last of both encoders.
            let plain = part.outputs.iter().find(|t| t.name == "hidden_states");
            names::penultimate(&part.outputs).or(plain).ok_or_else(|| {
                wrong(part, "SDXL needs the hidden states of its text encoders, and they are not exported")
                    .hint("export the text encoder with output_hidden_states=True")
            })?
        } else {
            names::named_or_only(&part.outputs, names::TEXT_LAST)
                .ok_or_else(|| wrong(part, &format!("no output last_hidden_state; it has {}", list(&part.outputs))))?
        };
        let second = part.name == PartName::TextEncoder2;
        let pooled = names::named(&part.outputs, names::TEXT_POOLED).filter(|_| sdxl && second);
        all.push(TextPorts {
            part: part.name,
            ids: ranked(part, ids, Some(2))?.clone(),
            mask: names::named(&part.inputs, names::TEXT_MASK).cloned(),
            hidden: ranked(part, hidden, Some(3))?.clone(),
            pooled: pooled.map(|t| ranked(part, t, Some(2)).cloned()).transpose()?,
        });
        if !sdxl {
            break;
        }
    }
    if sdxl && !all.iter().any(|t| t.pooled.is_some()) {
        return Err(OnnxError::invalid("the U-Net takes text_embeds, but no text_encoder_2 gives them")
            .hint("an SDXL pack needs text_encoder_2/ with the output text_embeds"));
    }
    Ok(all)
}

/// Which kind of VAE, told by the number of channels.
pub(super) fn vae_encoder(part: &Part, channels: usize) -> Result<VaeKind, OnnxError> {
    let (input, out) = vae_ports(part)?;
    let _ = (ranked(part, input, Some(4))?, ranked(part, out, Some(4))?);
    match out.fixed(1) {
        Some(c) if c == channels => Ok(VaeKind::Deterministic),
        Some(c) if c == 2 * channels => Ok(VaeKind::Kl),
        Some(c) => Err(wrong(part, &format!("it gives latents of {c} channels, and the U-Net takes {channels}"))
            .hint("the VAE belongs to another model")),
        None if of_part(part)?["_class_name"] == "AutoencoderKL" && out.name != "latent_sample" => Ok(VaeKind::Kl),
        None => Ok(VaeKind::Deterministic),
    }
}

pub(super) fn vae_decoder(part: &Part, channels: usize) -> Result<(), OnnxError> {
    let (input, out) = vae_ports(part)?;
    let _ = (ranked(part, input, Some(4))?, ranked(part, out, Some(4))?);
    match input.fixed(1) {
        Some(c) if c != channels => {
            Err(wrong(part, &format!("it takes latents of {c} channels, and the U-Net gives {channels}"))
                .hint("the VAE belongs to another model"))
        }
        _ => Ok(()),
    }
}

/// Input and output of a VAE's half.
pub(crate) fn vae_ports(part: &Part) -> Result<(&TensorInfo, &TensorInfo), OnnxError> {
    let (inputs, outputs) = match part.name {
        PartName::VaeEncoder => (names::VAE_PICTURE, names::VAE_LATENT),
        _ => (names::VAE_LATENT, names::VAE_PICTURE),
    };
    let input = names::named_or_only(&part.inputs, inputs);
    let output = names::named_or_only(&part.outputs, outputs);
    input.zip(output).filter(|_| part.inputs.len() == 1).ok_or_else(|| {
        wrong(
            part,
            &format!("expected one input and one output; it has {} and {}", list(&part.inputs), list(&part.outputs)),
        )
    })
}

/// Length and width of a prompt, from whichever graph or config fixes them.
pub(super) fn prompt(
    unet_part: &Part,
    unet: &UnetPorts,
    kv: Option<&PromptKvPorts>,
    (text, encoder): (&[TextPorts], &Part),
) -> Result<(usize, usize), OnnxError> {
    let config = of_part(encoder)?;
    let unet_config = of_part(unet_part)?;
    let length = unet.tokens.fixed(1).or_else(|| text.iter().find_map(|t| t.ids.fixed(1).or(t.hidden.fixed(1))));
    // CLIP's length; a text encoder of another one says so in its config.
    let length = length.or_else(|| number(&config, "max_position_embeddings").map(|n| n as usize)).unwrap_or(77);
    let made = text.iter().map(|t| t.hidden.fixed(2)).sum::<Option<usize>>();
    let taken = kv
        .map_or(&unet.tokens, |kv| &kv.tokens)
        .fixed(2)
        .or_else(|| number(&unet_config, "cross_attention_dim").map(|n| n as usize));
    match (made, taken) {
        (Some(made), Some(taken)) if made != taken => {
            Err(wrong(unet_part, &format!("it takes prompts of width {taken}, and the text encoder gives {made}"))
                .hint("the text encoder belongs to another model"))
        }
        (Some(width), _) | (None, Some(width)) => Ok((length, width)),
        (None, None) => Err(wrong(unet_part, "neither it nor the text encoder fixes the width of a prompt")),
    }
}

fn ranked<'a>(part: &Part, tensor: &'a TensorInfo, rank: Option<usize>) -> Result<&'a TensorInfo, OnnxError> {
    match (tensor.rank(), rank) {
        (Some(have), Some(want)) if have != want => {
            Err(wrong(part, &format!("{tensor} has rank {have} where {want} is expected"))
                .hint("export the pack in the diffusers ONNX layout"))
        }
        _ => Ok(tensor),
    }
}

fn wrong(part: &Part, what: &str) -> OnnxError {
    OnnxError::invalid(format!("{}: {what}", part.place()))
}
