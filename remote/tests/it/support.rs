//! Packs, their U-Nets on servers, and calls.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use half::f16;
use livediffusion_onnx::graph::{DType, Dim, TensorInfo};
use livediffusion_onnx::{LoadedPack, Pack, Provider, ProviderChoice, Runtime, SessionSettings, load_networks};
use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Branch, Conditioning, DenoiseBatch, Denoiser, Row};
use livediffusion_remote::proto::{
    ModelInferRequest, ModelInferResponse, ModelMetadataResponse, OutputTensor, TensorContents, TensorMetadata,
};
use livediffusion_remote::{Patience, RemoteUnet, Servers};
use tonic::Status;

use crate::server::{Model, Server, State};

pub(crate) const SHAPE: LatentShape = LatentShape { channels: 4, height: 8, width: 8 };
const SIZE: Size = Size::new(64, 64);

/// The library, or `None` and a printed reason.
pub(crate) fn runtime() -> Option<Runtime> {
    Runtime::load(None).inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

/// A golden pack, or the one with a ControlNet.
pub(crate) fn folder(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if name == "control" { root.join("onnx/tests/data/control") } else { root.join("assets/goldens/models").join(name) }
}

pub(crate) fn settings() -> SessionSettings {
    SessionSettings { provider: ProviderChoice::Fixed(Provider::Cpu), threads: Some(1), ..SessionSettings::default() }
}

/// How a server has a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// In FP16 where the graph is in f32.
    pub(crate) half: bool,
    /// As Triton does: one number for each row is a tensor of two sides.
    pub(crate) spread: bool,
    pub(crate) most_rows: Option<i32>,
    /// Answers are numbers in the message, not bytes.
    pub(crate) typed: bool,
}

pub(crate) const PLAIN: How = How { half: false, spread: false, most_rows: None, typed: false };
pub(crate) const TRITON: How = How { half: false, spread: true, most_rows: Some(8), typed: false };

/// A server with the U-Net of a pack.
pub(crate) fn serve(runtime: &Runtime, name: &str, how: How) -> Server {
    Server::start(state(runtime, name, how))
}

pub(crate) fn state(runtime: &Runtime, name: &str, how: How) -> State {
    let pack = Pack::open(folder(name)).unwrap();
    let loaded = load_networks(runtime, &pack, &settings()).unwrap();
    let tensor = |info: &TensorInfo| {
        let side = |dim: &Dim| if let Dim::Fixed(side) = dim { *side as i64 } else { -1 };
        let mut shape: Vec<i64> = info.dims.as_ref().unwrap().iter().map(side).collect();
        if shape.is_empty() {
            // The golden packs' time steps are repaired when they are loaded.
            shape.push(-1);
        }
        if how.spread && shape.len() == 1 {
            shape.push(1);
        }
        TensorMetadata { name: info.name.clone(), datatype: datatype(info.dtype, how.half).to_owned(), shape }
    };
    let metadata = ModelMetadataResponse {
        name: "unet".into(),
        versions: vec!["1".into()],
        platform: "test".into(),
        inputs: pack.unet.inputs().into_iter().map(tensor).collect(),
        outputs: vec![tensor(&pack.unet.out)],
    };
    State {
        name: "unet".into(),
        metadata,
        most_rows: how.most_rows,
        model: Mutex::new(model(pack, loaded, how)),
        calls: Mutex::default(),
        questions: AtomicUsize::new(0),
        tokens: Mutex::default(),
    }
}

fn datatype(dtype: DType, half: bool) -> &'static str {
    match dtype {
        DType::I64 => "INT64",
        DType::F32 if !half => "FP32",
        _ => "FP16",
    }
}

/// The pack's own U-Net behind the messages.
fn model(pack: Pack, loaded: LoadedPack, how: How) -> Model {
    let mut unet = loaded.networks.denoiser;
    Box::new(move |ask| {
        let rows = rows_of(&pack, ask)?;
        let sample = floats(ask, "sample")?;
        let sides = &ask.inputs[0].shape;
        let shape = LatentShape { channels: sides[1] as usize, height: sides[2] as usize, width: sides[3] as usize };
        let mut out = vec![0.0; sample.len()];
        let batch = DenoiseBatch { sample: &sample, shape, rows: &rows };
        unet.denoise(&batch, &mut out).map_err(|error| Status::internal(error.to_string()))?;
        Ok(answer(&pack.unet.out.name, sides, &out, how))
    })
}

pub(crate) fn answer(name: &str, sides: &[i64], values: &[f32], how: How) -> ModelInferResponse {
    let datatype = datatype(DType::F32, how.half).to_owned();
    let contents = how.typed.then(|| TensorContents { fp32_contents: values.to_vec() });
    let raw: Vec<u8> = if how.half {
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    };
    ModelInferResponse {
        outputs: vec![OutputTensor { name: name.to_owned(), datatype, shape: sides.to_vec(), contents }],
        raw_output_contents: if how.typed { Vec::new() } else { vec![raw.into()] },
        ..ModelInferResponse::default()
    }
}

