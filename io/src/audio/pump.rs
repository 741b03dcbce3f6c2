//! The thread that moves the sound of one output, and the gate that keeps it in step with the pictures.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::hub::{AudioTrack, Heard, Packet};
use crate::lock;
use crate::sink::Feeder;

#[derive(Debug, Default)]
struct GateState {
    /// End of the last picture that went into the sink.
    pictures_ns: u64,
    /// Set once there will be no more pictures: sound from here on is not wanted.
    end_ns: Option<u64>,
    stop: bool,
}

/// Lets sound through up to where the pictures are. So a run that is cut short has sound exactly as long as its
/// pictures, and until then the sound waits where there is room for it, in the source.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

impl Gate {
    /// The pictures have come to `end_ns`.
    pub(crate) fn advance(&self, end_ns: u64) {
        let mut state = lock(&self.state);
        state.pictures_ns = state.pictures_ns.max(end_ns);
        self.moved.notify_all();
    }

    /// There will be no more pictures. Sound goes on to its own end if `whole`, else it ends with the pictures.
    fn finish(&self, whole: bool) {
        let mut state = lock(&self.state);
        state.end_ns = Some(if whole { u64::MAX } else { state.pictures_ns });
        self.moved.notify_all();
    }

    fn stop(&self) {
        lock(&self.state).stop = true;
        self.moved.notify_all();
    }

    fn stopped(&self) -> bool {
        lock(&self.state).stop
    }

    /// Waits until sound of `time_ns` may pass; `false` if it never may.
    fn pass(&self, time_ns: u64) -> bool {
        let mut state = lock(&self.state);
        loop {
            if state.stop || state.end_ns.is_some_and(|end| time_ns >= end) {
                return false;
            }
            if state.end_ns.is_some() || time_ns < state.pictures_ns {
                return true;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The thread that moves packets from a source to a sink.
pub(crate) struct Pump {
    gate: Arc<Gate>,
    track: Arc<AudioTrack>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pump {
    /// Starts moving. `shift_ns` is added to all time stamps once it is known; earlier sound is left out.
    pub(crate) fn start(track: AudioTrack, feeder: Feeder, shift_ns: Arc<Mutex<i64>>) -> std::io::Result<Self> {
        let gate = Arc::new(Gate::default());
        let track = Arc::new(track);
        let (passing, theirs) = (Arc::clone(&gate), Arc::clone(&track));
        let thread = std::thread::Builder::new().name("io-sound".into()).spawn(move || {
            move_packets(&theirs, &feeder, &passing, &shift_ns);
            feeder.end();
            // The source must not wait for a reader that has gone.
            theirs.close();
        })?;
        Ok(Self { gate, track, thread: Some(thread) })
    }

    /// The pictures have come to `end_ns`.
    pub(crate) fn advance(&self, end_ns: u64) {
        self.gate.advance(end_ns);
    }

    /// All pictures are in.
    pub(crate) fn finish(&self) {
        // Pictures that nobody will take would hold back the sound that belongs to those already taken.
        self.track.discard_pictures();
        self.gate.finish(self.track.pictures_ended());
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.gate.stop();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that moves sound panicked");
        }
    }
}

fn move_packets(track: &AudioTrack, feeder: &Feeder, gate: &Gate, shift_ns: &Mutex<i64>) {
    while !gate.stopped() {
        let packet = match track.next() {
            Heard::Packet(packet) => packet,
            Heard::Nothing => continue,
            Heard::Over => return,
        };
        if !gate.pass(packet.time_ns) {
            return;
        }
        // While it waited for its pictures the input began again.
        if track.is_over(&packet) {
            continue;
        }
        let Packet { mut buffer, time_ns, .. } = packet;
        let Some(time_ns) = time_ns.checked_add_signed(*lock(shift_ns)) else {
            continue;
        };
        let writable = buffer.make_mut();
        writable.set_pts(gst::ClockTime::from_nseconds(time_ns));
        writable.set_dts(gst::ClockTime::NONE);
        if feeder.push(buffer).is_err() {
            return;
        }
    }
}
