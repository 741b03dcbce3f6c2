//! What waits to be sent to one visitor. The engine's thread fills it and never waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::message::{Header, Kind};

/// Short messages that may wait. A visitor who sends as agreed has two frames under way; one who floods the server and
/// reads nothing is cut off.
const MOST_NOTES: usize = 256;

/// Pictures that a visitor may not have drawn yet. One would leave the line idle while it is drawn, three would be delay.
const MOST_UNDRAWN: usize = 2;

/// A message, and whether it is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Text(String),
    Binary(Bytes),
}

#[derive(Default)]
struct State {
    notes: VecDeque<Note>,
    picture: Option<(Header, Bytes)>,
    undrawn: usize,
    is_full: bool,
    is_unread: bool,
}

#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
}

impl Outbox {
    /// One that nobody reads: of a session without a page. What is put into it is gone.
    pub(crate) fn unread() -> Self {
        Self { state: Mutex::new(State { is_unread: true, ..State::default() }), ..Self::default() }
    }

    /// Whether there is a page that reads it.
    pub(crate) fn is_read(&self) -> bool {
        !self.lock().is_unread
    }

    /// Lines up a short message. Too many mean that nobody reads them: the connection ends.
    pub(crate) fn note(&self, note: Note) {
        let mut state = self.lock();
        if state.is_unread {
            return;
        }
        if state.notes.len() == MOST_NOTES {
            state.is_full = true;
        } else {
            state.notes.push_back(note);
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Makes `message` the picture that is sent next. One that still waits is dropped, which its visitor learns, and
    /// the caller by `true`.
    pub(crate) fn picture(&self, header: Header, message: Bytes) -> bool {
        let old = self.lock().picture.replace((header, message));
        if let Some((old, _)) = &old {
            self.note(Note::Binary(Header { kind: Kind::Dropped, ..*old }.message(&[])));
        }
        self.changed.notify_one();
        old.is_some()
    }

    /// A picture was drawn.
    pub(crate) fn drawn(&self) {
        let mut state = self.lock();
        state.undrawn = state.undrawn.saturating_sub(1);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for what is to be sent next; `None` when the visitor reads nothing. Notes go before pictures.
    pub(crate) async fn next(&self) -> Option<Note> {
        loop {
            let changed = self.changed.notified();
            {
                let mut state = self.lock();
                if state.is_full {
                    return None;
                }
                if let Some(note) = state.notes.pop_front() {
                    return Some(note);
                }
                if state.undrawn < MOST_UNDRAWN
                    && let Some((_, message)) = state.picture.take()
                {
                    state.undrawn += 1;
                    return Some(Note::Binary(message));
                }
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is complete: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(id: u64) -> (Header, Bytes) {
        let header = Header { kind: Kind::Picture, id, time_us: 0 };
        (header, header.message(b"jpeg"))
    }

    #[tokio::test]
    async fn two_pictures_are_under_way_and_of_the_rest_the_newest() {
        let outbox = Outbox::default();
        for id in 0..2 {
            let (header, message) = picture(id);
            assert!(!outbox.picture(header, message.clone()));
            assert_eq!(outbox.next().await, Some(Note::Binary(message)));
        }
        for id in 2..5 {
            let (header, message) = picture(id);
            assert_eq!(outbox.picture(header, message), id > 2);
        }
        // The dropped ones are told of; the picture waits for a place.
        for id in 2..4 {
            let dropped = Header { kind: Kind::Dropped, id, time_us: 0 }.message(&[]);
            assert_eq!(outbox.next().await, Some(Note::Binary(dropped)));
        }
        let waits = tokio::time::timeout(std::time::Duration::from_millis(20), outbox.next()).await;
        assert!(waits.is_err());
        outbox.drawn();
        assert_eq!(outbox.next().await, Some(Note::Binary(picture(4).1)));
    }

    #[tokio::test]
    async fn who_reads_nothing_is_cut_off() {
        let outbox = Outbox::default();
        for _ in 0..=MOST_NOTES {
            outbox.note(Note::Text("x".into()));
        }
        assert_eq!(outbox.next().await, None);
    }
}
