//! A peer that watches our pictures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gst::prelude::*;
use gst_webrtc::WebRTCRTPTransceiverDirection::Sendonly;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use super::link::Link;
use super::peer::Peer;
use super::sdp::{self, Codec, Wish};
use super::{Reach, SSRC};
use crate::error::IoError;
use crate::launch;
use crate::monitor::{Monitor, Side};
use crate::sink::live_kilobits;

/// Whoever comes later, or lost a packet and cannot say so, waits as long at most.
const KEY_FRAMES: Duration = Duration::from_secs(2);

/// Pictures a second that the rate of bits is reckoned for; how many come is known only as they come.
const RATE: u64 = 30;

/// A peer that was let in, from its offer until this is dropped. Dropping it may take a moment: not on a thread that others wait
/// for.
pub struct Viewer {
    pipeline: gst::Pipeline,
    pictures: gst_app::AppSrc,
    link: Arc<Link>,
    monitor: Arc<Monitor>,
    clock: MonotonicClock,
    /// When the next key frame is due, in nanoseconds; 0 before the first picture.
    key_ns: AtomicU64,
}

impl Viewer {
    /// Answers the `offer` of a peer that takes H.264 of the constrained baseline or VP8. The answer is for the peer; pictures
    /// of about `size` come from an [`Audience`](super::Audience). Takes some tenths of a second, and seconds where a STUN server is slow.
    pub fn answer(offer: &str, reach: &Reach, size: Size) -> Result<(Self, String), IoError> {
        crate::init()?;
        let (offer, chosen) = sdp::choose(offer, Wish::Watch)?;
        let monitor = Monitor::new(Side::Output("the viewer".into()));
        let pipeline = gst::Pipeline::new();
        monitor.watch(&pipeline);
        let failed = |e: &dyn std::fmt::Display| launch::failed("the viewer", e);
        let peer = Peer::new(reach)?;
        let link = Link::watch(&peer.element);
        // Before the encoder, so that what a slow peer does not take is never encoded.
        let chain = launch::bin(
            &format!(
                "appsrc name=pictures is-live=true do-timestamp=true format=time block=false max-buffers=2 max-bytes=0 \
                 leaky-type=downstream ! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 \
                 ! videoconvert ! {} ! {}",
                encoder(chosen.codec, live_kilobits(size, RATE)),
                payloader(chosen.codec, chosen.payload)
            ),
            true,
        )?;
        let pictures = launch::named(&chain, "pictures")?;
        pipeline.add_many([&peer.element, chain.upcast_ref()]).map_err(|e| failed(&e))?;
        let caps = chosen.caps_to_send();
        let template = peer.element.pad_template("sink_%u").ok_or_else(|| failed(&"no pad template"))?;
        let pad = peer.element.request_pad(&template, None, Some(&caps)).ok_or_else(|| failed(&"no pad"))?;
        let end = chain.static_pad("src").ok_or_else(|| failed(&"no end"))?;
        end.link(&pad).map_err(|e| failed(&e))?;
        for transceiver in peer.transceivers() {
            transceiver.set_direction(Sendonly);
            transceiver.set_codec_preferences(Some(&caps));
            // Lost packets are sent again.
            transceiver.set_property("do-nack", true);
        }
        let clock = MonotonicClock::start();
        let viewer = Self { pipeline, pictures, link, monitor, clock, key_ns: AtomicU64::new(0) };
        viewer.pipeline.set_state(gst::State::Playing).map_err(|e| failed(&e))?;
        let answer = peer.answer(&offer)?;
        Ok((viewer, answer))
    }

    /// Whether there is an answer to `offer` at all, told without making anything.
    pub fn check_offer(offer: &str) -> Result<(), IoError> {
        sdp::choose(offer, Wish::Watch).map(drop)
    }

    /// Whether the peer watches, or may watch yet: the error says why it does not.
    pub fn check(&self) -> Result<(), IoError> {
        self.monitor.check()?;
        self.link.check().map_err(|detail| launch::failed("the viewer", &detail))
    }

    /// Gives it a picture with its format. Never waits: of what the peer has no time for, the newest is kept.
    pub(super) fn show(&self, picture: &gst::Sample) {
        // Until then there is nobody to encode for.
        if !self.link.is_connected() {
            return;
        }
        if let Err(flow) = self.pictures.push_sample(picture) {
            tracing::debug!("a viewer takes nothing: {flow}");
        }
        let (now_ns, due_ns) = (self.clock.now().as_nanos() as u64, self.key_ns.load(Ordering::Relaxed));
        if now_ns >= due_ns {
            self.key_ns.store(now_ns + KEY_FRAMES.as_nanos() as u64, Ordering::Relaxed);
            // The first picture is one anyway, and no event may come before it.
            if due_ns > 0 {
                self.pictures.send_event(gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(true).build());
            }
        }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::debug!("a viewer: {error}");
        }
    }
}

/// From I420 to what `codec` makes of it at `kilobits` a second, as soon as it is made. Key frames come when they are asked for,
/// by the peer or by time.
pub(crate) fn encoder(codec: Codec, kilobits: u64) -> String {
    match codec {
        // Profile and level must be what was offered, and everything plays the constrained baseline.
        Codec::H264 => format!(
            "video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=superfast threads=2 bitrate={kilobits} \
             key-int-max=600 ! video/x-h264,profile=constrained-baseline"
        ),
        Codec::Vp8 | Codec::Vp9 => format!(
            "video/x-raw,format=I420 ! vp8enc deadline=1 cpu-used=8 end-usage=cbr error-resilient=partitions threads=2 \
             keyframe-max-dist=600 target-bitrate={}",
            kilobits * 1000
        ),
    }
}

/// From an encoder to packets of the type `payload`.
pub(crate) fn payloader(codec: Codec, payload: u8) -> String {
    let pay = match codec {
        Codec::H264 => "rtph264pay aggregate-mode=zero-latency config-interval=-1",
        Codec::Vp8 | Codec::Vp9 => "rtpvp8pay picture-id-mode=15-bit",
    };
    format!(
        "{pay} pt={payload} ssrc={SSRC} mtu=1200 ! capsfilter caps=application/x-rtp,media=video,encoding-name={},payload={payload}",
        codec.name()
    )
}
