//! A peer that sends its pictures to us.

use std::sync::Arc;

use gst::prelude::*;
use livediffusion_pipeline::frame::{FrameMeta, Size};

use super::Reach;
use super::asking::ask_until_pictures_come;
use super::link::Link;
use super::peer::Peer;
use super::sdp::{self, Codec, Wish};
use crate::error::IoError;
use crate::input::Fit;
use crate::launch;
use crate::monitor::{Monitor, Side};
use crate::source::{Chain, SourceFrame, running_time};

/// Longest side of a picture that is taken: decoders ask for memory before anybody sees it.
const MOST_SIDE: i32 = 4096;

/// A peer that was let in, from its offer until this is dropped. Dropping it may take a moment: not on a thread that others wait
/// for.
pub struct Publisher {
    pipeline: gst::Pipeline,
    chain: Chain,
    link: Arc<Link>,
    monitor: Arc<Monitor>,
}

impl Publisher {
    /// Answers the `offer` of a peer that sends H.264, VP8 or VP9: `take` gets its pictures, scaled and cropped to `size`, on
    /// a thread of GStreamer's, which it must not hold up. The answer is for the peer. Takes some tenths of a second, and
    /// seconds where a STUN server is slow.
    pub fn answer(
        offer: &str,
        reach: &Reach,
        size: Size,
        take: impl Fn(SourceFrame) + Send + Sync + 'static,
    ) -> Result<(Self, String), IoError> {
        crate::init()?;
        let (offer, chosen) = sdp::choose(offer, Wish::Publish)?;
        let monitor = Monitor::new(Side::Input("the publisher".into()));
        let pipeline = gst::Pipeline::new();
        monitor.watch(&pipeline);
        let failed = |e: &dyn std::fmt::Display| launch::failed("the publisher", e);
        let peer = Peer::new(reach)?;
        let link = Link::watch(&peer.element);
        let chain = Chain::new(size, Fit::Cover)?;
        pipeline.add_many([&peer.element, chain.bin.upcast_ref()]).map_err(|e| failed(&e))?;
        bound_size(&chain, &link);
        hand_out(&chain, take);
        let entry = chain.entry().ok_or_else(|| failed(&"no entry"))?;
        join(&peer.element, &pipeline, &entry, &link);
        peer.expect(&chosen.caps());
        // From here on dropping it takes the pipeline down.
        let publisher = Self { pipeline, chain, link, monitor };
        publisher.pipeline.set_state(gst::State::Playing).map_err(|e| failed(&e))?;
        let answer = peer.answer(&offer)?;
        Ok((publisher, answer))
    }

    /// Whether there is an answer to `offer` at all, told without making anything.
    pub fn check_offer(offer: &str) -> Result<(), IoError> {
        sdp::choose(offer, Wish::Publish).map(drop)
    }

    /// Whether pictures come, or may come yet: the error says why they do not.
    pub fn check(&self) -> Result<(), IoError> {
        self.monitor.check()?;
        self.link.check().map_err(|detail| launch::failed("the publisher", &detail))
    }

    /// Pictures are of another size from now on; some of the old one may be on their way.
    pub fn resize(&self, size: Size) {
        self.chain.resize(size);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::debug!("a publisher: {error}");
        }
    }
}

/// From packets to pictures. Named decoders, so that what a stranger sends meets only what is meant for it.
fn decoder(codec: Codec) -> Result<gst::Bin, IoError> {
    let decode = match codec {
        // Frames on several threads would each be late by as many frames.
        Codec::H264 => "rtph264depay name=depay ! h264parse ! avdec_h264 max-errors=-1 thread-type=slice",
        Codec::Vp8 => "rtpvp8depay name=depay ! vp8dec",
        Codec::Vp9 => "rtpvp9depay name=depay ! vp9dec",
    };
    let bin = launch::bin(
        &format!("{decode} ! queue leaky=downstream max-size-buffers=2 max-size-bytes=0 max-size-time=0"),
        true,
    )?;
    let depay = launch::named::<gst::Element>(&bin, "depay")?;
    // A picture that lost a part is not shown; the peer is asked for a whole one.
    depay.set_property("request-keyframe", true);
    depay.set_property("wait-for-keyframe", true);
    Ok(bin)
}

