//! Sessions that may not be used from several threads at once, though each is a session of its own.
//!
//! ONNX Runtime's WebGPU provider gives all sessions of a process one device of Dawn's, which is not made for that: two sessions
//! that were made at the same time ended the process in three starts of four. With a turn for whatever touches the device they
//! take as long as they would anyway, since a device does one thing after the other.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::session::Session;

use crate::provider::Provider;

/// The turn of a provider: who has it is alone with the provider's device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn(Option<&'static Mutex<()>>);

impl Turn {
    /// Of a provider. Most need none.
    pub(crate) fn of(provider: Provider) -> Self {
        static WEBGPU: Mutex<()> = Mutex::new(());
        Self((provider == Provider::WebGpu).then_some(&WEBGPU))
    }

    /// Waits for it. It is over when what this gives is dropped.
    pub(crate) fn take(self) -> Option<MutexGuard<'static, ()>> {
        self.0.map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A session with its provider's turn, which it also ends in.
#[derive(Debug)]
pub(crate) struct TurnSession {
    /// `None` at its end alone.
    session: Option<Session>,
    turn: Turn,
}

impl TurnSession {
    /// Has `make` make a session.
    pub(crate) fn make(provider: Provider, make: impl FnOnce() -> ort::Result<Session>) -> ort::Result<Self> {
        let turn = Turn::of(provider);
        let _turn = turn.take();
        Ok(Self { session: Some(make()?), turn })
    }

    /// To be taken for each call of ONNX Runtime's with it.
    pub(crate) fn turn(&self) -> Option<MutexGuard<'static, ()>> {
        self.turn.take()
    }
}

impl Deref for TurnSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("it is taken out in drop alone"),
        }
    }
}

impl Drop for TurnSession {
    fn drop(&mut self) {
        let _turn = self.turn.take();
        self.session = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webgpu_has_one_turn_for_the_process_and_others_need_none() {
        let turn = Turn::of(Provider::WebGpu);
        let held = turn.take();
        assert!(held.is_some());
        let (say, hear) = std::sync::mpsc::sync_channel(1);
        let waits = std::thread::spawn(move || {
            let _turn = Turn::of(Provider::WebGpu).take();
            say.send(()).unwrap();
        });
        let too_early = hear.recv_timeout(std::time::Duration::from_millis(20));
        assert!(too_early.is_err(), "two have the turn at once");
        drop(held);
        hear.recv().unwrap();
        waits.join().unwrap();
        assert!(Turn::of(Provider::Cuda).take().is_none() && Turn::of(Provider::Cpu).take().is_none());
    }
}
