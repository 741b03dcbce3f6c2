//! Why a U-Net's server could not be used.

use std::error::Error;

use livediffusion_onnx::ErrorKind;
use livediffusion_pipeline::model::ModelError;
use tonic::{Code, Status};

/// What went wrong, and the next thing to try.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct RemoteError {
    /// Whether to correct a setting, to start a server, or neither.
    pub kind: ErrorKind,
    /// What failed, with the server's address.
    pub what: String,
    /// The next command or setting to try.
    pub hint: Option<String>,
}

impl RemoteError {
    pub(crate) fn invalid(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, what: what.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn missing(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Missing, what: what.into(), hint: Some(hint.into()) }
    }
}

impl From<RemoteError> for ModelError {
    fn from(error: RemoteError) -> Self {
        Self { what: error.what, hint: error.hint }
    }
}

/// What lies beneath all that an error wraps.
pub(crate) fn deepest(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Why a call failed, in one line: what the server says, or what lies beneath where the connection failed.
pub(crate) fn reason(status: &Status) -> String {
    let text = match status.source() {
        Some(beneath) => deepest(beneath),
        None => status.message().to_owned(),
    };
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { status.code().to_string() } else { text }
}

/// Whether a server that says so is there, and has too much to do.
pub(crate) fn is_busy(status: &Status) -> bool {
    // Many servers say of a message that is too large, too, that they have not the resources.
    status.code() == Code::ResourceExhausted && !status.message().contains("larger than max")
}

/// Whether a server that says so may be there later, or another one now: it is not the call's fault.
pub(crate) fn is_away(status: &Status) -> bool {
    let is_gone = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted);
    // What a server answers has no source; a connection that breaks has.
    is_gone || status.source().is_some()
}
