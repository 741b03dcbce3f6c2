//! Why there is no session.

use std::fmt;

use livediffusion_onnx::{ErrorKind, OnnxError};
use livediffusion_pipeline::EngineError;
use livediffusion_pipeline::model::ModelError;
use livediffusion_pipeline::params::ParseError;
use livediffusion_remote::RemoteError;

/// What went wrong, and the next thing to try.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct SessionError {
    /// Whether to correct a setting, to install something, or neither.
    pub kind: ErrorKind,
    /// What failed and where.
    pub what: String,
    /// The next command or setting to try.
    pub hint: Option<String>,
}

/// What a session's parts give.
pub type Outcome<T> = Result<T, SessionError>;

impl SessionError {
    /// An error without a hint.
    pub fn new(kind: ErrorKind, what: impl fmt::Display) -> Self {
        Self { kind, what: what.to_string(), hint: None }
    }

    /// A setting that is to be corrected.
    pub fn invalid(what: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what).with_hint(Some(hint.into()))
    }

    /// The same with this hint, if it is one.
    #[must_use]
    pub fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

impl From<OnnxError> for SessionError {
    fn from(error: OnnxError) -> Self {
        let general = "export the pack anew in the diffusers ONNX layout, as Optimum writes it";
        // What ONNX Runtime 1.24 says of weights behind symbolic links, as other tools leave them in the hub's cache.
        let links = "ONNX Runtime takes no weights behind links: livediffusion models pull ORG/NAME puts them right";
        let behind_links = error.what.contains("escapes model directory");
        let hint = error.hint.or_else(|| match error.kind {
            ErrorKind::Invalid => Some(general.to_owned()),
            ErrorKind::Missing | ErrorKind::Failed => behind_links.then(|| links.to_owned()),
        });
        Self { kind: error.kind, what: error.what, hint }
    }
}

impl From<RemoteError> for SessionError {
    fn from(error: RemoteError) -> Self {
        Self { kind: error.kind, what: error.what, hint: error.hint }
    }
}

impl From<EngineError> for SessionError {
    fn from(error: EngineError) -> Self {
        let kind = match error {
            EngineError::Model(_)
            | EngineError::Lane(_)
            | EngineError::NotFinite { .. }
            | EngineError::Picture { .. } => ErrorKind::Failed,
            _ => ErrorKind::Invalid,
        };
        Self::new(kind, &error).with_hint(error.hint())
    }
}

impl From<ModelError> for SessionError {
    fn from(error: ModelError) -> Self {
        Self { kind: ErrorKind::Failed, what: error.what, hint: error.hint }
    }
}

impl From<ParseError> for SessionError {
    fn from(error: ParseError) -> Self {
        Self::invalid(&error, error.hint.clone())
    }
}
