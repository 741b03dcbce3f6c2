//! Convolutions whose border is wider on one side than on the other, with the border as an operator of its own.
//!
//! cuDNN may have no plan for them: of 3×3 kernels with a stride of 2 and a border on the right and below alone, as the encoders of Stable
//! Diffusion's VAEs have, ONNX Runtime's users report `HEURISTIC_QUERY_FAILED` in f32. Even borders are what all other convolutions of
//! these models have. Left as they are: borders that follow from the sides (`auto_pad`), and graphs within graphs, which no exporter of
//! these models writes.

use super::proto::{NodeProto, TensorProto};
use super::{Change, Graph, GraphError, Part, rewrite};

/// The first operator set in which Pad takes its border as an input.
const PADS_AS_INPUT: i64 = 11;

/// A copy of `model` in which every convolution with an uneven border is a Pad and a convolution without one; `None` where there is none.
///
/// # Errors
/// Bytes that are no model.
pub fn split_uneven_pads(model: &[u8]) -> Result<Option<Vec<u8>>, GraphError> {
    if !has_uneven_pads(&Graph::from_bytes(model)?) {
        return Ok(None);
    }
    rewrite(model, |part| match part {
        Part::Node(node) => match uneven_pads(node) {
            Some(pads) => Change::Replace(split(node, &pads).into_iter().map(Part::Node).collect()),
            None => Change::Keep,
        },
        _ => Change::Keep,
    })
    .map(Some)
}

/// Whether there is a convolution with an uneven border that can be split.
pub(crate) fn has_uneven_pads(graph: &Graph) -> bool {
    graph.opset >= PADS_AS_INPUT && graph.nodes.iter().any(|node| uneven_pads(node).is_some())
}

/// The border of a convolution, if it is uneven: that before each spatial axis, then that behind each.
fn uneven_pads(node: &NodeProto) -> Option<Vec<i64>> {
    let pads = node.option("pads").filter(|_| node.op_type == "Conv" && node.domain.is_empty())?.ints;
    let (before, behind) = pads.split_at_checked(pads.len() / 2)?;
    (before != behind && before.len() == behind.len()).then_some(pads)
}

fn split(conv: &NodeProto, pads: &[i64]) -> [NodeProto; 3] {
    let (before, behind) = pads.split_at(pads.len() / 2);
    // Batch and channels have none.
    let border = [&[0, 0], before, &[0, 0], behind].concat();
    let (given, name) = (format!("{}/border", conv.output[0]), format!("{}/padded", conv.output[0]));
    let tensor = TensorProto::of_i64(&given, Some(border.len()), &border);
    let mut even = conv.clone();
    even.input[0].clone_from(&name);
    [
        NodeProto::new("Constant", &[], &[&given]).with_tensor("value", tensor),
        NodeProto::new("Pad", &[&conv.input[0], &given], &[&name]),
        // None is the default.
        even.without("pads"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::proto::{ModelProto, ValueInfoProto};

    fn model(conv: NodeProto, opset: i64) -> Vec<u8> {
        let tensor = |name| vec![ValueInfoProto::tensor(name, 1, &["n", "2", "h", "w"])];
        ModelProto::new(vec![conv], tensor("x"), tensor("y")).bytes_with(Vec::new(), opset)
    }

    #[test]
    fn only_uneven_borders_are_split() {
        let conv = |pads: &[i64]| {
            NodeProto::new("Conv", &["x", "w", "b"], &["y"]).with_ints("pads", pads).with_int("group", 1)
        };
        for even in [&[1, 1, 1, 1][..], &[0, 2, 0, 2], &[1, 1], &[]] {
            assert!(split_uneven_pads(&model(conv(even), 17)).unwrap().is_none(), "{even:?}");
        }
        assert!(split_uneven_pads(&model(conv(&[0, 0, 1, 1]), 10)).unwrap().is_none(), "Pad was another operator then");
        let pool = NodeProto { op_type: "MaxPool".into(), ..conv(&[0, 0, 1, 1]) };
        assert!(split_uneven_pads(&model(pool, 17)).unwrap().is_none());
        let split = split_uneven_pads(&model(conv(&[0, 1, 2, 3]), 17)).unwrap().unwrap();
        let nodes = Graph::from_bytes(&split).unwrap().nodes;
        let [constant, pad, conv] = &nodes[..] else { panic!("{nodes:?}") };
        let border = constant.option("value").unwrap().t.unwrap().to_i64().unwrap();
        assert_eq!(border, [0, 0, 0, 1, 0, 0, 2, 3]);
        assert_eq!((pad.input[0].as_str(), &pad.input[1], &pad.output[0]), ("x", &constant.output[0], &conv.input[0]));
        assert_eq!((&conv.input[1..], &conv.output[0][..]), (&["w".to_owned(), "b".to_owned()][..], "y"));
        assert!(conv.option("pads").is_none() && conv.option("group").is_some());
        assert!(split_uneven_pads(&split).unwrap().is_none());
    }
}
