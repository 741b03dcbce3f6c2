//! The loop between source, engine and sink.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livediffusion_io::{IoError, LiveNext, LiveSource, Next, Outputs, SourceFrame, VideoSource, abandon_outputs};
use livediffusion_pipeline::frame::FrameMeta;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_pipeline::{Emitted, EngineError};
use livediffusion_remote::GIVEN_UP;

use super::{pack_into, snapshot};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::live::desk::{Desk, Shown};
use crate::live::{restore_terminal, tell};
use crate::progress::Progress;

/// How long the source is waited for before the loop looks whether it shall stop: what Ctrl-C waits at most.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the engine's frames come from.
pub(crate) enum Frames {
    /// Pictures of a source.
    Video(Box<VideoSource>),
    /// Pictures of a live source that may be lost and come back.
    Live(Box<LiveSource>),
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
    /// How often the live source was lost.
    pub(crate) losses: u64,
    /// How often the input came to its end and began again.
    pub(crate) passes_ended: u64,
    /// Whether the user stopped it.
    pub(crate) stopped: bool,
}

/// The outputs, and what they were given last.
struct Screen {
    sinks: Outputs,
    counts: Counts,
    /// The last picture, for when there is no new one; empty before the first.
    last: Vec<u8>,
    /// Whether it is worth keeping.
    keep: bool,
    shown: Shown,
    /// A network failed.
    is_broken: bool,
    /// It did because nobody waited for its server any more.
    was_given_up: bool,
}

/// What became of a turn of the loop.
enum Turn {
    On,
    /// Nobody looks any more.
    Closed,
    /// There is no more.
    End,
    /// A live source failed: what there is of it is kept.
    Lost(Failure),
}

impl Screen {
    /// What the networks gave.
    fn painted<'a>(&mut self, painted: Result<Emitted<'a>, EngineError>) -> Outcome<Emitted<'a>> {
        painted.map_err(|error| {
            self.is_broken = true;
            self.was_given_up = error.to_string().contains(GIVEN_UP);
            error.into()
        })
    }

    /// Shows the last picture once more.
    fn repeat(&mut self, meta: FrameMeta) -> Outcome<bool> {
        if self.last.is_empty() { Ok(true) } else { open(self.sinks.push(meta, &self.last)) }
    }
}

/// How long a source that did not end may still give the sound of its last pictures.
const SOUND_PATIENCE: Duration = Duration::from_secs(5);

/// Finishes the outputs. A file has sound left that belongs to its pictures, or goes on behind them, so that it is closed after them; one
/// that was left before its end is closed when no more of it may come. Of a device the sound would never end.
fn finish(sinks: Outputs, mut frames: Frames) -> Result<(), IoError> {
    let (is_device, has_ended) = match &mut frames {
        Frames::Video(source) => (source.info().live && !source.is_paced(), source.has_ended()),
        Frames::Live(source) => {
            source.finish();
            (!source.is_looped(), source.has_ended())
        }
        Frames::Noise { .. } => (true, false),
    };
    if is_device && !has_ended {
        drop(frames);
        return sinks.finish();
    }
    std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::sync_channel::<()>(1);
        scope.spawn(move || {
            // Either way it is over: the outputs are finished and `done` is gone, or nothing is waited for any more.
            let _ = if has_ended { is_done.recv().ok() } else { is_done.recv_timeout(SOUND_PATIENCE).ok() };
            drop(frames);
        });
        let finished = sinks.finish();
        drop(done);
        finished
    })
}

