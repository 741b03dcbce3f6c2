//! A stream, however its work is divided among the cores.

use crate::adaptive::{Adaptive, Quality};
use crate::device::DeviceStream;
use crate::emitted::Emitted;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView, Size};
use crate::lanes::Lanes;
use crate::model::Networks;
use crate::params::Parameters;
use crate::resizable::Resizable;
use crate::stats::Stats;

/// One engine with all cores on one frame, or one frame a core.
// An engine is large, but there is one for a whole stream: a box would gain nothing.
#[allow(clippy::large_enum_variant, reason = "made once for a stream and never moved on the frame path")]
pub enum Painter {
    /// All cores on one frame: the least delay.
    Whole(Engine),
    /// One frame a core: the most frames.
    Lanes(Lanes),
    /// All of a frame's work on a device.
    Device(Box<dyn DeviceStream>),
    /// All cores on one frame, at a rate that is held by giving up quality.
    Adaptive(Box<Adaptive>),
    /// One of the others, whose networks may change their size.
    Resizable(Box<Resizable>),
}

impl Painter {
    /// See [`Engine::step`].
    ///
    /// # Errors
    /// As there.
    pub fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError> {
        match self {
            Self::Whole(engine) => engine.step(meta, picture),
            Self::Lanes(lanes) => lanes.step(meta, picture),
            Self::Device(device) => device.step(meta, picture),
            Self::Adaptive(adaptive) => adaptive.step(meta, picture),
            Self::Resizable(stream) => stream.step(meta, picture),
        }
    }

    /// See [`Engine::generate`].
    ///
    /// # Errors
    /// As there.
    pub fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError> {
        match self {
            Self::Whole(engine) => engine.generate(meta),
            Self::Lanes(lanes) => lanes.generate(meta),
            Self::Device(device) => device.generate(meta),
            Self::Adaptive(adaptive) => adaptive.generate(meta),
            Self::Resizable(stream) => stream.generate(meta),
        }
    }

    /// The pictures that became ready since the last call, without a new frame: for a source that pauses.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn ready(&mut self) -> Result<Emitted<'_>, EngineError> {
        match self {
            Self::Whole(engine) => Ok(engine.nothing()),
            Self::Lanes(lanes) => lanes.ready(),
            Self::Device(device) => device.ready(),
            Self::Adaptive(adaptive) => Ok(adaptive.nothing()),
            Self::Resizable(stream) => stream.ready(),
        }
    }

    /// See [`Engine::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&mut self) -> Result<Emitted<'_>, EngineError> {
        match self {
            Self::Whole(engine) => engine.flush(),
            Self::Lanes(lanes) => lanes.flush(),
            Self::Device(device) => device.flush(),
            Self::Adaptive(adaptive) => adaptive.flush(),
            Self::Resizable(stream) => stream.flush(),
        }
    }

    /// What happened so far.
    pub fn stats(&self) -> &Stats {
        match self {
            Self::Whole(engine) => engine.stats(),
            Self::Lanes(lanes) => lanes.stats(),
            Self::Device(device) => device.stats(),
            Self::Adaptive(adaptive) => adaptive.stats(),
            Self::Resizable(stream) => stream.stats(),
        }
    }

    /// Frames that are worked on at once.
    pub fn lanes(&self) -> usize {
        match self {
            Self::Whole(_) | Self::Adaptive(_) => 1,
            Self::Lanes(lanes) => lanes.count(),
            Self::Device(device) => device.lanes(),
            Self::Resizable(stream) => stream.lanes(),
        }
    }

    /// What is done to hold a frame rate, where one was asked for.
    pub fn quality(&self) -> Option<Quality> {
        match self {
            Self::Whole(_) | Self::Lanes(_) | Self::Device(_) => None,
            Self::Adaptive(adaptive) => Some(adaptive.quality()),
            Self::Resizable(stream) => stream.quality(),
        }
    }

    /// Lets the networks see their shapes: the first call prepares them, which takes many frames' time. Grey frames pass,
    /// whose pictures nobody gets; they are counted.
    ///
    /// # Errors
    /// A network that cannot run at this size.
    pub fn warm_up(&mut self, size: Size, parameters: &Parameters, is_generating: bool) -> Result<(), EngineError> {
        let grey = vec![128; if is_generating { 0 } else { 3 * size.pixels() }];
        let meta = FrameMeta { id: u64::MAX, ..FrameMeta::default() };
        for _ in 0..parameters.t_index.len() * parameters.frame_buffer * self.lanes() {
            if is_generating {
                self.generate(meta)?;
            } else {
                self.step(meta, PictureView::packed(size, &grey))?;
            }
        }
        self.flush().map(drop)
    }

    /// Ends the stream and gives its networks back, one set a lane; none where they are on a device, a frame rate was held or the
    /// size may change.
    pub fn into_networks(self) -> Vec<Networks> {
        match self {
            Self::Whole(engine) => vec![engine.into_networks()],
            Self::Lanes(lanes) => lanes.into_networks(),
            Self::Device(_) | Self::Adaptive(_) | Self::Resizable(_) => Vec::new(),
        }
    }
}
