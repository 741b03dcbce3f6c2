//! `livediffusion models`: which packs there are, what one is made of, what its maker recommends, and how to get others.

mod presets;
mod pull;

use std::path::Path;

use livediffusion_onnx::Pack;
use livediffusion_session::{facts, locate};
use serde_json::{Value, json};

use crate::args::{ModelsArgs, ModelsCommand};
use crate::failure::Outcome;

pub(crate) fn command(args: &ModelsArgs) -> Outcome<()> {
    match &args.command {
        ModelsCommand::List { json } => {
            list(*json);
            Ok(())
        }
        ModelsCommand::Pull(args) => pull::command(args),
        ModelsCommand::Presets { model, json } => presets::list(model, *json),
        ModelsCommand::Inspect { model, json } => inspect(model, *json),
    }
}

fn list(as_json: bool) {
    let packs = locate::packs();
    if as_json {
        let list: Vec<Value> = packs
            .iter()
            .map(|(name, path)| match Pack::open(path) {
                Ok(pack) => json!({ "name": name, "folder": path, "bytes": bytes(&pack), "can": pack.can }),
                Err(error) => json!({ "name": name, "folder": path, "error": error.to_string() }),
            })
            .collect();
        say!("{:#}", json!({ "models": list }));
        return;
    }
    if packs.is_empty() {
        say!(
            "no model pack was found in {}",
            locate::folders().iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ")
        );
    }
    for (name, path) in packs {
        match Pack::open(&path) {
            Ok(pack) => {
                say!("{name:<20} {:>8.1} MB  {}  ({})", bytes(&pack) as f64 / 1e6, pack.can.join(", "), path.display());
            }
            Err(error) => say!("{name:<20} unusable: {error}  ({})", path.display()),
        }
    }
}

fn bytes(pack: &Pack) -> u64 {
    pack.parts.iter().map(|part| part.bytes).sum()
}

fn inspect(model: &Path, as_json: bool) -> Outcome<()> {
    let pack = Pack::open(locate::pack(Some(model))?)?;
    let facts = facts(&pack)?;
    if as_json {
        say!("{:#}", to_json(&pack, facts.granularity()));
        return Ok(());
    }
    say!("{} ({})", pack.dir.display(), pack.class_name);
    say!("can         {}", pack.can.join(", "));
    say!("sizes       multiples of {} pixels", facts.granularity());
    say!("latents     {} channels, {} pixels a side each", pack.latent_channels, pack.vae_factor);
    say!("prompts     {} tokens of {} values", pack.prompt_length, pack.prompt_width);
    say!("scheduler   {} ({})", facts.scheduler.class_name, pack.prediction_type);
    if !pack.defaults.is_empty() {
        let defaults: Vec<String> = pack.defaults.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        say!("defaults    {}", defaults.join(", "));
    }
    if !pack.presets.is_empty() {
        let names: Vec<&str> = pack.presets.iter().map(|preset| preset.name.as_str()).collect();
        say!("presets     {}", names.join(", "));
    }
    for part in &pack.parts {
        say!("\n{:<16}{:>8.1} MB  {}", part.name.to_string(), part.bytes as f64 / 1e6, part.file.display());
        for (arrow, tensors) in [("<-", &part.inputs), ("->", &part.outputs)] {
            for tensor in tensors {
                say!("  {arrow} {tensor}");
            }
        }
    }
    Ok(())
}

fn to_json(pack: &Pack, granularity: usize) -> Value {
    let parts: Vec<Value> = pack
        .parts
        .iter()
        .map(|part| {
            let tensors = |list: &[livediffusion_onnx::graph::TensorInfo]| -> Vec<Value> {
                list.iter().map(|t| json!({ "name": t.name, "dtype": t.dtype.to_string(), "dims": dims(t) })).collect()
            };
            json!({
                "name": part.name.to_string(),
                "file": part.file,
                "bytes": part.bytes,
                "inputs": tensors(&part.inputs),
                "outputs": tensors(&part.outputs),
            })
        })
        .collect();
    json!({
        "folder": pack.dir,
        "class": pack.class_name,
        "can": pack.can,
        "granularity": granularity,
        "vae_factor": pack.vae_factor,
        "latent_channels": pack.latent_channels,
        "prompt_length": pack.prompt_length,
        "prompt_width": pack.prompt_width,
        "prediction_type": pack.prediction_type,
        "defaults": pack.defaults,
        "parts": parts,
    })
}

fn dims(tensor: &livediffusion_onnx::graph::TensorInfo) -> Vec<String> {
    tensor.dims.iter().flatten().map(ToString::to_string).collect()
}
