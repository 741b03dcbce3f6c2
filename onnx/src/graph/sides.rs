//! Numbers that follow from sides of tensors that are the same in every call.
//!
//! PyTorch's exporter scales attention by 1/√d with d read from a tensor's shape at run time, though every layer has its own. ONNX
//! Runtime folds a shape only where all of its sides are known; as rows, height and width are not, it computes √d on the host in
//! every call, and brings it to a card once for each attention. A card's graph of such a network cannot be captured either.

use std::collections::HashMap;

use super::proto::{NodeProto, TensorProto};
use super::{Change, DType, Dim, Graph, GraphError, Part, rewrite};

/// Longest list of integers that is followed: shapes have a handful.
const LONGEST: usize = 16;

/// Sides of a tensor, outermost first; `None` where one differs from call to call.
type Sides = Vec<Option<i64>>;

/// A tensor of integers that is reckoned with as a shape is.
#[derive(Clone, Debug, PartialEq)]
struct Ints {
    values: Vec<Option<i64>>,
    is_scalar: bool,
}

/// A copy of `model` in which every number that a graph makes of known sides is a constant, where it is cast to a float; `None` where
/// there is none. Weights are neither read nor needed.
///
/// # Errors
/// Bytes that are no model.
pub fn fold_known_sides(model: &[u8]) -> Result<Option<Vec<u8>>, GraphError> {
    let graph = Graph::from_bytes(model)?;
    let known = known_casts(&graph);
    if known.is_empty() {
        return Ok(None);
    }
    rewrite(model, |part| match part {
        Part::Node(node) => match node.output.first().and_then(|output| known.get(output.as_str())) {
            Some(ints) => Change::Replace(constant(node, ints).into_iter().map(Part::Node).collect()),
            None => Change::Keep,
        },
        _ => Change::Keep,
    })
    .map(Some)
}

/// Casts to a float of integers that follow from known sides, by the name of what they give.
pub(crate) fn has_known_sides(graph: &Graph) -> bool {
    !known_casts(graph).is_empty()
}

/// The value as a constant, cast as it was.
fn constant(cast: &NodeProto, ints: &Ints) -> [NodeProto; 2] {
    let values: Vec<f32> = ints.values.iter().map(|value| value.unwrap_or_default() as f32).collect();
    let name = format!("{}/known", cast.output[0]);
    let dims: &[usize] = if ints.is_scalar { &[] } else { &[values.len()] };
    let value = TensorProto::of_f32(&name, dims, &values);
    let constant = NodeProto::new("Constant", &[], &[&name]).with_tensor("value", value);
    [constant, NodeProto { input: vec![name], ..cast.clone() }]
}

fn known_casts(graph: &Graph) -> HashMap<&str, Ints> {
    let mut known = Known::of(graph);
    let mut casts = HashMap::new();
    // Nodes come behind what they read.
    for node in &graph.nodes {
        let Some(output) = node.output.first().map(String::as_str) else { continue };
        if let Some(ints) = known.ints_of(node) {
            if node.op_type == "Cast" && is_float(node) {
                // Above 2²⁴ an f32 would be another number; no side is that large.
                let small = |value: &Option<i64>| value.is_some_and(|value| value.unsigned_abs() < 1 << 24);
                if ints.values.iter().all(small) {
                    casts.insert(output, ints);
                }
                continue;
            }
            known.ints.insert(output, ints);
        }
        if let Some(sides) = known.sides_of(node) {
            known.sides.insert(output, sides);
        }
    }
    casts
}

/// Whether a Cast is to f32, f16 or f64.
fn is_float(cast: &NodeProto) -> bool {
    cast.option("to").is_some_and(|to| [1, 10, 11].contains(&to.i))
}

/// What is known of the tensors so far.
#[derive(Default)]
struct Known<'a> {
    sides: HashMap<&'a str, Sides>,
    ints: HashMap<&'a str, Ints>,
}

