//! `pack.toml`: what the maker of a pack recommends.

use std::path::Path;

use serde::Deserialize;
use toml::Table;

use crate::error::OnnxError;

/// The newest format of `pack.toml` that is understood. It grows when an older program would misread a newer file.
const FORMAT: i64 = 1;

/// A prompt that works well with the pack.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Preset {
    /// What the user picks it by.
    pub name: String,
    /// The prompt.
    pub prompt: String,
    /// Other parameters of the preset, by name.
    #[serde(flatten)]
    pub parameters: Table,
}

#[derive(Default, Deserialize)]
struct PackFile {
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    presets: Vec<Preset>,
    #[serde(flatten)]
    about: Table,
}

/// Reads the file: defaults, presets and the rest. Without a file all three are empty.
pub(super) fn read(path: &Path) -> Result<(Table, Vec<Preset>, Table), OnnxError> {
    if !path.is_file() {
        return Ok((Table::new(), Vec::new(), Table::new()));
    }
    let wrong = |e: &dyn std::fmt::Display| OnnxError::invalid(format!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    // The format first: what else a newer file holds may not be what it looks like.
    let table: Table = toml::from_str(&text).map_err(|e| wrong(&e))?;
    if let Some(format) = table.get("format").and_then(toml::Value::as_integer).filter(|&format| format > FORMAT) {
        return Err(wrong(&format_args!("format {format} is newer than the {FORMAT} that this program reads"))
            .hint("update livediffusion: cargo install --path cli, or make build in a newer clone"));
    }
    let file: PackFile = toml::from_str(&text).map_err(|e| wrong(&e))?;
    Ok((file.defaults, file.presets, file.about))
}
