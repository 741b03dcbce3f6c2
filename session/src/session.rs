//! From a pack and options to networks in memory, and streams on them.

use std::sync::Arc;

use livediffusion_onnx::{
    Chosen, Elsewhere, LoadedPack, LoadedUnet, Precision, Provider, ProviderChoice, Runtime, SessionSettings,
    SharedNetworks, choose_provider, idle_card, load_networks_with, probe_provider,
};
use livediffusion_pipeline::adaptive::Adaptive;
use livediffusion_pipeline::blend::is_nearly_a_blend;
use livediffusion_pipeline::controlnet;
use livediffusion_pipeline::device::{self, DeviceEngine};
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::lanes::Lanes;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::{Parameters, spec};
use livediffusion_pipeline::resizable::Resizable;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, EngineError, Prompts, Settings};
use livediffusion_remote::{Described, RemoteUnet, Servers};

use crate::calibration::{self, Calibration, IN_F32};
use crate::error::Outcome;
use crate::options::ModelOptions;
use crate::pack::OpenPack;

/// The library and what of it is used. Finding it needs nothing of the input, so that it can be done beside opening that.
pub struct Backend {
    runtime: Runtime,
    chosen: Chosen,
    /// A choice that no earlier start has measured: `chosen` stands until that is done.
    unmeasured: Option<Calibration>,
}

impl Backend {
    /// Finds the library and the provider, as an earlier start measured it, else by rule. The provider's libraries are
    /// loaded then: it takes as long as a small network.
    ///
    /// # Errors
    /// There is no library, or it has no such provider.
    pub fn find(model: &ModelOptions, open: &OpenPack) -> Outcome<Self> {
        let runtime = model.runtime()?;
        let settings = model.session_settings(1);
        // Where the U-Net is run elsewhere, most of a frame's work is.
        let is_here = open.servers.is_none();
        let calibration = is_here.then(|| Calibration::of(&runtime, &open.pack, &settings)).flatten();
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

    /// The library, and what is used of it: what was not measured yet is measured now.
    fn decide(self, open: &OpenPack) -> (Runtime, Chosen) {
        let Self { runtime, chosen, unmeasured } = self;
        let chosen = match unmeasured {
            Some(calibration) => calibration.decide(&runtime, open, chosen),
            None => chosen,
        };
        (runtime, chosen)
    }

    /// What runs the networks, as far as it is known before anything is measured.
    pub fn provider(&self) -> ProviderChoice {
        ProviderChoice::Fixed(self.chosen.provider)
    }
}

/// Loads the U-Net of a pack and nothing else of it, for streams elsewhere.
///
/// # Errors
/// There is no library or provider that can be used, or it does not load.
pub fn load_unet(model: &ModelOptions, open: &OpenPack) -> Outcome<LoadedUnet> {
    let (runtime, chosen) = Backend::find(model, open)?.decide(open);
    let why = chosen.why.clone();
    let settings = SessionSettings { extent: open.extent, ..model.session_settings(1) };
    let loaded = livediffusion_onnx::load_unet(&runtime, &open.pack, chosen, &settings)?;
    tracing::info!(provider = %loaded.provider, precision = %loaded.precision, "{why}");
    Ok(loaded)
}

/// The U-Net of a pack on its servers, tried once.
fn elsewhere(servers: &Arc<Servers>, open: &OpenPack) -> Outcome<Elsewhere> {
    // What is compiled there may be for that size alone.
    let size = open.extent.map(|extent| Size::new(extent.width, extent.height));
    let unet = RemoteUnet::new(Arc::clone(servers), &open.pack, size)?;
    let timesteps = unet.timesteps();
    Ok(Elsewhere { make: Box::new(move || Box::new(unet.fork())), timesteps })
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
///
/// # Errors
/// The networks cannot do what the settings ask for, or have no room for it.
pub fn painter_of(
    shared: &Arc<SharedNetworks>,
    facts: &ModelFacts,
    size: Size,
    control: Control,
) -> Result<Painter, EngineError> {
    shared.admit(size)?;
    match on_card(shared, 1, facts, size, &control)? {
        Some(painter) => Ok(painter),
        None => on_all_cores(shared, facts, size, control),
    }
}

/// The same on the host.
fn on_all_cores(
    shared: &Arc<SharedNetworks>,
    facts: &ModelFacts,
    size: Size,
    control: Control,
) -> Result<Painter, EngineError> {
    let clock = MonotonicClock::start();
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
        return on_all_cores(shared, facts, size, control);
    }
    let networks = (0..lanes).map(|_| shared.fork()).collect();
    Ok(Painter::Lanes(Lanes::new(networks, facts.clone(), size, control, &MonotonicClock::start())?))
}

/// Networks in memory, ready to make engines of.
pub struct Session {
    /// The pack that they are of.
    pub open: OpenPack,
    /// The networks.
    pub loaded: LoadedPack,
    prompts: Prompts,
}

impl Session {
    /// What the networks reckon in: also where that is what their graphs say.
    pub fn reckons_in(&self) -> Precision {
        self.open.pack.reckons_in(self.loaded.precision)
    }

