//! The snapshot of parameters that reaches the engine, and the handle that swaps it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::params::Parameters;
use crate::slot::PromptPair;

/// Everything that may change while a stream runs, as one immutable value.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The parameters.
    pub parameters: Parameters,
    /// Their prompts, already encoded: text encoding never happens on the frame path.
    pub prompts: Arc<PromptPair>,
}

/// Hands settings to a running engine: one atomic swap, read by the engine at the next frame boundary. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control(Arc<ArcSwap<Settings>>);

impl Control {
    /// A control that starts with `settings`.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(settings)))
    }

    /// The newest settings.
    pub fn load(&self) -> Arc<Settings> {
        self.0.load_full()
    }

    /// As [`store`](Self::store), for settings that are shared already.
    pub fn store_shared(&self, settings: Arc<Settings>) {
        self.0.store(settings);
    }

    /// Replaces the settings; the engine takes them up at its next frame.
    pub fn store(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }
}
