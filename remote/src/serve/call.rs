//! A call's message as rows of a U-Net. Nothing in it is believed before it is looked at.

use std::sync::Arc;

use livediffusion_onnx::graph::{DType, TensorInfo};
use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Branch, Conditioning, Row};
use tonic::Status;

use super::prompts::Prompts;
use super::service::{Facts, short};
use crate::proto::ModelInferRequest;
use crate::tensor::{dtype_of, get, width};

/// No input of a U-Net has more sides.
const MOST_SIDES: usize = 8;

/// A call that can be made.
pub(super) struct Call {
    pub(super) sample: Vec<f32>,
    pub(super) shape: LatentShape,
    pub(super) rows: Vec<Row>,
}

impl Call {
    /// # Errors
    /// Inputs that are missing, or of other sides, types or lengths than the network's.
    pub(super) fn read(ask: &ModelInferRequest, facts: &Facts, prompts: &Prompts) -> Result<Self, Status> {
        let unet = &facts.pack.unet;
        let wanted = unet.inputs();
        if let Some(other) = ask.inputs.iter().find(|input| !wanted.iter().any(|info| info.name == input.name)) {
            return Err(wrong(format!("unexpected inference input '{}'", short(&other.name))));
        }
        let (sides, sample) = values(ask, &unet.sample)?;
        let [count, channels, height, width] = sides[..] else {
            return Err(wrong(format!("'{}' has the sides {sides:?}, and needs four", unet.sample.name)));
        };
        let shape = LatentShape { channels, height, width };
        facts.check(count, shape)?;
        let given = |info: &TensorInfo, sides: &[usize]| -> Result<Vec<f32>, Status> {
            let (have, values) = values(ask, info)?;
            // A number for each row may have a side of its own.
            let is_spread = sides.len() == 1 && have.len() == 2 && have[1] == 1;
            if have[..] != *sides && !(is_spread && have[0] == sides[0]) {
                return Err(wrong(format!("'{}' has the sides {have:?}, and needs {sides:?}", info.name)));
            }
            Ok(values)
        };
        let optional = |info: Option<&TensorInfo>, sides: &[usize]| info.map(|info| given(info, sides)).transpose();
        let (length, wide) = (facts.pack.prompt_length, facts.pack.unet_prompt_width());
        let times = given(&unet.timestep, &[count])?;
        let tokens = given(&unet.tokens, &[count, length, wide])?;
        let pooled_width = unet.pooled.as_ref().and_then(|info| info.fixed(1)).unwrap_or(0);
        let pooled = optional(unet.pooled.as_ref(), &[count, pooled_width])?;
        let time_ids = optional(unet.time_ids.as_ref(), &[count, 6])?;
        let guidance = optional(unet.guidance.as_ref(), &[count, facts.pack.timestep_cond_width.unwrap_or(0)])?;
        let size = facts.size(shape);
        let control = unet.control.as_ref();
        let shown = optional(control.map(|control| &control.image), &[count, 3, size.height, size.width])?;
        let scales = optional(control.map(|control| &control.scale), &[count])?;
        let of = |all: &Option<Vec<f32>>, row: usize| all.as_ref().map(|all| part(all, row, count).to_vec());
        let row = |at: usize| {
            let conditioning = Conditioning {
                tokens: part(&tokens, at, count).to_vec(),
                length,
                width: wide,
                pooled: of(&pooled, at),
                time_ids: of(&time_ids, at).and_then(|ids| ids.try_into().ok()),
                timestep_cond: of(&guidance, at),
                unused: String::new(),
            };
            Row {
                frame: 0,
                step: 0,
                timestep: times[at],
                branch: Branch::Prompt,
                conditioning: prompts.same(conditioning),
                control: shown.as_ref().map(|all| Arc::new(image(part(all, at, count), size))),
                control_scale: scales.as_ref().map_or(0.0, |scales| scales[at]),
            }
        };
        Ok(Self { sample, shape, rows: (0..count).map(row).collect() })
    }
}

/// One row's part of values.
fn part(all: &[f32], row: usize, rows: usize) -> &[f32] {
    let len = all.len() / rows;
    &all[row * len..(row + 1) * len]
}

/// A picture of planes in [0, 1].
fn image(planes: &[f32], size: Size) -> ControlImage {
    let mut image = ControlImage::new(size);
    let (red, rest) = planes.split_at(size.pixels());
    let (green, blue) = rest.split_at(size.pixels());
    for (pixel, ((red, green), blue)) in
        image.rgb_mut().as_chunks_mut().0.iter_mut().zip(red.iter().zip(green).zip(blue))
    {
        // What the client had in bytes: no value of those is rounded to another one.
        *pixel = [red, green, blue].map(|value| (value * 255.0).round() as u8);
    }
    image
}

/// An input's sides and values.
fn values(ask: &ModelInferRequest, info: &TensorInfo) -> Result<(Vec<usize>, Vec<f32>), Status> {
    let name = &info.name;
    let at = ask.inputs.iter().position(|input| input.name == *name);
    let at = at.ok_or_else(|| wrong(format!("missing inference input '{name}'")))?;
    let (input, raw) = (&ask.inputs[at], ask.raw_input_contents.get(at));
    let raw = raw.ok_or_else(|| wrong(format!("'{name}' has no values in raw_input_contents")))?;
    if input.shape.len() > MOST_SIDES {
        return Err(wrong(format!("'{name}' has {} sides", input.shape.len())));
    }
    let sides: Result<Vec<usize>, _> = input.shape.iter().map(|&side| usize::try_from(side)).collect();
    let sides = sides.map_err(|_| wrong(format!("'{name}' has the sides {:?}", input.shape)))?;
    let count = sides.iter().try_fold(1usize, |count, &side| count.checked_mul(side));
    let dtype = dtype_of(&input.datatype);
    if let DType::Other(_) = dtype {
        let what = format!("'{name}' is of {}; FP32, FP16, BF16, INT64 and INT32 are taken", short(&input.datatype));
        return Err(wrong(what));
    }
    match count.filter(|count| count.checked_mul(width(dtype)) == Some(raw.len())) {
        Some(count) => {
            let mut values = vec![0.0; count];
            get(dtype, raw, &mut values);
            Ok((sides, values))
        }
        None => Err(wrong(format!("'{name}': {} bytes are not {:?} of {}", raw.len(), input.shape, input.datatype))),
    }
}

pub(super) fn wrong(what: String) -> Status {
    Status::invalid_argument(what)
}
