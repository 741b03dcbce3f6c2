//! Asking a peer for a whole picture until one comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gst::prelude::*;
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

/// Packets that bring no picture for so long: another picture is asked for, and again after as long. What GStreamer asks for
/// at a loss it asks for once, browsers answer one such question in 0.3 s, and a question may be lost like anything else.
/// Longer would be seen as a standstill; shorter would ask again before a large picture over a slow network is there.
const PATIENCE: Duration = Duration::from_secs(1);

/// Since when packets come and no pictures, in nanoseconds of its owner's clock; 0 where each has brought one.
#[derive(Debug, Default)]
struct Waiting(AtomicU64);

impl Waiting {
    /// A packet came; whether it is time to ask.
    fn packet(&self, now: Duration) -> bool {
        let now_ns = (now.as_nanos() as u64).max(1);
        match self.0.load(Ordering::Relaxed) {
            0 => self.0.store(now_ns, Ordering::Relaxed),
            since_ns if now_ns.saturating_sub(since_ns) >= PATIENCE.as_nanos() as u64 => {
                self.0.store(now_ns, Ordering::Relaxed);
                return true;
            }
            _ => {}
        }
        false
    }

    /// A picture came.
    fn picture(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Asks for another whole picture, again and again, while packets come out of `packets` and no pictures out of `pictures`.
pub(super) fn ask_until_pictures_come(packets: &gst::Pad, pictures: &gst::Pad) {
    let waiting = Arc::new(Waiting::default());
    let (clock, theirs) = (MonotonicClock::start(), Arc::clone(&waiting));
    packets.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |pad, _| {
        if theirs.packet(clock.now()) {
            tracing::debug!("a peer's packets bring no picture: another one is asked for");
            pad.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
        gst::PadProbeReturn::Ok
    });
    pictures.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let is_whole = info.buffer().is_some_and(|picture| !picture.flags().contains(gst::BufferFlags::CORRUPTED));
        if is_whole {
            waiting.picture();
        }
        gst::PadProbeReturn::Ok
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_picture_is_asked_for_while_packets_bring_none() {
        let waiting = Waiting::default();
        let at = |seconds: f64| Duration::from_secs_f64(seconds);
        // One picture, of several packets.
        assert!(!waiting.packet(at(0.0)) && !waiting.packet(at(0.1)));
        waiting.picture();
        // Nothing for long, as of a screen that does not change, is no reason.
        assert!(!waiting.packet(at(60.0)) && !waiting.packet(at(60.9)));
        // Packets without a picture are, once for each while.
        assert!(waiting.packet(at(61.0)) && !waiting.packet(at(61.5)));
        assert!(waiting.packet(at(62.0)));
        waiting.picture();
        assert!(!waiting.packet(at(63.0)) && !waiting.packet(at(63.5)));
    }
}
