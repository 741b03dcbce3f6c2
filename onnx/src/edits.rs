//! What is changed in a model for the provider that runs it, in a copy in memory.

use std::borrow::Cow;
use std::path::Path;

use crate::error::OnnxError;
use crate::graph::proto::NodeProto;
use crate::graph::{
    DType, Graph, GraphError, Halves, fold_known_sides, fold_upsampling, has_known_sides, has_uneven_pads,
    split_uneven_pads, to_halves,
};
use crate::pack::config_beside;
use crate::provider::{Chosen, OpenVinoDevice, Precision, Provider, SessionSettings};
use crate::session::Model;

/// Larger files are not searched for upsampling that could be folded: it takes a copy of them in memory.
const MOST_UPSAMPLED: u64 = 1 << 30;

/// A changed copy of the model: on a CPU its upsampling folded into convolutions, on CUDA what follows from known sides made constant and
/// uneven borders of convolutions apart, in f16 where that is chosen and the provider takes a graph's own types. `None` where nothing is to be changed.
///
/// # Errors
/// A graph that cannot be had in f16.
pub(crate) fn edited(
    model: &Model<'_>,
    chosen: &Chosen,
    settings: &SessionSettings,
) -> Result<Option<Vec<u8>>, OnnxError> {
    let folded = folded(model, chosen.provider, settings);
    if chosen.precision != Precision::F16 || !chosen.provider.takes_types_of_the_graph() {
        return Ok(folded);
    }
    let path = model.path();
    let wrong = |error: GraphError| {
        let what = format!("{}: {error}", path.display());
        OnnxError::invalid(what).hint("--precision f32, or a model that was exported in f16")
    };
    // What a CPU reckons in f32 all the same is rounded there: else nothing of it would be seen.
    let how = if chosen.provider == Provider::Cpu { Halves::Rounded } else { Halves::Computed };
    let bytes = folded.as_deref().map_or_else(|| model.bytes(), |bytes| Ok(Cow::Borrowed(bytes)))?;
    let halved = to_halves(&bytes, how, wide_attention(path)?).map_err(wrong)?;
    if halved.is_none() {
        tracing::debug!("{} has f16 already", path.display());
    }
    Ok(halved.or(folded))
}

/// Whether the network's own `config.json` says that its attention overflows in f16.
fn wide_attention(model: &Path) -> Result<bool, OnnxError> {
    Ok(config_beside(model)?["upcast_attention"] == true)
}

fn folded(model: &Model<'_>, provider: Provider, settings: &SessionSettings) -> Option<Vec<u8>> {
    match provider {
        Provider::Cpu => upsampling(model),
        Provider::OpenVino if settings.openvino == OpenVinoDevice::Cpu => upsampling(model),
        // A file of a model is no larger than 2 GB, which a machine with a card has. TensorRT folds shapes itself.
        Provider::Cuda => {
            let sides = changed(model, u64::MAX, has_known_sides, fold_known_sides);
            let edited = sides.as_deref().map_or(*model, |bytes| Model::Edited(model.path(), bytes));
            changed(&edited, u64::MAX, has_uneven_pads, split_uneven_pads).or(sides)
        }
        _ => None,
    }
}

fn upsampling(model: &Model<'_>) -> Option<Vec<u8>> {
    let resizes = |graph: &Graph| graph.nodes.iter().any(|node| node.op_type == "Resize");
    changed(model, MOST_UPSAMPLED, resizes, fold_upsampling)
}

/// The nodes alone are read first: most networks have nothing to change.
fn changed(
    model: &Model<'_>,
    most: u64,
    is_worth_it: impl Fn(&Graph) -> bool,
    change: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, GraphError>,
) -> Option<Vec<u8>> {
    let changed = match *model {
        Model::Edited(_, bytes) => change(bytes),
        Model::File(path) => {
            let is_small = std::fs::metadata(path).is_ok_and(|file| file.len() <= most);
            if !is_small || !is_worth_it(&Graph::open(path).ok()?) {
                return None;
            }
            change(&std::fs::read(path).ok()?)
        }
    };
    // A model that cannot be read is for ONNX Runtime to refuse.
    changed.ok().flatten()
}

/// What decides on CUDA's options for a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nature {
    /// It asks its tensors for their shapes.
    pub(crate) reckons_with_shapes: bool,
    /// It reckons in f16.
    pub(crate) is_half: bool,
}

impl Nature {
    /// Of a model, whose nodes alone are read.
    pub(crate) fn of(model: &Model<'_>) -> Result<Self, OnnxError> {
        let (path, graph) = match *model {
            Model::File(path) => (path, Graph::open(path)),
            Model::Edited(path, bytes) => (path, Graph::from_bytes(bytes)),
        };
        let graph = graph.map_err(|e| OnnxError::invalid(format!("{}: {e}", path.display())))?;
        let casts_to_half = |node: &NodeProto| {
            node.op_type == "Cast" && node.option("to").is_some_and(|to| to.i == i64::from(DType::F16.to_onnx()))
        };
        Ok(Self {
            reckons_with_shapes: graph.nodes.iter().any(|node| node.op_type == "Shape"),
            is_half: graph.inputs.iter().any(|input| input.dtype == DType::F16)
                || graph.nodes.iter().any(casts_to_half),
        })
    }
}
