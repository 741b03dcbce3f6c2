//! A network in f32 as one that reckons in f16, as tensor cores have it.
//!
//! No weight is touched: wherever a value in f32 (an input, a weight, a constant) meets arithmetic in f16 it is cast, and ONNX Runtime
//! folds the casts of weights at the load. Inputs and outputs stay as they are. In f32 stays what f16 has no room for: angles (at a time
//! step of 999 it knows them to half a radian), what decides on an integer, sums of squares and their roots (above 65504 there is
//! nothing), and what only such values go into. That is what PyTorch does in a model of `torch.float16`, where diffusers and its layers
//! reckon the same in f32.

use std::collections::{HashMap, HashSet};

use super::proto::NodeProto;
use super::types::types;
use super::{Change, DType, Graph, GraphError, Part, rewrite};

/// Operators that are most of a network's work, and in f16 whatever they are given.
const MATRICES: [&str; 8] =
    ["Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "MultiHeadAttention", "Attention", "FusedMatMul"];

/// Operators whose results f16 may have no room for, or too few digits.
const WIDE: [&str; 18] = [
    "Sin",
    "Cos",
    "Range",
    "CumSum",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "ReduceMean",
    "ReduceSum",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "Softplus",
    "LpNormalization",
];

/// Operators whose inputs have to be exact, and all that these come from.
const EXACT: [&str; 6] = ["Sin", "Cos", "Range", "Floor", "Ceil", "Round"];

/// A copy of `model` that reckons in f16; `None` of one that has f16 among its arithmetic already. With `wide_attention` the products of
/// queries and keys stay in f32, as `upcast_attention` in a U-Net's `config.json` asks for.
///
/// # Errors
/// Bytes that are no model; an operator whose types are not known here.
pub fn to_halves(model: &[u8], wide_attention: bool) -> Result<Option<Vec<u8>>, GraphError> {
    let graph = Graph::from_bytes(model)?;
    let Some(plan) = Plan::of(&graph, wide_attention)? else { return Ok(None) };
    let mut writer = Writer { plan: &plan, cast: HashSet::new() };
    let mut nodes = 0..;
    rewrite(model, |part| match part {
        Part::Node(node) => writer.node(nodes.next().unwrap_or_default(), node),
        Part::Inner(value) if plan.is_half(&value.name) => {
            let mut value = value.clone();
            if let Some(tensor) = value.r#type.as_mut().and_then(|of| of.tensor_type.as_mut()) {
                tensor.elem_type = DType::F16.to_onnx();
            }
            Change::Replace(vec![Part::Inner(value)])
        }
        _ => Change::Keep,
    })
    .map(Some)
}

/// What is in f16 and what is not.
struct Plan<'a> {
    types: HashMap<&'a str, DType>,
    /// Of each node whether it reckons in f32.
    wide: Vec<bool>,
    /// Of each node whether what it comes from does so too.
    widened: Vec<bool>,
    /// The node that gives a tensor.
    makers: HashMap<&'a str, usize>,
    outputs: HashSet<&'a str>,
}

