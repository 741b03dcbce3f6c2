//! What a repository holds, and which of its files a pack is made of.

use std::path::Path;

use livediffusion_onnx::PartName;
use serde::Deserialize;
use serde_json::Value;

/// Longest licence that is printed, in characters.
const LONGEST_LICENCE: usize = 200;

/// What a blob's name is the hash of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HashKind {
    /// Of the content: large files.
    Sha256,
    /// Git's, of a header and the content: small files.
    Git,
}

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteFile {
    /// Where in the repository; at most one folder deep, of harmless characters.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Its hash in hexadecimal digits, which is also its name in the cache.
    pub(super) hash: String,
    pub(super) kind: HashKind,
}

/// What a repository holds at a revision.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    /// The commit that the revision stands for.
    pub(crate) commit: String,
    /// The licence, as its makers say.
    pub(crate) licence: Option<String>,
    /// The files that a pack needs.
    pub(crate) files: Vec<RemoteFile>,
    has_graphs: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    sha: String,
    #[serde(default)]
    card_data: Value,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the hub's answer to `/api/models/REPO/revision/REVISION?blobs=true`.
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let answer: Answer = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if !is_hex(&answer.sha, 40) {
            return Err("its commit is no hash".into());
        }
        let names: Vec<&str> = answer.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        let files = answer.siblings.iter().filter(|file| is_needed(&file.rfilename, &names));
        Ok(Self {
            licence: licence(&answer.card_data),
            files: files.map(Sibling::remote).collect::<Result<_, _>>()?,
            has_graphs: names.iter().any(|name| is_graph(name)),
            commit: answer.sha,
        })
    }

    /// What a pack needs and is not there, if anything.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let has = |folder: &str, end: &str| {
            self.files.iter().any(|file| file.path.starts_with(&format!("{folder}/")) && file.path.ends_with(end))
        };
        [
            (self.has_graphs, "ONNX files"),
            (self.files.iter().any(|file| file.path == "model_index.json"), "model_index.json"),
            (has("unet", ".onnx"), "unet/model.onnx"),
            (has("vae_decoder", ".onnx"), "vae_decoder/model.onnx"),
            (has("text_encoder", ".onnx") || has("text_encoder_2", ".onnx"), "text_encoder/model.onnx"),
            (has("tokenizer", "") || has("tokenizer_2", ""), "tokenizer/"),
        ]
        .into_iter()
        .find_map(|(there, what)| (!there).then_some(what))
    }
}

impl Sibling {
    fn remote(&self) -> Result<RemoteFile, String> {
        let wrong = || format!("it gives no size and hash of {:?}", self.rfilename);
        let (hash, size, kind) = match &self.lfs {
            Some(lfs) => (Some(&lfs.sha256), Some(lfs.size), HashKind::Sha256),
            None => (self.blob_id.as_ref(), self.size, HashKind::Git),
        };
        let digits = if kind == HashKind::Sha256 { 64 } else { 40 };
        let hash = hash.filter(|hash| is_hex(hash, digits)).ok_or_else(wrong)?.clone();
        Ok(RemoteFile { path: self.rfilename.clone(), size: size.ok_or_else(wrong)?, hash, kind })
    }
}

/// Whether a pack is made of that file, told by its path and the others'.
fn is_needed(path: &str, all: &[&str]) -> bool {
    let Some((folder, name)) = path.split_once('/') else {
        return ["model_index.json", "pack.toml", "README.md"].contains(&path)
            || path.strip_prefix("LICENSE").is_some_and(|rest| ["", ".md", ".txt"].contains(&rest));
    };
    let harmless = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
    if !harmless || name.is_empty() || name.starts_with('.') {
        return false;
    }
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    match folder {
        "scheduler" => ends(&[".json"]),
        "tokenizer" | "tokenizer_2" => ends(&[".json", ".txt"]),
        _ if PartName::ALL.iter().any(|part| part.folder() == folder) => {
            ends(&[".json"]) || is_of_graph(folder, name, all)
        }
        _ => false,
    }
}

/// The graph in 8 bits.
const INT8: &str = "model_int8.onnx";

