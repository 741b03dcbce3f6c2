//! How a command fails: one line that says what, one that says what to do, and an exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

#[cfg(feature = "media")]
use livediffusion_io::IoError;
use livediffusion_onnx::{ErrorKind, OnnxError};
use livediffusion_pipeline::EngineError;
use livediffusion_pipeline::model::ModelError;
use livediffusion_pipeline::params::ParseError;
use livediffusion_remote::RemoteError;
use livediffusion_session::SessionError;
#[cfg(feature = "media")]
use livediffusion_web::WebError;

/// Failed while running.
pub(crate) const RUNNING: u8 = 1;
/// Usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// Something is missing that `livediffusion doctor` explains.
pub(crate) const MISSING: u8 = 3;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), hint: None, code }
    }

    pub(crate) fn usage(message: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self::new(USAGE, message).with_hint(Some(hint.into()))
    }

    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }

    /// The same failure of a live source whose pictures so far were kept.
    pub(crate) fn after(mut self, frames: u64) -> Self {
        self.message = format!("{} ({frames} frames before that were kept)", self.message);
        self
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Prints the error and its hint, once, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // One line each: whatever a library put into its message.
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let general = match self.code {
            USAGE => "livediffusion run --help lists the flags and what they take",
            MISSING => "livediffusion doctor lists what is missing",
            _ => "run it again with -v to see what led to it",
        };
        let (what, hint) = (line(&self.message), line(self.hint.as_deref().unwrap_or(general)));
        // Where nobody reads stderr, the exit code still says it.
        let _ = writeln!(std::io::stderr(), "error: {what}\nhint: {hint}");
        ExitCode::from(self.code)
    }
}

#[cfg(feature = "media")]
impl From<IoError> for Failure {
    fn from(error: IoError) -> Self {
        let code = match error.kind() {
            livediffusion_io::ErrorKind::Usage => USAGE,
            livediffusion_io::ErrorKind::Runtime => RUNNING,
            livediffusion_io::ErrorKind::Missing => MISSING,
        };
        Self::new(code, &error).with_hint(error.hint())
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => USAGE,
            ErrorKind::Failed => RUNNING,
            ErrorKind::Missing => MISSING,
        };
        Self::new(code, &error).with_hint(error.hint)
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<OnnxError> for Failure {
    fn from(error: OnnxError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        SessionError::from(error).into()
    }
}

#[cfg(feature = "media")]
impl From<WebError> for Failure {
    fn from(error: WebError) -> Self {
        let (code, hint) = match &error {
            WebError::Bind(..) => {
                (USAGE, "another program may have that port: give another one with --bind, or port 0")
            }
            WebError::Tls(..) => (USAGE, "give --tls-cert and --tls-key PEM files that belong together"),
            WebError::NoToken(_) => (USAGE, "give one with --token"),
            WebError::Threads(_) => (RUNNING, "the system may be out of threads or memory"),
        };
        Self::new(code, &error).with_hint(Some(hint.into()))
    }
}

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        SessionError::from(error).into()
    }
}

impl From<ParseError> for Failure {
    fn from(error: ParseError) -> Self {
        SessionError::from(error).into()
    }
}
