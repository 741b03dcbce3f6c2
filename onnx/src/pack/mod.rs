//! A model folder in the diffusers ONNX layout, read and checked without loading any weights.

mod check;
mod config;
mod part;
mod toml_file;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub(crate) use self::check::vae_ports;
pub use self::check::{ControlPorts, PromptKvPorts, TextPorts, UnetPorts};
pub(crate) use self::config::{config_beside, of_part, read_json};
use self::config::{number, side_factor};
pub use self::part::{Part, PartName, UnetElsewhere};
pub use self::toml_file::Preset;
use crate::error::OnnxError;
use crate::graph::{DType, TensorInfo};
use crate::provider::Precision;
use crate::timestep::{Declared, declared};

/// Which kind of VAE a pack has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaeKind {
    /// `AutoencoderKL`: the encoder gives mean and log-variance.
    Kl,
    /// `AutoencoderTiny` (TAESD) and others whose encoder gives the latent itself.
    Deterministic,
}

/// A checked model folder.
#[derive(Clone, Debug)]
pub struct Pack {
    /// The folder.
    pub dir: PathBuf,
    /// `_class_name` of model_index.json.
    pub class_name: String,
    /// The networks that are there.
    pub parts: Vec<Part>,
    /// Inputs and output of the U-Net.
    pub unet: UnetPorts,
    /// Inputs and outputs of the text encoders, in the order in which their outputs are joined.
    pub text: Vec<TextPorts>,
    /// Of the graph that makes the U-Net's prompt of what the text encoders give; most packs have none.
    pub prompt_kv: Option<PromptKvPorts>,
    /// Picture to latent side.
    pub vae_factor: usize,
    /// Latent sides have to be multiples of this; picture sides of this times `vae_factor`.
    pub latent_multiple: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// A latent as the VAE gives it is multiplied by this for the U-Net.
    pub scaling_factor: f32,
    /// Subtracted before that.
    pub shift_factor: f32,
    /// Which kind of VAE; `None` without an encoder.
    pub vae_kind: Option<VaeKind>,
    /// Whether values between the VAE's layers are too large for f16: SDXL's own in f32, but for one whose config has `force_upcast` off.
    pub vae_overflows: bool,
    /// Tokens in a prompt, the padding included.
    pub prompt_length: usize,
    /// Values per token, as the text encoders give them.
    pub prompt_width: usize,
    /// Whether the U-Net takes SDXL's pooled embedding and sizes.
    pub sdxl: bool,
    /// Whether diffusers takes zeros where no negative prompt is given (SDXL).
    pub force_zeros_for_empty_prompt: bool,
    /// Width of `timestep_cond`, where the U-Net takes one.
    pub timestep_cond_width: Option<usize>,
    /// `epsilon`, `v_prediction` or `sample`.
    pub prediction_type: String,
    /// scheduler_config.json as it is.
    pub scheduler_json: Value,
    /// `[defaults]` of pack.toml: parameters by name.
    pub defaults: toml::Table,
    /// `[[presets]]` of pack.toml.
    pub presets: Vec<Preset>,
    /// What else pack.toml says (a title, a licence).
    pub about: toml::Table,
    /// What can be done with the pack: `txt2img`, `img2img`, `stream batch`, `guidance embedding`,
    /// `keys and values once a prompt`, `ControlNet`.
    pub can: Vec<String>,
}

