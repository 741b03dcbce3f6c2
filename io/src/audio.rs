//! Carrying the sound past the engine: from the input's pipeline to the output's, packet by packet, unchanged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::lock;
use crate::sink::Feeder;

/// How often a wait looks up to see whether it still has a point.
const LOOK_UP: Duration = Duration::from_millis(50);

/// The sound of a source, still compressed. It waits in a bounded queue until a sink takes it.
#[derive(Debug)]
pub struct AudioTrack {
    packets: gst_app::AppSink,
    caps: gst::Caps,
    /// Tells the source's pictures to run on without being taken.
    discard_pictures: Arc<AtomicBool>,
    /// Whether the pictures came to their own end.
    ended: Arc<AtomicBool>,
    /// Whether the source was torn down.
    closed: Arc<AtomicBool>,
}

impl AudioTrack {
    pub(crate) fn new(
        packets: gst_app::AppSink,
        caps: gst::Caps,
        discard_pictures: Arc<AtomicBool>,
        ended: Arc<AtomicBool>,
        closed: Arc<AtomicBool>,
    ) -> Self {
        Self { packets, caps, discard_pictures, ended, closed }
    }

    /// The format in a few words, such as `audio/mpeg, mpegversion=4`.
    pub fn format(&self) -> String {
        self.media().to_string()
    }

    /// The format as the source gives it.
    pub(crate) fn caps(&self) -> &gst::Caps {
        &self.caps
    }

    /// The format without what differs from file to file.
    pub(crate) fn media(&self) -> gst::Caps {
        // Muxers take some sample formats of uncompressed sound and not others.
        let keep = ["mpegversion", "layer", "format"];
        let Some(full) = self.caps.structure(0) else {
            return gst::Caps::new_empty();
        };
        let mut media = gst::Structure::new_empty(full.name());
        for name in keep {
            if let Ok(value) = full.value(name) {
                media.set_value(name, value.clone());
            }
        }
        gst::Caps::builder_full().structure(media).build()
    }

    /// Lets the sound go: it is read and forgotten, so that it holds nothing up.
    pub(crate) fn discard(&self) {
        self.packets.set_drop(true);
    }
}

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
    ended: Arc<AtomicBool>,
    discard_pictures: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pump {
    /// Starts moving. `offset_ns` is subtracted from all time stamps once it is known; earlier sound is left out.
    pub(crate) fn start(track: AudioTrack, feeder: Feeder, offset_ns: Arc<Mutex<u64>>) -> std::io::Result<Self> {
        let gate = Arc::new(Gate::default());
        let (ended, discard_pictures) = (Arc::clone(&track.ended), Arc::clone(&track.discard_pictures));
        let passing = Arc::clone(&gate);
        let thread = std::thread::Builder::new().name("io-sound".into()).spawn(move || {
            move_packets(&track, &feeder, &passing, &offset_ns);
            feeder.end();
            // The source must not wait for a reader that has gone.
            track.discard();
        })?;
        Ok(Self { gate, ended, discard_pictures, thread: Some(thread) })
    }

    /// The pictures have come to `end_ns`.
    pub(crate) fn advance(&self, end_ns: u64) {
        self.gate.advance(end_ns);
    }

    /// All pictures are in.
    pub(crate) fn finish(&self) {
        // Pictures that nobody will take would hold back the sound that belongs to those already taken.
        self.discard_pictures.store(true, Ordering::Relaxed);
        self.gate.finish(self.ended.load(Ordering::Acquire));
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

fn move_packets(track: &AudioTrack, feeder: &Feeder, gate: &Gate, offset_ns: &Mutex<u64>) {
    let look_up = gst::ClockTime::from_nseconds(LOOK_UP.as_nanos() as u64);
    while !gate.stopped() {
        let Some(sample) = track.packets.try_pull_sample(look_up) else {
            if track.packets.is_eos() || track.closed.load(Ordering::Acquire) {
                return;
            }
            continue;
        };
        let Some((mut buffer, time_ns)) = placed(&sample) else {
            continue;
        };
        if !gate.pass(time_ns) {
            return;
        }
        let Some(time_ns) = time_ns.checked_sub(*lock(offset_ns)) else {
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

/// The packet and its place on the clock that it shares with the pictures; `None` if it lies before its start.
fn placed(sample: &gst::Sample) -> Option<(gst::Buffer, u64)> {
    let buffer = sample.buffer_owned()?;
    let time_ns = match buffer.pts() {
        Some(_) => crate::source::running_time(sample)?,
        // Packets without a time follow the one before; the muxer would refuse them, so they join the start.
        None => 0,
    };
    Some((buffer, time_ns))
}
