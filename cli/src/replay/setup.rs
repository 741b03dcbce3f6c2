//! From a case to an engine: parameters, model facts, prompts and networks.

use std::path::Path;
use std::sync::Arc;

use livediffusion_onnx::LoadedPack;
use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::{Conditioning, Networks, SharedText, TextEncoder as _};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::schedule::SchedulerConfig;
use livediffusion_pipeline::{PromptPair, Settings};
use serde_json::json;

use super::case::{CONTRADICTION, Case};
use super::networks::{NoDecoder, RecordedNoise, SharedLedger, WatchedDenoiser, WatchedEncoder, WatchedRows};
use crate::args::Level;
use crate::failure::{Failure, Outcome, USAGE};
use crate::lock;

/// The mode that reads x̂0 out without boundary scalings.
pub(super) const TURBO: &str = "txt2img_sd_turbo";

/// The case's configuration as parameters.
pub(super) fn parameters(case: &Case, noise: &RecordedNoise, size: Size) -> Outcome<Parameters> {
    let config = &case.config;
    let list: Vec<String> = config.t_index_list.iter().map(usize::to_string).collect();
    let filter = config.similar.as_ref();
    let mut parameters = Parameters::default();
    let overridden = config.scheduler_override.as_ref().and_then(|map| map.get("original_inference_steps"));
    for (name, text) in [
        ("prompt", config.prompt.clone()),
        ("negative-prompt", config.negative_prompt.clone()),
        ("size", size.to_string()),
        ("t-index", list.join(",")),
        ("steps", config.num_inference_steps.to_string()),
        ("scheduler", if config.mode == TURBO { "turbo" } else { "lcm" }.into()),
        ("cfg", config.cfg_type.clone()),
        ("guidance", config.guidance_scale.to_string()),
        ("delta", config.delta.to_string()),
        ("add-noise", config.do_add_noise.to_string()),
        ("stream-batch", config.use_denoising_batch.to_string()),
        ("frame-buffer", config.frame_buffer_size.to_string()),
        ("similarity", filter.map_or("off".into(), |filter| filter.threshold.to_string())),
        ("max-skip", filter.map_or(10, |filter| filter.max_skip_frame).to_string()),
        ("similarity-metric", "cosine".into()),
        ("original-inference-steps", overridden.map_or("auto".into(), ToString::to_string)),
        ("vae-sample", noise.samples_posterior().to_string()),
    ] {
        parameters
            .set(name, &text)
            .map_err(|error| Failure::usage(format!("case {}: {error}", case.name), error.hint.clone()))?;
    }
    Ok(parameters)
}

/// Model facts from the pack's scheduler configuration, as the reference reads it, and the case's shapes.
pub(super) fn facts(case: &Case, folder: &Path, size: Size) -> Outcome<ModelFacts> {
    if !folder.is_dir() {
        let hint = format!("the case ran on {}: --models takes the folder that holds it", case.config.model);
        return Err(Failure::usage(format!("there is no model pack {}", folder.display()), hint));
    }
    let path = folder.join("scheduler/scheduler_config.json");
    let bad = |error: String| Failure::new(USAGE, format!("{}: {error}", path.display()));
    let mut json: serde_json::Value = match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
        Err(error) => return Err(bad(error.to_string())),
    };
    for (key, value) in case.config.scheduler_override.iter().flatten() {
        json[key] = value.clone();
    }
    // The reference is hard-wired to noise prediction.
    json["prediction_type"] = json!("epsilon");
    let scheduler: SchedulerConfig = serde_json::from_value(json).map_err(|error| bad(error.to_string()))?;
    let noise = case.tensor("const/init_noise")?;
    let &[_, channels, height, width] = noise.shape.as_slice() else {
        return Err(Failure::usage(format!("const/init_noise has the shape {:?}", noise.shape), CONTRADICTION));
    };
    if height == 0 || width == 0 || !size.height.is_multiple_of(height) || size.height / height != size.width / width {
        case.expect_shape("const/init_noise", &noise, &[case.steps(), 4, size.height / 8, size.width / 8])?;
    }
    Ok(ModelFacts {
        vae_factor: size.height / height,
        latent_multiple: 1,
        latent_channels: channels,
        scheduler,
        has_controlnet: false,
        most_rows: None,
    })
}

