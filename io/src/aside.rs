//! Threads that open and close what the network may hold up, so that the stream does not wait for it.
//!
//! They are given a moment when the stream ends: libraries below GStreamer clean up when the process exits, and one that is still
//! in use then crashes (libsrt, in `CEPoll::release`).

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock;

/// How long is waited for them. Taking a connection down takes some milliseconds; an attempt to reach somebody who does not
/// answer takes longer than anybody wants to wait after Ctrl-C, and is left alone.
const MOMENT: Duration = Duration::from_secs(3);

static UNDER_WAY: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Counts a thread for as long as it lives, also if it panics.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        *lock(&UNDER_WAY) -= 1;
        ENDED.notify_all();
    }
}

/// Runs `work` on a thread of its own.
///
/// # Errors
/// The system has no thread to give; `work` is dropped then, on this one.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    *lock(&UNDER_WAY) += 1;
    let counted = Counted;
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        let _counted = counted;
        work();
    });
    thread.map(drop)
}

/// Waits until none of them is under way, but no longer than a moment.
pub(crate) fn settle() {
    let waited = ENDED.wait_timeout_while(lock(&UNDER_WAY), MOMENT, |count| *count > 0);
    let (count, _) = waited.unwrap_or_else(PoisonError::into_inner);
    if *count > 0 {
        tracing::debug!("{count} connections are still being opened or closed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_settles_finds_what_was_done_aside() {
        let done = std::sync::Arc::new(Mutex::new(false));
        let theirs = std::sync::Arc::clone(&done);
        let (sender, receiver) = crossbeam_channel::bounded::<()>(0);
        spawn("aside", move || {
            let _ = receiver.recv();
            *lock(&theirs) = true;
        })
        .unwrap();
        assert!(!*lock(&done));
        drop(sender);
        settle();
        assert!(*lock(&done));
    }
}