/// Leads the first stream of pictures, decoded, to `entry` and everything else nowhere.
pub(super) fn join(peer: &gst::Element, pipeline: &gst::Pipeline, entry: &gst::Pad, link: &Arc<Link>) {
    let (pipeline, entry, link) = (pipeline.downgrade(), entry.downgrade(), Arc::downgrade(link));
    peer.connect_pad_added(move |_, pad| {
        let (Some(pipeline), Some(entry), Some(link)) = (pipeline.upgrade(), entry.upgrade(), link.upgrade()) else {
            return;
        };
        if pad.direction() != gst::PadDirection::Src {
            return;
        }
        let heard = Arc::downgrade(&link);
        pad.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
            if let Some(link) = heard.upgrade() {
                link.hear();
            }
            gst::PadProbeReturn::Ok
        });
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let media = caps.structure(0).and_then(|s| s.get::<String>("media").ok());
        let linked = if media.as_deref() == Some("video") && !entry.is_linked() {
            decode(pad, &caps, &pipeline, &entry)
        } else {
            discard(pad, &pipeline)
        };
        if let Err(error) = linked {
            link.refuse(format!("its stream cannot be taken: {error}"));
        }
    });
}

fn decode(pad: &gst::Pad, caps: &gst::CapsRef, pipeline: &gst::Pipeline, entry: &gst::Pad) -> Result<(), String> {
    let name = caps.structure(0).and_then(|s| s.get::<String>("encoding-name").ok()).unwrap_or_default();
    let codec = Codec::named(&name).ok_or(format!("it is in {name}"))?;
    let decoder = decoder(codec).map_err(|e| e.to_string())?;
    pipeline.add(&decoder).map_err(|e| e.to_string())?;
    let end = |name| decoder.static_pad(name).ok_or("no pad");
    end("src")?.link(entry).map_err(|e| e.to_string())?;
    ask_until_pictures_come(pad, &end("src")?);
    decoder.sync_state_with_parent().map_err(|e| e.to_string())?;
    pad.link(&end("sink")?).map(drop).map_err(|e| e.to_string())
}

fn discard(pad: &gst::Pad, pipeline: &gst::Pipeline) -> Result<(), String> {
    let sink = gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build();
    let sink = sink.map_err(|e| e.to_string())?;
    pipeline.add(&sink).map_err(|e| e.to_string())?;
    sink.sync_state_with_parent().map_err(|e| e.to_string())?;
    let entry = sink.static_pad("sink").ok_or("no pad")?;
    pad.link(&entry).map(drop).map_err(|e| e.to_string())
}

/// Ends the link when pictures come that are too large.
fn bound_size(chain: &Chain, link: &Arc<Link>) {
    let Some(entry) = chain.entry() else { return };
    let link = Arc::downgrade(link);
    entry.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view()) else {
            return gst::PadProbeReturn::Ok;
        };
        let side = |name| caps.caps().structure(0).and_then(|s| s.get::<i32>(name).ok()).unwrap_or_default();
        let (width, height) = (side("width"), side("height"));
        if width <= MOST_SIDE && height <= MOST_SIDE {
            return gst::PadProbeReturn::Ok;
        }
        if let Some(link) = link.upgrade() {
            link.refuse(format!("its pictures of {width}x{height} are larger than {MOST_SIDE} pixels"));
        }
        gst::PadProbeReturn::Drop
    });
}

/// Gives every picture away as it comes.
fn hand_out(chain: &Chain, take: impl Fn(SourceFrame) + Send + Sync + 'static) {
    let number = std::sync::atomic::AtomicU64::new(0);
    // Nothing is waited for: a peer may be silent as the pipeline starts.
    chain.pictures.set_property("async", false);
    let new_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
        let Some(info) = sample.caps().and_then(|caps| gst_video::VideoInfo::from_caps(caps).ok()) else {
            return Err(gst::FlowError::NotNegotiated);
        };
        if sample.buffer().is_some_and(|buffer| buffer.flags().contains(gst::BufferFlags::CORRUPTED)) {
            return Ok(gst::FlowSuccess::Ok);
        }
        let id = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let meta = FrameMeta { id, pts_ns: running_time(&sample), duration_ns: None };
        take(SourceFrame::new(meta, sample, info));
        Ok(gst::FlowSuccess::Ok)
    };
    chain.pictures.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
}
