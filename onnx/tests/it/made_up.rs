//! A pack of a few nodes in f16, with unusual names and i32 token ids: what no golden pack has.

use std::path::Path;
use std::sync::Arc;

use livediffusion_onnx::Timesteps;
use livediffusion_onnx::graph::proto::{ModelProto, NodeProto, ValueInfoProto};
use livediffusion_onnx::graph::{DType, Graph};
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Conditioning, DenoiseBatch, TextEncoder as _};

use crate::support::{assert_close, constant, load, noise, pack_dir, row, runtime};

/// f16 and i32 in `onnx.TensorProto.DataType`.
pub(crate) const F16: i32 = 10;
const I32: i32 = 6;

pub(crate) fn write(dir: &Path, part: &str, config: &str, model: &[u8]) {
    std::fs::create_dir_all(dir.join(part)).unwrap();
    std::fs::write(dir.join(part).join("model.onnx"), model).unwrap();
    std::fs::write(dir.join(part).join("config.json"), config).unwrap();
}

/// prediction = sample · t + mean(prompt), and a VAE that changes nothing, with 3 channels and factor 1.
pub(crate) fn f16_pack() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let picture = ["batch", "3", "h", "w"];
    let node = NodeProto::new;
    let unet = ModelProto::bytes(
        vec![
            constant("spread", &[1, 2, 3]),
            constant("last", &[3]),
            node("Unsqueeze", &["timesteps", "spread"], &["t"]),
            node("ReduceMean", &["text_embeddings"], &["mean"]).with_ints("axes", &[1, 2]),
            node("Unsqueeze", &["mean", "last"], &["mean4"]),
            node("Mul", &["latents", "t"], &["scaled"]),
            node("Add", &["scaled", "mean4"], &["noise_pred"]),
        ],
        vec![
            ValueInfoProto::tensor("timesteps", F16, &["batch"]),
            ValueInfoProto::tensor("latents", F16, &picture),
            ValueInfoProto::tensor("text_embeddings", F16, &["batch", "77", "2"]),
        ],
        vec![ValueInfoProto::tensor("noise_pred", F16, &picture)],
    );
    write(dir.path(), "unet", r#"{"block_out_channels": [1]}"#, &unet);
    let vae = |from, to| {
        let tensor = |name| vec![ValueInfoProto::tensor(name, F16, &picture)];
        ModelProto::bytes(vec![node("Neg", &[from], &[to])], tensor(from), tensor(to))
    };
    let config = r#"{"block_out_channels": [1], "scaling_factor": 2.0, "shift_factor": 0.5}"#;
    write(dir.path(), "vae_encoder", config, &vae("images", "latent"));
    write(dir.path(), "vae_decoder", config, &vae("latent", "images"));
    let text = ModelProto::bytes(
        vec![
            constant("last", &[2]),
            node("Cast", &["tokens"], &["values"]).with_int("to", i64::from(F16)),
            node("Unsqueeze", &["values", "last"], &["column"]),
            node("Concat", &["column", "column"], &["text_embeddings"]).with_int("axis", 2),
        ],
        vec![ValueInfoProto::tensor("tokens", I32, &["batch", "77"])],
        vec![ValueInfoProto::tensor("text_embeddings", F16, &["batch", "77", "2"])],
    );
    write(dir.path(), "text_encoder", "{}", &text);
    std::fs::create_dir(dir.path().join("tokenizer")).unwrap();
    let tokenizer = pack_dir("tiny-sd15/tokenizer/tokenizer.json");
    std::fs::copy(tokenizer, dir.path().join("tokenizer/tokenizer.json")).unwrap();
    std::fs::write(dir.path().join("model_index.json"), "{}").unwrap();
    dir
}

