//! Who is painted, and who waits in line for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;
use crate::session::Session;

/// Visitors in line. More would wait for hours; they are told to come back later.
const MOST_WAITING: usize = 64;

/// The sessions of a server.
pub(crate) struct Line {
    places: Arc<Semaphore>,
    pub(crate) max: usize,
    waiting: Mutex<VecDeque<u64>>,
    tickets: AtomicU64,
    sessions: Mutex<BTreeMap<String, Arc<Session>>>,
    metrics: Arc<Metrics>,
}

/// A visitor's place in the line. Dropping it leaves the line.
pub(crate) struct Ticket {
    line: Arc<Line>,
    number: u64,
}

/// A visitor's session in the list. Dropping it takes it off.
pub(crate) struct Listed {
    line: Arc<Line>,
    id: String,
    _place: OwnedSemaphorePermit,
}

impl Line {
    pub(crate) fn new(max: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(max)),
            max,
            waiting: Mutex::default(),
            tickets: AtomicU64::new(0),
            sessions: Mutex::default(),
            metrics,
        })
    }

    /// Goes to the end of the line; `None` when it is too long.
    pub(crate) fn queue(self: &Arc<Self>) -> Option<Ticket> {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == MOST_WAITING {
            return None;
        }
        let number = self.tickets.fetch_add(1, Ordering::Relaxed);
        waiting.push_back(number);
        self.metrics.waiting.set(waiting.len() as i64);
        Some(Ticket { line: Arc::clone(self), number })
    }

    /// A place among those who are painted, in the order of the line.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is fair, and never closed.
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// A place for whoever cannot stand in line, if one is free and nobody waits for it.
    pub(crate) fn free_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Puts a session into the list.
    pub(crate) fn list(self: &Arc<Self>, session: &Arc<Session>, place: OwnedSemaphorePermit) -> Listed {
        let mut sessions = lock(&self.sessions);
        sessions.insert(session.id.clone(), Arc::clone(session));
        self.metrics.sessions.set(sessions.len() as i64);
        Listed { line: Arc::clone(self), id: session.id.clone(), _place: place }
    }

    pub(crate) fn session(&self, id: &str) -> Option<Arc<Session>> {
        lock(&self.sessions).get(id).cloned()
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        lock(&self.sessions).values().cloned().collect()
    }

    pub(crate) fn waiting(&self) -> usize {
        lock(&self.waiting).len()
    }
}

impl Ticket {
    /// 1 is the next.
    pub(crate) fn position(&self) -> usize {
        lock(&self.line.waiting).iter().position(|number| *number == self.number).unwrap_or(0) + 1
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = lock(&self.line.waiting);
        waiting.retain(|number| *number != self.number);
        self.line.metrics.waiting.set(waiting.len() as i64);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut sessions = lock(&self.line.sessions);
        sessions.remove(&self.id);
        self.line.metrics.sessions.set(sessions.len() as i64);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_line_moves_up_and_is_bounded() {
        let line = Line::new(1, Arc::new(Metrics::new()));
        let place = line.place().await.unwrap();
        let (first, second) = (line.queue().unwrap(), line.queue().unwrap());
        assert_eq!((first.position(), second.position()), (1, 2));
        drop(first);
        assert_eq!((second.position(), line.waiting()), (1, 1));
        assert!(line.free_place().is_none());
        drop(place);
        assert!(line.free_place().is_some());
        assert!(line.place().await.is_some());
        let crowd: Vec<_> = std::iter::from_fn(|| line.queue()).take(1000).collect();
        assert_eq!(crowd.len(), MOST_WAITING - 1);
    }
}