impl Pack {
    /// Reads and checks the folder. Weights are not read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, OnnxError> {
        Self::open_with(dir.as_ref(), None)
    }

    /// The same, with a U-Net that runs elsewhere in place of the folder's own, if one is given.
    pub fn open_with(dir: &Path, elsewhere: Option<&UnetElsewhere>) -> Result<Self, OnnxError> {
        let index = dir.join("model_index.json");
        if !index.is_file() || (elsewhere.is_none() && !dir.join("unet").is_dir()) {
            let missing = if index.is_file() { "unet/" } else { "model_index.json" };
            return Err(OnnxError::invalid(format!("{} is not a model pack: no {missing}", dir.display()))
                .hint("a pack is a folder in the diffusers ONNX layout, as Optimum writes it"));
        }
        let index = read_json(&index)?;
        let parts = part::find(dir, elsewhere)?;
        let part = |name| part::need(&parts, dir, name);
        let unet_part = part(PartName::Unet)?;
        let decoder = part(PartName::VaeDecoder)?;
        let first_text = part(PartName::TextEncoder).or_else(|e| part(PartName::TextEncoder2).map_err(|_| e))?;
        let encoder = parts.iter().find(|p| p.name == PartName::VaeEncoder);

        let unet = check::unet(unet_part)?;
        let text = check::text(&parts, unet.pooled.is_some())?;
        let vae_kind = encoder.map(|part| check::vae_encoder(part, unet.channels)).transpose()?;
        check::vae_decoder(decoder, unet.channels)?;

        let unet_config = of_part(unet_part)?;
        let decoder_config = of_part(decoder)?;
        let is_kl = vae_kind == Some(VaeKind::Kl) || decoder_config["_class_name"] == "AutoencoderKL";
        let scheduler = dir.join("scheduler/scheduler_config.json");
        let scheduler_json = if scheduler.is_file() { read_json(&scheduler)? } else { Value::Null };
        let prediction_type = [&scheduler_json, &unet_config].iter().find_map(|c| c["prediction_type"].as_str());
        let prompt_kv = check::prompt_kv(&parts, &unet)?;
        let (prompt_length, prompt_width) = check::prompt(unet_part, &unet, prompt_kv.as_ref(), (&text, first_text))?;
        let (defaults, presets, about) = toml_file::read(&dir.join("pack.toml"))?;
        let mut pack = Self {
            dir: dir.to_owned(),
            class_name: index["_class_name"].as_str().unwrap_or_default().to_owned(),
            vae_factor: number(&decoder_config, "spatial_scale_factor").map_or_else(
                // Stable Diffusion's; a wrong factor shows at once as an error of the VAE's output shape.
                || side_factor(&decoder_config).unwrap_or(8),
                |n| n as usize,
            ),
            latent_multiple: number(&unet_config, "latent_multiple").map_or_else(
                // Four levels, hence three halvings, as in SD 1.x; a smaller value admits sizes that do not fit.
                || side_factor(&unet_config).unwrap_or(8),
                |n| n as usize,
            ),
            latent_channels: unet.channels,
            // Stable Diffusion's own where a KL VAE's config is silent; without it latents are 5.5 times too large.
            scaling_factor: number(&decoder_config, "scaling_factor").unwrap_or(if is_kl { 0.18215 } else { 1.0 })
                as f32,
            shift_factor: number(&decoder_config, "shift_factor").unwrap_or(0.0) as f32,
            vae_kind,
            // Where the config is silent diffusers takes it so too. What was exported in f16 is as somebody wanted it.
            vae_overflows: unet.pooled.is_some()
                && is_kl
                && decoder_config["force_upcast"] != false
                && !decoder.is_half,
            prompt_length,
            prompt_width,
            sdxl: unet.pooled.is_some(),
            force_zeros_for_empty_prompt: index["force_zeros_for_empty_prompt"].as_bool().unwrap_or(false),
            timestep_cond_width: unet.guidance.as_ref().and_then(|t| t.fixed(1)),
            prediction_type: prediction_type.unwrap_or("epsilon").to_owned(),
            scheduler_json,
            defaults,
            presets,
            about,
            can: Vec::new(),
            parts,
            unet,
            text,
            prompt_kv,
        };
        pack.can = pack.abilities();
        Ok(pack)
    }

    /// The part of that name.
    pub fn part(&self, name: PartName) -> Option<&Part> {
        self.parts.iter().find(|p| p.name == name)
    }

    /// Type and rank of the time step input; the rank is `None` where the graph leaves it open.
    pub fn timestep(&self) -> (DType, Option<usize>) {
        (self.unet.timestep.dtype, self.unet.timestep.rank())
    }

    /// Values per token, as the U-Net takes them.
    pub fn unet_prompt_width(&self) -> usize {
        self.prompt_kv.as_ref().map_or(self.prompt_width, |kv| kv.width)
    }

    /// Size of the networks on disk.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|p| p.bytes).sum()
    }

    /// Size of the networks that every frame goes through, VAE and U-Net, on disk.
    pub fn frame_bytes(&self) -> u64 {
        self.parts.iter().filter(|part| on_frame_path(part.name)).map(|part| part.bytes).sum()
    }

    /// Whether a network of every frame is there in 8 bits too: `model_int8.onnx` beside `model.onnx`.
    pub fn has_int8(&self) -> bool {
        self.parts.iter().any(|part| on_frame_path(part.name) && part.int8.is_some())
    }

    /// Whether the U-Net is in f32, also within: others reckon in 16 bits already. Of one that runs elsewhere the VAE tells.
    pub fn is_in_f32(&self) -> bool {
        match self.part(PartName::Unet) {
            // Then what runs here is the VAE.
            Some(Part { elsewhere: Some(_), .. }) => self.part(PartName::VaeDecoder).is_none_or(|part| !part.is_half),
            unet => self.unet.sample.dtype == DType::F32 && !unet.is_some_and(|part| part.is_half),
        }
    }

    /// What the U-Net reckons in on a provider that was chosen with that precision: its graph's own type, where it is taken as it is.
    pub fn reckons_in(&self, precision: Precision) -> Precision {
        // What a server's U-Net is given on the way says nothing of what it reckons in.
        let is_here = self.part(PartName::Unet).is_none_or(|part| part.elsewhere.is_none());
        match self.unet.sample.dtype {
            _ if !is_here => precision,
            _ if precision != Precision::F32 || self.is_in_f32() => precision,
            DType::Bf16 => Precision::Bf16,
            _ => Precision::F16,
        }
    }

    /// The same pack with the networks in 8 bits in place of those that they stand beside; text encoders stay.
    ///
    /// # Errors
    /// A pack without any, or one whose inputs and outputs are others.
    pub(crate) fn int8(&self) -> Result<Self, OnnxError> {
        if !self.has_int8() {
            let what = format!("{} has no networks in int8", self.dir.display());
            let hint = "put model_int8.onnx beside model.onnx in unet/, vae_encoder/ or vae_decoder/, or take --precision auto";
            return Err(OnnxError::invalid(what).hint(hint));
        }
        let swap = |part: &Part| if on_frame_path(part.name) { part::int8(part) } else { Ok(part.clone()) };
        let parts = self.parts.iter().map(swap).collect::<Result<_, _>>()?;
        Ok(Self { parts, ..self.clone() })
    }

    fn abilities(&self) -> Vec<String> {
        let mut can = vec!["txt2img"];
        if self.vae_kind.is_some() {
            can.push("img2img");
        }
        if self.unet.sample.fixed(0) != Some(1) {
            can.push(match declared(&self.unet.timestep, &self.unet.sample) {
                Declared::PerRow => "stream batch",
                Declared::Doubtful | Declared::Shared => "stream batch (if its time step can be repaired)",
            });
        }
        if self.unet.guidance.is_some() {
            can.push("guidance embedding");
        }
        if self.prompt_kv.is_some() {
            can.push("keys and values once a prompt");
        }
        if self.unet.control.is_some() {
            can.push("ControlNet");
        }
        can.into_iter().map(str::to_owned).collect()
    }
}

/// Whether every frame goes through it.
fn on_frame_path(name: PartName) -> bool {
    !matches!(name, PartName::TextEncoder | PartName::TextEncoder2 | PartName::PromptKv)
}

/// A short list of tensors for messages.
fn list(tensors: &[TensorInfo]) -> String {
    tensors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Folders of the packs that lie in the project.
#[cfg(test)]
pub(crate) fn committed() -> [PathBuf; 6] {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = crate_root.join("..");
    let goldens = ["tiny-sd15", "tiny-sd15-kl", "tiny-sdturbo", "tiny-sdxlturbo"];
    let [a, b, c, d] = goldens.map(|name| root.join("assets/goldens/models").join(name));
    [root.join("models/default"), a, b, c, d, crate_root.join("tests/data/control")]
}
