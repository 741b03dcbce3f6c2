//! Putting buffers into a pipeline without waiting for ever.
//!
//! `appsrc` can wait for room by itself, but goes on waiting when the pipeline behind it has failed. So the wait is
//! here, where errors end it.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_utils::sync::Parker;
use gst::prelude::*;

use crate::error::IoError;
use crate::launch;
use crate::monitor::Monitor;

/// How often a wait looks up. Room, errors and the end of the stream wake it at once.
const LOOK_UP: Duration = Duration::from_millis(50);

/// An `appsrc` with room for a few buffers.
pub(crate) struct Feeder {
    source: gst_app::AppSrc,
    monitor: Arc<Monitor>,
    parker: Parker,
    /// Most buffers that wait in the source.
    room: u64,
    /// How long to wait for room before the output counts as stuck.
    patience: Duration,
}

impl Feeder {
    /// Feeds `source` with time-stamped buffers of `caps`, `room` at a time.
    pub(crate) fn new(
        source: gst_app::AppSrc,
        caps: &gst::Caps,
        monitor: &Arc<Monitor>,
        room: u64,
        patience: Duration,
    ) -> Self {
        source.set_caps(Some(caps));
        source.set_format(gst::Format::Time);
        source.set_block(false);
        source.set_max_bytes(0);
        source.set_max_buffers(room);
        let parker = Parker::new();
        monitor.wake(parker.unparker().clone());
        if let Some(pad) = source.static_pad("src") {
            let unparker = parker.unparker().clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                unparker.unpark();
                gst::PadProbeReturn::Ok
            });
        }
        Self { source, monitor: Arc::clone(monitor), parker, room, patience }
    }

    /// When the stream is live, a source that is full forgets its oldest buffer rather than hold up its feeder.
    pub(crate) fn make_live(&self) {
        self.source.set_is_live(true);
        self.source.set_do_timestamp(true);
        self.source.set_leaky_type(gst_app::AppLeakyType::Downstream);
    }

    /// Waits for room and puts `buffer` in.
    pub(crate) fn push(&self, buffer: gst::Buffer) -> Result<(), IoError> {
        let leaky = self.source.leaky_type() != gst_app::AppLeakyType::None;
        let mut waited = Duration::ZERO;
        while !leaky && self.source.current_level_buffers() >= self.room {
            self.check()?;
            if waited >= self.patience {
                return Err(IoError::Stalled { what: self.monitor.what(), seconds: waited.as_secs() });
            }
            self.parker.park_timeout(LOOK_UP);
            waited += LOOK_UP;
        }
        self.check()?;
        self.source
            .push_buffer(buffer)
            .map(|_| ())
            .map_err(|flow| self.monitor.check().err().unwrap_or_else(|| launch::failed(&self.monitor.what(), &flow)))
    }

    /// There will be no more buffers.
    pub(crate) fn end(&self) {
        if let Err(flow) = self.source.end_of_stream() {
            tracing::debug!(output = self.monitor.what(), "ending: {flow}");
        }
    }

    /// Waits until everything has gone through the pipeline. `progress` is any number that changes while it does.
    pub(crate) fn wait_for_end(&self, mut progress: impl FnMut() -> u64) -> Result<(), IoError> {
        let (mut waited, mut last) = (Duration::ZERO, 0);
        loop {
            self.monitor.check()?;
            if self.monitor.ended() {
                return Ok(());
            }
            if waited >= self.patience {
                return Err(IoError::Stalled { what: self.monitor.what(), seconds: waited.as_secs() });
            }
            self.parker.park_timeout(LOOK_UP);
            let now = progress();
            waited = if now == last { waited + LOOK_UP } else { Duration::ZERO };
            last = now;
        }
    }

    fn check(&self) -> Result<(), IoError> {
        self.monitor.check()?;
        if self.monitor.ended() {
            Err(launch::failed(&self.monitor.what(), &"it takes no more pictures"))
        } else {
            Ok(())
        }
    }
}
