//! Upsampling that was folded into the convolution behind it against the two one after the other.

use livediffusion_onnx::graph::fold_upsampling;
use livediffusion_onnx::graph::proto::{ModelProto, NodeProto, TensorProto, ValueInfoProto};
use livediffusion_pipeline::frame::LatentShape;
use prost::Message as _;

use crate::made_up::{f16_pack, write};
use crate::support::{assert_close, load, noise, runtime};

const F32: i32 = 1;
const F16: i32 = 10;

/// How a decoder keeps its weights.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kept {
    F32,
    /// f16 in the file, f32 when it runs.
    Cast,
    /// f16 throughout.
    F16,
}

/// latent → Resize → Conv 3×3 → Neg → images, 3 channels, from 1 pixel to 4.
fn decoder(weight: &[f32], bias: &[f32], kept: Kept) -> Vec<u8> {
    let node = NodeProto::new;
    let resize = node("Resize", &["latent", "", "factors"], &["large"])
        .with_text("mode", "nearest")
        .with_text("coordinate_transformation_mode", "asymmetric")
        .with_text("nearest_mode", "floor");
    let name = if kept == Kept::Cast { "cast" } else { "weight" };
    let conv = node("Conv", &["large", name, "bias"], &["there"]).with_ints("pads", &[1, 1, 1, 1]);
    let mut nodes = vec![resize, conv, node("Neg", &["there"], &["images"])];
    if kept == Kept::Cast {
        nodes.insert(0, node("Cast", &["weight"], &["cast"]).with_int("to", i64::from(F32)));
    }
    let half = |mut tensor: TensorProto| {
        let values = tensor.to_f32().unwrap();
        tensor.raw_data = values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect();
        TensorProto { data_type: F16, ..tensor }
    };
    let (weight, bias) =
        (TensorProto::of_f32("weight", &[3, 3, 3, 3], weight), TensorProto::of_f32("bias", &[3], bias));
    let (weight, bias) = match kept {
        Kept::F32 => (weight, bias),
        Kept::Cast => (half(weight), bias),
        Kept::F16 => (half(weight), half(bias)),
    };
    let weights = [TensorProto::of_f32("factors", &[4], &[1.0, 1.0, 2.0, 2.0]), weight, bias];
    let element = if kept == Kept::F16 { F16 } else { F32 };
    let tensor = |name| vec![ValueInfoProto::tensor(name, element, &["batch", "3", "height", "width"])];
    ModelProto::new(nodes, tensor("latent"), tensor("images"))
        .bytes_with(weights.iter().map(TensorProto::encode_to_vec).collect(), 17)
}

/// What the decoder shall give, by the definitions of its operators.
fn expected(latent: &[f32], (height, width): (usize, usize), weight: &[f32], bias: &[f32]) -> Vec<f32> {
    let (tall, wide) = (2 * height as isize, 2 * width as isize);
    let mut out = Vec::new();
    for channel in 0..3 {
        for y in 0..tall {
            for x in 0..wide {
                let mut sum = bias[channel];
                for input in 0..3 {
                    for (tap, w) in weight[9 * (3 * channel + input)..][..9].iter().enumerate() {
                        let (y, x) = (y + tap as isize / 3 - 1, x + tap as isize % 3 - 1);
                        if (0..tall).contains(&y) && (0..wide).contains(&x) {
                            sum += w * latent[(input * height + y as usize / 2) * width + x as usize / 2];
                        }
                    }
                }
                out.push(-sum);
            }
        }
    }
    out
}

#[test]
fn the_folded_network_computes_the_same() {
    let Some(runtime) = runtime() else { return };
    let (weight, bias) = (noise(81, 0.4), noise(3, 7.0));
    for kept in [Kept::F32, Kept::Cast, Kept::F16] {
        let model = decoder(&weight, &bias, kept);
        let folded = fold_upsampling(&model).unwrap();
        assert!(folded.is_some_and(|folded| fold_upsampling(&folded).unwrap().is_none()), "{kept:?} is not folded");
        let dir = f16_pack();
        std::fs::remove_dir_all(dir.path().join("vae_encoder")).unwrap();
        write(dir.path(), "vae_decoder", r#"{"block_out_channels": [1, 1], "scaling_factor": 1.0}"#, &model);
        let (_, mut loaded) = load(&runtime, dir.path());
        for (height, width) in [(1, 1), (2, 5), (7, 4)] {
            let shape = LatentShape { channels: 3, height, width };
            let latents = noise(2 * shape.len(), 0.1);
            let mut images = vec![0.0; 8 * shape.len()];
            loaded.networks.decoder.decode(&latents, 2, shape, &mut images).unwrap();
            let tolerance = if kept == Kept::F32 { 1e-5 } else { 3e-3 };
            let want: Vec<f32> = latents
                .chunks(shape.len())
                .flat_map(|latent| expected(latent, (height, width), &weight, &bias))
                .collect();
            assert_close(&format!("{kept:?} {height}x{width}"), &images, &want, tolerance);
        }
    }
}
