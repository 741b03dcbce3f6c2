//! What a person at the keyboard switches while a stream runs, beside its parameters.

use std::sync::atomic::{AtomicBool, Ordering};

use livediffusion_pipeline::Control;

/// Which picture is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The painted one.
    #[default]
    Painted,
    /// The input's own (bypass).
    Input,
    /// The last one, for as long as it takes (freeze).
    Last,
}

/// Switches that the loop reads at each frame.
pub(crate) struct Desk {
    freeze: AtomicBool,
    bypass: AtomicBool,
    snapshot: AtomicBool,
    /// The parameters in force.
    pub(crate) control: Control,
}

impl Desk {
    pub(crate) fn new(control: Control) -> Self {
        let off = || AtomicBool::new(false);
        Self { freeze: off(), bypass: off(), snapshot: off(), control }
    }

    /// Freezes the picture or lets it go; gives what it is now.
    pub(crate) fn toggle_freeze(&self) -> bool {
        !self.freeze.fetch_xor(true, Ordering::Relaxed)
    }

    /// Shows the input or the painted picture; gives what it is now.
    pub(crate) fn toggle_bypass(&self) -> bool {
        !self.bypass.fetch_xor(true, Ordering::Relaxed)
    }

    /// Asks for the picture that is shown next as a file.
    pub(crate) fn ask_for_snapshot(&self) {
        self.snapshot.store(true, Ordering::Relaxed);
    }

    /// Whether a snapshot was asked for; it is taken by asking.
    pub(crate) fn take_snapshot(&self) -> bool {
        self.snapshot.swap(false, Ordering::Relaxed)
    }

    /// What the loop shall show.
    pub(crate) fn shown(&self) -> Shown {
        match (self.freeze.load(Ordering::Relaxed), self.bypass.load(Ordering::Relaxed)) {
            (true, _) => Shown::Last,
            (false, true) => Shown::Input,
            (false, false) => Shown::Painted,
        }
    }
}
