//! The thread of a session's engine: frames in, pictures out, no waiting but for frames.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::Clock;

use crate::message::{Header, Kind, Reply};
use crate::metrics::StageTimes;
use crate::outbox::Note;
use crate::picture::{Reader, jpeg};
use crate::refusal::Refusal;
use crate::session::{Frame, Pixels, Session};

/// Frames in the stream batch whose headers are remembered: as many as there can be steps times frames in a buffer. A
/// model that swallows more is broken, and its oldest headers are forgotten.
const MOST_IN_FLIGHT: usize = 4096;

/// Works until the session is closed.
pub(crate) fn paint(session: &Arc<Session>, painter: Painter) {
    let times = StageTimes::of(&painter);
    let size = session.size();
    let mut work = Work {
        session,
        has_page: session.outbox.is_read(),
        painter,
        size,
        times,
        reader: Reader::default(),
        in_flight: VecDeque::new(),
        frames: 0,
        quality: None,
    };
    while let Some(frame) = session.inbox.take() {
        if let Some((painter, hot)) = session.next.try_take() {
            (work.times, work.painter, work.size) = (StageTimes::of(&painter), painter, hot.size);
            // What the old engine had in flight is gone with it.
            for _ in work.in_flight.drain(..) {
                session.count_drop();
            }
            session.resized(hot);
        }
        let header = frame.header;
        match work.frame(&frame) {
            Ok(true) => {}
            Ok(false) => session.outbox.note(Note::Binary(Header { kind: Kind::Taken, ..header }.message(&[]))),
            Err(refusal) => {
                session.metrics.errors.inc();
                session.complain(refusal);
                session.drop_frame(header);
            }
        }
    }
}

struct Work<'a> {
    session: &'a Session,
    has_page: bool,
    painter: Painter,
    size: Size,
    times: StageTimes,
    reader: Reader,
    /// Frames that entered the engine and have not left, oldest first: numbers of our own, as a page's may repeat.
    in_flight: VecDeque<(u64, Header)>,
    frames: u64,
    /// As the page knows it.
    quality: Option<(Size, usize)>,
}

impl Work<'_> {
    /// Paints a frame. Tells whether its own picture was among those that left.
    fn frame(&mut self, frame: &Frame) -> Result<bool, Refusal> {
        let Session { clock, counts, metrics, .. } = self.session;
        let started = clock.now();
        let waited = started.saturating_sub(frame.arrived);
        let reader = &mut self.reader;
        let rgb = match &frame.pixels {
            Pixels::Encoded(encoded) => reader.read(encoded, self.size),
            Pixels::Decoded(decoded) => {
                decoded.with_picture(|view| reader.fit(view, self.size)).unwrap_or_else(|error| Err(error.to_string()))
            }
        };
        let rgb = rgb.map_err(Refusal::bare)?;
        let read = clock.now();
        let id = self.frames;
        self.frames += 1;
        if self.in_flight.len() == MOST_IN_FLIGHT {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back((id, frame.header));
        {
            let mut newest = self.session.newest();
            newest.input.clear();
            newest.input.extend_from_slice(rgb);
        }
        let meta = FrameMeta { id, pts_ns: None, duration_ns: None };
        let skipped_before = self.painter.stats().frames_skipped;
        let emitted = match self.painter.step(meta, PictureView::packed(self.size, rgb)) {
            Ok(emitted) => emitted,
            Err(error) => {
                self.in_flight.retain(|(known, _)| *known != id);
                return Err(error.into());
            }
        };
        let stepped = clock.now();
        let mut is_own = false;
        let mut encoding = Duration::ZERO;
        for picture in emitted.iter() {
            let Some(at) = self.in_flight.iter().position(|(known, _)| *known == picture.meta.id) else { continue };
            let Some((id_out, header)) = self.in_flight.remove(at) else { continue };
            is_own |= id_out == id;
            let begun = clock.now();
            self.session
                .audience
                .show(picture.rgb, self.size)
                .map_err(|error| Refusal { what: error.to_string(), hint: error.hint() })?;
            let message: Option<(Header, Bytes)> = if self.has_page {
                let encoded = jpeg(picture.rgb, self.size).map_err(Refusal::bare)?;
                let header = Header { kind: Kind::Picture, ..header };
                Some((header, header.message(&encoded)))
            } else {
                None
            };
            // Counted and kept before it is sent: who has seen a picture finds it in all that the server tells.
            counts.frames_out.fetch_add(1, Ordering::Relaxed);
            metrics.frames_out.inc();
            {
                let mut newest = self.session.newest();
                newest.size = Some(self.size);
                newest.picture.clear();
                newest.picture.extend_from_slice(picture.rgb);
            }
            if let Some((header, message)) = message
                && self.session.outbox.picture(header, message)
            {
                self.session.count_drop();
            }
            encoding += clock.now().saturating_sub(begun);
        }
        let quality = self.painter.quality().map(|quality| (quality.size, quality.steps));
        if let Some((size, steps)) = quality.filter(|_| quality != self.quality) {
            self.session.say(&Reply::Quality { size: size.to_string(), steps });
        }
        self.quality = quality;
        let skipped = self.painter.stats().frames_skipped - skipped_before;
        counts.skipped.fetch_add(skipped, Ordering::Relaxed);
        metrics.frames_skipped.inc_by(skipped);
        self.times.report(&self.painter, metrics);
        for (stage, time) in [("wait", waited), ("read", read.saturating_sub(started)), ("write", encoding)] {
            metrics.observe(stage, time);
        }
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        counts.engine_ns.fetch_add(nanos(stepped.saturating_sub(read)), Ordering::Relaxed);
        counts.wait_ns.fetch_add(nanos(waited), Ordering::Relaxed);
        counts.steps.fetch_add(1, Ordering::Relaxed);
        Ok(is_own)
    }
}
