//! The U-Net: one call for all rows of the stream batch, or one per row where its time step cannot be a vector.

use std::sync::Arc;

use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Conditioning, DenoiseBatch, Denoiser, ModelError, Row};

use crate::clock::{Clock, MAX_CUTS};
use crate::error::OnnxError;
use crate::graph::{GraphError, TensorInfo};
use crate::pack::{Pack, Part, PartName, UnetPorts};
use crate::provider::{Chosen, Precision, Provider, SessionSettings, channels_of};
use crate::rows::{check_prompts, control_scale, rows_are_apart, show_control};
use crate::runtime::Runtime;
use crate::session::{Bound, MAX_SHAPES, Model, Network};
use crate::timestep::{Declared, Timesteps, declared, repair};
use crate::vae::check_length;

/// Input numbers, in the order of [`UnetPorts::inputs`].
const SAMPLE: usize = 0;
const TIMESTEP: usize = 1;
const TOKENS: usize = 2;

/// The U-Net of a pack.
pub(crate) struct OnnxUnet {
    network: Network,
    ports: UnetPorts,
    timesteps: Timesteps,
    guidance_width: Option<usize>,
    /// Per shape of the network, the conditioning that each row of its tensors holds.
    resident: Vec<Vec<Option<Arc<Conditioning>>>>,
    /// Time steps of a call.
    times: Vec<f32>,
    /// The sinusoids of time, apart from a network that is too coarse for them.
    clock: Option<Clock>,
    /// A side of a picture for one of a latent.
    factor: usize,
    /// A control image as the network takes it.
    shown: Vec<f32>,
}

