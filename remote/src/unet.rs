//! The U-Net as the engine calls it.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use livediffusion_onnx::{
    ErrorKind, Pack, Timesteps, check_prompts, control_scale, has_time_of_each_row, rows_are_apart, show_control,
};
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
    /// The U-Net of `pack`, which was opened with [`Servers::unet`]. Two calls of each server that is there show whether the rows of a call
    /// are apart, for pictures of `size` or as small as they come.
    ///
    /// # Errors
    /// An input or output of a type that is not known; a server that fails.
    pub fn new(servers: Arc<Servers>, pack: &Pack, size: Option<Size>) -> Result<Self, RemoteError> {
        let described = servers.described();
        let (address, unet) = (servers.to_string(), &pack.unet);
        let of = |ports: &[Port], name: &str| {
            let found = ports.iter().find(|port| port.info.name == name).cloned();
            found.ok_or_else(|| RemoteError::invalid(format!("{address}: it has no {name}"), "its own log says more"))
        };
        let mut gives = vec![Gives::Sample, Gives::Timestep, Gives::Prompt(Takes::Tokens)];
        let prompt =
            [(&unet.pooled, Takes::Pooled), (&unet.time_ids, Takes::TimeIds), (&unet.guidance, Takes::Guidance)];
        gives.extend(prompt.into_iter().filter_map(|(port, takes)| port.as_ref().map(|_| Gives::Prompt(takes))));
        if unet.control.is_some() {
            gives.extend([Gives::Control, Gives::ControlScale]);
        }
        let ports = unet.inputs().into_iter().map(|info| of(&described.inputs, &info.name));
        let inputs: Arc<[(Gives, Port)]> =
            gives.into_iter().zip(ports).map(|(gives, port)| Ok((gives, port?))).collect::<Result<_, RemoteError>>()?;
        let output = of(&described.outputs, &unet.out.name)?;
        let odd = inputs.iter().map(|(_, port)| port).find(|port| !port.is_numeric());
        if let Some(Port { info, datatype, .. }) = odd.or((!output.is_float()).then_some(&output)) {
            let what = format!("{address}: {} is of type {datatype}, which it cannot be here", info.name);
            return Err(RemoteError::invalid(what, "serve it in FP32, FP16 or BF16, its time step also in integers"));
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
        let latent = size.map_or([pack.latent_multiple.max(8); 2], |size| {
            [size.height / pack.vae_factor, size.width / pack.vae_factor]
        });
        let why = if has_time_of_each_row(unet) {
            this.try_rows(pack, latent)?
        } else {
            Some("as it says of itself".to_owned())
        };
        if let Some(why) = why {
            tracing::warn!(
                "the U-Net on {address} cannot take rows at different time steps in a call ({why}): each row is a call of its own, which \
                 is slower; serve one whose `timestep` has a value for each row"
            );
        }
        Ok(this)
    }

    /// Finds out whether rows may be together in a call, on each server, and if not, why.
    fn try_rows(&mut self, pack: &Pack, latent: [usize; 2]) -> Result<Option<String>, RemoteError> {
        self.timesteps = Timesteps::PerRow;
        if self.servers.most_rows() == 1 {
            return Ok(None);
        }
        let (mut tried, mut last) = (false, None);
        for server in self.servers.there().collect::<Vec<_>>() {
            let why = match rows_are_apart(&mut Trial { unet: self, server }, pack, latent) {
                Ok(true) => {
                    tried = true;
                    continue;
                }
                Ok(false) => "one row depends on the others".to_owned(),
                // It went away: the others do the work.
                Err(error) if !self.servers.is_there(server) => {
                    last = Some(error);
                    continue;
                }
                Err(error) => error.what,
            };
            self.timesteps = Timesteps::SlotBySlot;
            // Alone they have to work.
            let alone = rows_are_apart(&mut Trial { unet: self, server }, pack, latent);
            alone.map_err(|error| failed(ErrorKind::Failed, error))?;
            return Ok(Some(why));
        }
        match last {
            Some(error) if !tried => Err(failed(ErrorKind::Missing, error)),
            _ => Ok(None),
        }
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
                for row in rows {
                    show_control(row, size, &mut self.shown)?;
                    put(dtype, &self.shown, &mut bytes);
                }
                port.with_shape(&[count, 3, size.height, size.width])
            }
            Gives::ControlScale => {
                let scales: Vec<f32> = rows.iter().map(control_scale).collect();
                put(dtype, &scales, &mut bytes);
                port.with_shape(&[count])
            }
        };
        Ok((described, bytes.freeze()))
    }
}

fn failed(kind: ErrorKind, error: ModelError) -> RemoteError {
    RemoteError { kind, what: error.what, hint: error.hint }
}

/// `rows` in parts that are as even as they can be: one for each server that is there, and more where one may not have so many.
fn parts(rows: usize, servers: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = servers.min(rows).max(rows.div_ceil(most.max(1))).max(1);
    (0..count).map(move |part| part * rows / count..(part + 1) * rows / count)
}

/// Who is to answer a call.
#[derive(Clone, Copy)]
enum Who {
    /// Whoever has the least to do, several a part of the rows each.
    Anyone,
    /// One server, all of them.
    Only(usize),
}

impl RemoteUnet {
    fn predict(&mut self, batch: &DenoiseBatch<'_>, who: Who, mut out: &mut [f32]) -> Result<(), ModelError> {
        let DenoiseBatch { sample, shape, rows } = *batch;
        if sample.len() != rows.len() * shape.len() || out.len() != sample.len() {
            return Err(ModelError::new("U-Net: sample, prediction and rows have different lengths"));
        }
        check_prompts(rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        let (servers, most) = match (self.timesteps, who) {
            (Timesteps::SlotBySlot, _) => (1, 1),
            (_, Who::Only(_)) => (1, usize::MAX),
            (_, Who::Anyone) => (self.servers.there().count(), self.servers.most_rows()),
        };
        // All are sent before one is waited for.
        let sent = parts(rows.len(), servers, most).map(|part| {
            let values = part.len() * shape.len();
            let (request, bytes) = (self.request(batch, part)?, values * width(self.output.info.dtype));
            let pending = match who {
                Who::Anyone => self.servers.send(request, bytes),
                Who::Only(server) => self.servers.send_to(server, request, bytes),
            };
            Ok((values, pending))
        });
        let sent: Result<Vec<_>, ModelError> = sent.collect();
        for (values, pending) in sent? {
            let (own, rest) = out.split_at_mut(values);
            take(&pending.wait()?, &self.output, own)?;
            out = rest;
        }
        Ok(())
    }
}

impl Denoiser for RemoteUnet {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        self.predict(batch, Who::Anyone, out)
    }

    fn timestep_cond_width(&self) -> Option<usize> {
        self.guidance_width
    }

    fn takes_control(&self) -> bool {
        self.takes_control
    }
}

/// The U-Net on one server, whose calls are not divided.
struct Trial<'a> {
    unet: &'a mut RemoteUnet,
    server: usize,
}

impl Denoiser for Trial<'_> {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        self.unet.predict(batch, Who::Only(self.server), out)
    }

    fn timestep_cond_width(&self) -> Option<usize> {
        self.unet.guidance_width
    }

    fn takes_control(&self) -> bool {
        self.unet.takes_control
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