    /// What runs the networks: a provider, and `+remote` where servers run the U-Net.
    pub fn runs_on(&self) -> String {
        let elsewhere = if self.open.servers.is_some() { "+remote" } else { "" };
        format!("{}{elsewhere}", self.loaded.provider)
    }

    /// Finds the library and the provider, and loads the networks that are to work on `lanes` frames at once.
    ///
    /// # Errors
    /// There is no library or provider that can be used, or the networks do not load on it.
    pub fn load(model: &ModelOptions, open: OpenPack, lanes: usize) -> Outcome<Self> {
        Self::load_on(Backend::find(model, &open)?, model, open, lanes)
    }

    /// As [`load`](Self::load), on a library and provider that were found before. What was not measured yet is measured
    /// now: the input is open then, and no mistake in it had to wait for that.
    ///
    /// # Errors
    /// As there.
    pub fn load_on(backend: Backend, model: &ModelOptions, mut open: OpenPack, lanes: usize) -> Outcome<Self> {
        let (runtime, chosen) = backend.decide(&open);
        let settings = SessionSettings { extent: open.extent, ..model.session_settings(lanes) };
        let elsewhere = open.servers.as_ref().map(|servers| elsewhere(servers, &open)).transpose()?;
        let loaded = load_networks_with(&runtime, &open.pack, chosen, &settings, elsewhere)?;
        if let Some(servers) = &open.servers {
            let Described { server, platform, .. } = servers.described();
            tracing::info!("the U-Net runs on {servers} ({server}, {platform})");
        }
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
        // Their arithmetic is not measured, since a network is compiled for each.
        let is_compiled = matches!(loaded.provider, Provider::TensorRt | Provider::TensorRtRtx);
        let is_open = settings.precision == Precision::Auto && open.pack.is_in_f32();
        if is_compiled && is_open && Calibration::too_large(&open.pack) {
            tracing::warn!("{IN_F32}");
        }
        if loaded.lanes < lanes {
            tracing::warn!("--lanes is {} on {} with this many threads", loaded.lanes, loaded.provider);
        }
        open.facts.most_rows = loaded.shared.most_rows();
        let width = loaded.networks.denoiser.timestep_cond_width();
        let prompts = Prompts::new(Box::new(loaded.text.clone()), width);
        Ok(Self { open, loaded, prompts })
    }

    /// The parameters as a snapshot with their prompts encoded.
    ///
    /// # Errors
    /// The text encoder fails.
    pub fn settings(&mut self, parameters: Parameters, size: Size) -> Outcome<Settings> {
        for prompt in [&parameters.prompt, &parameters.negative_prompt] {
            if is_nearly_a_blend(prompt) {
                tracing::warn!(
                    "the prompt {prompt:?} is taken as it stands: a blend is '\"one\":0.7 + \"other\":0.3', quotes and all"
                );
            }
        }
        let usual = Parameters::default();
        let is_set = |name: &&str| spec(name).is_some_and(|spec| !spec.is_same(&parameters, &usual));
        let set: Vec<&str> = controlnet::PARAMETERS.into_iter().filter(is_set).collect();
        if !self.open.facts.has_controlnet && !set.is_empty() {
            controlnet::warn_without_effect(&set);
        }
        Ok(self.prompts.settings(parameters, size)?)
    }

    /// Makes a stream on these networks: one engine, or as many lanes as were loaded.
    ///
    /// # Errors
    /// The networks cannot do what the settings ask for, or have no room for it.
    pub fn painter(&self, size: Size, control: Control) -> Outcome<Painter> {
        let LoadedPack { shared, lanes, .. } = &self.loaded;
        Ok(painter_with(shared, *lanes, &self.open.facts, size, control)?)
    }

    /// Parts with what loaded them: what makes streams whose networks may change their size, and what makes settings for one.
    pub fn into_streams(self) -> (Streams, Prompts) {
        let streams = Streams { shared: self.loaded.shared, lanes: self.loaded.lanes, facts: self.open.facts };
        (streams, self.prompts)
    }

    /// As [`painter`](Self::painter), for the only stream, whose networks may change their size; and what makes further
    /// settings for it.
    ///
    /// # Errors
    /// As there.
    pub fn into_painter(self, size: Size, control: Control) -> Outcome<(Painter, Prompts)> {
        let (streams, prompts) = self.into_streams();
        Ok((streams.painter(size, control)?, prompts))
    }
}

/// Loaded networks that streams are made on, one after the other.
pub struct Streams {
    shared: Arc<SharedNetworks>,
    lanes: usize,
    facts: ModelFacts,
}

impl Streams {
    /// What is known of the model.
    pub const fn facts(&self) -> &ModelFacts {
        &self.facts
    }

    /// Makes a stream of frames of `size`. Its networks work at the size that the settings of `control` say, at every frame; at
    /// that of the frames where they say none.
    ///
    /// # Errors
    /// The networks cannot do what the settings ask for, or have no room for it.
    pub fn painter(&self, size: Size, control: Control) -> Outcome<Painter> {
        let (shared, lanes, facts) = (Arc::clone(&self.shared), self.lanes, self.facts.clone());
        let make = Arc::new(move |size, control| painter_with(&shared, lanes, &facts, size, control));
        let stream = Resizable::new(make, self.facts.clone(), size, control)?;
        Ok(Painter::Resizable(Box::new(stream)))
    }
}
