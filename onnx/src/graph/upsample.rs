//! Upsampling and the convolution behind it in one, for half of the arithmetic.
//!
//! Decoders and U-Nets double the sides of a picture by repeating every pixel, then convolve with 3×3 weights. Of the nine
//! pixels under such a kernel only four differ. Which of them coincide depends on whether row and column are even or odd,
//! so that four 2×2 convolutions of the small picture, one for each of those cases, give the four quarters of the large
//! one's pixels: 16 multiplications in place of 36, the same sums in another order.

use std::collections::{HashMap, HashSet};

use half::f16;
use prost::Message;

use super::proto::{NodeProto, TensorProto};
use super::{Change, Graph, GraphError, Part, rewrite, weights};

/// `onnx.TensorProto.DataType`.
const F32: i32 = 1;
const F16: i32 = 10;

/// Of three taps in a row on pixels that come in equal pairs, two always fall on one pair. An even output pixel has its
/// first tap on the pair before, an odd one its last tap on the pair behind.
const TAPS: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];

/// An upsampling and the convolution that alone reads it.
struct Fold {
    /// What is upsampled.
    source: String,
    /// Position of the convolution among the nodes.
    conv: usize,
    /// Its weights, as they are stored.
    stored: String,
    /// Whether the graph casts them to f32 first.
    is_cast: bool,
}

/// A copy of `model` in which every nearest-neighbour upsampling by 2 that only a 3×3 convolution reads is folded into that
/// convolution; `None` where there is none. Weights have to lie in the file, in f32 or f16.
///
/// # Errors
/// Bytes that are no model.
pub fn fold_upsampling(model: &[u8]) -> Result<Option<Vec<u8>>, GraphError> {
    let graph = Graph::from_bytes(model)?;
    let folds = find(model, &graph)?;
    let names: HashSet<&str> = folds.values().map(|fold| fold.stored.as_str()).collect();
    let mut tensors = HashMap::new();
    for bytes in weights(model, &names)? {
        let tensor = TensorProto::decode(&bytes[..])?;
        tensors.insert(tensor.name.clone(), tensor);
    }
    let mut gone: HashMap<&str, Vec<NodeProto>> = HashMap::new();
    for (upsampled, fold) in &folds {
        let conv = &graph.nodes[fold.conv];
        if let Some(nodes) = tensors.get(&fold.stored).and_then(|tensor| folded(conv, fold, tensor)) {
            gone.insert(upsampled, Vec::new());
            gone.insert(&conv.output[0], nodes);
        }
    }
    if gone.is_empty() {
        return Ok(None);
    }
    rewrite(model, |part| match part {
        Part::Node(node) => match node.output.first().and_then(|output| gone.get(output.as_str())) {
            Some(nodes) => Change::Replace(nodes.iter().cloned().map(Part::Node).collect()),
            None => Change::Keep,
        },
        Part::Inner(value) if gone.get(value.name.as_str()).is_some_and(Vec::is_empty) => Change::Replace(Vec::new()),
        _ => Change::Keep,
    })
    .map(Some)
}