/// Whether it is the graph that a pack takes of that folder (model.onnx, or the only one), or weights of that graph.
fn is_of_graph(folder: &str, name: &str, all: &[&str]) -> bool {
    let beside = all.iter().filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'));
    let graphs: Vec<&str> = beside.filter(|name| is_graph(name) && !name.contains('/')).collect();
    let graph = match graphs[..] {
        _ if graphs.contains(&"model.onnx") => "model.onnx",
        [only] => only,
        _ => return false,
    };
    // Beside the graph itself, the same in 8 bits: what `--precision int8` and the choice of `auto` take.
    let own =
        |graph: &str| name == graph || name.starts_with(&format!("{graph}_")) || name.starts_with(&format!("{graph}."));
    if graph == "model.onnx" && graphs.contains(&INT8) && own(INT8) {
        return true;
    }
    let of_other = graphs.iter().any(|other| *other != graph && name.starts_with(other));
    // External data is called model.onnx_data or model.onnx.data, weights.pb in old exports.
    own(graph) || (!of_other && [".pb", ".onnx_data", ".data"].iter().any(|end| name.ends_with(end)))
}

fn is_graph(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|end| end == "onnx")
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The licence's name, and its address where it is a special one; without what would move a terminal's cursor.
fn licence(card: &Value) -> Option<String> {
    let text = |key: &str| match &card[key] {
        Value::String(text) => Some(text.clone()),
        Value::Array(several) => Some(several.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "))
            .filter(|text| !text.is_empty()),
        _ => None,
    };
    let more = [text("license_name"), text("license_link")].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let licence = if more.is_empty() { text("license")? } else { format!("{} ({more})", text("license")?) };
    Some(licence.chars().filter(|c| !c.is_control()).take(LONGEST_LICENCE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(all: &[&str]) -> Vec<String> {
        all.iter().filter(|path| is_needed(path, all)).map(|path| (*path).to_owned()).collect()
    }

    #[test]
    fn only_what_a_pack_needs_is_taken() {
        let wanted = [
            "LICENSE.md",
            "README.md",
            "model_index.json",
            "pack.toml",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.onnx",
            "tokenizer/merges.txt",
            "tokenizer/vocab.json",
            "unet/config.json",
            "unet/model.onnx",
            "unet/model.onnx_data",
            "unet/model.onnx_data_1",
            "unet/model_int8.onnx",
            "unet/model_int8.onnx_data",
            "unet/weights.pb",
            "vae_decoder/decoder.onnx",
            "vae_encoder/model.onnx",
            "vae_encoder/model.onnx.data",
        ];
        let others = [
            ".gitattributes",
            "sd_turbo.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/model_fp16.onnx",
            "unet/model_fp16.onnx_data",
            "unet/diffusion_pytorch_model.bin",
            "safety_checker/model.onnx",
            "feature_extractor/preprocessor_config.json",
            "unet/../../x.json",
            "unet/a/b.json",
            "../x/model.onnx",
            "tokenizer/.json",
            "vae/config.json",
            "images/LICENSE",
        ];
        let all: Vec<&str> = wanted.iter().chain(&others).copied().collect();
        assert_eq!(needed(&all), wanted);
        // Without the graph that it belongs to it is one of several.
        assert!(needed(&["unet/model_int8.onnx", "unet/model_fp16.onnx"]).is_empty());
        // Which of several would be meant nobody knows.
        assert!(needed(&["unet/a.onnx", "unet/b.onnx", "unet/a.onnx_data"]).is_empty());
    }

    #[test]
    fn licences_are_one_harmless_line() {
        let of = |json: &str| licence(&serde_json::from_str(json).unwrap());
        assert_eq!(of(r#"{"license": "mit"}"#).as_deref(), Some("mit"));
        assert_eq!(of(r#"{"license": ["mit", "apache-2.0"]}"#).as_deref(), Some("mit, apache-2.0"));
        let other = r#"{"license": "other", "license_name": "sai", "license_link": "https://x/\u001b[2J"}"#;
        assert_eq!(of(other).as_deref(), Some("other (sai, https://x/[2J)"));
        assert_eq!(of("null"), None);
    }
}
