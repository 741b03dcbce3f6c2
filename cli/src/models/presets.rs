//! `livediffusion models presets`: what a pack's maker recommends.

use std::path::Path;

use livediffusion_onnx::{Pack, Preset};
use livediffusion_session::{locate, text_of};
use serde_json::{Value, json};

use crate::failure::Outcome;

/// What is shown of every preset.
const ALWAYS: [&str; 2] = ["t-index", "guidance"];

pub(super) fn list(model: &Path, as_json: bool) -> Outcome<()> {
    let pack = Pack::open(locate::pack(Some(model))?)?;
    if as_json {
        let presets: Vec<Value> = pack.presets.iter().map(|preset| to_json(&pack, preset)).collect();
        say!("{:#}", json!({ "folder": pack.dir, "presets": presets }));
        return Ok(());
    }
    if pack.presets.is_empty() {
        say!("{} has no presets", pack.dir.display());
    }
    // As wide as the longest, so that the columns stand below each other whatever the pack's names are.
    let width = |text: fn(&Preset) -> &str| pack.presets.iter().map(|p| text(p).chars().count()).max().unwrap_or(0);
    let (names, prompts) = (width(|p| &p.name), width(|p| &p.prompt));
    for preset in &pack.presets {
        let others: Vec<String> =
            values(&pack, preset).iter().map(|(key, value)| format!("{key} {}", text_of(value))).collect();
        say!("{:<names$}  {:<prompts$}  {}", preset.name, preset.prompt, others.join(", "));
    }
    Ok(())
}

/// Its time steps and guidance, those of the pack where it leaves them open, and then what else it sets.
fn values<'a>(pack: &'a Pack, preset: &'a Preset) -> Vec<(String, &'a toml::Value)> {
    let named = |(key, value): (&String, &'a toml::Value)| (key.replace('_', "-"), value);
    let own: Vec<_> = preset.parameters.iter().map(named).collect();
    let of_pack: Vec<_> = pack.defaults.iter().map(named).collect();
    let first = |name: &str| own.iter().chain(&of_pack).find(|(key, _)| key == name).cloned();
    let others = own.iter().filter(|(key, _)| !ALWAYS.contains(&key.as_str())).cloned();
    ALWAYS.iter().filter_map(|name| first(name)).chain(others).collect()
}

fn to_json(pack: &Pack, preset: &Preset) -> Value {
    let values = values(pack, preset).into_iter().map(|(key, value)| (key.replace('-', "_"), json!(value)));
    let own = [("name".to_owned(), json!(preset.name)), ("prompt".to_owned(), json!(preset.prompt))];
    Value::Object(own.into_iter().chain(values).collect())
}
