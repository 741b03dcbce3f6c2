//! What is to be seen of a stream while its thread paints: how late its pictures are, what its parameters and counts are.

use std::sync::Arc;
use std::time::Duration;

use gst::prelude::*;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::Parameters;
use livediffusion_remote::Servers;

use crate::deadline::Deadline;
use crate::pace::Pace;
use crate::painting::{Handles, Running};

/// How long a frame lasts where the stream does not say: with it, a sink waits too long rather than too short for most cameras.
const FRAME: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// What is to be seen of a stream from outside.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) handles: Option<Handles>,
    pub(super) running: Option<Running>,
    pub(super) info: Option<gst_video::VideoInfo>,
    /// Size of the networks' pictures where nobody asks for one.
    pub(super) fitting: Option<Size>,
    /// The one that they have.
    pub(super) network: Option<Size>,
    /// Whether nobody asks for one.
    pub(super) follows: bool,
    /// Whether the frames come when they are made, and pictures late if they are not waited for.
    pub(super) live: bool,
    /// Of a picture, in frames.
    pub(super) delay: usize,
    pub(super) pace: Pace,
    pub(super) deadline: Deadline,
    /// Frames that were passed over.
    pub(super) dropped: u64,
    /// The latency that the pipeline was told of.
    pub(super) told: gst::ClockTime,
    /// That of the whole pipeline, as it says.
    pub(super) whole: gst::ClockTime,
    pub(super) counts: [u64; 4],
    /// Who runs the U-Net, where that is not done here.
    pub(super) servers: Option<Arc<Servers>>,
    /// It is on its way to READY: what fails now fails because of that.
    pub(super) stops: bool,
}

impl Seen {
    /// How long a frame lasts.
    pub(super) fn frame(&self) -> gst::ClockTime {
        let rate = self.info.as_ref().map(gst_video::VideoInfo::fps).filter(|rate| rate.numer() > 0);
        let frame = rate.and_then(|rate| {
            gst::ClockTime::SECOND.mul_div_round(u64::try_from(rate.denom()).ok()?, u64::try_from(rate.numer()).ok()?)
        });
        frame.unwrap_or(FRAME)
    }

    /// How late a picture is: that of a frame leaves with the last of the frames that it is held for. Each of these takes as long as it
    /// lasts, or as the networks need where that is longer: what comes meanwhile is passed over then, and the freshest that is left may be
    /// a frame old.
    pub(super) fn latency(&self) -> gst::ClockTime {
        let (frame, delay) = (self.frame(), self.delay as u64);
        let work = gst::ClockTime::try_from(self.pace.told()).unwrap_or_default();
        if work > frame { work * delay + frame } else { frame * delay }
    }

    /// How long it takes until a frame that comes now has its picture, with those at hand that have to come after it.
    pub(super) fn work(&self) -> Duration {
        self.pace.expected().saturating_mul(u32::try_from(self.delay).unwrap_or(u32::MAX))
    }

    pub(super) fn parameters(&self) -> Option<Parameters> {
        self.handles.as_ref().map(|handles| handles.control.load().parameters.clone())
    }

    /// As the property has it.
    pub(super) fn stats(&self) -> gst::Structure {
        let [frames_in, frames_out, skipped, failed] = self.counts;
        let mut stats = gst::Structure::builder("stats")
            .field("frames-in", frames_in)
            .field("frames-out", frames_out)
            .field("frames-skipped", skipped)
            .field("frames-failed", failed)
            .field("frames-dropped", self.dropped)
            .build();
        if let Some(Running { provider, precision, lanes }) = &self.running {
            stats.set("provider", provider);
            stats.set("precision", precision);
            stats.set("lanes", *lanes as u32);
        }
        if let Some(size) = self.network {
            stats.set("size", size.to_string());
        }
        stats
    }
}
