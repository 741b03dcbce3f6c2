//! From the flags to an engine: the library, the pack, its networks, the encoded prompts.

use std::path::PathBuf;
use std::sync::Arc;

use livediffusion_onnx::{
    Chosen, Extent, LoadedPack, Pack, Precision, ProviderChoice, Runtime, SessionSettings, SharedNetworks,
    choose_provider, idle_card, load_networks_on, probe_provider,
};
use livediffusion_pipeline::adaptive::Adaptive;
use livediffusion_pipeline::blend::is_nearly_a_blend;
use livediffusion_pipeline::device::{self, DeviceEngine};
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::lanes::Lanes;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::{CfgType, Parameters};
use livediffusion_pipeline::resizable::Resizable;
use livediffusion_pipeline::schedule::SchedulerConfig;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, EngineError, Prompts, Settings};
use serde_json::json;

use crate::args::ModelArgs;
use crate::calibration::{self, Calibration};
use crate::config;
use crate::failure::{Failure, Outcome, USAGE};
use crate::locate;

/// A pack that was opened: its graphs are read, its networks not yet loaded.
pub(crate) struct OpenPack {
    pub(crate) folder: PathBuf,
    pub(crate) pack: Pack,
    pub(crate) facts: ModelFacts,
    /// What calls will be like, for providers that compile for it.
    extent: Option<Extent>,
}

impl OpenPack {
    pub(crate) fn open(model: &ModelArgs) -> Outcome<Self> {
        let folder = locate::pack(model.model.as_deref())?;
        let pack = Pack::open(&folder)?;
        let facts = facts(&pack)?;
        Ok(Self { folder, pack, facts, extent: None })
    }

    /// The size to work at: the parameters', else the pack's own.
    pub(crate) fn size(&self, parameters: &Parameters) -> Size {
        parameters.size.unwrap_or_else(|| default_size(&self.pack))
    }

    /// Says what the session will be used for, so that what is compiled for it fits.
    pub(crate) fn expect(&mut self, parameters: &Parameters, size: Size) {
        self.extent = Some(extent(&self.pack, parameters, size));
    }

    /// Says how many steps and frames that enter together there may come to be, where that is known beforehand.
    pub(crate) fn expect_up_to(&mut self, steps: usize, frames: usize) {
        if let Some(extent) = &mut self.extent {
            extent.frames = extent.frames.max(frames);
            extent.most_rows = extent.most_rows.max(2 * steps * frames);
        }
    }
}

