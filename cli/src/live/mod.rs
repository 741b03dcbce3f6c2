//! Parameters that are changed while a stream runs: who changes them, and the thread that makes settings of them.

mod config_watch;
mod osc;

use std::path::Path;

use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::{Control, Prompts, Tuner};

use self::config_watch::ConfigWatch;
use self::osc::OscServer;
pub(crate) use self::osc::parse_address;
use crate::failure::Outcome;

/// Everything that listens for changes. Dropping it ends the listeners, then the tuner.
pub(crate) struct Live {
    _osc: Option<OscServer>,
    _config: Option<ConfigWatch>,
    _tuner: Tuner,
}

/// What to listen to.
pub(crate) struct Sources<'a> {
    /// `osc://HOST:PORT`.
    pub(crate) osc: Option<&'a str>,
    /// The config file that the run began with.
    pub(crate) config: Option<&'a Path>,
    /// Parameters that flags gave: they win over the file, then as at the start.
    pub(crate) flags: Vec<&'static str>,
}

impl Live {
    /// Starts to listen.
    pub(crate) fn start(sources: Sources<'_>, prompts: Prompts, size: Size, control: Control) -> Outcome<Self> {
        let tuner = Tuner::start(prompts, size, control)?;
        let osc = sources.osc.map(|address| OscServer::start(address, tuner.handle())).transpose()?;
        let config = sources.config.map(|path| ConfigWatch::start(path, sources.flags, tuner.handle())).transpose()?;
        Ok(Self { _osc: osc, _config: config, _tuner: tuner })
    }
}