impl<'a> Known<'a> {
    fn of(graph: &'a Graph) -> Self {
        let mut known = Self::default();
        for input in &graph.inputs {
            let side = |dim: &Dim| if let Dim::Fixed(side) = dim { Some(*side as i64) } else { None };
            let sides = input.dims.as_ref().map(|dims| dims.iter().map(side).collect());
            known.sides.extend(sides.map(|sides| (input.name.as_str(), sides)));
        }
        for (name, weight) in &graph.weights {
            known.sides.insert(name, weight.dims.iter().copied().map(Some).collect());
            let ints = weight.ints.as_ref().filter(|_| weight.dims.len() <= 1).map(|values| Ints {
                values: values.iter().copied().map(Some).collect(),
                is_scalar: weight.dims.is_empty(),
            });
            known.ints.extend(ints.map(|ints| (name.as_str(), ints)));
        }
        known
    }

    /// Integers that a node makes of shapes.
    fn ints_of(&self, node: &NodeProto) -> Option<Ints> {
        let input = |at: usize| node.input.get(at).and_then(|name| self.ints.get(name.as_str()));
        let list = |values: Vec<Option<i64>>| Ints { values, is_scalar: false };
        let made = match node.op_type.as_str() {
            "Constant" => {
                let tensor = node.option("value")?.t.filter(|tensor| tensor.dims.len() <= 1)?;
                let values = tensor.to_i64()?.into_iter().map(Some).collect();
                Ints { values, is_scalar: tensor.dims.is_empty() }
            }
            "Shape" => {
                let sides = self.sides.get(node.input.first()?.as_str())?;
                let bound = |name: &str, default| node.option(name).map_or(default, |option| option.i);
                list(part(sides, bound("start", 0), bound("end", i64::MAX))?)
            }
            "Gather" if node.option("axis").is_none_or(|axis| axis.i == 0) => {
                let (from, which) = (input(0)?, input(1)?);
                let pick = |index: &Option<i64>| from.values.get(place((*index)?, from.values.len())?).copied();
                Ints { values: which.values.iter().map(pick).collect::<Option<_>>()?, is_scalar: which.is_scalar }
            }
            "Slice" => {
                let only = |at: usize| match input(at)?.values[..] {
                    [value] => value,
                    _ => None,
                };
                let plain =
                    |at: usize, value| node.input.get(at).is_none_or(String::is_empty) || only(at) == Some(value);
                if !plain(3, 0) || !plain(4, 1) {
                    return None;
                }
                list(part(&input(0)?.values, only(1)?, only(2)?)?)
            }
            // The axis is 0, since there is no other.
            "Unsqueeze" if input(0)?.is_scalar && input(1).is_none_or(|axes| axes.values.len() == 1) => {
                list(input(0)?.values.clone())
            }
            "Squeeze" if input(0)?.values.len() == 1 => Ints { is_scalar: true, ..input(0)?.clone() },
            "Identity" => input(0)?.clone(),
            // To 64 bits; others would be other numbers, or numbers that are reckoned with in another way.
            "Cast" if is_float(node) || node.option("to")?.i == i64::from(DType::I64.to_onnx()) => input(0)?.clone(),
            "Concat" => {
                let all = (0..node.input.len()).map(input).collect::<Option<Vec<_>>>()?;
                list(all.iter().flat_map(|ints| ints.values.iter().copied()).collect())
            }
            "Add" | "Sub" | "Mul" | "Div" => {
                let (a, b) = (input(0)?, input(1)?);
                let (&[x], &[y]) = (&a.values[..], &b.values[..]) else { return None };
                let value = x.zip(y).and_then(|(x, y)| match node.op_type.as_str() {
                    "Add" => x.checked_add(y),
                    "Sub" => x.checked_sub(y),
                    "Mul" => x.checked_mul(y),
                    // Of sides, which are not negative: there the ways of rounding agree.
                    _ => (x >= 0 && y > 0).then(|| x / y),
                });
                Ints { values: vec![value], is_scalar: a.is_scalar && b.is_scalar }
            }
            _ => return None,
        };
        (made.values.len() <= LONGEST).then_some(made)
    }

