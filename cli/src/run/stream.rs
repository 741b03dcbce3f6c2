//! The loop between source, engine and sink.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livediffusion_io::{IoError, Next, Outputs, VideoSource, abandon_outputs};
use livediffusion_pipeline::Emitted;
use livediffusion_pipeline::frame::FrameMeta;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};

use super::progress::Progress;
use crate::failure::{Failure, Outcome, RUNNING};

/// How long the source is waited for before the loop looks whether it shall stop: what Ctrl-C waits at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the engine's frames come from.
pub(crate) enum Frames {
    /// Pictures of a source.
    Video(Box<VideoSource>),
    /// Noise: this many frames, so long apart.
    Noise { left: u64, next: u64, interval_ns: u64 },
}

impl Frames {
    pub(crate) fn noise(count: u64, (numerator, denominator): (u32, u32)) -> Self {
        let interval_ns = 1_000_000_000 * u64::from(denominator) / u64::from(numerator);
        Self::Noise { left: count, next: 0, interval_ns }
    }
}

/// What the loop counted beside the engine's own statistics.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Live frames that were overwritten before the engine took them.
    pub(crate) dropped: u64,
    /// Frames that decoded badly and were passed over.
    pub(crate) corrupt: u64,
    /// From the clock's start to the first picture.
    pub(crate) time_to_first_frame: Option<Duration>,
    /// From the first frame's arrival to the last picture's departure.
    pub(crate) streaming: Duration,
    /// Whether the user stopped it.
    pub(crate) stopped: bool,
}

/// A flag that Ctrl-C and the termination signal raise. A second Ctrl-C ends the program at once.
pub(crate) fn stop_on_ctrl_c() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            #[allow(clippy::exit, reason = "the user asked twice: finishing the file is not wanted any more")]
            {
                abandon_outputs();
                std::process::exit(130);
            }
        }
        let _ = writeln!(std::io::stderr(), "\nfinishing; press Ctrl-C again to stop at once");
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::new(RUNNING, format!("cannot catch Ctrl-C: {error}")))?;
    Ok(stop)
}

/// The loop's surroundings.
pub(crate) struct Stream<'a> {
    pub(crate) clock: &'a MonotonicClock,
    /// Ends the loop when raised.
    pub(crate) stop: &'a AtomicBool,
    pub(crate) progress: &'a Progress,
    /// Called with each frame before it enters the engine.
    pub(crate) before_frame: &'a mut dyn FnMut(FrameMeta),
}

impl Stream<'_> {
    /// Takes every frame through the painter to the outputs, and finishes them. On an error their temporary files are
    /// removed and nothing is left under the final name, but for a live source that fails: its recording is finished.
    pub(crate) fn run(
        &mut self,
        painter: &mut Painter,
        mut frames: Frames,
        sinks: impl Into<Outputs>,
    ) -> Outcome<Counts> {
        let mut sinks = sinks.into();
        let mut counts = Counts::default();
        // A window that is closed ends the stream as the user wished: it is no failure.
        let (mut begun, mut closed) = (None, false);
        // What a live source gave before it failed cannot be had again: it is kept, and the error comes after it.
        let mut lost = None;
        while !self.stop.load(Ordering::Relaxed) {
            let emitted = match &mut frames {
                Frames::Video(source) => match source.next(PATIENCE) {
                    Err(error) if source.info().live && begun.is_some() => {
                        lost = Some(error);
                        break;
                    }
                    Err(error) => return Err(error.into()),
                    Ok(Next::Frame(frame)) => {
                        begun.get_or_insert_with(|| self.clock.now());
                        (self.before_frame)(frame.meta());
                        frame.with_picture(|picture| painter.step(frame.meta(), picture))??
                    }
                    Ok(Next::TimedOut) => continue,
                    Ok(Next::End) => break,
                },
                Frames::Noise { left: 0, .. } => break,
                Frames::Noise { left, next, interval_ns } => {
                    let pts_ns = Some(*next * *interval_ns);
                    let meta = FrameMeta { id: *next, pts_ns, duration_ns: Some(*interval_ns) };
                    *left -= 1;
                    *next += 1;
                    begun.get_or_insert_with(|| self.clock.now());
                    painter.generate(meta)?
                }
            };
            match self.push(emitted, &mut sinks, &mut counts) {
                Err(IoError::WindowClosed) => {
                    closed = true;
                    break;
                }
                pushed => pushed?,
            }
        }
        counts.stopped = self.stop.load(Ordering::Relaxed);
        if !closed {
            match self.push(painter.flush()?, &mut sinks, &mut counts) {
                Ok(()) | Err(IoError::WindowClosed) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let now = self.clock.now();
        counts.streaming = now.saturating_sub(begun.unwrap_or(now));
        if let Frames::Video(source) = &frames {
            counts.dropped = source.dropped();
            counts.corrupt = source.corrupt();
        }
        // Before the sink finishes: sound still under way belongs to a video that ends here.
        drop(frames);
        match sinks.finish() {
            Ok(()) | Err(IoError::WindowClosed) => {}
            Err(error) => return Err(error.into()),
        }
        match lost {
            Some(error) => Err(Failure::from(error).after(painter.stats().frames_out)),
            None => Ok(counts),
        }
    }

    fn push(&self, emitted: Emitted<'_>, sinks: &mut Outputs, counts: &mut Counts) -> Result<(), IoError> {
        for picture in emitted.iter() {
            sinks.push(picture.meta, picture.rgb)?;
            counts.time_to_first_frame.get_or_insert_with(|| self.clock.now());
            self.progress.advance();
        }
        Ok(())
    }
}
