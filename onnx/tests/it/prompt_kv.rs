//! Packs that the exporter can make and Optimum does not: keys and values of the prompt from a graph of their own, and
//! attention as one operator.

use std::path::Path;
use std::sync::Arc;

use livediffusion_onnx::graph::proto::{ModelProto, NodeProto, ValueInfoProto};
use livediffusion_onnx::{
    Chosen, ErrorKind, OnnxError, Pack, PartName, Precision, Provider, ProviderChoice, SessionSettings,
    load_networks_on,
};
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{DenoiseBatch, TextEncoder as _};

use crate::made_up::{F16, f16_pack, write};
use crate::support::{assert_close, constant, load, noise, on, row, runtime};

const PICTURE: [&str; 4] = ["batch", "3", "h", "w"];

/// prediction = sample + mean(prompt_kv), which is `width` wide, of f16 numbers.
fn unet(extra: Vec<NodeProto>, width: &str) -> Vec<u8> {
    // ReduceMean keeps the two sides, as ones.
    let mut nodes = vec![
        constant("last", &[3]),
        NodeProto::new("ReduceMean", &["prompt_kv"], &["mean"]).with_ints("axes", &[1, 2]),
        NodeProto::new("Unsqueeze", &["mean", "last"], &["mean4"]),
        NodeProto::new("Add", &["sample", "mean4"], &["out_sample"]),
    ];
    nodes.extend(extra);
    ModelProto::bytes(
        nodes,
        vec![
            ValueInfoProto::tensor("sample", F16, &PICTURE),
            ValueInfoProto::tensor("timestep", F16, &["batch"]),
            ValueInfoProto::tensor("prompt_kv", F16, &["batch", "77", width]),
        ],
        vec![ValueInfoProto::tensor("out_sample", F16, &PICTURE)],
    )
}

/// Of [batch, 77, 2] the same, its negative and its double side by side: 6 values.
fn projection() -> Vec<u8> {
    let node = NodeProto::new;
    ModelProto::bytes(
        vec![
            node("Neg", &["encoder_hidden_states"], &["negative"]),
            node("Add", &["encoder_hidden_states", "encoder_hidden_states"], &["double"]),
            node("Concat", &["encoder_hidden_states", "negative", "double"], &["prompt_kv"]).with_int("axis", 2),
        ],
        vec![ValueInfoProto::tensor("encoder_hidden_states", F16, &["batch", "77", "2"])],
        vec![ValueInfoProto::tensor("prompt_kv", F16, &["batch", "77", "6"])],
    )
}

fn pack_with(unet: &[u8]) -> tempfile::TempDir {
    let dir = f16_pack();
    write(dir.path(), "unet", r#"{"block_out_channels": [1]}"#, unet);
    write(dir.path(), "prompt_kv", "{}", &projection());
    dir
}

#[test]
fn the_unet_gets_what_prompt_kv_makes_of_the_prompt() {
    let Some(runtime) = runtime() else { return };
    let dir = pack_with(&unet(Vec::new(), "6"));
    let (pack, mut loaded) = load(&runtime, dir.path());
    assert_eq!((pack.prompt_width, pack.unet_prompt_width()), (2, 6));
    assert!(pack.can.iter().any(|ability| ability == "keys and values once a prompt"), "{:?}", pack.can);
    // It is on no frame's way.
    let weight = |name| pack.part(name).unwrap().bytes;
    let on_path = [PartName::Unet, PartName::VaeEncoder, PartName::VaeDecoder].map(weight);
    assert_eq!(pack.frame_bytes(), on_path.iter().sum::<u64>());

    let size = Size::new(5, 4);
    let prompt = loaded.text.encode("a photo", size).unwrap();
    assert_eq!((prompt.length, prompt.width, prompt.tokens.len()), (77, 6, 77 * 6));
    assert_eq!(prompt.tokens[..6], [1512.0, 1512.0, -1512.0, -1512.0, 3024.0, 3024.0]);

    let shape = LatentShape { channels: 3, height: 4, width: 5 };
    let flat = |value: f32| {
        let mut prompt = prompt.clone();
        prompt.tokens.fill(value);
        Arc::new(prompt)
    };
    let sample = noise(2 * shape.len(), 0.0);
    let mut out = vec![0.0; sample.len()];
    let rows = [row(3.0, &flat(0.5)), row(7.0, &flat(-1.0))];
    loaded.networks.denoiser.denoise(&DenoiseBatch { sample: &sample, shape, rows: &rows }, &mut out).unwrap();
    let (first, second) = sample.split_at(shape.len());
    let want: Vec<f32> = first.iter().map(|v| v + 0.5).chain(second.iter().map(|v| v - 1.0)).collect();
    assert_close("unet with keys and values", &out, &want, 2e-3);
}

fn refused(dir: &Path, says: &str) {
    let error = Pack::open(dir).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.what.contains(says) && error.hint.is_some(), "{error:?}");
}

#[test]
fn a_prompt_kv_that_is_missing_or_does_not_fit_is_named() {
    let dir = pack_with(&unet(Vec::new(), "8"));
    refused(dir.path(), "it gives 6 values, and the U-Net takes 8");
    std::fs::remove_dir_all(dir.path().join("prompt_kv")).unwrap();
    refused(dir.path(), "the pack has no prompt_kv/ that makes it");
    let dir = pack_with(&unet(Vec::new(), "6"));
    // Another text encoder's width.
    let wide = ["batch", "77", "3"].as_slice();
    let model = ModelProto::bytes(
        vec![NodeProto::new("Concat", &["x", "x"], &["y"]).with_int("axis", 2)],
        vec![ValueInfoProto::tensor("x", F16, wide)],
        vec![ValueInfoProto::tensor("y", F16, &["batch", "77", "6"])],
    );
    write(dir.path(), "prompt_kv", "{}", &model);
    refused(dir.path(), "it takes prompts of width 3, and the text encoder gives 2");
}

#[test]
fn fused_attention_is_refused_on_openvino_and_left_to_the_cpu_by_auto() {
    let Some(runtime) = runtime() else { return };
    // It leads nowhere, so that it needs no kernel.
    let mut attention = NodeProto::new("MultiHeadAttention", &["prompt_kv", "prompt_kv", "prompt_kv"], &["unused"]);
    attention.domain = "com.microsoft".to_owned();
    let dir = pack_with(&unet(vec![attention], "6"));
    let pack = Pack::open(dir.path()).unwrap();
    let chosen = Chosen { provider: Provider::OpenVino, precision: Precision::Bf16, why: String::new() };
    let load = |settings: &SessionSettings| load_networks_on(&runtime, &pack, chosen.clone(), settings);
    let error: OnnxError = load(&on(Provider::OpenVino)).err().unwrap();
    assert!(error.what.contains("OpenVINO has not the fused attention"), "{error:?}");
    assert!(error.hint.unwrap().starts_with("--provider cpu"));
    // Asked for bf16 alone, there is nothing else that has it.
    let bf16 = SessionSettings { precision: Precision::Bf16, ..SessionSettings::default() };
    assert!(load(&bf16).is_err());
    let auto = SessionSettings { provider: ProviderChoice::Auto, ..SessionSettings::default() };
    // The node is no valid one, which tells that it came as far as ONNX Runtime's own provider.
    match load(&auto) {
        Ok(loaded) => assert_eq!((loaded.provider, loaded.precision), (Provider::Cpu, Precision::F32)),
        Err(error) => assert!(!error.what.contains("OpenVINO has not"), "{error:?}"),
    }
}