    /// Sides of what a node gives.
    fn sides_of(&self, node: &NodeProto) -> Option<Sides> {
        let input = |at: usize| node.input.get(at).and_then(|name| self.sides.get(name.as_str()));
        match node.op_type.as_str() {
            "Constant" => Some(node.option("value")?.t?.dims.into_iter().map(Some).collect()),
            "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "BatchNormalization"
            | "Softmax"
            | "Sigmoid"
            | "Relu"
            | "Tanh"
            | "Erf"
            | "Gelu"
            | "Clip"
            | "Neg"
            | "Exp"
            | "Sqrt"
            | "Identity"
            | "Cast" => input(0).cloned(),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" => Some(broadcast(input(0)?, input(1)?)),
            "Transpose" => {
                let (from, order) = (input(0)?, node.option("perm")?.ints);
                let pick = |axis: &i64| from.get(usize::try_from(*axis).ok()?).copied();
                order.iter().map(pick).collect()
            }
            "Reshape" => {
                let wanted = &self.ints.get(node.input.get(1)?.as_str())?.values;
                let copies = node.option("allowzero").is_none_or(|allow| allow.i == 0);
                let side = |(axis, side): (usize, &Option<i64>)| match side {
                    Some(0) if copies => input(0)?.get(axis).copied().flatten(),
                    // −1 is what is left.
                    Some(side) => (*side >= 0).then_some(*side),
                    None => None,
                };
                Some(wanted.iter().enumerate().map(side).collect())
            }
            "MatMul" => {
                let (a, b) = (input(0)?, input(1)?);
                if a.len() < 2 || b.len() < 2 {
                    return None;
                }
                let (rows, columns) = (a[a.len() - 2], b[b.len() - 1]);
                let mut sides = broadcast(&a[..a.len() - 2], &b[..b.len() - 2]);
                sides.extend([rows, columns]);
                Some(sides)
            }
            "Gemm" => {
                let weight = input(1)?;
                let transposed = node.option("transB").is_some_and(|option| option.i != 0);
                Some(vec![None, *weight.get(usize::from(!transposed))?])
            }
            // What is cut off or put side by side: as many sides, of which those are known that nothing happens to.
            "Slice" | "Resize" => Some(vec![None; input(0)?.len()]),
            "Concat" => {
                let all = (0..node.input.len()).map(input).collect::<Option<Vec<_>>>()?;
                let rank = all.first()?.len();
                let axis = place(node.option("axis")?.i, rank)?;
                if all.iter().any(|sides| sides.len() != rank) {
                    return None;
                }
                let side = |at: usize| {
                    let sides = all.iter().map(|sides| sides[at]);
                    if at == axis {
                        sides.into_iter().try_fold(0_i64, |sum, side| sum.checked_add(side?))
                    } else {
                        sides.flatten().next()
                    }
                };
                Some((0..rank).map(side).collect())
            }
            "Unsqueeze" => {
                let (from, axes) = (input(0)?, &self.ints.get(node.input.get(1)?.as_str())?.values);
                let rank = from.len() + axes.len();
                let new: Vec<usize> = axes.iter().map(|axis| place((*axis)?, rank)).collect::<Option<_>>()?;
                let mut old = from.iter().copied();
                (0..rank).map(|axis| if new.contains(&axis) { Some(Some(1)) } else { old.next() }).collect()
            }
            "Conv" => {
                let weight = input(1)?;
                let rows = input(0).and_then(|sides| sides.first().copied().flatten());
                let inner = weight.len().checked_sub(2)?;
                Some([rows, weight[0]].into_iter().chain(std::iter::repeat_n(None, inner)).collect())
            }
            _ => None,
        }
    }
}

