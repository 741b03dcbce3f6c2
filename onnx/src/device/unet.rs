//! The U-Net on a device.

use std::sync::Arc;

use livediffusion_kernels::gpu::{GpuError, Queue, Tensor, View, ViewMut};
use livediffusion_pipeline::device::DeviceDenoiser;
use livediffusion_pipeline::frame::LatentShape;
use livediffusion_pipeline::model::{Conditioning, ModelError, Row};

use super::network::{Call, dtype, zeros};
use super::padding::Paddings;
use super::rows::Rows;
use crate::pack::{ControlPorts, UnetPorts};
use crate::session::Network;
use crate::timestep::Timesteps;
use crate::unet::OnnxUnet;
use crate::vae::check_length;

const LABEL: &str = "U-Net";

/// The U-Net of a stream. Its tensors have room for the most rows that a call had; a call of fewer uses the first of them.
pub(super) struct DeviceUnet {
    ports: UnetPorts,
    shape: LatentShape,
    /// A side of a picture for one of a latent.
    factor: usize,
    /// Before the tensors that its calls lie over.
    calls: Vec<Option<Call>>,
    /// Before the network: to drop them waits for the card, and a session must not end under its own work.
    tensors: Option<Tensors>,
    network: Network,
    /// Rows of the last call that are its own.
    rows: usize,
    /// Rows that the next call has.
    called: usize,
    /// Where a call of another number of rows is dear.
    paddings: Option<Arc<Paddings>>,
}

struct Tensors {
    /// Rows that there is room for.
    room: usize,
    sample: Tensor,
    prediction: Tensor,
    time: Rows,
    /// What each row's time is.
    times: Vec<Option<f32>>,
    prompt: Option<Prompt>,
    control: Option<ControlInputs>,
}

/// The inputs of a ControlNet.
struct ControlInputs {
    images: Tensor,
    scale: Rows,
    /// What each row's scale is.
    scales: Vec<Option<f32>>,
}

/// The inputs that a conditioning fills.
struct Prompt {
    /// Tokens, then those of pooled prompt, sizes and guidance that the network has.
    inputs: Vec<(Rows, usize)>,
    length: usize,
    width: usize,
    /// The conditioning that each row holds.
    resident: Vec<Option<Arc<Conditioning>>>,
}

impl DeviceUnet {
    pub(super) fn new(unet: &OnnxUnet, shape: LatentShape, shares_rows: bool) -> Result<Self, ModelError> {
        let (network, ports) = unet.parts();
        let refuse = |why: &str| Err(ModelError::new(format!("{LABEL}: {why}")));
        if unet.timesteps() == Timesteps::SlotBySlot {
            return refuse("it is called once for each row, since its time step is one for all");
        }
        if unet.is_cut() {
            return refuse("its sinusoids of time are computed apart, as for bf16");
        }
        for info in ports.inputs().into_iter().chain([&ports.out]) {
            dtype(LABEL, info)?;
        }
        let (network, ports, factor) = (network.fork(), ports.clone(), unet.factor());
        let paddings = network.paddings().map(|all| if shares_rows { Arc::clone(all) } else { Arc::default() });
        Ok(Self { network, ports, shape, factor, calls: Vec::new(), tensors: None, rows: 0, called: 0, paddings })
    }

    /// Tensors with room for so many rows.
    fn tensors<Q: Queue>(&mut self, queue: &Q, rows: usize) -> Result<&mut Tensors, ModelError> {
        let LatentShape { channels, height, width } = self.shape;
        let made = match self.tensors.take() {
            Some(tensors) if tensors.room >= rows => tensors,
            _ => {
                self.calls.clear();
                // Growth by doubling: a step more does not make everything anew each time.
                let room = rows.next_power_of_two();
                let dims = [room, channels, height, width];
                let control = |ports: &ControlPorts| -> Result<_, ModelError> {
                    let images = [room, 3, height * self.factor, width * self.factor];
                    Ok(ControlInputs {
                        images: zeros(queue, LABEL, &ports.image, &images)?,
                        scale: Rows::new(queue, dtype(LABEL, &ports.scale)?, room, 1)?,
                        scales: vec![None; room],
                    })
                };
                Tensors {
                    room,
                    sample: zeros(queue, LABEL, &self.ports.sample, &dims)?,
                    prediction: zeros(queue, LABEL, &self.ports.out, &dims)?,
                    time: Rows::new(queue, dtype(LABEL, &self.ports.timestep)?, room, 1)?,
                    times: vec![None; room],
                    prompt: None,
                    control: self.ports.control.as_ref().map(control).transpose()?,
                }
            }
        };
        Ok(self.tensors.insert(made))
    }

