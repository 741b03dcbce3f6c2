//! A ControlNet in the U-Net's graph, against what diffusers computes; and packs that have half of one.

use std::collections::HashMap;
use std::sync::Arc;

use livediffusion_onnx::graph::Graph;
use livediffusion_onnx::{LoadedPack, Pack, Precision, Provider, Runtime, load_networks};
use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Conditioning, DenoiseBatch, Row};
use safetensors::{Dtype, SafeTensors};

use crate::support::{TOLERANCE, assert_close, control_pack, copy_of_folder, data, error, on, openvino, row, runtime};

const SIZE: Size = Size::new(64, 64);
const SHAPE: LatentShape = LatentShape { channels: 4, height: 8, width: 8 };

/// Inputs of three rows, each with a time, a picture and a scale of its own, and what diffusers makes of them.
struct Reference {
    tensors: HashMap<String, Vec<f32>>,
    images: Vec<Arc<ControlImage>>,
    prompts: Vec<Arc<Conditioning>>,
}

impl Reference {
    fn read() -> Self {
        let bytes = std::fs::read(data("control/reference.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let floats = |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let all = file.iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F32);
        let tensors: HashMap<String, Vec<f32>> =
            all.map(|(name, tensor)| (name.to_owned(), floats(tensor.data()))).collect();
        let image = |rgb: &[u8]| {
            let mut image = ControlImage::new(SIZE);
            image.rgb_mut().copy_from_slice(rgb);
            Arc::new(image)
        };
        let images = file.tensor("control").unwrap().data().chunks_exact(3 * SIZE.pixels()).map(image).collect();
        let prompt = |tokens: &[f32]| {
            let (length, width) = (77, tokens.len() / 77);
            Arc::new(Conditioning { tokens: tokens.to_vec(), length, width, ..Conditioning::default() })
        };
        let embedded = &tensors["encoder_hidden_states"];
        let prompts = embedded.chunks_exact(embedded.len() / 3).map(prompt).collect();
        Self { tensors, images, prompts }
    }

    fn rows(&self) -> Vec<Row> {
        let of = |at: usize| Row {
            control: Some(Arc::clone(&self.images[at])),
            control_scale: self.tensors["conditioning_scale"][at],
            ..row(self.tensors["timestep"][at], &self.prompts[at])
        };
        (0..3).map(of).collect()
    }

    fn predicted(&self, loaded: &mut LoadedPack, rows: &[Row]) -> Vec<f32> {
        let mut out = vec![f32::NAN; rows.len() * SHAPE.len()];
        let sample = &self.tensors["sample"][..out.len()];
        loaded.networks.denoiser.denoise(&DenoiseBatch { sample, shape: SHAPE, rows }, &mut out).unwrap();
        out
    }
}

fn check(runtime: &Runtime, (provider, precision): (Provider, Precision), tolerance: f32) {
    let reference = Reference::read();
    let pack = Pack::open(control_pack()).unwrap();
    assert!(pack.can.iter().any(|ability| ability == "ControlNet"));
    let settings = livediffusion_onnx::SessionSettings { precision, ..on(provider) };
    let mut loaded = load_networks(runtime, &pack, &settings).unwrap();
    assert_eq!((loaded.provider, loaded.precision), (provider, precision));
    assert!(loaded.networks.denoiser.takes_control());
    let wanted = &reference.tensors["out_sample"];
    let name = format!("{provider} {precision}");
    let predicted = reference.predicted(&mut loaded, &reference.rows());
    assert_close(&name, &predicted, wanted, tolerance);
    assert!(reference.predicted(&mut loaded, &reference.rows()) == predicted, "{name}: a second call is another");
    // A row without a picture is one whose scale is 0, whatever stood in its place before.
    let mut rows = reference.rows();
    (rows[2].control, rows[2].control_scale) = (None, 1.0);
    assert!(reference.predicted(&mut loaded, &rows) == predicted, "{name}: no picture is not a scale of 0");
    // The picture and the scale of each row count, so that another's would have shown.
    for change in 0..2 {
        let mut rows = reference.rows();
        if change == 0 {
            rows[0].control = Some(Arc::clone(&reference.images[1]));
        } else {
            rows[1].control_scale = 1.0;
        }
        let other = reference.predicted(&mut loaded, &rows);
        let of_row = |all: &[f32]| all[change * SHAPE.len()..(change + 1) * SHAPE.len()].to_vec();
        let changed = error(&of_row(&other), &of_row(&predicted));
        assert!(changed > 0.1, "{name}: change {change} changes its row by {changed} alone");
    }
}

#[test]
fn it_computes_what_diffusers_computes() {
    let Some(runtime) = runtime() else { return };
    check(&runtime, (Provider::Cpu, Precision::F32), TOLERANCE);
    check(&runtime, (Provider::Cpu, Precision::F16), 0.03);
}

#[test]
fn openvino_computes_what_diffusers_computes() {
    let Some(runtime) = openvino() else { return };
    check(&runtime, (Provider::OpenVino, Precision::F32), TOLERANCE);
    // 0.22; 0.68 with the sinusoids of time in bf16.
    check(&runtime, (Provider::OpenVino, Precision::Bf16), 0.3);
}

#[test]
fn a_picture_of_another_size_is_refused() {
    let Some(runtime) = runtime() else { return };
    let reference = Reference::read();
    let mut loaded = load_networks(&runtime, &Pack::open(control_pack()).unwrap(), &on(Provider::Cpu)).unwrap();
    let mut rows = reference.rows();
    rows[1].control = Some(Arc::new(ControlImage::new(Size::new(32, 64))));
    let mut out = vec![0.0; 3 * SHAPE.len()];
    let batch = DenoiseBatch { sample: &reference.tensors["sample"], shape: SHAPE, rows: &rows };
    let refused = loaded.networks.denoiser.denoise(&batch, &mut out).unwrap_err();
    assert_eq!(refused.what, "U-Net: a control image of 32x64 for a frame of 64x64");
}

#[test]
fn half_of_a_controlnet_is_refused() {
    let dir = copy_of_folder(&control_pack());
    let file = dir.path().join("unet/model.onnx");
    let bytes = std::fs::read(&file).unwrap();
    // Of the same length, so that the file stays whole.
    let name = b"conditioning_scale";
    let places: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    let mut damaged = bytes.clone();
    for at in &places {
        damaged[*at..at + name.len()].copy_from_slice(b"conditioning_stale");
    }
    assert!(Graph::from_bytes(&damaged).is_ok() && !places.is_empty());
    std::fs::write(&file, damaged).unwrap();
    let refused = Pack::open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("only one of controlnet_cond and conditioning_scale"), "{refused}");
}