impl OnnxUnet {
    pub(crate) fn load(
        runtime: &Runtime,
        pack: &Pack,
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let part = pack.part(PartName::Unet).ok_or_else(|| OnnxError::invalid("the pack has no unet"))?;
        let smallest = smallest_latent(pack, chosen.provider, settings);
        let make = |model: &Model<'_>, timesteps| {
            if chosen.precision == Precision::Bf16 {
                let clocked = Self::with_clock(runtime, pack, model, timesteps, (chosen, settings))?;
                if let Some(mut unet) = clocked {
                    // A trial run; an unusual graph may not survive the cut.
                    if rows_are_apart(&mut unet, pack, smallest).is_ok() {
                        return Ok(unet);
                    }
                }
                tracing::warn!(file = %part.file.display(), "time steps are rounded to 8 bits in bf16");
            }
            Self::build(runtime, pack, (model, &[]), timesteps, (chosen, settings))
        };
        let file = Model::File(&part.file);
        let state = declared(&pack.unet.timestep, &pack.unet.sample);
        if pack.unet.sample.fixed(0) == Some(1) {
            warn_slow(part, "its batch size is fixed to 1");
            return make(&file, Timesteps::SlotBySlot);
        }
        let (unet, why) = match state {
            Declared::PerRow => return make(&file, Timesteps::PerRow),
            // The same graph would not load for one row at a time either.
            Declared::Doubtful => {
                (Some(make(&file, Timesteps::PerRow)?), "its time step has a length of its own".to_owned())
            }
            Declared::Shared => match repaired(part, &pack.unet) {
                Ok(Some(bytes)) => {
                    let why = "the repair of its scalar time step fails";
                    match make(&Model::Edited(&part.file, &bytes), Timesteps::Repaired) {
                        Ok(unet) => (Some(unet), why.to_owned()),
                        Err(error) => (None, format!("{why}: {error}")),
                    }
                }
                Ok(None) => (None, "its time step is a scalar, used in a way that is not known".to_owned()),
                Err(e) => return Err(OnnxError::invalid(format!("{}: {e}", part.file.display()))),
            },
        };
        let (unet, why) = match unet.map(|mut unet| (rows_are_apart(&mut unet, pack, smallest), unet)) {
            Some((Ok(true), unet)) => (Some(unet), why),
            Some((Err(error), _)) => (None, format!("{why}: {error}")),
            Some((Ok(false), _)) | None => (None, why),
        };
        if let Some(unet) = unet {
            if unet.timesteps == Timesteps::Repaired {
                tracing::info!(file = %part.file.display(), "the U-Net's scalar time step was made one per row");
            }
            return Ok(unet);
        }
        warn_slow(part, &why);
        make(&file, Timesteps::SlotBySlot)
    }

    fn build(
        runtime: &Runtime,
        pack: &Pack,
        (model, time): (&Model<'_>, &[TensorInfo]),
        timesteps: Timesteps,
        (chosen, settings): (&Chosen, &SessionSettings),
    ) -> Result<Self, OnnxError> {
        let mut ports = pack.unet.clone();
        if timesteps == Timesteps::Repaired {
            ports.timestep.dims = ports.sample.dims.as_ref().map(|d| d[..1].to_vec());
        }
        let inputs: Vec<&TensorInfo> = ports.inputs().into_iter().chain(time).collect();
        let sides = channels_of(&inputs, pack.latent_channels);
        let io = (&inputs[..], &[&ports.out][..], &sides[..]);
        let network = Network::load_for(runtime, "U-Net", model, io, chosen, settings)?;
        let resident = vec![Vec::new(); MAX_SHAPES];
        let guidance_width = pack.timestep_cond_width;
        let factor = pack.vae_factor;
        let (times, shown, clock) = (Vec::new(), Vec::new(), None);
        Ok(Self { network, ports, timesteps, guidance_width, resident, times, clock, factor, shown })
    }

    /// The network with its sinusoids of time computed apart, if it has any.
    fn with_clock(
        runtime: &Runtime,
        pack: &Pack,
        model: &Model<'_>,
        timesteps: Timesteps,
        (chosen, settings): (&Chosen, &SessionSettings),
    ) -> Result<Option<Self>, OnnxError> {
        let mut ports = pack.unet.clone();
        if timesteps == Timesteps::Repaired {
            ports.timestep.dims = ports.sample.dims.as_ref().map(|d| d[..1].to_vec());
        }
        let (path, bytes) = (model.path(), model.bytes()?);
        let Some(split) = Clock::cut(runtime, (&bytes, path), &ports, settings)? else {
            return Ok(None);
        };
        let rest = Model::Edited(path, &split.rest);
        let mut unet = Self::build(runtime, pack, (&rest, &split.inputs), timesteps, (chosen, settings))?;
        unet.clock = Some(split.clock);
        Ok(Some(unet))
    }

    /// Another U-Net on the same weights, with tensors of its own: both may run at once.
    pub(crate) fn fork(&self) -> Self {
        Self {
            network: self.network.fork(),
            ports: self.ports.clone(),
            timesteps: self.timesteps,
            guidance_width: self.guidance_width,
            resident: vec![Vec::new(); MAX_SHAPES],
            times: Vec::new(),
            clock: self.clock.as_ref().map(Clock::fork),
            factor: self.factor,
            shown: Vec::new(),
        }
    }

    /// Its network, and that one's inputs and output.
    pub(crate) fn parts(&self) -> (&Network, &UnetPorts) {
        (&self.network, &self.ports)
    }

    /// A side of a picture for one of a latent.
    pub(crate) fn factor(&self) -> usize {
        self.factor
    }

    /// Whether the sinusoids of time are computed apart.
    pub(crate) fn is_cut(&self) -> bool {
        self.clock.is_some()
    }

    /// How this U-Net gets its time steps.
    pub(crate) fn timesteps(&self) -> Timesteps {
        self.timesteps
    }

    fn call(&mut self, sample: &[f32], shape: LatentShape, rows: &[Row], out: &mut [f32]) -> Result<(), ModelError> {
        let count = rows.len();
        let Some(first) = rows.first().map(|r| &*r.conditioning) else {
            return Ok(());
        };
        let sample_dims = [count, shape.channels, shape.height, shape.width];
        let token_dims = [count, first.length, first.width];
        let pooled_dims = [count, first.pooled.as_ref().map_or(0, Vec::len)];
        let guidance_dims = [count, self.guidance_width.unwrap_or(0)];
        let time_dims: &[usize] = match self.timesteps {
            // As the export has it: a scalar or a vector of one.
            Timesteps::SlotBySlot if self.ports.timestep.rank() == Some(0) => &[],
            _ => &[count],
        };
        let size = self.size(shape);
        let control_dims = [count, 3, size.height, size.width];
        let mut dims: [&[usize]; 8 + MAX_CUTS] = [&[]; 8 + MAX_CUTS];
        dims[..3].copy_from_slice(&[&sample_dims, time_dims, &token_dims]);
        let mut used = 3;
        let is_controlled = self.ports.control.is_some();
        let optional: [(bool, &[usize]); 5] = [
            (self.ports.pooled.is_some(), &pooled_dims),
            (self.ports.time_ids.is_some(), &[count, 6]),
            (self.ports.guidance.is_some(), &guidance_dims),
            (is_controlled, &control_dims),
            (is_controlled, &[count]),
        ];
        for (_, its_dims) in optional.into_iter().filter(|(is_there, _)| *is_there) {
            dims[used] = its_dims;
            used += 1;
        }
        let first_cut = used;
        let (cut_dims, cuts) = self.clock.as_ref().map_or_else(Default::default, |c| c.shapes(count));
        for its_dims in &cut_dims[..cuts] {
            dims[used] = its_dims;
            used += 1;
        }
        let bound = self.network.bind(&dims[..used], &[&sample_dims])?;
        if bound.fresh {
            // At once: whatever fails before the prompts are written, these tensors hold none yet.
            self.resident[bound.index].clear();
        }
        if let Some(clock) = &mut self.clock {
            clock.tick(rows, (&sample_dims, time_dims), (&mut self.network, bound, first_cut))?;
        }
        self.network.write(bound, SAMPLE, 0, sample)?;
        self.times.clear();
        self.times.extend(rows.iter().map(|r| r.timestep));
        self.network.write(bound, TIMESTEP, 0, &self.times)?;
        self.write_conditionings(bound, rows)?;
        if is_controlled {
            // Behind the prompt, before the sinusoids.
            self.write_controls(bound, first_cut - 2, size, rows)?;
        }
        self.network.run(bound)?;
        self.network.read(bound, 0, out)
    }

    /// Size of the pictures that latents are of.
    fn size(&self, shape: LatentShape) -> Size {
        Size::new(shape.width * self.factor, shape.height * self.factor)
    }

    /// Writes what each row's ControlNet is shown, and how strongly it steers.
    fn write_controls(&mut self, bound: Bound, port: usize, size: Size, rows: &[Row]) -> Result<(), ModelError> {
        for (at, row) in rows.iter().enumerate() {
            show_control(row, size, &mut self.shown)?;
            self.network.write(bound, port, at * self.shown.len(), &self.shown)?;
            self.network.write(bound, port + 1, at, &[control_scale(row)])?;
        }
        Ok(())
    }

    /// Writes the conditionings of the rows that hold another one since the last call of this shape.
    fn write_conditionings(&mut self, bound: Bound, rows: &[Row]) -> Result<(), ModelError> {
        let resident = &mut self.resident[bound.index];
        resident.resize(rows.len(), None);
        for (i, (row, resident)) in rows.iter().zip(resident).enumerate() {
            // It is kept alive here, so that an equal address is the same conditioning.
            if resident.as_ref().is_some_and(|r| Arc::ptr_eq(r, &row.conditioning)) {
                continue;
            }
            // If writing fails half-way, the row holds neither.
            *resident = None;
            write_conditioning(&mut self.network, &self.ports, bound, i, &row.conditioning)?;
            *resident = Some(Arc::clone(&row.conditioning));
        }
        Ok(())
    }
}

