//! Parameters that are changed while a stream runs: who changes them, and the thread that makes settings of them.

mod config_watch;
pub(crate) mod desk;
mod keyboard;
mod osc;
mod terminal;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, PresetValues, Prompts, Sizes, Tuner};

use self::config_watch::ConfigWatch;
use self::desk::Desk;
use self::keyboard::{Hands, Keyboard};
use self::osc::OscServer;
pub(crate) use self::osc::parse_address;
pub(crate) use self::terminal::{restore_terminal, tell};
use crate::config::ConfigFile;
use crate::failure::Outcome;

/// Everything that listens for changes. Dropping it ends the listeners, then the tuner.
pub(crate) struct Live {
    _keyboard: Option<Keyboard>,
    _osc: Option<OscServer>,
    _config: Option<ConfigWatch>,
    _tuner: Tuner,
}

/// What to listen to.
pub(crate) struct Sources<'a> {
    /// `osc://HOST:PORT`.
    pub(crate) osc: Option<&'a str>,
    /// The config file, and what it said when the run began.
    pub(crate) config: Option<(&'a Path, &'a ConfigFile)>,
    /// Names of the flags that were given: they win over the file, then as at the start.
    pub(crate) flags: &'a [String],
    /// What the model's maker recommends.
    pub(crate) presets: Vec<PresetValues>,
    /// What keys switch and end; `None` reads no keys.
    pub(crate) keys: Option<Keys>,
}

/// What the keyboard needs beside the tuner.
pub(crate) struct Keys {
    pub(crate) desk: Arc<Desk>,
    pub(crate) quit: Arc<AtomicBool>,
}

impl Live {
    /// Starts to listen.
    pub(crate) fn start(
        sources: Sources<'_>,
        (prompts, facts): (Prompts, ModelFacts),
        size: Size,
        control: Control,
    ) -> Outcome<Self> {
        let tuner = Tuner::start(prompts, facts, Sizes::Free(size), control, MonotonicClock::start())?;
        let tuner = tuner.with_presets(sources.presets);
        let osc = sources.osc.map(|address| OscServer::start(address, tuner.handle())).transpose()?;
        let config = sources
            .config
            .map(|(path, file)| ConfigWatch::start(path, file, sources.flags.to_vec(), tuner.handle()))
            .transpose()?;
        let keyboard =
            sources.keys.and_then(|Keys { desk, quit }| Keyboard::start(Hands { desk, tuning: tuner.handle(), quit }));
        Ok(Self { _keyboard: keyboard, _osc: osc, _config: config, _tuner: tuner })
    }
}