/// Whether the outputs are still open: windows that were closed end the stream as the user wished, which is no failure.
fn open(pushed: Result<(), IoError>) -> Outcome<bool> {
    match pushed {
        Ok(()) => Ok(true),
        Err(IoError::WindowClosed) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A flag that Ctrl-C and the termination signal raise. A second Ctrl-C ends the program at once.
pub(crate) fn stop_on_ctrl_c() -> Outcome<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            #[allow(clippy::exit, reason = "the user asked twice: finishing the file is not wanted any more")]
            {
                restore_terminal();
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
    /// What a person at the keyboard switches.
    pub(crate) desk: Option<&'a Desk>,
}

impl Stream<'_> {
    /// Takes every frame through the painter to the outputs, and finishes them. On an error their temporary files are
    /// removed and nothing is left under the final name, but for a live source or its networks that fail: its recording is finished.
    pub(crate) fn run(
        &mut self,
        painter: &mut Painter,
        mut frames: Frames,
        sinks: impl Into<Outputs>,
    ) -> Outcome<Counts> {
        let keep = self.desk.is_some() || matches!(frames, Frames::Live(_));
        let is_live = match &frames {
            Frames::Video(source) => source.info().live,
            Frames::Live(source) => source.info().live,
            Frames::Noise { .. } => false,
        };
        let mut screen = Screen {
            sinks: sinks.into(),
            counts: Counts::default(),
            last: Vec::new(),
            keep,
            shown: Shown::default(),
            is_broken: false,
            was_given_up: false,
        };
        let (mut begun, mut closed) = (None, false);
        // What a live source gave before it or a network failed cannot be had again: it is kept, and the error comes after it.
        let mut lost = None;
        while !self.stop.load(Ordering::Relaxed) {
            match self.turn(painter, &mut frames, &mut screen, &mut begun) {
                Ok(Turn::On) => {}
                Ok(Turn::Closed) => {
                    closed = true;
                    break;
                }
                Ok(Turn::End) => break,
                Ok(Turn::Lost(failure)) => {
                    lost = Some(failure);
                    break;
                }
                Err(failure) => {
                    lost = self.survives(failure, is_live, &screen)?;
                    break;
                }
            }
        }
        screen.counts.stopped = self.stop.load(Ordering::Relaxed);
        // Also where nobody sees the last pictures: with them come the stage times.
        if !screen.is_broken {
            match screen.painted(painter.flush()) {
                Ok(last) if !closed => drop(self.push(last, &mut screen)?),
                Ok(_) => {}
                Err(failure) => lost = lost.or(self.survives(failure, is_live, &screen)?),
            }
        }
        let Screen { sinks, mut counts, .. } = screen;
        let now = self.clock.now();
        counts.streaming = now.saturating_sub(begun.unwrap_or(now));
        match &frames {
            Frames::Video(source) => (counts.dropped, counts.corrupt) = (source.dropped(), source.corrupt()),
            Frames::Live(source) => {
                (counts.dropped, counts.corrupt) = (source.dropped(), source.corrupt());
                (counts.losses, counts.passes_ended) = (source.losses(), source.passes_ended());
            }
            Frames::Noise { .. } => {}
        }
        let finished = open(finish(sinks, frames));
        match (lost, finished) {
            (Some(failure), finished) => {
                if let Err(other) = finished {
                    tracing::warn!("{}", other.message());
                }
                Err(failure.after(painter.stats().frames_out))
            }
            (None, finished) => finished.map(|_| counts),
        }
    }

    /// Whether the outputs are finished all the same where a turn failed: with that error behind them, or without any where a network was
    /// given up at the user's wish. Else the error.
    fn survives(&self, failure: Failure, is_live: bool, screen: &Screen) -> Outcome<Option<Failure>> {
        let has_pictures = screen.counts.time_to_first_frame.is_some();
        if !screen.is_broken {
            return Err(failure);
        }
        if self.stop.load(Ordering::Relaxed) && screen.was_given_up {
            return Ok(None);
        }
        if is_live && has_pictures { Ok(Some(failure)) } else { Err(failure) }
    }

    /// What the source gives next, and what becomes of it.
    fn turn(
        &mut self,
        painter: &mut Painter,
        frames: &mut Frames,
        screen: &mut Screen,
        begun: &mut Option<Duration>,
    ) -> Outcome<Turn> {
        let open = match frames {
            Frames::Video(source) => match source.next(PATIENCE) {
                Err(error) if source.info().live && begun.is_some() => return Ok(Turn::Lost(error.into())),
                Err(error) => return Err(error.into()),
                Ok(Next::Frame(frame)) => {
                    begun.get_or_insert_with(|| self.clock.now());
                    self.frame(painter, &frame, screen)?
                }
                Ok(Next::TimedOut) => self.push(screen.painted(painter.ready())?, screen)?,
                Ok(Next::End) => return Ok(Turn::End),
            },
            Frames::Live(source) => match source.next(PATIENCE) {
                LiveNext::Frame(frame) => {
                    begun.get_or_insert_with(|| self.clock.now());
                    self.frame(painter, &frame, screen)?
                }
                // Frames in flight leave before the last of them is shown again.
                LiveNext::Away(meta) => self.push(screen.painted(painter.flush())?, screen)? && screen.repeat(meta)?,
                LiveNext::TimedOut => self.push(screen.painted(painter.ready())?, screen)?,
                LiveNext::End => return Ok(Turn::End),
                LiveNext::Failed(error) if source.info().live && begun.is_some() => {
                    return Ok(Turn::Lost(error.into()));
                }
                LiveNext::Failed(error) => return Err(error.into()),
            },
            Frames::Noise { left: 0, .. } => return Ok(Turn::End),
            Frames::Noise { left, next, interval_ns } => {
                let pts_ns = Some(*next * *interval_ns);
                let meta = FrameMeta { id: *next, pts_ns, duration_ns: Some(*interval_ns) };
                *left -= 1;
                *next += 1;
                begun.get_or_insert_with(|| self.clock.now());
                self.push(screen.painted(painter.generate(meta))?, screen)?
            }
        };
        Ok(if open { Turn::On } else { Turn::Closed })
    }

    /// Shows what is wanted of a frame: what becomes of it, itself, or the picture before. Gives whether anyone looks.
    fn frame(&mut self, painter: &mut Painter, frame: &SourceFrame, screen: &mut Screen) -> Outcome<bool> {
        let shown = self.desk.map_or(Shown::Painted, Desk::shown);
        let meta = frame.meta();
        let mut open = true;
        if shown != Shown::Painted && screen.shown == Shown::Painted {
            // Those in flight are older than what is shown from here on.
            open = self.push(screen.painted(painter.flush())?, screen)?;
        }
        screen.shown = shown;
        if shown == Shown::Painted || screen.last.is_empty() {
            (self.before_frame)(meta);
            let emitted = screen.painted(frame.with_picture(|picture| painter.step(meta, picture))?)?;
            open &= self.push(emitted, screen)?;
        } else {
            if shown == Shown::Input {
                frame.with_picture(|picture| pack_into(picture, &mut screen.last))?;
            }
            open &= screen.repeat(meta)?;
            self.progress.advance();
        }
        if let Some(desk) = self.desk.filter(|desk| !screen.last.is_empty() && desk.take_snapshot()) {
            let size = frame.with_picture(|picture| picture.size)?;
            match snapshot::save(Path::new(""), size, &screen.last, &desk.control.load().parameters) {
                Ok(path) => tell(format_args!("{}", path.display())),
                Err(failure) => tracing::warn!("no snapshot: {}", failure.message()),
            }
        }
        Ok(open)
    }

    fn push(&self, emitted: Emitted<'_>, screen: &mut Screen) -> Outcome<bool> {
        for picture in emitted.iter() {
            if !open(screen.sinks.push(picture.meta, picture.rgb))? {
                return Ok(false);
            }
            screen.counts.time_to_first_frame.get_or_insert_with(|| self.clock.now());
            self.progress.advance();
            if screen.keep {
                screen.last.clear();
                screen.last.extend_from_slice(picture.rgb);
            }
        }
        Ok(true)
    }
}