#[test]
fn f16_networks_with_unusual_names_run() {
    let Some(runtime) = runtime() else { return };
    let dir = f16_pack();
    let (pack, mut loaded) = load(&runtime, dir.path());
    assert_eq!((pack.vae_factor, pack.latent_channels, pack.prompt_width), (1, 3, 2));
    assert_eq!((pack.timestep(), loaded.timesteps), ((DType::F16, Some(1)), Timesteps::PerRow));
    let size = Size::new(5, 4);
    let shape = LatentShape { channels: 3, height: 4, width: 5 };

    let prompt = loaded.text.encode("a photo", size).unwrap();
    assert_eq!(prompt.tokens[..4], [1512.0, 1512.0, 320.0, 320.0]);

    let flat = |value: f32| {
        Arc::new(Conditioning { tokens: vec![value; 77 * 2], length: 77, width: 2, ..Conditioning::default() })
    };
    let sample = noise(2 * shape.len(), 0.0);
    let mut out = vec![0.0; sample.len()];
    let rows = [row(3.0, &flat(0.5)), row(7.0, &flat(-1.0))];
    loaded.networks.denoiser.denoise(&DenoiseBatch { sample: &sample, shape, rows: &rows }, &mut out).unwrap();
    let (first, second) = sample.split_at(shape.len());
    let want: Vec<f32> = first.iter().map(|v| 3.0 * v + 0.5).chain(second.iter().map(|v| 7.0 * v - 1.0)).collect();
    assert_close("f16 unet", &out, &want, 2e-3);

    let picture = noise(3 * size.pixels(), 9.0);
    let mut latent = vec![0.0; shape.len()];
    loaded.networks.encoder.as_mut().unwrap().encode(&picture, 1, size, None, &mut latent).unwrap();
    let want: Vec<f32> = picture.iter().map(|v| (-v - 0.5) * 2.0).collect();
    assert_close("shift and scale", &latent, &want, 2e-3);
    let mut back = vec![0.0; picture.len()];
    loaded.networks.decoder.decode(&latent, 1, shape, &mut back).unwrap();
    assert_close("there and back", &back, &picture, 2e-3);
}

/// An LCM full model takes the guidance scale as an input of the U-Net: every row gets its own embedding.
#[test]
fn a_guidance_embedding_reaches_its_row() {
    let Some(runtime) = runtime() else { return };
    let dir = f16_pack();
    let picture = ["batch", "3", "h", "w"];
    let node = NodeProto::new;
    // prediction = sample + mean(embedding)
    let unet = ModelProto::bytes(
        vec![
            constant("last", &[2, 3]),
            node("ReduceMean", &["timestep_cond"], &["mean"]).with_ints("axes", &[1]),
            node("Unsqueeze", &["mean", "last"], &["mean4"]),
            node("Add", &["sample", "mean4"], &["out_sample"]),
        ],
        vec![
            ValueInfoProto::tensor("sample", F16, &picture),
            ValueInfoProto::tensor("timestep", F16, &["batch"]),
            ValueInfoProto::tensor("encoder_hidden_states", F16, &["batch", "77", "2"]),
            ValueInfoProto::tensor("timestep_cond", F16, &["batch", "4"]),
        ],
        vec![ValueInfoProto::tensor("out_sample", F16, &picture)],
    );
    write(dir.path(), "unet", r#"{"block_out_channels": [1]}"#, &unet);
    let (pack, mut loaded) = load(&runtime, dir.path());
    assert_eq!(pack.timestep_cond_width, Some(4));
    assert_eq!(loaded.networks.denoiser.timestep_cond_width(), Some(4));
    let size = Size::new(5, 4);
    let shape = LatentShape { channels: 3, height: 4, width: 5 };
    let text = loaded.text.encode("a fox", size).unwrap();
    let with = |value: f32| Arc::new(Conditioning { timestep_cond: Some(vec![value; 4]), ..text.clone() });
    let rows = [row(5.0, &with(0.25)), row(7.0, &with(-1.0))];
    let sample = noise(2 * shape.len(), 0.3);
    let mut out = vec![0.0; sample.len()];
    let batch = DenoiseBatch { sample: &sample, shape, rows: &rows };
    loaded.networks.denoiser.denoise(&batch, &mut out).unwrap();
    let expected: Vec<f32> =
        sample.iter().enumerate().map(|(i, x)| x + if i < shape.len() { 0.25 } else { -1.0 }).collect();
    assert_close("guidance embedding", &out, &expected, 2e-3);
    // Without an embedding the call is refused rather than run on whatever the tensor holds.
    let rows = [row(5.0, &Arc::new(text.clone()))];
    let batch = DenoiseBatch { sample: &sample[..shape.len()], shape, rows: &rows };
    assert!(loaded.networks.denoiser.denoise(&batch, &mut out[..shape.len()]).is_err());
}

#[test]
fn a_graph_tells_its_inputs_without_its_weights() {
    let graph = Graph::open(&pack_dir("tiny-sdxlturbo/unet/model.onnx")).unwrap();
    let inputs: Vec<String> = graph.inputs.iter().map(ToString::to_string).collect();
    assert_eq!(
        inputs[..3],
        [
            "sample f32[batch_size,4,height,width]",
            "timestep i64[batch_size]",
            "encoder_hidden_states f32[batch_size,sequence_length,72]",
        ]
    );
    assert!(!graph.external_data && graph.opset == 17 && graph.nodes.len() > 1000);
}
