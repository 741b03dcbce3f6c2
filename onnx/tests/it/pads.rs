//! Convolutions with uneven borders against the same with the border as an operator of its own.

use livediffusion_onnx::graph::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use livediffusion_onnx::graph::split_uneven_pads;
use livediffusion_pipeline::frame::LatentShape;
use prost::Message as _;

use crate::made_up::{f16_pack, write};
use crate::support::{assert_close, load, noise, runtime};

#[test]
fn the_split_network_computes_the_same() {
    let Some(runtime) = runtime() else { return };
    let conv = NodeProto::new("Conv", &["latent", "weight"], &["images"]).with_ints("pads", &[0, 2, 2, 0]);
    let tensor = |name| vec![ValueInfoProto::tensor(name, 1, &["batch", "3", "height", "width"])];
    let weights = vec![TensorProto::of_f32("weight", &[3, 3, 3, 3], &noise(81, 0.4)).encode_to_vec()];
    let whole = ModelProto::new(vec![conv], tensor("latent"), tensor("images")).bytes_with(weights, 17);
    let split = split_uneven_pads(&whole).unwrap().unwrap();
    let mut painted = [whole, split].map(|model| {
        let dir = f16_pack();
        write(dir.path(), "vae_decoder", r#"{"block_out_channels": [1], "scaling_factor": 1.0}"#, &model);
        let (_, mut loaded) = load(&runtime, dir.path());
        let shape = LatentShape { channels: 3, height: 5, width: 4 };
        let mut images = vec![0.0; shape.len()];
        loaded.networks.decoder.decode(&noise(shape.len(), 0.1), 1, shape, &mut images).unwrap();
        images
    });
    assert_close("split", &painted[1], &painted[0], 1e-6);
    painted[0].reverse();
    assert!(painted[0] != painted[1]);
}
