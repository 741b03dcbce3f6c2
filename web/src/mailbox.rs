//! A place for one thing, in which the newest wins.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// One place between a writer that must never wait and a reader that waits for what is newest.
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    newest: Option<T>,
    is_closed: bool,
}

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::new(State { newest: None, is_closed: false }), arrived: Condvar::new() }
    }

    /// Puts `value` into the place. Gives back what lay there and nobody will read.
    pub(crate) fn put(&self, value: T) -> Option<T> {
        let mut state = self.lock();
        if state.is_closed {
            return Some(value);
        }
        let old = state.newest.replace(value);
        drop(state);
        self.arrived.notify_one();
        old
    }

    /// Waits for something; `None` once it is closed.
    pub(crate) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(value) = state.newest.take() {
                return Some(value);
            }
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What lies there now.
    pub(crate) fn try_take(&self) -> Option<T> {
        self.lock().newest.take()
    }

    /// Whether nothing lies there.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().newest.is_none()
    }

    /// Ends the reader's waiting for good.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // One assignment at a time: nothing is half done after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_wins_and_closing_ends_it() {
        let mailbox = Mailbox::new();
        assert_eq!((mailbox.put(1), mailbox.put(2), mailbox.is_empty()), (None, Some(1), false));
        assert_eq!((mailbox.take(), mailbox.try_take()), (Some(2), None));
        mailbox.close();
        assert_eq!((mailbox.put(3), mailbox.take()), (Some(3), None));
    }

    #[test]
    fn a_reader_that_waits_is_woken() {
        let mailbox = std::sync::Arc::new(Mailbox::new());
        let theirs = std::sync::Arc::clone(&mailbox);
        let reader = std::thread::spawn(move || (theirs.take(), theirs.take()));
        mailbox.put(1);
        while !mailbox.is_empty() {
            std::thread::yield_now();
        }
        mailbox.close();
        assert_eq!(reader.join().unwrap(), (Some(1), None));
    }
}