impl<'a> Plan<'a> {
    fn of(graph: &'a Graph, wide_attention: bool) -> Result<Option<Self>, GraphError> {
        let types = types(graph).map_err(|op| GraphError::Unknown(op.to_owned()))?;
        let is_half = |name: &String| types.get(name.as_str()) == Some(&DType::F16);
        let is_matrix = |node: &NodeProto| MATRICES.contains(&node.op_type.as_str());
        if graph.nodes.iter().any(|node| is_matrix(node) && node.input.iter().any(is_half)) {
            return Ok(None);
        }
        let named = |(at, node): (usize, &'a NodeProto)| node.output.iter().map(move |name| (name.as_str(), at));
        let makers = graph.nodes.iter().enumerate().flat_map(named).collect();
        let outputs = graph.outputs.iter().map(|output| output.name.as_str()).collect();
        let still = vec![false; graph.nodes.len()];
        let mut plan = Self { types, wide: still.clone(), widened: still, makers, outputs };
        for (at, node) in graph.nodes.iter().enumerate() {
            let (is_exact, is_attention) = (plan.is_exact(node), wide_attention && node.op_type == "Softmax");
            plan.wide[at] |= WIDE.contains(&node.op_type.as_str()) || is_constant(node) || is_exact || is_attention;
            for (input, name) in node.input.iter().enumerate() {
                if is_exact || is_attention || needs_floats(node, input) {
                    plan.widen(&graph.nodes, name, is_attention);
                }
            }
        }
        plan.spread(graph);
        Ok(Some(plan))
    }

    fn is_float(&self, name: &str) -> bool {
        self.types.get(name) == Some(&DType::F32)
    }

    /// Whether what goes into a node has to be exact: angles, and what becomes an integer.
    fn is_exact(&self, node: &NodeProto) -> bool {
        let becomes_integer = || node.op_type == "Cast" && node.output.iter().all(|name| !self.is_float(name));
        EXACT.contains(&node.op_type.as_str()) || becomes_integer()
    }

    /// Has a tensor reckoned in f32, and all that it comes from, up to a product of matrices or with it.
    fn widen(&mut self, nodes: &'a [NodeProto], name: &'a str, with_product: bool) {
        let mut open = vec![name];
        while let Some(name) = open.pop() {
            let Some(&at) = self.makers.get(name).filter(|_| self.is_float(name)) else { continue };
            let is_product = MATRICES.contains(&nodes[at].op_type.as_str());
            if self.widened[at] || (is_product && !with_product) {
                continue;
            }
            (self.wide[at], self.widened[at]) = (true, true);
            if !is_product {
                open.extend(nodes[at].input.iter().map(String::as_str));
            }
        }
    }

    /// What only values in f32 go into, beside constants and integers, stays in f32 too, up to the next product of matrices: to add a
    /// small number to a sum of squares in f16 would be as wrong as the sum.
    fn spread(&mut self, graph: &'a Graph) {
        let mut constant: HashSet<&str> = graph.weights.keys().map(String::as_str).collect();
        for (at, node) in graph.nodes.iter().enumerate() {
            let given = || node.input.iter().filter(|name| !name.is_empty()).map(String::as_str);
            if given().all(|name| constant.contains(name)) && !is_random(node) {
                constant.extend(node.output.iter().map(String::as_str));
            }
            // Of none: what is made of integers and constants alone is as exact as its reader wants it, such as an entry of a table.
            let mut floats = given().filter(|name| self.is_float(name) && !constant.contains(name));
            let are_wide = floats.all(|name| self.makers.get(name).is_some_and(|at| self.wide[*at]));
            self.wide[at] |= are_wide && !MATRICES.contains(&node.op_type.as_str());
        }
    }

    /// Whether a tensor that was in f32 is given in f16 now.
    fn is_half(&self, name: &str) -> bool {
        self.is_float(name) && self.makers.get(name).is_some_and(|at| !self.wide[*at])
    }

    /// What a node that reckons in f16 calls what it gives: an output of the graph keeps its name for what it is cast to.
    fn stored(&self, name: &str) -> String {
        if self.outputs.contains(name) { format!("{name}/half") } else { name.to_owned() }
    }
}

/// Inputs that ONNX wants in f32 whatever the others are: regions and factors of a Resize.
fn needs_floats(node: &NodeProto, input: usize) -> bool {
    match node.op_type.as_str() {
        "Resize" => input == 1 || input == 2,
        "Upsample" => input == 1,
        _ => false,
    }
}

/// Nodes that name a value: it is cast where it is read, as weights are.
fn is_constant(node: &NodeProto) -> bool {
    matches!(node.op_type.as_str(), "Constant" | "ConstantOfShape") || is_random(node)
}

fn is_random(node: &NodeProto) -> bool {
    node.op_type.starts_with("Random")
}

/// Writes the nodes, with casts between those in f32 and those in f16.
struct Writer<'a> {
    plan: &'a Plan<'a>,
    /// What casts give so far.
    cast: HashSet<String>,
}

