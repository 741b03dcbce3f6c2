//! One error type: what happened, where, and what to do about it.

use livediffusion_pipeline::model::ModelError;

/// What sort of thing went wrong; a command line turns it into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The pack or a setting is wrong: nothing to install, something to correct.
    Invalid,
    /// Something that the machine lacks: the library, a provider, a driver.
    Missing,
    /// It failed while running.
    Failed,
}

/// Why a pack, a library or a provider could not be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct OnnxError {
    /// What sort of thing went wrong.
    pub kind: ErrorKind,
    /// What failed and where: the file, the network, the tensor.
    pub what: String,
    /// The next command or setting to try.
    pub hint: Option<String>,
}

impl OnnxError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, what: what.into(), hint: None }
    }

    pub(crate) fn missing(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Missing, what: what.into(), hint: None }
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, what: what.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ModelError> for OnnxError {
    fn from(error: ModelError) -> Self {
        Self { kind: ErrorKind::Failed, what: error.what, hint: error.hint }
    }
}

/// Turns ONNX Runtime's error from running `network` into ours, with a hint where its text gives the cause away.
pub(crate) fn run_error<R>(network: &str, doing: &str, error: &ort::Error<R>) -> ModelError {
    let text = error.message();
    let lower = text.to_lowercase();
    let what = format!("{network}: {doing}: {}", text.trim());
    // The words of ONNX Runtime's arenas, of CUDA and of the C++ library for "no memory left".
    if ["out of memory", "failed to allocate", "bad_alloc", "bad alloc", "available memory"]
        .iter()
        .any(|w| lower.contains(w))
    {
        ModelError::new(what).with_hint("the memory is full: try a smaller size, fewer steps, or close other programs")
    } else {
        ModelError::new(what)
    }
}
