//! The U-Net as the engine calls it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use livediffusion_kernels::{Normalise, rgb8_to_chw};
use livediffusion_onnx::{Pack, Timesteps, has_time_of_each_row, rows_are_apart};
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{DenoiseBatch, Denoiser, ModelError, Row};

use crate::error::RemoteError;
use crate::prompt::{Prompts, Takes};
use crate::proto::{ModelInferRequest, RequestedOutput, TensorMetadata};
use crate::servers::Servers;
use crate::tensor::{Port, put, take, width};

/// What an input is given.
#[derive(Clone, Copy, Debug)]
enum Gives {
    Sample,
    Timestep,
    Prompt(Takes),
    Control,
    ControlScale,
}

/// A U-Net that servers run. Each stream and lane has one of its own.
pub struct RemoteUnet {
    servers: Arc<Servers>,
    /// In the order of the requests.
    inputs: Arc<[(Gives, Port)]>,
    output: Port,
    timesteps: Timesteps,
    guidance_width: Option<usize>,
    takes_control: bool,
    /// A side of a picture for one of a latent.
    factor: usize,
    prompts: Prompts,
    /// A control image as the network takes it.
    shown: Vec<f32>,
}

impl RemoteUnet {
    /// The U-Net of `pack`, which was opened with [`Servers::unet`]. Two calls show whether the rows of a call are apart.
    ///
    /// # Errors
    /// An input or output of a type that is not known; a server that fails.
    pub fn new(servers: Arc<Servers>, pack: &Pack) -> Result<Self, RemoteError> {
        let described = servers.described();
        let of = |ports: &[Port], name: &str| ports.iter().find(|port| port.info.name == name).cloned();
        let address = servers.to_string();
        let odd = |port: &Port| {
            let what = format!("{address}: {} is of type {}, which is not known here", port.info.name, port.datatype);
            RemoteError::invalid(what, "serve it with inputs and outputs of FP32, FP16, BF16, INT64 or INT32")
        };
        let unet = &pack.unet;
        let mut gives = vec![Gives::Sample, Gives::Timestep, Gives::Prompt(Takes::Tokens)];
        let prompt =
            [(&unet.pooled, Takes::Pooled), (&unet.time_ids, Takes::TimeIds), (&unet.guidance, Takes::Guidance)];
        gives.extend(prompt.into_iter().filter_map(|(port, takes)| port.as_ref().map(|_| Gives::Prompt(takes))));
        if unet.control.is_some() {
            gives.extend([Gives::Control, Gives::ControlScale]);
        }
        let ports = unet.inputs().into_iter().filter_map(|info| of(&described.inputs, &info.name));
        let inputs: Arc<[(Gives, Port)]> = gives.into_iter().zip(ports).collect();
        let Some(output) = of(&described.outputs, &unet.out.name) else {
            let what = format!("{address}: it has no output {}", unet.out.name);
            return Err(RemoteError::invalid(what, "its own log says more"));
        };
        if let Some((_, port)) = inputs.iter().find(|(_, port)| !port.is_numeric()) {
            return Err(odd(port));
        }
        if !output.is_numeric() || width(output.info.dtype) > 4 {
            return Err(odd(&output));
        }
        let mut this = Self {
            servers,
            inputs,
            output,
            timesteps: Timesteps::SlotBySlot,
            guidance_width: pack.timestep_cond_width,
            takes_control: unet.control.is_some(),
            factor: pack.vae_factor,
            prompts: Prompts::default(),
            shown: Vec::new(),
        };
        if has_time_of_each_row(unet) {
            this.timesteps = Timesteps::PerRow;
            // As small as it takes them.
            let latent = [pack.latent_multiple.max(8); 2];
            let apart = rows_are_apart(&mut this, pack, latent);
            let apart = apart.map_err(|error| RemoteError {
                kind: livediffusion_onnx::ErrorKind::Failed,
                what: error.what,
                hint: error.hint,
            })?;
            if !apart {
                this.timesteps = Timesteps::SlotBySlot;
            }
        }
        if this.timesteps == Timesteps::SlotBySlot {
            tracing::warn!(
                "the U-Net on {address} takes one time step for all rows: each row is a call of its own, which is slower; serve one \
                 whose `timestep` has a value for each row"
            );
        }
        Ok(this)
    }

    /// How it gets its time steps.
    pub const fn timesteps(&self) -> Timesteps {
        self.timesteps
    }

