//! What takes the place of commands that need GStreamer in a binary that was built without it.

use std::ffi::OsString;

use clap::Args;

use crate::failure::{Failure, MISSING, Outcome};

/// Any arguments: whatever was meant by them, the answer is the same.
#[derive(Clone, Debug, Args)]
pub(crate) struct Anything {
    /// Not looked at
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _ignored: Vec<OsString>,
}

/// Says that `command` is not in this binary.
pub(crate) fn refuse(command: &str) -> Outcome<()> {
    Err(hinted(format!("{command} needs GStreamer, and this binary was built without it")))
}

/// An error with the way to a binary that can do it.
pub(crate) fn hinted(what: String) -> Failure {
    let hint = "build one with it: cargo build --release, without --no-default-features";
    Failure::new(MISSING, what).with_hint(Some(hint.into()))
}
