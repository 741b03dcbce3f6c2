//! A model that was found and read, before its networks are loaded.

use std::path::PathBuf;
use std::sync::Arc;

use livediffusion_onnx::{Extent, Pack};
use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::schedule::SchedulerConfig;
use livediffusion_remote::Servers;
use serde_json::json;

use crate::error::{Outcome, SessionError};
use crate::locate;
use crate::options::ModelOptions;

/// A pack that was opened: its graphs are read, its networks not yet loaded.
pub struct OpenPack {
    /// Where it lies.
    pub folder: PathBuf,
    /// What was read of it.
    pub pack: Pack,
    /// What the engine must know of it.
    pub facts: ModelFacts,
    /// What calls will be like, for providers that compile for it.
    pub(crate) extent: Option<Extent>,
    /// Who runs the U-Net, where that is not done here.
    pub(crate) servers: Option<Arc<Servers>>,
}

impl OpenPack {
    /// Finds and reads the pack that the options name. Servers of its U-Net are asked for what they have.
    ///
    /// # Errors
    /// There is none, or it is not one; no server is there.
    pub fn open(model: &ModelOptions) -> Outcome<Self> {
        let folder = locate::pack_beside(model.model.as_deref(), model.beside.as_deref())?;
        let addresses = model.unet_server.iter().map(|text| text.parse()).collect::<Result<Vec<_>, _>>()?;
        let servers = if addresses.is_empty() { None } else { Some(Arc::new(Servers::connect(&addresses)?)) };
        let unet = servers.as_ref().map(|servers| servers.unet());
        let pack = Pack::open_with(&folder, unet.as_ref())?;
        let facts = facts(&pack)?;
        Ok(Self { folder, pack, facts, extent: None, servers })
    }

    /// The servers that run its U-Net, where that is not done here.
    pub fn servers(&self) -> Option<&Arc<Servers>> {
        self.servers.as_ref()
    }

    /// The size to work at: the parameters', else the pack's own.
    pub fn size(&self, parameters: &Parameters) -> Size {
        parameters.size.unwrap_or_else(|| default_size(&self.pack))
    }

    /// Says what the session will be used for, so that what is compiled for it fits.
    pub fn expect(&mut self, parameters: &Parameters, size: Size) {
        self.extent = Some(extent(&self.pack, parameters, size));
    }

    /// Says what a U-Net will be used for that has other streams' calls alone.
    pub fn expect_rows(&mut self, parameters: &Parameters, size: Size, most_rows: usize) {
        let one = extent(&self.pack, parameters, size);
        self.extent = Some(Extent { rows: one.rows.min(most_rows), most_rows, ..one });
    }

    /// Says how many steps and frames that enter together there may come to be, where that is known beforehand.
    pub fn expect_up_to(&mut self, steps: usize, frames: usize) {
        if let Some(extent) = &mut self.extent {
            extent.frames = extent.frames.max(frames);
            extent.most_rows = extent.most_rows.max(2 * steps * frames);
        }
    }
}

/// What calls of a session with these parameters are like.
pub fn extent(pack: &Pack, parameters: &Parameters, size: Size) -> Extent {
    let (steps, frames) = (parameters.t_index.len().max(1), parameters.frame_buffer.max(1));
    Extent {
        width: size.width,
        height: size.height,
        most_side: MOST_SIDE,
        frames,
        rows: parameters.rows(),
        // Steps and guidance can be changed while it runs.
        most_rows: 2 * steps.max(MOST_STEPS) * frames,
        tokens: pack.prompt_length,
        factor: pack.vae_factor,
    }
}

/// Side of the pictures up to which the size of a running session can be changed on a provider that compiles for its calls and takes
/// memory as they need it; a session that starts larger stays within its own.
const MOST_SIDE: usize = 1024;

/// Steps up to which a running session can be changed on a provider that compiles for its calls.
const MOST_STEPS: usize = 4;

/// The size that a pack's U-Net was trained at (`sample_size`), in pixels; Stable Diffusion's where it does not say.
fn default_size(pack: &Pack) -> Size {
    let side = || -> Option<usize> {
        let text = std::fs::read_to_string(pack.dir.join("unet/config.json")).ok()?;
        let config: serde_json::Value = serde_json::from_str(&text).ok()?;
        let sample = config.get("sample_size")?.as_u64()? as usize;
        Some(sample * pack.vae_factor)
    };
    let side = side().unwrap_or(512);
    Size::new(side, side)
}

/// What the engine must know of a pack.
///
/// # Errors
/// Its scheduler's configuration is none.
pub fn facts(pack: &Pack) -> Outcome<ModelFacts> {
    let json = if pack.scheduler_json.is_null() { json!({}) } else { pack.scheduler_json.clone() };
    let scheduler: SchedulerConfig = serde_json::from_value(json).map_err(|error| {
        let what = format!("{}: scheduler/scheduler_config.json: {error}", pack.dir.display());
        SessionError::invalid(what, "take the file from the model's diffusers repository")
    })?;
    Ok(ModelFacts {
        vae_factor: pack.vae_factor,
        latent_multiple: pack.latent_multiple,
        latent_channels: pack.latent_channels,
        scheduler,
        has_controlnet: pack.unet.control.is_some(),
        most_rows: None,
    })
}