/// What calls of a session with these parameters are like.
pub(crate) fn extent(pack: &Pack, parameters: &Parameters, size: Size) -> Extent {
    let (steps, frames) = (parameters.t_index.len().max(1), parameters.frame_buffer.max(1));
    let negative = match parameters.cfg {
        CfgType::Full => steps * frames,
        CfgType::Initialize => frames,
        CfgType::None | CfgType::SelfNegative => 0,
    };
    Extent {
        width: size.width,
        height: size.height,
        most_side: MOST_SIDE,
        frames,
        rows: steps * frames + negative,
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
pub(crate) fn facts(pack: &Pack) -> Outcome<ModelFacts> {
    let json = if pack.scheduler_json.is_null() { json!({}) } else { pack.scheduler_json.clone() };
    let scheduler: SchedulerConfig = serde_json::from_value(json).map_err(|error| {
        Failure::new(USAGE, format!("{}: scheduler/scheduler_config.json: {error}", pack.dir.display()))
            .with_hint(Some("take the file from the model's diffusers repository".into()))
    })?;
    Ok(ModelFacts {
        vae_factor: pack.vae_factor,
        latent_multiple: pack.latent_multiple,
        latent_channels: pack.latent_channels,
        scheduler,
    })
}

/// The library and what of it is used. Finding it needs nothing of the input, so that it can be done beside opening that.
pub(crate) struct Backend {
    runtime: Runtime,
    chosen: Chosen,
    /// A choice that no earlier start has measured: `chosen` stands until that is done.
    unmeasured: Option<Calibration>,
}

impl Backend {
    /// Finds the library and the provider, as an earlier start measured it, else by rule. The provider's libraries are
    /// loaded then: it takes as long as a small network.
    pub(crate) fn find(model: &ModelArgs, open: &OpenPack) -> Outcome<Self> {
        let runtime = config::runtime(model)?;
        let settings = config::session_settings(model, 1);
        let calibration = Calibration::of(&runtime, &open.pack, &settings);
        let measured = calibration.as_ref().and_then(Calibration::cached);
        if let Some(chosen) = measured.and_then(|measured| calibration::choose(&measured))
            && probe_provider(&runtime, chosen.provider, &settings).is_ok()
        {
            return Ok(Self { runtime, chosen, unmeasured: None });
        }
        let chosen = choose_provider(&runtime, &settings)?;
        // Where the provider in question does not work, there is nothing to measure.
        let unmeasured = calibration.filter(|calibration| calibration.is_of(chosen.provider));
        Ok(Self { runtime, chosen, unmeasured })
    }
}

impl Backend {
    /// What runs the networks, as far as it is known before anything is measured.
    pub(crate) fn provider(&self) -> ProviderChoice {
        ProviderChoice::Fixed(self.chosen.provider)
    }
}

/// A stream whose frames stay on a card, with so many on their way; `None` where they cannot, for a reason that is said.
fn on_card(
    shared: &Arc<SharedNetworks>,
    lanes: usize,
    facts: &ModelFacts,
    size: Size,
    control: &Control,
) -> Result<Option<Painter>, EngineError> {
    let Some(queues) = shared.queues() else { return Ok(None) };
    let why = match device::refusal(&control.load().parameters) {
        Some(why) => format!("this stream has {why}"),
        None => match shared.on_device(&queues.work, size) {
            Ok(networks) => {
                let (of, clock) = ((facts.clone(), size), MonotonicClock::start());
                let engine = DeviceEngine::new(queues.clone(), networks, of, control.clone(), lanes, Box::new(clock))?;
                return Ok(Some(Painter::Device(Box::new(engine))));
            }
            Err(error) => error.what,
        },
    };
    tracing::warn!("frames pass through the host between the networks: {why}");
    Ok(None)
}

/// A stream with all cores on one frame: at a rate that is held, where the parameters name one.
pub(crate) fn painter_of(
    shared: &Arc<SharedNetworks>,
    facts: &ModelFacts,
    size: Size,
    control: Control,
) -> Result<Painter, EngineError> {
    shared.admit(size)?;
    let clock = MonotonicClock::start();
    if let Some(painter) = on_card(shared, 1, facts, size, &control)? {
        return Ok(painter);
    }
    if let Some(target) = control.load().parameters.target_fps {
        let shared = Arc::clone(shared);
        let fork = Arc::new(move || shared.fork());
        let adaptive = Adaptive::new(fork, facts.clone(), size, control, target, clock)?;
        return Ok(Painter::Adaptive(Box::new(adaptive)));
    }
    Ok(Painter::Whole(Engine::new(shared.fork(), facts.clone(), size, control, Box::new(clock))?))
}

/// A stream on so many lanes; on one where a rate is held.
fn painter_with(
    shared: &Arc<SharedNetworks>,
    lanes: usize,
    facts: &ModelFacts,
    size: Size,
    control: Control,
) -> Result<Painter, EngineError> {
    shared.admit(size)?;
    if let Some(painter) = on_card(shared, lanes, facts, size, &control)? {
        return Ok(painter);
    }
    if lanes == 1 || shared.queues().is_some() || control.load().parameters.target_fps.is_some() {
        return painter_of(shared, facts, size, control);
    }
    let networks = (0..lanes).map(|_| shared.fork()).collect();
    Ok(Painter::Lanes(Lanes::new(networks, facts.clone(), size, control, &MonotonicClock::start())?))
}

/// Networks in memory, ready to make engines of.
pub(crate) struct Session {
    pub(crate) open: OpenPack,
    pub(crate) loaded: LoadedPack,
    prompts: Prompts,
}

impl Session {
    /// What the networks reckon in: also where that is what their graphs say.
    pub(crate) fn reckons_in(&self) -> Precision {
        self.open.pack.reckons_in(self.loaded.precision)
    }

    pub(crate) fn load(model: &ModelArgs, open: OpenPack, lanes: usize) -> Outcome<Self> {
        Self::load_on(Backend::find(model, &open)?, model, open, lanes)
    }

    /// As [`load`](Self::load), on a library and provider that were found before. What was not measured yet is measured
    /// now: the input is open then, and no mistake in it had to wait for that.
    pub(crate) fn load_on(backend: Backend, model: &ModelArgs, open: OpenPack, lanes: usize) -> Outcome<Self> {
        let Backend { runtime, chosen, unmeasured } = backend;
        let chosen = match unmeasured {
            Some(calibration) => calibration.decide(&runtime, &open, chosen),
            None => chosen,
        };
        let settings = SessionSettings { extent: open.extent, ..config::session_settings(model, lanes) };
        let loaded = load_networks_on(&runtime, &open.pack, chosen, &settings)?;
        tracing::info!(
            library = %runtime.path().display(),
            version = runtime.version(),
            provider = %loaded.provider,
            precision = %open.pack.reckons_in(loaded.precision),
            "{}", loaded.why
        );
        if settings.provider == ProviderChoice::Auto
            && let Some(idle) = idle_card(&runtime, loaded.provider)
        {
            tracing::warn!("{idle}");
        }
        if loaded.lanes < lanes {
            tracing::warn!("--lanes is {} on {} with this many threads", loaded.lanes, loaded.provider);
        }
        let width = loaded.networks.denoiser.timestep_cond_width();
        let prompts = Prompts::new(Box::new(loaded.text.clone()), width);
        Ok(Self { open, loaded, prompts })
    }

    /// The parameters as a snapshot with their prompts encoded.
    pub(crate) fn settings(&mut self, parameters: Parameters, size: Size) -> Outcome<Settings> {
        for prompt in [&parameters.prompt, &parameters.negative_prompt] {
            if is_nearly_a_blend(prompt) {
                tracing::warn!(
                    "the prompt {prompt:?} is taken as it stands: a blend is '\"one\":0.7 + \"other\":0.3', quotes and all"
                );
            }
        }
        Ok(self.prompts.settings(parameters, size)?)
    }

    /// Makes a stream on these networks: one engine, or as many lanes as were loaded.
    pub(crate) fn painter(&self, size: Size, control: Control) -> Outcome<Painter> {
        let LoadedPack { shared, lanes, .. } = &self.loaded;
        Ok(painter_with(shared, *lanes, &self.open.facts, size, control)?)
    }

    /// As [`painter`](Self::painter), for the only stream, whose networks may change their size; and what makes further
    /// settings for it.
    pub(crate) fn into_painter(self, size: Size, control: Control) -> Outcome<(Painter, Prompts)> {
        let (shared, lanes, facts) = (Arc::clone(&self.loaded.shared), self.loaded.lanes, self.open.facts.clone());
        let of_facts = facts.clone();
        let make = Arc::new(move |size, control| painter_with(&shared, lanes, &of_facts, size, control));
        let stream = Resizable::new(make, facts, size, control)?;
        Ok((Painter::Resizable(Box::new(stream)), self.prompts))
    }
}