impl Writer<'_> {
    fn node(&mut self, at: usize, node: &NodeProto) -> Change {
        let plan = self.plan;
        let is_wide = plan.wide[at];
        let mut written = Vec::new();
        let mut node = node.clone();
        let asks_for_sides = matches!(node.op_type.as_str(), "Shape" | "Size");
        for input in 0..node.input.len() {
            if !plan.is_float(&node.input[input]) {
                continue;
            }
            let wants_half = !is_wide && !needs_floats(&node, input);
            let name = &node.input[input];
            node.input[input] = match (plan.is_half(name), wants_half) {
                (true, true) => plan.stored(name),
                (true, false) if plan.outputs.contains(name.as_str()) => continue,
                (true, _) if asks_for_sides => plan.stored(name),
                (false, _) if asks_for_sides => continue,
                (true, false) => self.cast(name, "wide", DType::F32, &mut written),
                (false, true) => self.cast(name, "half", DType::F16, &mut written),
                (false, false) => continue,
            };
        }
        let mut casts_back = Vec::new();
        let gives_half = node.output.iter().any(|name| plan.is_half(name));
        for output in &mut node.output {
            if !plan.is_half(output) {
                continue;
            }
            let stored = plan.stored(output);
            if stored != *output {
                let cast = NodeProto::new("Cast", &[&stored], &[output]);
                casts_back.push(Part::Node(cast.with_int("to", DType::F32.to_onnx().into())));
                *output = stored;
            }
        }
        if node.op_type == "Cast" && gives_half {
            node.attribute.clear();
            node = node.with_int("to", DType::F16.to_onnx().into());
        }
        written.push(Part::Node(node));
        written.extend(casts_back);
        Change::Replace(written)
    }

    /// The name of a tensor cast, once for all that read it.
    fn cast(&mut self, name: &str, suffix: &str, to: DType, written: &mut Vec<Part>) -> String {
        let cast = format!("{name}/{suffix}");
        if self.cast.insert(cast.clone()) {
            let node = NodeProto::new("Cast", &[name], &[&cast]);
            written.push(Part::Node(node.with_int("to", to.to_onnx().into())));
        }
        cast
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::proto::{ModelProto, TensorProto, ValueInfoProto};
    use super::super::wire::put_bytes;
    use super::*;

    const F32: i32 = 1;
    const I64: i32 = 7;

    fn node(op: &str, input: &[&str], output: &str) -> NodeProto {
        NodeProto::new(op, input, &[output])
    }

    fn weight(name: &str) -> TensorProto {
        TensorProto::of_f32(name, &[1], &[0.5])
    }

    /// Of inputs `x` in f32 and `t` in integers, weights `w` and `v`, and output `y`.
    fn model(nodes: Vec<NodeProto>) -> Vec<u8> {
        let input = |name, kind| ValueInfoProto::tensor(name, kind, &["n", "c", "h", "w"]);
        let model = ModelProto::new(nodes, vec![input("x", F32), input("t", I64)], vec![input("y", F32)]);
        model.bytes_with(["w", "v"].map(|name| weight(name).encode_to_vec()).to_vec(), 17)
    }

    /// The types of all tensors once it reckons in f16.
    fn halved(nodes: Vec<NodeProto>, wide_attention: bool) -> HashMap<String, DType> {
        let bytes = to_halves(&model(nodes), wide_attention).unwrap().unwrap();
        let graph = Graph::from_bytes(&bytes).unwrap();
        let types = types(&graph).unwrap();
        // What a node reads was given before.
        let mut given: HashSet<&str> = graph.inputs.iter().map(|input| input.name.as_str()).chain(["w", "v"]).collect();
        for node in &graph.nodes {
            let read = node.input.iter().filter(|name| !name.is_empty());
            read.for_each(|name| assert!(given.contains(name.as_str()), "{name} of {}", node.name));
            node.output.iter().for_each(|name| assert!(given.insert(name), "{name} is given twice"));
            // All floats that an operator mixes are of one type.
            let floats = node.input.iter().enumerate().filter(|(input, _)| !needs_floats(node, *input));
            let mut floats =
                floats.map(|(_, name)| types[name.as_str()]).filter(|of| [DType::F32, DType::F16].contains(of));
            let first = floats.next();
            assert!(floats.all(|of| Some(of) == first), "{} mixes types", node.name);
        }
        assert_eq!(types["y"], DType::F32, "outputs stay");
        types.into_iter().map(|(name, of)| (name.to_owned(), of)).collect()
    }

    #[track_caller]
    fn assert_types(types: &HashMap<String, DType>, half: &[&str], wide: &[&str]) {
        for (names, wanted) in [(half, DType::F16), (wide, DType::F32)] {
            for name in names {
                assert_eq!(types[*name], wanted, "{name}");
            }
        }
    }

    #[test]
    fn products_are_in_f16_and_angles_with_all_that_they_come_from_are_not() {
        let nodes = vec![
            node("Cast", &["t"], "time").with_int("to", F32.into()),
            node("Exp", &["w"], "rates"),
            node("Unsqueeze", &["rates"], "row"),
            node("Mul", &["time", "row"], "angle"),
            node("Sin", &["angle"], "sin"),
            node("Cos", &["angle"], "cos"),
            node("Concat", &["sin", "cos"], "both").with_int("axis", 1),
            node("Gemm", &["both", "w"], "embedding"),
            node("Sigmoid", &["embedding"], "gate"),
            node("Conv", &["x", "w", "v"], "conv"),
            node("Shape", &["conv"], "sides"),
            node("Expand", &["gate", "sides"], "wide_gate"),
            node("Add", &["conv", "wide_gate"], "y"),
        ];
        let types = halved(nodes, false);
        assert_types(
            &types,
            &["embedding", "gate", "conv", "y/half", "x/half"],
            &["angle", "sin", "both", "x", "w", "row"],
        );
        assert_eq!(types["sides"], DType::I64);
    }

    #[test]
    fn sums_of_squares_and_their_roots_are_not_in_f16_and_what_is_divided_by_them_is() {
        let nodes = vec![
            node("Conv", &["x", "w"], "conv"),
            node("ReduceMean", &["conv"], "mean"),
            node("Sub", &["conv", "mean"], "centred"),
            node("Pow", &["centred", "w"], "squares"),
            node("ReduceMean", &["squares"], "variance"),
            node("Add", &["variance", "v"], "safe"),
            node("Sqrt", &["safe"], "deviation"),
            node("Div", &["centred", "deviation"], "normal"),
            node("MatMul", &["normal", "w"], "y"),
        ];
        let types = halved(nodes, false);
        assert_types(
            &types,
            &["conv", "centred", "normal", "y/half"],
            &["mean", "squares", "variance", "safe", "deviation"],
        );
    }

    #[test]
    fn factors_of_a_size_stay_and_what_becomes_an_integer_is_exact() {
        let nodes = vec![
            node("Conv", &["x", "w"], "conv"),
            node("Cast", &["t"], "side").with_int("to", F32.into()),
            node("Mul", &["side", "w"], "grown"),
            node("Cast", &["grown"], "count").with_int("to", I64.into()),
            node("Concat", &["w", "v"], "factors").with_int("axis", 0),
            node("Resize", &["conv", "", "factors"], "large"),
            node("Reshape", &["large", "count"], "y"),
        ];
        let types = halved(nodes, false);
        assert_types(&types, &["conv", "large"], &["side", "grown", "factors"]);
        assert_eq!(types["count"], DType::I64);
    }

    #[test]
    fn an_entry_of_a_table_is_as_exact_as_the_table() {
        let nodes = vec![
            node("Gather", &["w", "t"], "alpha"),
            node("Sub", &["v", "alpha"], "rest"),
            node("Sqrt", &["rest"], "sigma"),
            node("Mul", &["x", "sigma"], "noise"),
            node("Conv", &["noise", "w"], "y"),
        ];
        assert_types(&halved(nodes, false), &["noise", "y/half"], &["alpha", "rest", "sigma"]);
    }

    #[test]
    fn attention_is_in_f32_up_to_its_product_where_that_is_asked_for() {
        let nodes = || {
            vec![
                node("MatMul", &["x", "w"], "q"),
                node("MatMul", &["x", "v"], "k"),
                node("Transpose", &["k"], "k_turned"),
                node("MatMul", &["q", "k_turned"], "scores"),
                node("Mul", &["scores", "w"], "scaled"),
                node("Softmax", &["scaled"], "shares"),
                node("MatMul", &["shares", "k"], "y"),
            ]
        };
        assert_types(&halved(nodes(), false), &["q", "scores", "scaled", "shares", "y/half"], &[]);
        assert_types(&halved(nodes(), true), &["q", "k_turned", "y/half"], &["scores", "scaled", "shares"]);
    }

    #[test]
    fn an_output_that_is_read_further_on_keeps_its_name_outside() {
        let nodes = vec![
            node("Conv", &["x", "w"], "y"),
            node("Relu", &["y"], "inner"),
            node("Sqrt", &["y"], "root"),
            node("Shape", &["y"], "sides"),
        ];
        let types = halved(nodes, false);
        assert_types(&types, &["y/half", "inner"], &["y", "root"]);
    }

    #[test]
    fn what_is_known_of_inner_tensors_is_kept_true() {
        let inner = ValueInfoProto::tensor("conv", F32, &["n", "c", "h", "w"]);
        let mut model =
            ModelProto::decode(&model(vec![node("Conv", &["x", "w"], "conv"), node("Sqrt", &["conv"], "y")])[..])
                .unwrap();
        let mut graph = model.graph.take().unwrap().encode_to_vec();
        put_bytes(13, &inner.encode_to_vec(), &mut graph);
        let mut bytes = model.encode_to_vec();
        put_bytes(7, &graph, &mut bytes);
        let mut seen = Vec::new();
        rewrite(&to_halves(&bytes, false).unwrap().unwrap(), |of| {
            if let Part::Inner(value) = of {
                seen.push(value.r#type.clone().unwrap().tensor_type.unwrap().elem_type);
            }
            Change::Keep
        })
        .unwrap();
        assert_eq!(seen, [DType::F16.to_onnx()]);
    }

    #[test]
    fn a_model_that_has_f16_already_is_left_alone_and_one_that_is_not_known_is_refused() {
        let to_half = |name: &str, half: &str| node("Cast", &[name], half).with_int("to", 10);
        let mixed = vec![
            to_half("x", "h"),
            to_half("w", "half_w"),
            node("Conv", &["h", "half_w"], "c"),
            node("Cast", &["c"], "y").with_int("to", 1),
        ];
        assert_eq!(to_halves(&model(mixed), false).unwrap(), None);
        let error = to_halves(&model(vec![node("Loop", &["x"], "y")]), false).unwrap_err();
        assert_eq!(error.to_string(), "the operator Loop is not known in f16");
        assert!(to_halves(b"no model", false).is_err());
    }
}