    /// The call over so many rows.
    #[allow(unsafe_code, reason = "ONNX Runtime is given addresses")]
    fn call(&mut self, rows: usize) -> Result<&mut Call, ModelError> {
        if self.calls.len() < rows {
            self.calls.resize_with(rows, || None);
        }
        let place = &mut self.calls[rows - 1];
        let made = match (place.take(), &self.tensors) {
            (Some(call), _) => call,
            (None, Some(Tensors { sample, prediction, time, prompt: Some(prompt), control, .. })) => {
                let LatentShape { channels, height, width } = self.shape;
                let latent = [rows, channels, height, width];
                let tokens = [rows, prompt.length, prompt.width];
                let widths: Vec<[usize; 2]> = prompt.inputs.iter().map(|(_, width)| [rows, *width]).collect();
                let mut inputs: Vec<(&Tensor, &[usize])> = vec![(sample, &latent), (&time.tensor, &latent[..1])];
                for (at, ((input, _), dims)) in prompt.inputs.iter().zip(&widths).enumerate() {
                    inputs.push((&input.tensor, if at == 0 { &tokens } else { dims }));
                }
                let images = [rows, 3, height * self.factor, width * self.factor];
                if let Some(control) = control {
                    inputs.extend([(&control.images, &images[..]), (&control.scale.tensor, &images[..1])]);
                }
                // SAFETY: calls are dropped before the tensors that they lie over, by `tensors` and `write_prompts` where those are
                // made anew, and by the order of the fields; kernels, copies and calls go into one queue.
                unsafe { Call::new(&self.network, &inputs, (prediction, &latent)) }?
            }
            (None, _) => return Err(ModelError::new(format!("{LABEL}: a call before its inputs were written"))),
        };
        Ok(place.insert(made))
    }

    /// Writes the times, conditionings and scales of control of the rows that had others in the call before.
    fn write_rows<Q: Queue>(&mut self, queue: &Q, rows: &[Row]) -> Result<(), ModelError> {
        let Some(first) = rows.first().map(|row| &*row.conditioning) else {
            return Ok(());
        };
        if rows.iter().any(|row| (row.conditioning.length, row.conditioning.width) != (first.length, first.width)) {
            return Err(ModelError::new(format!("{LABEL}: the prompts of one call have different lengths")));
        }
        let Self { ports, calls, tensors: Some(tensors), .. } = self else {
            return Err(ModelError::new(format!("{LABEL}: a call before its inputs were written")));
        };
        let other = |prompt: &Prompt| (prompt.length, prompt.width) != (first.length, first.width);
        if tensors.prompt.as_ref().is_none_or(other) {
            calls.clear();
            tensors.prompt = Some(Prompt::new(queue, ports, tensors.room, first)?);
        }
        for (at, (row, held)) in rows.iter().zip(&mut tensors.times).enumerate() {
            if *held != Some(row.timestep) {
                *held = None;
                tensors.time.write(queue, at, &[row.timestep])?;
                *held = Some(row.timestep);
            }
        }
        if let Some(ControlInputs { scale, scales, .. }) = &mut tensors.control {
            for (at, (row, held)) in rows.iter().zip(scales).enumerate() {
                if *held != Some(row.control_scale) {
                    *held = None;
                    scale.write(queue, at, &[row.control_scale])?;
                    *held = Some(row.control_scale);
                }
            }
        }
        let Some(prompt) = &mut tensors.prompt else { return Ok(()) };
        for (at, row) in rows.iter().enumerate() {
            prompt.write(queue, ports, at, &row.conditioning)?;
        }
        Ok(())
    }
}

