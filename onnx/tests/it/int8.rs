//! Networks in 8 bits beside those in f32.

use livediffusion_onnx::graph::proto::NodeProto;
use livediffusion_onnx::graph::{Change, Part, rewrite};
use livediffusion_onnx::{ErrorKind, Pack, Precision, Provider, SessionSettings, load_networks};
use livediffusion_pipeline::frame::LatentShape;

use crate::support::{copy_of, load, noise, on, pack_dir, runtime};

const PACK: &str = "tiny-sdturbo";

/// Levels of the quantised pictures in 1.
const LEVELS: f32 = 64.0;

/// The model with its output rounded to unsigned 8 bits, `LEVELS` to 1.
fn quantised(model: &[u8], output: &str) -> Vec<u8> {
    let plain = format!("{output}_plain");
    rewrite(model, |part| match part {
        Part::Node(node) if node.output.iter().any(|name| name == output) => {
            let mut node = node.clone();
            node.output.iter_mut().filter(|name| *name == output).for_each(|name| name.clone_from(&plain));
            let nodes = [
                node,
                NodeProto::new("Constant", &[], &["levels"]).with_int("value_int", LEVELS as i64),
                NodeProto::new("Cast", &["levels"], &["levels_f32"]).with_int("to", 1),
                NodeProto::new("Reciprocal", &["levels_f32"], &["level"]),
                NodeProto::new("QuantizeLinear", &[&plain, "level"], &["bytes"]),
                NodeProto::new("DequantizeLinear", &["bytes", "level"], &[output]),
            ];
            Change::Replace(nodes.into_iter().map(Part::Node).collect())
        }
        _ => Change::Keep,
    })
    .unwrap()
}

#[test]
fn the_networks_that_are_there_in_8_bits_take_the_place_of_the_others() {
    let Some(runtime) = runtime() else { return };
    let copy = copy_of(PACK);
    let decoder = copy.path().join("vae_decoder/model.onnx");
    let (plain_pack, mut plain) = load(&runtime, copy.path());
    assert!(!plain_pack.has_int8());
    let output = &plain_pack.part(livediffusion_onnx::PartName::VaeDecoder).unwrap().outputs[0].name;
    let model = quantised(&std::fs::read(&decoder).unwrap(), output);
    std::fs::write(decoder.with_file_name("model_int8.onnx"), model).unwrap();

    let pack = Pack::open(copy.path()).unwrap();
    assert!(pack.has_int8() && pack.bytes() == plain_pack.bytes());
    let settings = SessionSettings { precision: Precision::Int8, ..on(Provider::Cpu) };
    let mut loaded = load_networks(&runtime, &pack, &settings).unwrap();
    assert_eq!((loaded.provider, loaded.precision), (Provider::Cpu, Precision::Int8));

    let shape = LatentShape { channels: 4, height: 8, width: 8 };
    let latent = noise(shape.channels * shape.height * shape.width, 3.0);
    let side = 8 * pack.vae_factor;
    let (mut ours, mut exact) = (vec![0.0; 3 * side * side], vec![0.0; 3 * side * side]);
    loaded.networks.decoder.decode(&latent, 1, shape, &mut ours).unwrap();
    plain.networks.decoder.decode(&latent, 1, shape, &mut exact).unwrap();
    assert!(exact.iter().filter(|value| **value > 0.1).count() > 100, "nothing to see");
    for (ours, exact) in ours.iter().zip(&exact) {
        let level = ours * LEVELS;
        assert!((level - level.round()).abs() < 1e-3, "{ours} is no level");
        assert!((ours - exact.max(0.0)).abs() <= 0.5 / LEVELS + 1e-3, "{ours} for {exact}");
    }
    // Nobody asked for them: the others are used.
    let mut again = load(&runtime, copy.path()).1;
    again.networks.decoder.decode(&latent, 1, shape, &mut ours).unwrap();
    assert_eq!(ours, exact);
}

#[test]
fn a_pack_without_and_one_whose_networks_do_not_fit_are_refused() {
    let Some(runtime) = runtime() else { return };
    let settings = SessionSettings { precision: Precision::Int8, ..on(Provider::Cpu) };
    let pack = Pack::open(pack_dir(PACK)).unwrap();
    let error = load_networks(&runtime, &pack, &settings).err().unwrap();
    assert!(error.kind == ErrorKind::Invalid && error.what.contains("no networks in int8"), "{error:?}");
    assert!(error.hint.unwrap().contains("model_int8.onnx"));

    // An encoder in the place of a decoder.
    let copy = copy_of(PACK);
    let wrong = copy.path().join("vae_decoder/model_int8.onnx");
    std::fs::copy(copy.path().join("vae_encoder/model.onnx"), wrong).unwrap();
    let error = load_networks(&runtime, &Pack::open(copy.path()).unwrap(), &settings).err().unwrap();
    assert!(error.kind == ErrorKind::Invalid && error.what.contains("model_int8.onnx"), "{error:?}");
}
