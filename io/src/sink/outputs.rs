//! Several outputs at once, each with a fate of its own: one that fails leaves the others alone, and a network stream
//! that was lost is opened again while the others go on.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use livediffusion_pipeline::frame::{FrameMeta, Size};
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use super::{SinkOptions, VideoSink};
use crate::aside;
use crate::audio::{AudioTrack, Hub};
use crate::error::IoError;
use crate::launch;
use crate::output::Output;
use crate::retry::Retry;

/// How long a stream must have run before it counts as there: servers refuse only after the first bytes.
const SETTLED: Duration = Duration::from_secs(2);

/// What is wanted of the outputs together.
#[derive(Debug)]
pub struct OutputsOptions {
    /// As [`SinkOptions::size`].
    pub size: Size,
    /// As [`SinkOptions::framerate`].
    pub framerate: Option<(u32, u32)>,
    /// As [`SinkOptions::live`].
    pub live: bool,
    /// The source's sound, which every output that can takes.
    pub audio: Option<AudioTrack>,
    /// How live streams that are lost are opened again; `None` leaves them lost.
    pub retry: Option<Retry>,
}

/// One output and where it stands.
struct Member {
    output: Output,
    state: State,
    /// Attempts since it was last there.
    attempts: u32,
    /// Whether its loss was told.
    lost: bool,
    /// Whether it ever was there.
    settled: bool,
}

enum State {
    Open {
        sink: Box<VideoSink>,
        since: Duration,
    },
    Waiting {
        until: Duration,
    },
    Opening(Receiver<Result<Box<VideoSink>, IoError>>),
    /// For good: the user closed it, or it failed.
    Over(IoError),
}

/// Opened outputs. Dropping them without [`finish`](Self::finish) leaves no file behind.
pub struct Outputs {
    members: Vec<Member>,
    options: Reopen,
    retry: Option<Retry>,
    clock: MonotonicClock,
}

/// What it takes to open an output again.
#[derive(Clone)]
struct Reopen {
    size: Size,
    framerate: Option<(u32, u32)>,
    live: bool,
    sound: Option<Arc<Hub>>,
}

impl Reopen {
    fn options(&self) -> SinkOptions {
        let audio = self.sound.as_ref().map(AudioTrack::listen);
        SinkOptions { size: self.size, framerate: self.framerate, live: self.live, audio, overwrite: true }
    }
}

impl Outputs {
    /// Opens all of `outputs`; what cannot be opened at the start is an error.
    pub fn open(outputs: &[Output], options: OutputsOptions) -> Result<Self, IoError> {
        let OutputsOptions { size, framerate, live, audio, retry } = options;
        let clock = MonotonicClock::start();
        let options = Reopen { size, framerate, live, sound: audio.as_ref().map(AudioTrack::hub) };
        // All listen before the first output takes packets: none misses the beginning.
        let ready: Vec<_> = outputs.iter().map(|output| (output, options.options())).collect();
        drop(audio);
        let open = |(output, options): (&Output, SinkOptions)| {
            let sink = Box::new(VideoSink::open(output, options)?);
            Ok(Member::new(output.clone(), sink, clock.now()))
        };
        let members = ready.into_iter().map(open).collect::<Result<_, IoError>>()?;
        Ok(Self { members, options, retry: retry.filter(|_| live), clock })
    }

    /// Gives the next picture to all: `rgb` is interleaved, without gaps between rows. Fails once none takes pictures any
    /// more: with the failure of one of them, or because the user closed them all.
    pub fn push(&mut self, meta: FrameMeta, rgb: &[u8]) -> Result<(), IoError> {
        let (now, alone) = (self.clock.now(), self.members.len() == 1);
        for member in &mut self.members {
            member.try_again(now, &self.options, self.retry);
            let State::Open { sink, since } = &mut member.state else { continue };
            match sink.push(meta, rgb) {
                Ok(()) if now.saturating_sub(*since) >= SETTLED => member.settle(),
                Ok(()) => {}
                Err(error) => member.fail(error, now, self.retry, alone),
            }
        }
        self.check()
    }