impl Prompt {
    fn new<Q: Queue>(queue: &Q, ports: &UnetPorts, room: usize, like: &Conditioning) -> Result<Self, ModelError> {
        let mut inputs = Vec::new();
        let tokens = (Some(&ports.tokens), like.length * like.width);
        let others = [
            (ports.pooled.as_ref(), like.pooled.as_ref().map_or(0, Vec::len)),
            (ports.time_ids.as_ref(), 6),
            (ports.guidance.as_ref(), like.timestep_cond.as_ref().map_or(0, Vec::len)),
        ];
        for (info, width) in [tokens].into_iter().chain(others) {
            if let Some(info) = info {
                inputs.push((Rows::new(queue, dtype(LABEL, info)?, room, width)?, width));
            }
        }
        Ok(Self { inputs, length: like.length, width: like.width, resident: vec![None; room] })
    }

    fn write<Q: Queue>(
        &mut self,
        queue: &Q,
        ports: &UnetPorts,
        row: usize,
        conditioning: &Arc<Conditioning>,
    ) -> Result<(), ModelError> {
        // It is kept alive here, so that an equal address is the same conditioning.
        let held = &mut self.resident[row];
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, conditioning)) {
            return Ok(());
        }
        // If writing fails half-way, the row holds neither.
        *held = None;
        let values = [
            (Some(&ports.tokens), Some(&conditioning.tokens[..])),
            (ports.pooled.as_ref(), conditioning.pooled.as_deref()),
            (ports.time_ids.as_ref(), conditioning.time_ids.as_ref().map(|ids| &ids[..])),
            (ports.guidance.as_ref(), conditioning.timestep_cond.as_deref()),
        ];
        let there = values.into_iter().filter_map(|(info, values)| Some((info?, values)));
        for ((info, values), (input, width)) in there.zip(&mut self.inputs) {
            let values =
                values.ok_or_else(|| ModelError::new(format!("{LABEL}: the conditioning has no {}", info.name)))?;
            check_length(&format!("{LABEL}: {}", info.name), values.len(), *width)?;
            input.write(queue, row, values)?;
        }
        *held = Some(Arc::clone(conditioning));
        Ok(())
    }
}

impl<Q: Queue> DeviceDenoiser<Q> for DeviceUnet {
    fn samples(&mut self, queue: &Q, rows: usize) -> Result<ViewMut<'_>, ModelError> {
        let (len, size) = (rows * self.shape.len(), [self.shape.height, self.shape.width]);
        // Before there is anything in the tensors, which are made anew where they have not the room.
        self.called = self.paddings.as_ref().map_or(rows, |paddings| paddings.rows(size, rows));
        Ok(self.tensors(queue, self.called)?.sample.view_mut().part(0, len)?)
    }

    fn takes_control(&self) -> bool {
        self.ports.control.is_some()
    }

    fn controls(&mut self) -> Option<ViewMut<'_>> {
        Some(self.tensors.as_mut()?.control.as_mut()?.images.view_mut())
    }

    fn run(&mut self, queue: &Q, rows: &[Row]) -> Result<(), ModelError> {
        if rows.is_empty() {
            return Ok(());
        }
        self.write_rows(queue, rows)?;
        let called = self.called.max(rows.len());
        self.call(called)?;
        self.rows = rows.len();
        let Self { calls, network, .. } = self;
        calls[called - 1].as_mut().map_or(Ok(()), |call| call.run(network))
    }

    fn predictions(&self) -> Result<View<'_>, GpuError> {
        let len = self.rows * self.shape.len();
        match &self.tensors {
            Some(tensors) => tensors.prediction.view().part(0, len),
            None => Err(GpuError {
                kind: livediffusion_kernels::gpu::GpuErrorKind::Misuse,
                what: format!("{LABEL}: no call was made"),
                hint: None,
            }),
        }
    }
}
