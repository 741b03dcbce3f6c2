//! Putting buffers into a pipeline without waiting for ever.
//!
//! `appsrc` can wait for room by itself, but goes on waiting when the pipeline behind it has failed. So the wait is
//! here, where errors end it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_utils::sync::Parker;
use gst::prelude::*;
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use crate::error::IoError;
use crate::monitor::Monitor;
use crate::{launch, lock};

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
    /// Buffers that left the source.
    left: Arc<AtomicU64>,
    /// How many had left, and when, at the last look of a live feeder that found the source full.
    full_since: Mutex<Option<(u64, Duration)>>,
    clock: MonotonicClock,
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
        let left = Arc::<AtomicU64>::default();
        if let Some(pad) = source.static_pad("src") {
            let unparker = parker.unparker().clone();
            let left = Arc::clone(&left);
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                left.fetch_add(1, Ordering::Relaxed);
                unparker.unpark();
                gst::PadProbeReturn::Ok
            });
        }
        let monitor = Arc::clone(monitor);
        let clock = MonotonicClock::start();
        Self { source, monitor, parker, room, patience, left, full_since: Mutex::default(), clock }
    }

    /// When the stream is live, a source that is full forgets its oldest buffer rather than hold up its feeder. With
    /// `stamp`, buffers get the time at which they come in place of their own.
    pub(crate) fn make_live(&self, stamp: bool) {
        self.source.set_is_live(true);
        self.source.set_do_timestamp(stamp);
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
        if leaky {
            self.check_that_it_moves()?;
        }
        self.source
            .push_buffer(buffer)
            .map(|_| ())
            .map_err(|flow| self.monitor.check().err().unwrap_or_else(|| launch::failed(&self.monitor.what(), &flow)))
    }

    /// Sends an event after the buffers that are in.
    pub(crate) fn send(&self, event: gst::Event) {
        if !self.source.send_event(event) {
            tracing::trace!(output = self.monitor.what(), "an event was not taken");
        }
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

    /// A live source that is full and stays full leads to nobody: the network has stalled without saying so.
    fn check_that_it_moves(&self) -> Result<(), IoError> {
        let (left, now) = (self.left.load(Ordering::Relaxed), self.clock.now());
        let mut since = lock(&self.full_since);
        if self.source.current_level_buffers() < self.room {
            *since = None;
            return Ok(());
        }
        match *since {
            Some((then, start)) if then == left => {
                let waited = now.saturating_sub(start);
                if waited >= self.patience {
                    return Err(IoError::Stalled { what: self.monitor.what(), seconds: waited.as_secs() });
                }
            }
            _ => *since = Some((left, now)),
        }
        Ok(())
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