    /// One for another stream or lane.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            servers: Arc::clone(&self.servers),
            inputs: Arc::clone(&self.inputs),
            output: self.output.clone(),
            prompts: Prompts::default(),
            shown: Vec::new(),
            ..*self
        }
    }

    /// The call for some rows.
    fn request(&mut self, batch: &DenoiseBatch<'_>, part: Range<usize>) -> Result<ModelInferRequest, ModelError> {
        let DenoiseBatch { sample, shape, rows } = *batch;
        let (sample, rows) = (&sample[part.start * shape.len()..part.end * shape.len()], &rows[part]);
        let mut request = ModelInferRequest::default();
        for (gives, port) in &*Arc::clone(&self.inputs) {
            let (described, bytes) = self.input(*gives, port, (sample, shape, rows))?;
            request.inputs.push(described);
            request.raw_input_contents.push(bytes);
        }
        request.outputs.push(RequestedOutput { name: self.output.info.name.clone() });
        Ok(request)
    }

    /// One input's description and values.
    fn input(
        &mut self,
        gives: Gives,
        port: &Port,
        (sample, shape, rows): (&[f32], LatentShape, &[Row]),
    ) -> Result<(TensorMetadata, Bytes), ModelError> {
        let (count, dtype) = (rows.len(), port.info.dtype);
        let mut bytes = BytesMut::new();
        let described = match gives {
            Gives::Sample => {
                put(dtype, sample, &mut bytes);
                port.with_shape(&[count, shape.channels, shape.height, shape.width])
            }
            Gives::Timestep => {
                let times: Vec<f32> = rows.iter().map(|row| row.timestep).collect();
                put(dtype, &times, &mut bytes);
                // As the model has it: a scalar or a vector of one.
                let is_scalar = self.timesteps == Timesteps::SlotBySlot && port.info.rank() == Some(0);
                port.with_shape(&[count][usize::from(is_scalar)..])
            }
            Gives::Prompt(takes) => {
                for row in rows {
                    bytes.extend_from_slice(&self.prompts.bytes(&row.conditioning, (takes, port))?);
                }
                let each = bytes.len() / width(dtype) / count;
                match takes {
                    Takes::Tokens => {
                        let length = rows[0].conditioning.length;
                        port.with_shape(&[count, length, each / length.max(1)])
                    }
                    _ => port.with_shape(&[count, each]),
                }
            }
            Gives::Control => {
                let size = Size::new(shape.width * self.factor, shape.height * self.factor);
                rows.iter().try_for_each(|row| self.show(row, size, port, &mut bytes))?;
                port.with_shape(&[count, 3, size.height, size.width])
            }
            Gives::ControlScale => {
                let scale = |row: &Row| if row.control.is_some() { row.control_scale } else { 0.0 };
                let scales: Vec<f32> = rows.iter().map(scale).collect();
                put(dtype, &scales, &mut bytes);
                port.with_shape(&[count])
            }
        };
        Ok((described, bytes.freeze()))
    }

    /// What the row's ControlNet is shown. In a row without, black stands for it, under the scale 0.
    fn show(&mut self, row: &Row, size: Size, port: &Port, bytes: &mut BytesMut) -> Result<(), ModelError> {
        self.shown.resize(3 * size.pixels(), 0.0);
        match &row.control {
            Some(image) if image.size() != size => {
                let what = format!("U-Net: a control image of {} for a frame of {size}", image.size());
                return Err(ModelError::new(what));
            }
            Some(image) => {
                let sides = (size.width, size.height);
                rgb8_to_chw(image.rgb(), 3 * size.width, sides, Normalise::UNIT, &mut self.shown);
            }
            None => self.shown.fill(0.0),
        }
        put(port.info.dtype, &self.shown, bytes);
        Ok(())
    }
}

/// `rows` in parts that are as even as they can be: one for each server that is there, and more where one may not have so many.
fn parts(rows: usize, servers: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = servers.min(rows).max(rows.div_ceil(most.max(1))).max(1);
    (0..count).map(move |part| part * rows / count..(part + 1) * rows / count)
}

impl Denoiser for RemoteUnet {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let DenoiseBatch { sample, shape, rows } = *batch;
        if sample.len() != rows.len() * shape.len() || out.len() != sample.len() {
            return Err(ModelError::new("U-Net: sample, prediction and rows have different lengths"));
        }
        let Some(first) = rows.first() else { return Ok(()) };
        let (length, width_of_one) = (first.conditioning.length, first.conditioning.width);
        for conditioning in rows.iter().map(|row| &row.conditioning) {
            if (conditioning.length, conditioning.width) != (length, width_of_one)
                || conditioning.tokens.len() != length * width_of_one
            {
                return Err(ModelError::new("U-Net: the prompts of one call have different lengths"));
            }
        }
        let (servers, most) = match self.timesteps {
            Timesteps::SlotBySlot => (1, 1),
            _ => (self.servers.ready(), self.servers.described().most_rows.unwrap_or(usize::MAX)),
        };
        let parts = parts(rows.len(), servers, most);
        // All are sent before one is waited for.
        let sent = parts.map(|part| {
            let values = part.len() * shape.len();
            let request = self.request(batch, part)?;
            Ok((values, self.servers.send(request, values * width(self.output.info.dtype))))
        });
        let sent: Result<Vec<_>, ModelError> = sent.collect();
        let mut out = out;
        for (values, pending) in sent? {
            let (own, rest) = out.split_at_mut(values);
            take(&pending.wait()?, &self.output, own)?;
            out = rest;
        }
        Ok(())
    }

    fn timestep_cond_width(&self) -> Option<usize> {
        self.guidance_width
    }

    fn takes_control(&self) -> bool {
        self.takes_control
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_evenly_and_none_is_left_out() {
        let lengths = |rows, servers, most| parts(rows, servers, most).map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(lengths(1, 1, 8), [1]);
        assert_eq!(lengths(4, 1, usize::MAX), [4]);
        assert_eq!(lengths(1, 3, 8), [1]);
        assert_eq!(lengths(5, 2, 8), [2, 3]);
        assert_eq!(lengths(9, 1, 4), [3, 3, 3]);
        assert_eq!(lengths(3, 1, 1), [1, 1, 1]);
        for (rows, servers, most) in (1..12).flat_map(|rows| (1..5).map(move |servers| (rows, servers, 4))) {
            let all: Vec<usize> = parts(rows, servers, most).flatten().collect();
            assert_eq!(all, (0..rows).collect::<Vec<_>>());
        }
    }
}