    fn check(&self) -> Result<(), IoError> {
        let over = |member: &Member| match &member.state {
            State::Over(error) => Some(error.clone()),
            _ => None,
        };
        let Some(errors) = self.members.iter().map(over).collect::<Option<Vec<_>>>() else { return Ok(()) };
        let closed = |error: &IoError| matches!(error, IoError::WindowClosed);
        // A failure tells more than a window that was closed.
        let first = errors.iter().find(|error| !closed(error)).or(errors.first());
        first.map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Finishes every output that is open. The first failure is told, of this or of before, once all are done.
    pub fn finish(self) -> Result<(), IoError> {
        let mut first = None;
        for member in self.members {
            let result = match member.state {
                State::Open { sink, .. } => match sink.finish() {
                    Err(error) if self.options.live && member.output.may_return() => {
                        tracing::warn!("{error}; its end may be missing there");
                        Ok(())
                    }
                    result => result.map(drop),
                },
                State::Over(error) => Err(error),
                State::Waiting { .. } | State::Opening(_) => Ok(()),
            };
            match result {
                Ok(()) | Err(IoError::WindowClosed) => {}
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        aside::settle();
        first.map_or(Ok(()), Err)
    }

    /// Whether all of them are there: none is lost or waited for.
    pub fn all_open(&self) -> bool {
        self.members.iter().all(|member| matches!(member.state, State::Open { .. }))
    }
}

impl From<VideoSink> for Outputs {
    fn from(sink: VideoSink) -> Self {
        let clock = MonotonicClock::start();
        let options = Reopen { size: sink.size, framerate: None, live: false, sound: None };
        // Never opened again, so that what it is called does not matter.
        let output = Output::Fragment(String::new());
        let members = vec![Member::new(output, Box::new(sink), clock.now())];
        Self { members, options, retry: None, clock }
    }
}

impl Member {
    fn new(output: Output, sink: Box<VideoSink>, now: Duration) -> Self {
        Self { output, state: State::Open { sink, since: now }, attempts: 0, lost: false, settled: false }
    }

    /// It has run for a while.
    fn settle(&mut self) {
        if self.lost {
            tracing::warn!("{} is back", self.output);
        }
        (self.lost, self.settled, self.attempts) = (false, true, 0);
    }

    fn fail(&mut self, error: IoError, now: Duration, retry: Option<Retry>, alone: bool) {
        let retry = retry.filter(|_| self.output.may_return());
        // An only output that never was there is a mistake in its address.
        let Some(retry) = retry.filter(|_| self.settled || !alone) else {
            if !alone && !matches!(error, IoError::WindowClosed) {
                tracing::warn!("{error}; the other outputs go on");
            }
            self.state = State::Over(error);
            return;
        };
        if !self.lost {
            tracing::warn!("{error}; it is opened again when it answers");
        }
        self.lost = true;
        // Dropping the sink takes its pipeline down, which may wait for the network: not here.
        let old = std::mem::replace(&mut self.state, State::Waiting { until: now + retry.pause(self.attempts) });
        drop(aside::spawn("io-closing", move || drop(old)));
        self.attempts += 1;
    }

    /// Opens a lost output again when its time has come.
    fn try_again(&mut self, now: Duration, options: &Reopen, retry: Option<Retry>) {
        let Some(retry) = retry else { return };
        match &self.state {
            State::Waiting { until } if now >= *until => {
                let (sender, receiver) = crossbeam_channel::bounded(1);
                let (output, options) = (self.output.clone(), options.clone());
                let open = move || {
                    // Nobody receives it where the run has ended meanwhile: then it is dropped here.
                    let _ = sender.send(VideoSink::open(&output, options.options()).map(Box::new));
                };
                self.state = match aside::spawn("io-opening", open) {
                    Ok(()) => State::Opening(receiver),
                    Err(_) => State::Waiting { until: now + retry.longest },
                };
            }
            State::Opening(receiver) => match receiver.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok(sink)) => self.state = State::Open { sink, since: now },
                Ok(Err(error)) => self.fail(error, now, Some(retry), false),
                Err(TryRecvError::Disconnected) => {
                    let error = launch::failed(&self.output.to_string(), &"the thread that opens it panicked");
                    self.fail(error, now, Some(retry), false);
                }
            },
            _ => {}
        }
    }
}
