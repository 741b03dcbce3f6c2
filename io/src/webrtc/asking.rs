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

/// After a silence for so long, as of a screen that does not change, the waiting begins anew: a decoder may hold each picture
/// back until the next one comes.
const SILENCE: Duration = Duration::from_secs(5);

/// Since when packets come and no pictures, in nanoseconds of its owner's clock.
#[derive(Debug, Default)]
struct Waiting {
    /// 0 where each packet has brought a picture.
    since_ns: AtomicU64,
    last_ns: AtomicU64,
}

impl Waiting {
    /// A packet came; whether it is time to ask.
    fn packet(&self, now: Duration) -> bool {
        let now_ns = (now.as_nanos() as u64).max(1);
        let patience_ns = PATIENCE.as_nanos() as u64;
        let last_ns = self.last_ns.swap(now_ns, Ordering::Relaxed);
        let is_silent = now_ns.saturating_sub(last_ns) >= SILENCE.as_nanos() as u64;
        match self.since_ns.load(Ordering::Relaxed) {
            since_ns if since_ns > 0 && !is_silent => {
                let is_time = now_ns.saturating_sub(since_ns) >= patience_ns;
                if is_time {
                    self.since_ns.store(now_ns, Ordering::Relaxed);
                }
                is_time
            }
            _ => {
                self.since_ns.store(now_ns, Ordering::Relaxed);
                false
            }
        }
    }

    /// A picture came.
    fn picture(&self) {
        self.since_ns.store(0, Ordering::Relaxed);
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
        // A decoder that holds a picture back until the next comes, which is long after.
        assert!(!waiting.packet(at(60.0)) && !waiting.packet(at(120.0)) && !waiting.packet(at(120.9)));
        // Packets without a picture are a reason, once for each while.
        assert!(waiting.packet(at(121.1)) && !waiting.packet(at(121.6)));
        assert!(waiting.packet(at(122.2)));
        waiting.picture();
        assert!(!waiting.packet(at(122.3)) && !waiting.packet(at(123.2)));
    }
}
