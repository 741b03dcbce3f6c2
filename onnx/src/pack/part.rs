//! The networks of a pack: which files they are and what their graphs say.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::OnnxError;
use crate::graph::proto::NodeProto;
use crate::graph::{Graph, TensorInfo, reckons_in_halves};

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartName {
    /// The denoiser.
    Unet,
    /// Pictures to latents.
    VaeEncoder,
    /// Latents to pictures.
    VaeDecoder,
    /// Prompts.
    TextEncoder,
    /// Prompts, SDXL's second.
    TextEncoder2,
    /// Encoded prompts to the keys and values of the U-Net's cross-attentions.
    PromptKv,
}

impl PartName {
    /// Every part, in the order in which they are listed.
    pub const ALL: [Self; 6] =
        [Self::Unet, Self::VaeEncoder, Self::VaeDecoder, Self::TextEncoder, Self::TextEncoder2, Self::PromptKv];

    /// Name of the part's folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::VaeEncoder => "vae_encoder",
            Self::VaeDecoder => "vae_decoder",
            Self::TextEncoder => "text_encoder",
            Self::TextEncoder2 => "text_encoder_2",
            Self::PromptKv => "prompt_kv",
        }
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// The file of a network with 8-bit weights and activations, beside its `model.onnx`.
const INT8: &str = "model_int8.onnx";

/// One network.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which one.
    pub name: PartName,
    /// Its .onnx file.
    pub file: PathBuf,
    /// `model_int8.onnx` beside it, where there is one.
    pub int8: Option<PathBuf>,
    /// Size of that file and of the weights beside it.
    pub bytes: u64,
    /// Inputs.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Whether attention is an operator of ONNX Runtime's own, which not every provider has.
    pub fused_attention: bool,
    /// Whether its products of matrices are in f16.
    pub is_half: bool,
    /// Whether weights lie in files beside the model.
    pub external_data: bool,
    /// The address of the server that runs it, where that is not ONNX Runtime here: then there need be no file.
    pub elsewhere: Option<String>,
}

impl Part {
    /// Where it is, for messages.
    pub(crate) fn place(&self) -> String {
        self.elsewhere.clone().unwrap_or_else(|| self.file.display().to_string())
    }
}

/// A U-Net that runs on a server, as that describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnetElsewhere {
    /// The server's address, for messages.
    pub address: String,
    /// Inputs.
    pub inputs: Vec<TensorInfo>,
    /// Outputs.
    pub outputs: Vec<TensorInfo>,
}

impl UnetElsewhere {
    /// As a part of the pack in `dir`, whose `unet/` may have its config and nothing else. It takes no room here.
    fn part(&self, dir: &Path) -> Part {
        Part {
            name: PartName::Unet,
            file: dir.join(PartName::Unet.folder()).join("model.onnx"),
            int8: None,
            bytes: 0,
            inputs: self.inputs.clone(),
            outputs: self.outputs.clone(),
            opset: 0,
            fused_attention: false,
            is_half: false,
            external_data: false,
            elsewhere: Some(self.address.clone()),
        }
    }
}

/// Reads the description of every network in the folder, but for a U-Net that runs elsewhere.
pub(super) fn find(dir: &Path, unet: Option<&UnetElsewhere>) -> Result<Vec<Part>, OnnxError> {
    let mut parts: Vec<Part> = unet.map(|unet| unet.part(dir)).into_iter().collect();
    for name in PartName::ALL.into_iter().filter(|name| unet.is_none() || *name != PartName::Unet) {
        let folder = dir.join(name.folder());
        if folder.is_dir() {
            parts.push(read(name, &folder)?);
        }
    }
    Ok(parts)
}

/// The part of that name, or an error that says what is missing.
pub(super) fn need<'a>(parts: &'a [Part], dir: &Path, name: PartName) -> Result<&'a Part, OnnxError> {
    parts.iter().find(|p| p.name == name).ok_or_else(|| {
        OnnxError::invalid(format!("{} has no {name}/", dir.display()))
            .hint("export that part and put it into the pack")
    })
}

fn read(name: PartName, folder: &Path) -> Result<Part, OnnxError> {
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())).collect();
    let is_model = |p: &&PathBuf| p.extension().is_some_and(|e| e == "onnx");
    let default = folder.join("model.onnx");
    let file = match files.iter().filter(is_model).collect::<Vec<_>>()[..] {
        _ if default.is_file() => default,
        [only] => only.clone(),
        _ => {
            return Err(OnnxError::invalid(format!("{} has no model.onnx", folder.display()))
                .hint("PyTorch weights alone cannot be run: tools/export/export.sh makes a pack of them"));
        }
    };
    let int8 = Some(folder.join(INT8)).filter(|int8| int8.is_file() && *int8 != file);
    of_file(name, file, int8, &files)
}

/// The same network in 8 bits. What it takes and gives has to be the same.
pub(super) fn int8(part: &Part) -> Result<Part, OnnxError> {
    let Some(file) = &part.int8 else {
        return Ok(part.clone());
    };
    let files: Vec<PathBuf> = file
        .parent()
        .and_then(|folder| std::fs::read_dir(folder).ok())
        .map_or_else(Vec::new, |all| all.filter_map(|e| Some(e.ok()?.path())).collect());
    let int8 = of_file(part.name, file.clone(), None, &files)?;
    if int8.inputs == part.inputs && int8.outputs == part.outputs {
        return Ok(int8);
    }
    let what = format!("{}: its inputs or outputs are not those of {}", file.display(), part.file.display());
    Err(OnnxError::invalid(what).hint("quantise the network anew from model.onnx, or take --precision f32"))
}

fn is_fused_attention(node: &NodeProto) -> bool {
    node.domain == "com.microsoft" && matches!(node.op_type.as_str(), "Attention" | "MultiHeadAttention")
}

fn of_file(name: PartName, file: PathBuf, int8: Option<PathBuf>, files: &[PathBuf]) -> Result<Part, OnnxError> {
    let graph = Graph::open(&file).map_err(|e| {
        OnnxError::invalid(format!("{}: {e}", file.display())).hint("the file is damaged: copy or export it anew")
    })?;
    let size = |p: &Path| p.metadata().map_or(0, |m| m.len());
    // Weights of the network in 8 bits have its name: `model_int8.onnx_data`.
    let is_int8 = |p: &Path| p.file_name().is_some_and(|name| name.to_string_lossy().starts_with("model_int8"));
    let beside = |p: &&PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        **p != file && !name.ends_with(".json") && !name.ends_with(".onnx") && is_int8(p) == is_int8(&file)
    };
    let weights: u64 = if graph.external_data { files.iter().filter(beside).map(|p| size(p)).sum() } else { 0 };
    let is_half = reckons_in_halves(&graph);
    Ok(Part {
        name,
        bytes: size(&file) + weights,
        file,
        int8,
        inputs: graph.inputs,
        outputs: graph.outputs,
        opset: graph.opset,
        fused_attention: graph.nodes.iter().any(is_fused_attention),
        is_half,
        external_data: graph.external_data,
        elsewhere: None,
    })
}
