//! The repair of a scalar time step, on a scalar copy of a golden U-Net.

use std::path::Path;
use std::sync::Arc;

use livediffusion_onnx::graph::proto::{NodeProto, ValueInfoProto};
use livediffusion_onnx::graph::{Change, Part, rewrite};
use livediffusion_onnx::{LoadedPack, Pack, Timesteps};
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{DenoiseBatch, TextEncoder as _};

use crate::support::{TOLERANCE, assert_close, constant, copy_of, load, noise, pack_dir, row, runtime};

const LATENT: LatentShape = LatentShape { channels: 4, height: 8, width: 8 };

/// i64 in `onnx.TensorProto.DataType`.
const I64: i32 = 7;

/// Name, type and sides of the input, nodes behind it, and the name that its users read.
type Case<'a> = (&'a str, i32, &'a [&'a str], &'a [NodeProto], &'a str);

/// Gives the U-Net's time step input another type, and puts nodes between it and its users.
fn edit(dir: &Path, element: i32, sides: &[&str], between: &[NodeProto], renamed: &str) {
    let file = dir.join("unet/model.onnx");
    let model = std::fs::read(&file).unwrap();
    let mut is_first = true;
    let edited = rewrite(&model, |part| match part {
        Part::Input(value) if value.name == "timestep" => {
            Change::Replace(vec![Part::Input(ValueInfoProto::tensor("timestep", element, sides))])
        }
        Part::Node(node) => {
            let mut nodes = if std::mem::take(&mut is_first) { between.to_vec() } else { Vec::new() };
            let rename = |name: &String| {
                if name == "timestep" { renamed.to_owned() } else { name.clone() }
            };
            nodes.push(NodeProto { input: node.input.iter().map(rename).collect(), ..node.clone() });
            Change::Replace(nodes.into_iter().map(Part::Node).collect())
        }
        _ => Change::Keep,
    });
    std::fs::write(file, edited.unwrap()).unwrap();
}

fn three_rows(loaded: &mut LoadedPack) -> Vec<f32> {
    let prompt = Arc::new(loaded.text.encode("a red fox", Size::new(64, 64)).unwrap());
    let rows = [row(999.0, &prompt), row(450.0, &prompt), row(1.0, &prompt)];
    let sample = noise(3 * LATENT.len(), 0.0);
    let mut out = vec![0.0; sample.len()];
    let batch = DenoiseBatch { sample: &sample, shape: LATENT, rows: &rows };
    loaded.networks.denoiser.denoise(&batch, &mut out).unwrap();
    out
}

#[test]
fn a_scalar_time_step_is_repaired_whichever_node_spreads_it() {
    let Some(runtime) = runtime() else { return };
    let want = three_rows(&mut load(&runtime, &pack_dir("tiny-sdturbo")).1);
    let axes = constant("axes", &[0]);
    let shape = constant("shape", &[1]);
    let unsqueeze = NodeProto::new("Unsqueeze", &["timestep", "axes"], &["t1"]);
    let reshape = NodeProto::new("Reshape", &["timestep", "shape"], &["t1"]);
    // Cast to i64 (attribute `to`), as exports with a float time step have it.
    let cast = NodeProto::new("Cast", &["timestep"], &["whole"]).with_int("to", i64::from(I64));
    let unsqueeze_cast = NodeProto::new("Unsqueeze", &["whole", "axes"], &["t1"]);
    let f32_scalar = [axes.clone(), cast, unsqueeze_cast];
    let cases: [Case<'_>; 5] = [
        ("expand", I64, &[], &[], "timestep"),
        ("unsqueeze", I64, &[], &[axes, unsqueeze], "t1"),
        ("reshape", I64, &[], &[shape, reshape], "t1"),
        ("cast and unsqueeze, f32", 1, &[], &f32_scalar, "t1"),
        ("vector of one", I64, &["1"], &[], "timestep"),
    ];
    for (name, element, sides, between, renamed) in cases {
        let copy = copy_of("tiny-sdturbo");
        edit(copy.path(), element, sides, between, renamed);
        let pack = Pack::open(copy.path()).unwrap();
        assert_eq!(pack.timestep().1, Some(sides.len()));
        let (_, mut loaded) = load(&runtime, copy.path());
        assert_eq!(loaded.timesteps, Timesteps::Repaired, "{name}");
        assert_close(name, &three_rows(&mut loaded), &want, 1e-6);
    }
}

#[test]
fn what_cannot_be_repaired_runs_slot_by_slot() {
    let Some(runtime) = runtime() else { return };
    let want = three_rows(&mut load(&runtime, &pack_dir("tiny-sdturbo")).1);
    // Twice the half: arithmetic on the scalar that the repair does not know.
    let abs = NodeProto::new("Abs", &["timestep"], &["t1"]);
    let copy = copy_of("tiny-sdturbo");
    edit(copy.path(), I64, &[], &[abs], "t1");
    let (_, mut loaded) = load(&runtime, copy.path());
    assert_eq!(loaded.timesteps, Timesteps::SlotBySlot);
    assert_close("slot by slot", &three_rows(&mut loaded), &want, TOLERANCE);
}

#[test]
fn a_vector_of_another_name_is_tried_out() {
    let Some(runtime) = runtime() else { return };
    let want = three_rows(&mut load(&runtime, &pack_dir("tiny-sdturbo")).1);
    let copy = copy_of("tiny-sdturbo");
    edit(copy.path(), I64, &["steps"], &[], "timestep");
    let (_, mut loaded) = load(&runtime, copy.path());
    assert_eq!(loaded.timesteps, Timesteps::PerRow);
    assert_close("steps", &three_rows(&mut loaded), &want, 1e-6);
    // Declared as a vector, but only its first value is used: the trial run shows that rows are not told apart.
    let zero = constant("zero", &[0]);
    let first = NodeProto::new("Gather", &["timestep", "zero"], &["t1"]);
    let copy = copy_of("tiny-sdturbo");
    edit(copy.path(), I64, &["steps"], &[zero, first], "t1");
    let (_, mut loaded) = load(&runtime, copy.path());
    assert_eq!(loaded.timesteps, Timesteps::SlotBySlot);
    assert_close("first value only", &three_rows(&mut loaded), &want, TOLERANCE);
}
