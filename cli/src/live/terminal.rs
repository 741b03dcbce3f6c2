//! The terminal in a state in which single keys can be read, and back in its own at every end of the program.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::termios::{self, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex};

/// Whether the terminal is in our state.
static RAW: AtomicBool = AtomicBool::new(false);

/// Holds the terminal in a state for single keys; dropping it gives the terminal back.
pub(crate) struct KeyMode(());

impl KeyMode {
    /// `None` where nobody sits at the keyboard: no terminal, or one that another program has in front.
    pub(crate) fn start() -> Option<Self> {
        let stdin = std::io::stdin();
        // Who changes a terminal from the background is stopped by it.
        let in_front = || termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
        if !stdin.is_terminal() || !in_front() {
            return None;
        }
        crossterm::terminal::enable_raw_mode().ok()?;
        RAW.store(true, Ordering::SeqCst);
        let mode = Self(());
        // Raw mode goes too far: lines of the log would become stairs, and Ctrl-C a letter.
        let mut state = termios::tcgetattr(&stdin).ok()?;
        state.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        state.local_modes |= LocalModes::ISIG;
        // Stopped by Ctrl-Z, the program would leave the terminal like this to the shell.
        state.special_codes[SpecialCodeIndex::VSUSP] = 0;
        termios::tcsetattr(&stdin, OptionalActions::Now, &state).ok()?;
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_terminal();
            before(info);
        }));
        Some(mode)
    }
}

impl Drop for KeyMode {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Gives the terminal back, if it was taken: for a program that is about to end at once.
pub(crate) fn restore_terminal() {
    if RAW.swap(false, Ordering::SeqCst) {
        // There is nothing left to do about a terminal that has gone.
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

/// A line for the person at the keyboard, whom the log's level does not concern.
pub(crate) fn tell(line: std::fmt::Arguments<'_>) {
    // Carriage return and erasure: the progress bar may stand in the line.
    let _ = writeln!(std::io::stderr(), "\r\x1b[K{line}");
}
