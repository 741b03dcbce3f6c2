//! Parameters from all their sources, laid over each other.

use std::fmt;

use livediffusion_onnx::{Pack, Preset};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::{PresetValues, find_preset};

use crate::error::{Outcome, SessionError};

/// What someone sets: a file, a command line.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Where it comes from, for errors: empty where the name of a parameter alone says it.
    pub origin: String,
    /// Parameters and their values as text, by name.
    pub values: Vec<(String, String)>,
}

/// A TOML value as the text that a flag would have: lists joined by commas.
pub fn text_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(text_of).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// The parameters: the table's defaults, then the pack's, then the preset's, then the layers', of which the last wins.
///
/// A preset is the pack's word, however it was asked for: what the user set himself, in a file or by a flag, wins over it.
///
/// # Errors
/// The pack has no such preset; a value that a parameter does not take, with the layer that has it.
pub fn parameters(pack: &Pack, preset: Option<&str>, layers: &[Layer]) -> Outcome<Parameters> {
    let mut parameters = Parameters::default();
    let pack_file = pack.dir.join("pack.toml");
    for (key, value) in &pack.defaults {
        set_from(&mut parameters, &key.replace('_', "-"), &text_of(value), &pack_file.display())?;
    }
    if let Some(name) = preset {
        let preset = preset_values(named(pack, name)?);
        let origin = format!("{}: preset {name}", pack_file.display());
        for (name, text) in &preset.values {
            set_from(&mut parameters, name, text, &origin)?;
        }
    }
    for layer in layers {
        for (name, text) in &layer.values {
            if layer.origin.is_empty() {
                parameters.set(name, text)?;
            } else {
                set_from(&mut parameters, name, text, &layer.origin)?;
            }
        }
    }
    Ok(parameters)
}

/// Sets a parameter; what refuses it says where it came from.
fn set_from(parameters: &mut Parameters, name: &str, text: &str, origin: &dyn fmt::Display) -> Outcome<()> {
    let set = parameters.set(name, text);
    set.map_err(|error| SessionError::invalid(format!("{origin}: {error}"), error.hint.clone()))
}

fn named<'a>(pack: &'a Pack, name: &str) -> Outcome<&'a Preset> {
    find_preset(&pack.presets, |preset| &preset.name, name).ok_or_else(|| {
        let hint = preset_hint(pack.presets.iter().map(|preset| preset.name.as_str()));
        SessionError::invalid(format!("{} has no preset {name:?}", pack.dir.display()), hint)
    })
}

/// What to do where a preset is none of these.
pub fn preset_hint<'a>(names: impl Iterator<Item = &'a str>) -> String {
    match &names.collect::<Vec<_>>()[..] {
        [] => "the model has no presets; say what you want with --prompt".to_owned(),
        names => format!("it is one of {}", names.join(", ")),
    }
}

/// A pack's preset as the tuner takes it.
pub fn preset_values(preset: &Preset) -> PresetValues {
    let prompt = ("prompt".to_owned(), preset.prompt.clone());
    let others = preset.parameters.iter().map(|(key, value)| (key.replace('_', "-"), text_of(value)));
    PresetValues { name: preset.name.clone(), values: std::iter::once(prompt).chain(others).collect() }
}
