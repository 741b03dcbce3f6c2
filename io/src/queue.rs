//! The two ways in which a frame waits for the thread that wants it, named for what happens when that thread is late.
//!
//! [`Newest`] is for live streams: one place, a new frame replaces the old one, and what was replaced is counted.
//! [`Lossless`] is for files: a few places, and the producer waits. There is no unbounded queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::sync::{Parker, Unparker};

/// What a wait on a queue ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// The next item.
    Item(T),
    /// Nothing came in the time given.
    Empty,
    /// Nothing will come any more.
    Closed,
}

struct NewestState<T> {
    slot: ArrayQueue<T>,
    dropped: AtomicU64,
    closed: AtomicBool,
}

/// Receiving end of a queue of one place in which the newest item wins.
pub struct Newest<T> {
    state: Arc<NewestState<T>>,
    parker: Parker,
}

/// Sending end of [`Newest`]; dropping it closes the queue.
pub struct NewestSender<T> {
    state: Arc<NewestState<T>>,
    unparker: Unparker,
}

/// A queue of one place in which the newest item wins.
pub fn newest<T>() -> (NewestSender<T>, Newest<T>) {
    let parker = Parker::new();
    let unparker = parker.unparker().clone();
    let state =
        Arc::new(NewestState { slot: ArrayQueue::new(1), dropped: AtomicU64::new(0), closed: AtomicBool::new(false) });
    (NewestSender { state: Arc::clone(&state), unparker }, Newest { state, parker })
}

impl<T> NewestSender<T> {
    /// Puts `item` in the place, replacing what is there. Never waits.
    pub fn send(&self, item: T) {
        if self.state.slot.force_push(item).is_some() {
            self.state.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.unparker.unpark();
    }
}

impl<T> Drop for NewestSender<T> {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::Release);
        self.unparker.unpark();
    }
}

impl<T> Newest<T> {
    /// Waits up to `timeout` for an item.
    pub fn receive(&self, timeout: Duration) -> Received<T> {
        // A token left by an item that was taken without parking wakes the first wait at once: hence two attempts.
        for wait in [Duration::ZERO, timeout] {
            // Read before the slot: an item sent just before closing must not be missed.
            let closed = self.state.closed.load(Ordering::Acquire);
            if let Some(item) = self.state.slot.pop() {
                return Received::Item(item);
            }
            if closed {
                return Received::Closed;
            }
            self.parker.park_timeout(wait);
        }
        self.state.slot.pop().map_or(Received::Empty, Received::Item)
    }

    /// How many items were replaced before anyone took them.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }
}

/// Receiving end of a bounded queue whose sender waits. Dropping it lets the sender go.
pub struct Lossless<T> {
    receiver: Receiver<T>,
}

/// Sending end of [`Lossless`]; dropping it closes the queue once it is drained.
pub struct LosslessSender<T> {
    sender: Sender<T>,
    discard: Arc<AtomicBool>,
}

/// A queue of `places` items whose sender waits for room. While `discard` is set, the sender throws items away instead
/// of waiting: that is how a source whose pictures nobody wants any more still delivers the rest of its sound.
pub fn lossless<T>(places: usize, discard: Arc<AtomicBool>) -> (LosslessSender<T>, Lossless<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(places);
    (LosslessSender { sender, discard }, Lossless { receiver })
}

impl<T> LosslessSender<T> {
    /// Waits for room and sends; `false` if nobody listens any more.
    pub fn send(&self, item: T) -> bool {
        // How soon a waiting sender notices `discard`; it notices room and a closed queue at once.
        const LOOK_UP: Duration = Duration::from_millis(50);
        let mut item = item;
        while !self.discard.load(Ordering::Relaxed) {
            match self.sender.send_timeout(item, LOOK_UP) {
                Ok(()) => return true,
                Err(SendTimeoutError::Disconnected(_)) => return false,
                Err(SendTimeoutError::Timeout(back)) => item = back,
            }
        }
        true
    }
}

impl<T> Lossless<T> {
    /// Waits up to `timeout` for an item.
    pub fn receive(&self, timeout: Duration) -> Received<T> {
        match self.receiver.recv_timeout(timeout) {
            Ok(item) => Received::Item(item),
            Err(RecvTimeoutError::Timeout) => Received::Empty,
            Err(RecvTimeoutError::Disconnected) => Received::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn newest_replaces_and_counts() {
        let (sender, queue) = newest();
        assert_eq!(queue.receive(NOW), Received::Empty);
        (0..5).for_each(|i| sender.send(i));
        assert_eq!(queue.receive(NOW), Received::Item(4));
        assert_eq!(queue.dropped(), 4);
        sender.send(9);
        drop(sender);
        assert_eq!(queue.receive(NOW), Received::Item(9));
        assert_eq!(queue.receive(NOW), Received::Closed);
    }

    #[test]
    fn newest_wakes_a_waiting_receiver() {
        let (sender, queue) = newest();
        let thread = std::thread::spawn(move || queue.receive(Duration::from_mins(1)));
        sender.send(1);
        assert_eq!(thread.join().unwrap(), Received::Item(1));
    }

    #[test]
    fn lossless_keeps_everything_in_order() {
        let (sender, queue) = lossless(2, Arc::default());
        let thread = std::thread::spawn(move || (0..100).all(|i| sender.send(i)));
        let mut got = Vec::new();
        while let Received::Item(i) = queue.receive(Duration::from_mins(1)) {
            got.push(i);
        }
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        assert!(thread.join().unwrap());
    }

    #[test]
    fn lossless_sender_is_let_go_by_a_dropped_receiver_and_by_discard() {
        let (sender, queue) = lossless(1, Arc::default());
        drop(queue);
        assert!(!sender.send(1));
        let discard = Arc::new(AtomicBool::new(true));
        let (sender, _queue) = lossless(1, discard);
        assert!((0..10).all(|i| sender.send(i)));
    }
}
