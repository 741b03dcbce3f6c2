//! The JSON files of a pack.

use std::path::Path;

use serde_json::Value;

use super::Part;
use crate::error::OnnxError;

/// Reads a JSON file.
pub(crate) fn read_json(path: &Path) -> Result<Value, OnnxError> {
    let wrong = |e: &dyn std::fmt::Display| {
        OnnxError::invalid(format!("{}: {e}", path.display())).hint("the pack is damaged: copy or export it anew")
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    serde_json::from_str(&text).map_err(|e| wrong(&e))
}

/// `config.json` beside a network; null where there is none.
pub(crate) fn of_part(part: &Part) -> Result<Value, OnnxError> {
    config_beside(&part.file)
}

/// The same of a network's file.
pub(crate) fn config_beside(model: &Path) -> Result<Value, OnnxError> {
    let path = model.with_file_name("config.json");
    if path.is_file() { read_json(&path) } else { Ok(Value::Null) }
}

/// A number of a config, if it is there and not null.
pub(crate) fn number(config: &Value, key: &str) -> Option<f64> {
    config[key].as_f64()
}

/// How much a network shrinks its input: it halves it between any two of its levels.
pub(crate) fn side_factor(config: &Value) -> Option<usize> {
    let levels = config["block_out_channels"].as_array()?.len();
    (1..=8).contains(&levels).then(|| 1 << (levels - 1))
}