/// Settings before and after the case's prompt change. At the end-to-end level the prompts are encoded and compared,
/// else the recorded embeddings are taken.
pub(super) fn prompts(
    case: &Case,
    level: Level,
    parameters: Parameters,
    size: Size,
    text: Option<&mut SharedText>,
    ledger: &SharedLedger,
) -> Outcome<(Settings, Option<Settings>)> {
    let recorded = |tokens: &str, pooled: &str| -> Outcome<Option<Conditioning>> {
        let Some(tensor) = case.find(tokens)? else { return Ok(None) };
        let &[_, length, width] = tensor.shape.as_slice() else {
            return Err(Failure::usage(format!("{tokens} has the shape {:?}", tensor.shape), CONTRADICTION));
        };
        let time_ids = case.find("const/time_ids")?.and_then(|ids| ids.values.try_into().ok());
        let pooled = case.find(pooled)?.map(|tensor| tensor.values);
        let unused = String::new();
        Ok(Some(Conditioning { tokens: tensor.values, length, width, pooled, time_ids, timestep_cond: None, unused }))
    };
    case.tensor("const/prompt_embeds")?;
    let mut positive = recorded("const/prompt_embeds", "const/pooled_prompt_embeds")?;
    let mut negative = recorded("const/negative_prompt_embeds", "const/negative_pooled_prompt_embeds")?;
    let mut updated = recorded("const/updated_prompt_embeds", "const/pooled_prompt_embeds")?;
    if let (Level::EndToEnd, Some(text)) = (level, text) {
        let config = &case.config;
        let update = config.update_prompt.as_ref().map_or("", |update| update.prompt.as_str());
        for (name, prompt, slot) in [
            ("prompt_embeds", config.prompt.as_str(), &mut positive),
            ("negative_prompt_embeds", config.negative_prompt.as_str(), &mut negative),
            ("updated_prompt_embeds", update, &mut updated),
        ] {
            let Some(recorded) = slot else { continue };
            let encoded = text.encode(prompt, size)?;
            let mut ledger = lock(ledger);
            ledger.compare(format!("const/{name}"), &encoded.tokens, &recorded.tokens);
            if let (Some(got), Some(recorded)) = (&encoded.pooled, &recorded.pooled) {
                ledger.compare(format!("const/{name}, pooled"), got, recorded);
            }
            if let (Some(got), Some(recorded)) = (&encoded.time_ids, &recorded.time_ids) {
                ledger.compare("const/time_ids", got, recorded);
            }
            *slot = Some(encoded);
        }
    }
    let positive = Arc::new(positive.unwrap_or_default());
    let negative = negative.map_or_else(|| Arc::clone(&positive), Arc::new);
    let pair = |prompt: &Arc<Conditioning>| {
        Arc::new(PromptPair { prompt: Arc::clone(prompt), negative: Arc::clone(&negative) })
    };
    let settings = Settings { parameters: parameters.clone(), prompts: pair(&positive) };
    let updated = updated.map(|updated| Settings { parameters, prompts: pair(&Arc::new(updated)) });
    Ok((settings, updated))
}

/// Recorded or watched networks, as the level asks.
pub(super) fn networks(case: &Arc<Case>, level: Level, loaded: Option<&LoadedPack>, ledger: &SharedLedger) -> Networks {
    let (mut encoder, mut denoiser, mut decoder) = (None, None, None);
    if let Some(loaded) = loaded {
        let networks = loaded.shared.fork();
        denoiser = Some(networks.denoiser);
        if level == Level::EndToEnd {
            encoder = networks.encoder;
            decoder = Some(networks.decoder);
        }
    }
    Networks {
        encoder: Some(Box::new(WatchedEncoder {
            case: Arc::clone(case),
            real: encoder,
            ledger: Arc::clone(ledger),
            encoded: 0,
        })),
        denoiser: Box::new(WatchedDenoiser { rows: WatchedRows::of(case, ledger), real: denoiser }),
        decoder: decoder.unwrap_or_else(|| Box::new(NoDecoder)),
    }
}
