//! Whose turn it is to use a session.
//!
//! ONNX Runtime lets a session be run from several threads at once. Some providers do not bear all of it:
//!
//! - WebGPU's sessions share one device of Dawn's, which is not made for several threads: two sessions that were made at the same time
//!   ended the process in three starts of four. One turn for all of them, also to make and to end one.
//! - TensorRT for RTX, as a plug-in, has one logger for all sessions, which is that of the last one made: none is made while another is
//!   made or ends.
//! - CUDA gives all threads that run a session on a stream of the caller's one cuDNN handle, which knows no two callers: a turn for
//!   each session. And nobody may use the card while a graph is captured ([`Capturing`]).
//! - DirectML's documentation allows one thread at a time for each session.
//!
//! A device does one thing after the other anyway.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use livediffusion_kernels::cuda::{Capturing, NotCapturing};
use ort::session::Session;

use crate::provider::Provider;

/// The turn of a session. Most need none.
#[derive(Debug)]
enum Turn {
    None,
    /// Of all sessions of the provider.
    Process(&'static Mutex<()>),
    /// Of this session.
    Own(Mutex<()>),
    /// Of this session, on a card that others use too.
    OnCard(Mutex<()>),
}

/// Whether others may use the card meanwhile.
#[derive(Debug)]
enum Card {
    None,
    Shared(#[allow(dead_code, reason = "held, not read")] NotCapturing),
    Alone(#[allow(dead_code, reason = "held, not read")] Capturing),
}

/// To be held while a session of that provider, or whatever is made like one, is made or ends.
pub(crate) fn making(provider: Provider) -> Option<MutexGuard<'static, ()>> {
    static TENSORRT_RTX: Mutex<()> = Mutex::new(());
    let is_alone = provider == Provider::TensorRtRtx;
    is_alone.then(|| TENSORRT_RTX.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a> {
    // In the order in which they are given back: who waits for a session's turn keeps nobody from capturing.
    _session: Option<MutexGuard<'a, ()>>,
    _card: Card,
}

impl Turn {
    fn of(provider: Provider) -> Self {
        static WEBGPU: Mutex<()> = Mutex::new(());
        match provider {
            Provider::WebGpu => Self::Process(&WEBGPU),
            Provider::DirectMl => Self::Own(Mutex::new(())),
            _ if provider.is_on_cuda() => Self::OnCard(Mutex::new(())),
            _ => Self::None,
        }
    }

    /// Waits for it; with `captures` until nobody uses the card.
    fn take(&self, captures: bool) -> Taken<'_> {
        // The card first: whoever has a session's turn has the card already, so that nobody waits for the other in a circle.
        let card = match self {
            Self::OnCard(_) if captures => Card::Alone(Capturing::alone()),
            Self::OnCard(_) => Card::Shared(NotCapturing::wait()),
            Self::None | Self::Process(_) | Self::Own(_) => Card::None,
        };
        let lock = |turn| Mutex::lock(turn).unwrap_or_else(PoisonError::into_inner);
        let session = match self {
            Self::None => None,
            Self::Process(turn) => Some(lock(turn)),
            Self::Own(turn) | Self::OnCard(turn) => Some(lock(turn)),
        };
        Taken { _session: session, _card: card }
    }
}

/// A session with its turn, which it also ends in.
#[derive(Debug)]
pub(crate) struct TurnSession {
    /// `None` at its end alone.
    session: Option<Session>,
    turn: Turn,
    provider: Provider,
}

impl TurnSession {
    /// Has `make` make a session.
    pub(crate) fn make(provider: Provider, make: impl FnOnce() -> ort::Result<Session>) -> ort::Result<Self> {
        let turn = Turn::of(provider);
        let session = {
            let _making = making(provider);
            let _turn = turn.take(false);
            make()?
        };
        Ok(Self { session: Some(session), turn, provider })
    }

    /// Whether it runs on an NVIDIA card.
    pub(crate) fn is_on_card(&self) -> bool {
        self.provider.is_on_cuda()
    }

    /// To be taken for each call of ONNX Runtime's with it. `captures`: the call makes a CUDA graph.
    pub(crate) fn turn(&self, captures: bool) -> Taken<'_> {
        self.turn.take(captures)
    }

    /// Has `run` use the session, for calls that need it to themselves. What they give is dropped in the turn.
    pub(crate) fn run_once(&mut self, run: impl FnOnce(&mut Session) -> ort::Result<()>) -> ort::Result<()> {
        let Self { session, turn, .. } = self;
        let _turn = turn.take(false);
        session.as_mut().map_or(Ok(()), run)
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
        let _making = making(self.provider);
        let _turn = self.turn.take(false);
        self.session = None;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;

    /// Takes a turn while another is held: one that has to wait, or one that must not.
    #[track_caller]
    fn take_beside(held: &Turn, wanted: &Arc<Turn>, captures: bool, has_to_wait: bool) {
        let first = held.take(false);
        let (say, hear) = sync_channel(1);
        let wanted = Arc::clone(wanted);
        let other = std::thread::spawn(move || {
            let _turn = wanted.take(captures);
            say.send(()).unwrap();
        });
        // Who does not wait may come late all the same; who does cannot come early.
        let patience = if has_to_wait { Duration::from_millis(20) } else { Duration::from_secs(30) };
        assert_eq!(hear.recv_timeout(patience).is_err(), has_to_wait);
        drop(first);
        other.join().unwrap();
    }

    /// One test, since a turn to capture is of the whole process.
    #[test]
    fn webgpu_has_one_turn_cuda_one_for_each_session_and_a_graph_is_captured_alone() {
        let turn = |provider| Arc::new(Turn::of(provider));
        take_beside(&turn(Provider::WebGpu), &turn(Provider::WebGpu), false, true);
        let session = turn(Provider::Cuda);
        take_beside(&session, &session, false, true);
        take_beside(&session, &turn(Provider::Cuda), false, false);
        take_beside(&turn(Provider::Cpu), &turn(Provider::Cpu), false, false);
        let other = turn(Provider::DirectMl);
        take_beside(&other, &other, false, true);
        take_beside(&other, &turn(Provider::DirectMl), false, false);
        take_beside(&session, &turn(Provider::TensorRt), true, true);
        // Others have another device.
        let _alone = session.take(true);
        take_beside(&turn(Provider::Cpu), &turn(Provider::WebGpu), true, false);
    }
}