/// The folds that the graph allows, by the name of the upsampled tensor.
fn find(model: &[u8], graph: &Graph) -> Result<HashMap<String, Fold>, GraphError> {
    let resizes: Vec<&NodeProto> = graph.nodes.iter().filter(|node| repeats_pixels(node)).collect();
    if resizes.is_empty() {
        return Ok(HashMap::new());
    }
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    for (position, node) in graph.nodes.iter().enumerate() {
        for name in &node.input {
            readers.entry(name).or_default().push(position);
        }
        // A node with a graph of its own may read anything: such a model is left as it is.
        if matches!(node.op_type.as_str(), "If" | "Loop" | "Scan") {
            return Ok(HashMap::new());
        }
    }
    let constants: HashMap<&str, TensorProto> = graph
        .nodes
        .iter()
        .filter(|node| node.op_type == "Constant")
        .filter_map(|node| Some((node.output.first()?.as_str(), node.option("value")?.t?)))
        .collect();
    let casts: HashMap<&str, &str> = graph
        .nodes
        .iter()
        .filter(|node| node.op_type == "Cast" && node.option("to").is_some_and(|to| to.i == i64::from(F32)))
        .filter_map(|node| Some((node.output.first()?.as_str(), node.input.first()?.as_str())))
        .collect();
    let scales: HashSet<&str> = resizes.iter().map(|node| node.input[2].as_str()).collect();
    let mut factors: HashMap<String, Vec<f32>> = HashMap::new();
    for bytes in weights(model, &scales)? {
        let tensor = TensorProto::decode(&bytes[..])?;
        factors.extend(tensor.to_f32().map(|values| (tensor.name.clone(), values)));
    }
    let mut folds = HashMap::new();
    for resize in resizes {
        let (source, scale, upsampled) = (&resize.input[0], resize.input[2].as_str(), &resize.output[0]);
        let values = factors.get(scale).cloned().or_else(|| constants.get(scale)?.to_f32());
        let is_output = graph.outputs.iter().any(|output| output.name == *upsampled);
        if values.as_deref() != Some(&[1.0, 1.0, 2.0, 2.0]) || is_output {
            continue;
        }
        let Some(&[conv]) = readers.get(upsampled.as_str()).map(Vec::as_slice) else { continue };
        let node = &graph.nodes[conv];
        if !(is_plain_3x3(node) && node.input[0] == *upsampled) {
            continue;
        }
        let (stored, is_cast) =
            casts.get(node.input[1].as_str()).map_or((node.input[1].as_str(), false), |&s| (s, true));
        folds.insert(upsampled.clone(), Fold { source: source.clone(), conv, stored: stored.to_owned(), is_cast });
    }
    Ok(folds)
}

/// Whether a node is a Resize that can only repeat whole pixels when its factors are whole.
fn repeats_pixels(node: &NodeProto) -> bool {
    let word = |name: &str, default: &str| node.option(name).map_or(default.into(), |option| option.s);
    let (coordinates, rounding) =
        (word("coordinate_transformation_mode", "half_pixel"), word("nearest_mode", "round_prefer_floor"));
    let places: [&[u8]; 2] = [&coordinates, &rounding];
    node.op_type == "Resize"
        && node.input.len() == 3
        && !node.input[2].is_empty()
        && word("mode", "nearest") == b"nearest"
        && (places == [b"asymmetric".as_slice(), b"floor"]
            || places == [b"half_pixel".as_slice(), b"round_prefer_floor"])
        && node.option("axes").is_none()
}

/// Whether a node is a 3×3 convolution with a border of one pixel and nothing else to it.
fn is_plain_3x3(node: &NodeProto) -> bool {
    let ints = |name: &str, wanted: &[i64], default: bool| node.option(name).map_or(default, |o| o.ints == wanted);
    node.op_type == "Conv"
        && node.input.len() >= 2
        && ints("kernel_shape", &[3, 3], true)
        && ints("pads", &[1, 1, 1, 1], false)
        && ints("strides", &[1, 1], true)
        && ints("dilations", &[1, 1], true)
        && node.option("group").is_none_or(|group| group.i == 1)
        && node.option("auto_pad").is_none_or(|pad| pad.s == b"NOTSET")
}