/// An input's values, if their number is what its shape says.
fn floats(ask: &ModelInferRequest, name: &str) -> Result<Vec<f32>, Status> {
    let at = ask.inputs.iter().position(|input| input.name == name);
    let at = at.ok_or_else(|| Status::invalid_argument(format!("no {name}")))?;
    let (input, raw) = (&ask.inputs[at], &ask.raw_input_contents[at]);
    let values: Vec<f32> = match input.datatype.as_str() {
        "FP32" => raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        "FP16" => raw.chunks_exact(2).map(|b| f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        "INT64" => raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect(),
        other => return Err(Status::invalid_argument(format!("{name} is of {other}"))),
    };
    if values.len() as i64 != input.shape.iter().product::<i64>() {
        return Err(Status::invalid_argument(format!("{name}: {} values in {:?}", values.len(), input.shape)));
    }
    Ok(values)
}

/// The rows that a call is of.
fn rows_of(pack: &Pack, ask: &ModelInferRequest) -> Result<Vec<Row>, Status> {
    let count = ask.inputs[0].shape[0] as usize;
    let unet = &pack.unet;
    let given = |info: Option<&TensorInfo>| info.map(|info| floats(ask, &info.name)).transpose();
    let (times, tokens) = (floats(ask, &unet.timestep.name)?, floats(ask, &unet.tokens.name)?);
    let (pooled, time_ids) = (given(unet.pooled.as_ref())?, given(unet.time_ids.as_ref())?);
    let guidance = given(unet.guidance.as_ref())?;
    let control = unet.control.as_ref();
    let (shown, scales) = (given(control.map(|c| &c.image))?, given(control.map(|c| &c.scale))?);
    if times.len() != count {
        return Err(Status::invalid_argument(format!("{} times for {count} rows", times.len())));
    }
    let of = |all: &[f32], row: usize| {
        let len = all.len() / count;
        all[row * len..(row + 1) * len].to_vec()
    };
    let row = |at: usize| {
        let conditioning = Conditioning {
            tokens: of(&tokens, at),
            length: pack.prompt_length,
            width: pack.prompt_width,
            pooled: pooled.as_ref().map(|all| of(all, at)),
            time_ids: time_ids.as_ref().map(|all| of(all, at).try_into().unwrap()),
            timestep_cond: guidance.as_ref().map(|all| of(all, at)),
            unused: String::new(),
        };
        let control = shown.as_ref().map(|all| {
            let planes = of(all, at);
            let mut image = ControlImage::new(SIZE);
            let pixels = SIZE.pixels();
            for (index, byte) in image.rgb_mut().iter_mut().enumerate() {
                *byte = (planes[index % 3 * pixels + index / 3] * 255.0).round() as u8;
            }
            Arc::new(image)
        });
        let control_scale = scales.as_ref().map_or(0.0, |all| all[at]);
        Row { timestep: times[at], control, control_scale, ..plain_row(Arc::new(conditioning)) }
    };
    Ok((0..count).map(row).collect())
}

fn plain_row(conditioning: Arc<Conditioning>) -> Row {
    Row { frame: 0, step: 0, timestep: 0.0, branch: Branch::Prompt, conditioning, control: None, control_scale: 0.0 }
}

/// Rows of which none is like another, in values that f16 has.
pub(crate) fn rows(pack: &Pack, count: usize) -> Vec<Row> {
    let value = |seed: usize, at: usize| f16::from_f32(((seed * 131 + at) as f32 * 0.37).sin()).to_f32();
    let row = |row: usize| {
        let some = |len: usize, seed: usize| (0..len).map(|at| value(row + seed, at)).collect::<Vec<f32>>();
        let pooled = pack.unet.pooled.as_ref().map(|port| some(port.fixed(1).unwrap(), 7));
        let conditioning = Conditioning {
            tokens: some(pack.prompt_length * pack.prompt_width, 1),
            length: pack.prompt_length,
            width: pack.prompt_width,
            time_ids: pooled.as_ref().map(|_| [64.0, 64.0, 0.0, row as f32, 64.0, 64.0]),
            pooled,
            timestep_cond: pack.timestep_cond_width.map(|width| some(width, 9)),
            unused: String::new(),
        };
        let control = pack.unet.control.as_ref().map(|_| {
            let mut image = ControlImage::new(SIZE);
            image.rgb_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = ((at * 31 + row * 77) % 256) as u8);
            Arc::new(image)
        });
        Row {
            timestep: (999 - 100 * row) as f32,
            control,
            control_scale: 0.25 * (row + 1) as f32,
            ..plain_row(Arc::new(conditioning))
        }
    };
    (0..count).map(row).collect()
}

/// Latents without a pattern, in values that f16 has.
pub(crate) fn latents(rows: usize) -> Vec<f32> {
    (0..rows * SHAPE.len()).map(|at| f16::from_f32((at as f32 * 12.9898).sin()).to_f32()).collect()
}

/// What a U-Net says of rows.
pub(crate) fn predicted(unet: &mut dyn Denoiser, rows: &[Row]) -> Vec<f32> {
    let (sample, mut out) = (latents(rows.len()), vec![f32::NAN; rows.len() * SHAPE.len()]);
    unet.denoise(&DenoiseBatch { sample: &sample, shape: SHAPE, rows }, &mut out).unwrap();
    out
}

/// The U-Net of a pack on servers, and the pack as it is with that.
pub(crate) fn connect(name: &str, servers: &[&Server]) -> (Pack, RemoteUnet) {
    let (_, pack, unet) = connect_with(name, servers, Patience::default());
    (pack, unet)
}

/// The same with that patience, and the servers.
pub(crate) fn connect_with(name: &str, servers: &[&Server], patience: Patience) -> (Arc<Servers>, Pack, RemoteUnet) {
    let addresses: Vec<_> = servers.iter().map(|server| server.address().parse().unwrap()).collect();
    let servers = Arc::new(Servers::with_patience(&addresses, patience).unwrap());
    let pack = Pack::open_with(&folder(name), Some(&servers.unet())).unwrap();
    let unet = RemoteUnet::new(Arc::clone(&servers), &pack, None).unwrap();
    (servers, pack, unet)
}

/// Waits so long: parking would end with whatever woke this thread before.
pub(crate) fn wait(milliseconds: u64) {
    let (_sender, never) = std::sync::mpsc::sync_channel::<()>(1);
    let _ = never.recv_timeout(std::time::Duration::from_millis(milliseconds));
}