fn write_conditioning(
    network: &mut Network,
    ports: &UnetPorts,
    bound: Bound,
    row: usize,
    conditioning: &Conditioning,
) -> Result<(), ModelError> {
    let c = conditioning;
    check_length("U-Net: prompt", c.tokens.len(), c.length * c.width)?;
    network.write(bound, TOKENS, row * c.tokens.len(), &c.tokens)?;
    let optional = [
        (&ports.pooled, c.pooled.as_deref()),
        (&ports.time_ids, c.time_ids.as_ref().map(|ids| &ids[..])),
        (&ports.guidance, c.timestep_cond.as_deref()),
    ];
    let mut port = TOKENS + 1;
    for (info, values) in optional {
        let Some(info) = info else { continue };
        let values = values.ok_or_else(|| ModelError::new(format!("U-Net: the conditioning has no {}", info.name)))?;
        network.write(bound, port, row * values.len(), values)?;
        port += 1;
    }
    Ok(())
}

impl Denoiser for OnnxUnet {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let DenoiseBatch { sample, shape, rows } = *batch;
        check_length("U-Net: sample", sample.len(), rows.len() * shape.len())?;
        check_length("U-Net: prediction", out.len(), sample.len())?;
        check_prompts(rows)?;
        if self.timesteps != Timesteps::SlotBySlot {
            return self.call(sample, shape, rows, out);
        }
        let latents = sample.chunks_exact(shape.len()).zip(out.chunks_exact_mut(shape.len()));
        for (row, (sample, out)) in rows.chunks_exact(1).zip(latents) {
            self.call(sample, shape, row, out)?;
        }
        Ok(())
    }

    fn timestep_cond_width(&self) -> Option<usize> {
        self.guidance_width
    }

    fn takes_control(&self) -> bool {
        self.ports.control.is_some()
    }
}

/// Height and width of the smallest latent that the U-Net takes: of what it was compiled for, where that is all that it takes.
fn smallest_latent(pack: &Pack, provider: Provider, settings: &SessionSettings) -> [usize; 2] {
    let extent = provider.profile(settings);
    extent.map_or([pack.latent_multiple.max(8); 2], |extent| extent.smallest_latent())
}

fn repaired(part: &Part, ports: &UnetPorts) -> Result<Option<Vec<u8>>, GraphError> {
    let bytes = std::fs::read(&part.file).map_err(|e| GraphError::Io(e.to_string()))?;
    repair(&bytes, &ports.timestep.name, &ports.sample.name)
}

fn warn_slow(part: &Part, why: &str) {
    tracing::warn!(
        file = %part.file.display(),
        "the U-Net cannot take rows at different time steps ({why}): it is called once per row, which is slower; export \
         it with a `timestep` of shape [batch]"
    );
}
