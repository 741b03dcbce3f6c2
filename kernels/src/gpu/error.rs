//! One error type for everything about a GPU.

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuErrorKind {
    /// The machine lacks it: a driver, a card, NVRTC.
    Missing,
    /// The card's memory, or pinned memory of the host, is full.
    OutOfMemory,
    /// It failed while running.
    Failed,
    /// A call was made with tensors that do not fit together: a defect of the program.
    Misuse,
}

/// Why something on a GPU could not be done.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct GpuError {
    /// What sort of thing went wrong.
    pub kind: GpuErrorKind,
    /// What failed and where.
    pub what: String,
    /// The next command or setting to try.
    pub hint: Option<String>,
}

/// What to do when a card's memory is full.
pub(crate) const LESS_MEMORY: &str =
    "try a smaller --size, networks in f16, a pack with TAESD in place of a KL VAE, or close what else uses the card";

impl GpuError {
    pub(crate) fn new(kind: GpuErrorKind, what: impl Into<String>) -> Self {
        let hint = (kind == GpuErrorKind::OutOfMemory).then(|| LESS_MEMORY.to_owned());
        Self { kind, what: what.into(), hint }
    }

    pub(crate) fn misuse(what: impl Into<String>) -> Self {
        Self::new(GpuErrorKind::Misuse, what)
    }

    pub(crate) fn missing(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..Self::new(GpuErrorKind::Missing, what) }
    }
}