/// The nodes that take the place of the convolution; `None` if its weights are not what they seemed.
fn folded(conv: &NodeProto, fold: &Fold, stored: &TensorProto) -> Option<Vec<NodeProto>> {
    let &[outputs, inputs, 3, 3] = &stored.dims[..] else { return None };
    let (values, count) = (stored.to_f32()?, usize::try_from(outputs * inputs).ok()?);
    let is_f16 = stored.data_type == F16 && !fold.is_cast;
    let out = &conv.output[0];
    let (mut nodes, mut quarters) = (Vec::with_capacity(10), Vec::with_capacity(4));
    for (row, rows) in TAPS.iter().enumerate() {
        for (column, columns) in TAPS.iter().enumerate() {
            let mut kernel = Vec::with_capacity(4 * count);
            for nine in values.as_chunks::<9>().0 {
                for (y, x) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let taps = rows[y].iter().flat_map(|&y| columns[x].iter().map(move |&x| nine[3 * y + x]));
                    kernel.push(taps.sum::<f32>());
                }
            }
            let name = |what: &str| format!("{out}/{what}{row}{column}");
            let (weight, quarter) = (name("weight"), name("quarter"));
            let mut tensor = TensorProto::of_f32(&weight, &[outputs as usize, inputs as usize, 2, 2], &kernel);
            if is_f16 {
                tensor.data_type = F16;
                tensor.raw_data = kernel.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
            }
            nodes.push(NodeProto::new("Constant", &[], &[&weight]).with_tensor("value", tensor));
            // The border: an even row looks at the one above it, an odd one at the one below.
            let pads = [1 - row as i64, 1 - column as i64, row as i64, column as i64];
            let mut input = vec![fold.source.as_str(), &weight];
            input.extend(conv.input.get(2).map(String::as_str));
            let node = NodeProto::new("Conv", &input, &[&quarter]);
            nodes.push(node.with_ints("kernel_shape", &[2, 2]).with_ints("pads", &pads));
            quarters.push(quarter);
        }
    }
    let all = format!("{out}/quarters");
    let quarters: Vec<&str> = quarters.iter().map(String::as_str).collect();
    nodes.push(NodeProto::new("Concat", &quarters, &[&all]).with_int("axis", 1));
    nodes.push(NodeProto::new("DepthToSpace", &[&all], &[out]).with_int("blocksize", 2));
    Some(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::proto::{ModelProto, ValueInfoProto};

    type Edit = fn(&mut NodeProto, &mut NodeProto);

    /// x → Resize → Conv → y.
    fn model(change: impl Fn(&mut NodeProto, &mut NodeProto)) -> Vec<u8> {
        let mut resize = NodeProto::new("Resize", &["x", "", "factors"], &["large"])
            .with_text("mode", "nearest")
            .with_text("coordinate_transformation_mode", "asymmetric")
            .with_text("nearest_mode", "floor");
        let mut conv = NodeProto::new("Conv", &["large", "w"], &["y"]).with_ints("pads", &[1, 1, 1, 1]);
        change(&mut resize, &mut conv);
        let tensor = |name| vec![ValueInfoProto::tensor(name, F32, &["n", "2", "h", "w"])];
        let weights = [
            TensorProto::of_f32("factors", &[4], &[1.0, 1.0, 2.0, 2.0]),
            TensorProto::of_f32("w", &[2, 2, 3, 3], &[0.5; 36]),
        ];
        let weights = weights.iter().map(Message::encode_to_vec).collect();
        ModelProto::new(vec![resize, conv], tensor("x"), tensor("y")).bytes_with(weights, 17)
    }

    #[test]
    fn only_what_repeats_pixels_under_a_plain_convolution_is_folded() {
        assert!(fold_upsampling(&model(|_, _| {})).unwrap().is_some());
        let edits: [Edit; 6] = [
            |resize, _| resize.attribute.remove(0).clear(),
            |resize, _| resize.attribute.truncate(2),
            |resize, _| resize.op_type = "Upsample".into(),
            |_, conv| conv.attribute.clear(),
            |_, conv| *conv = conv.clone().with_ints("strides", &[2, 2]),
            |_, conv| *conv = conv.clone().with_int("group", 2),
        ];
        for (number, edit) in edits.into_iter().enumerate() {
            let is_folded = fold_upsampling(&model(edit)).unwrap().is_some();
            // Without the first attribute the mode is nearest all the same.
            assert_eq!(is_folded, number == 0, "edit {number}");
        }
    }
}
