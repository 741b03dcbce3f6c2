//! Results on stdout. `println!` panics when the reader has gone (`livediffusion doctor | head -1`); this does not.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};
use std::sync::OnceLock;

use crate::failure::{Failure, Outcome, RUNNING};

/// Why results did not reach stdout.
static LOST: OnceLock<String> = OnceLock::new();

/// `println!` without the panic.
macro_rules! say {
    ($($argument:tt)*) => {
        $crate::say::line(format_args!($($argument)*))
    };
}

pub(crate) fn line(line: Arguments<'_>) {
    match writeln!(stdout().lock(), "{line}") {
        // A reader that went away has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            LOST.get_or_init(|| error.to_string());
        }
        _ => {}
    }
}

/// Whether everything that was said was written.
pub(crate) fn finish() -> Outcome<()> {
    match LOST.get() {
        None => Ok(()),
        Some(error) => Err(Failure::new(RUNNING, format!("standard output cannot be written: {error}"))
            .with_hint(Some("check where it is redirected to".into()))),
    }
}