/// The place that an index, which may count from the end, means in a list of that length.
fn place(index: i64, len: usize) -> Option<usize> {
    let len = len as i64;
    let at = if index < 0 { index + len } else { index };
    (0..len).contains(&at).then_some(at as usize)
}

/// A slice as ONNX takes it: negative bounds count from the end, and those outside are moved inside.
fn part(of: &[Option<i64>], start: i64, end: i64) -> Option<Vec<Option<i64>>> {
    let len = of.len() as i64;
    let inside = |at: i64| (if at < 0 { at.saturating_add(len) } else { at }).clamp(0, len) as usize;
    of.get(inside(start)..inside(end)).map(<[_]>::to_vec)
}

/// Sides of two tensors that are taken together element by element: of each pair the one that is not 1.
fn broadcast(a: &[Option<i64>], b: &[Option<i64>]) -> Sides {
    let rank = a.len().max(b.len());
    let side = |of: &[Option<i64>], axis: usize| (axis + of.len()).checked_sub(rank).map_or(Some(1), |at| of[at]);
    (0..rank)
        .map(|axis| match (side(a, axis), side(b, axis)) {
            (Some(1), other) | (other, Some(1)) => other,
            (known, other) => known.or(other),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::proto::{ModelProto, ValueInfoProto};
    use super::*;

    fn ints(name: &str, values: &[i64]) -> NodeProto {
        NodeProto::new("Constant", &[], &[name])
            .with_tensor("value", TensorProto::of_i64(name, Some(values.len()), values))
    }

    /// An attention's scale as PyTorch exports it: rows and tokens differ, heads and their width follow from the weights.
    fn attention(width: &str) -> Vec<u8> {
        let nodes = vec![
            ints("zero", &[0]),
            ints("two", &[2]),
            ints("last", &[-1]),
            ints("end", &[i64::MAX]),
            ints("heads", &[4]),
            NodeProto::new("Shape", &["x"], &["x_shape"]),
            NodeProto::new("Gather", &["x_shape", "zero"], &["rows"]).with_int("axis", 0),
            NodeProto::new("Gather", &["x_shape", "two"], &["inner"]).with_int("axis", 0),
            NodeProto::new("Div", &["inner", "heads"], &["head"]),
            NodeProto::new("Concat", &["rows", "last", "heads", "head"], &["split"]).with_int("axis", 0),
            NodeProto::new("Reshape", &["x", "split"], &["q_rows"]),
            NodeProto::new("Transpose", &["q_rows"], &["q"]).with_ints("perm", &[0, 2, 1, 3]),
            NodeProto::new("Shape", &["q"], &["q_shape"]),
            NodeProto::new("Slice", &["q_shape", "last", "end"], &["d"]),
            NodeProto::new("Cast", &["d"], &["d_float"]).with_int("to", 1),
            NodeProto::new("Sqrt", &["d_float"], &["y"]),
        ];
        let input = ValueInfoProto::tensor("x", 1, &["rows", "tokens", width]);
        ModelProto::bytes(nodes, vec![input], vec![ValueInfoProto::tensor("y", 1, &["1"])])
    }

    #[test]
    fn a_width_that_follows_from_the_graph_is_a_constant() {
        let folded = fold_known_sides(&attention("32")).unwrap().unwrap();
        let graph = Graph::from_bytes(&folded).unwrap();
        let constant = graph.nodes.iter().find(|node| node.output == ["d_float/known"]).unwrap();
        assert_eq!(constant.option("value").unwrap().t.unwrap().to_f32().unwrap(), [8.0]);
        let cast = graph.nodes.iter().find(|node| node.output == ["d_float"]).unwrap();
        assert_eq!((cast.op_type.as_str(), cast.input[0].as_str()), ("Cast", "d_float/known"));
        // Once is enough.
        assert!(!has_known_sides(&Graph::from_bytes(&attention("width")).unwrap()));
        assert_eq!(fold_known_sides(&attention("width")).unwrap(), None);
    }

    /// What is made of `nodes`, whose last gives `y`.
    fn known(mut nodes: Vec<NodeProto>) -> Option<Vec<Option<i64>>> {
        nodes.push(NodeProto::new("Cast", &["y"], &["z"]).with_int("to", 1));
        let input = ValueInfoProto::tensor("x", 1, &["rows", "4", "height", "2"]);
        let model = ModelProto::bytes(nodes, vec![input], vec![ValueInfoProto::tensor("z", 1, &["1"])]);
        let graph = Graph::from_bytes(&model).unwrap();
        known_casts(&graph).remove("z").map(|ints| ints.values)
    }

    #[test]
    fn what_is_no_list_of_sides_is_left_alone() {
        let shape = || NodeProto::new("Shape", &["x"], &["s"]);
        let pick = |at: i64| NodeProto::new("Gather", &["s", "at"], &["side"]).with_int("axis", at.min(0));
        let at = |at: i64| {
            NodeProto::new("Constant", &[], &["at"]).with_tensor("value", TensorProto::of_i64("at", None, &[at]))
        };
        let same = || NodeProto::new("Identity", &["side"], &["y"]);
        assert_eq!(known(vec![shape(), at(1), pick(1), same()]), Some(vec![Some(4)]));
        assert_eq!(known(vec![shape(), at(-1), pick(-1), same()]), None, "of another axis");
        assert_eq!(known(vec![shape(), at(0), pick(0), same()]), None, "rows differ");
        // A table, of which a row would be picked.
        let table = TensorProto { dims: vec![2, 2], ..TensorProto::of_i64("y", Some(4), &[1, 2, 3, 4]) };
        assert_eq!(known(vec![NodeProto::new("Constant", &[], &["y"]).with_tensor("value", table)]), None);
        // Whether it is 0, and a number that is rounded.
        for to in [9, 16, 6] {
            let cast = NodeProto::new("Cast", &["side"], &["y"]).with_int("to", to);
            assert_eq!(known(vec![shape(), at(1), pick(1), cast]), None, "{to}");
        }
        // Two axes at once make no list of one.
        let axes = NodeProto::new("Constant", &[], &["axes"])
            .with_tensor("value", TensorProto::of_i64("axes", Some(2), &[0, 1]));
        let unsqueeze = NodeProto::new("Unsqueeze", &["side", "axes"], &["y"]);
        assert_eq!(known(vec![shape(), at(1), pick(1), axes, unsqueeze]), None);
        // Larger than it was, by what nobody says here.
        let resize = NodeProto::new("Resize", &["x", "", "scales"], &["large"]);
        let shape_of = NodeProto::new("Shape", &["large"], &["s"]);
        assert_eq!(known(vec![resize, shape_of, at(1), pick(1), same()]), None);
        // The largest and the smallest are numbers too.
        let least =
            NodeProto::new("Constant", &[], &["y"]).with_tensor("value", TensorProto::of_i64("y", None, &[i64::MIN]));
        assert_eq!(known(vec![least]), None);
    }

    #[test]
    fn sides_meet_as_onnx_has_it() {
        let (a, b) = ([None, Some(1), Some(3)], [Some(5), Some(3)]);
        assert_eq!(broadcast(&a, &b), [None, Some(5), Some(3)]);
        // Whatever the other is, it is 1 or the same.
        assert_eq!(broadcast(&[None], &[Some(7)]), [Some(7)]);
        assert_eq!(broadcast(&[None], &[Some(1)]), [None]);
        let list = [Some(1), None, Some(3)];
        assert_eq!(part(&list, -1, i64::MAX).unwrap(), [Some(3)]);
        assert_eq!(part(&list, 1, -1).unwrap(), [None]);
        assert_eq!(part(&list, 5, 9).unwrap(), []);
        assert_eq!(part(&list, 2, 1), None);
        assert_eq!((place(-3, 3), place(-4, 3), place(3, 3)), (Some(0), None, None));
    }
}
