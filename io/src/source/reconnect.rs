//! A live input that is opened again when it is lost, while its reader goes on.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use livediffusion_pipeline::frame::FrameMeta;
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use super::{Next, SourceFrame, SourceInfo, SourceOptions, VideoSource};
use crate::aside;
use crate::audio::{AudioTrack, Hub};
use crate::error::IoError;
use crate::input::Input;
use crate::launch;
use crate::retry::Retry;

/// How often the last picture is to be shown again while the input is away: sinks that get none for seconds are closed by
/// those who watch, and more would keep an encoder busy with nothing.
const REPEAT: Duration = Duration::from_millis(200);

/// How far a stream that came back begins behind what was handed out before.
const STEP_NS: u64 = 1_000_000;

/// How long an input must have been here for its next loss to be a new one.
const SETTLED: Duration = Duration::from_secs(5);

/// What [`LiveSource::next`] ended with.
#[derive(Debug)]
pub enum LiveNext {
    /// The next frame.
    Frame(SourceFrame),
    /// The input is away: show the last picture again, at this time.
    Away(FrameMeta),
    /// Nothing came in the time given; ask again.
    TimedOut,
    /// There are no more.
    End,
}

type Opened = Result<Box<VideoSource>, IoError>;

enum State {
    Here(Box<VideoSource>),
    /// Until the next attempt.
    Waiting {
        until: Duration,
    },
    Opening(Receiver<Opened>),
    Over,
}

/// A live input that survives its own failures: cameras that are unplugged, servers that go, networks that stall.
///
/// Times go on over a loss: a frame after it is as much later than the frame before it as it came later.
pub struct LiveSource {
    input: Input,
    options: SourceOptions,
    retry: Retry,
    clock: MonotonicClock,
    info: SourceInfo,
    state: State,
    attempts: u32,
    losses: u64,
    away: bool,
    lost_at: Duration,
    back_at: Duration,
    /// The sound of the first connection, which those of later ones continue.
    sound: Option<Arc<Hub>>,
    audio: Option<AudioTrack>,
    /// Frames handed out.
    frames: u64,
    first_pts_ns: Option<u64>,
    /// The latest time handed out, and when.
    last: Option<(u64, Duration)>,
    /// Added to the input's own times; measured at the first frame of each connection.
    shift_ns: Option<i64>,
    repeated_at: Duration,
    dropped: u64,
    corrupt: u64,
}

impl LiveSource {
    /// Takes over an opened `source`, to open `input` again with the same `options` whenever it is lost.
    pub fn new(source: VideoSource, input: Input, options: &SourceOptions, retry: Retry) -> Self {
        let mut source = Box::new(source);
        let audio = source.take_audio();
        let sound = audio.as_ref().map(AudioTrack::hub);
        if let Some(sound) = &sound {
            sound.expect_return(true);
        }
        // Limits are of the whole stream, which may be made of several connections.
        (source.options.max_frames, source.options.max_duration_ns) = (None, None);
        source.options.patience = options.patience;
        Self {
            input,
            options: SourceOptions { live: Some(true), ..options.clone() },
            retry,
            clock: MonotonicClock::start(),
            info: source.info().clone(),
            state: State::Here(source),
            attempts: 0,
            losses: 0,
            away: false,
            lost_at: Duration::ZERO,
            back_at: Duration::ZERO,
            sound,
            audio,
            frames: 0,
            first_pts_ns: None,
            last: None,
            shift_ns: Some(0),
            repeated_at: Duration::ZERO,
            dropped: 0,
            corrupt: 0,
        }
    }

    /// What the input said of itself at first.
    pub const fn info(&self) -> &SourceInfo {
        &self.info
    }

    /// As [`VideoSource::take_audio`]; the sound goes on when the input comes back.
    pub fn take_audio(&mut self) -> Option<AudioTrack> {
        self.audio.take()
    }

    /// As [`VideoSource::dropped`], of all connections.
    pub fn dropped(&self) -> u64 {
        self.dropped + self.here().map_or(0, VideoSource::dropped)
    }

    /// As [`VideoSource::corrupt`], of all connections.
    pub fn corrupt(&self) -> u64 {
        self.corrupt + self.here().map_or(0, VideoSource::corrupt)
    }

    /// How often the input was lost.
    pub const fn losses(&self) -> u64 {
        self.losses
    }

    fn here(&self) -> Option<&VideoSource> {
        if let State::Here(source) = &self.state { Some(source) } else { None }
    }

    /// Waits up to `timeout` for the next frame, or for the time to show the last one again.
    pub fn next(&mut self, timeout: Duration) -> LiveNext {
        drop(self.audio.take());
        if self.options.max_frames.is_some_and(|most| self.frames >= most) {
            self.state = State::Over;
        }
        match &mut self.state {
            State::Over => LiveNext::End,
            State::Here(source) => match source.next(timeout) {
                Ok(Next::Frame(frame)) => self.place(frame),
                Ok(Next::TimedOut) => LiveNext::TimedOut,
                Ok(Next::End) if !self.input.ends_when_lost() => {
                    self.leave(State::Over);
                    LiveNext::End
                }
                Ok(Next::End) => {
                    self.lose(&launch::failed(&self.input.to_string(), &"the other side has ended the stream"))
                }
                Err(error) => self.lose(&error),
            },
            State::Waiting { .. } | State::Opening(_) => self.wait(timeout),
        }
    }

    /// Gives a frame its place in the whole stream.
    fn place(&mut self, mut frame: SourceFrame) -> LiveNext {
        let now = self.clock.now();
        let own_ns = frame.meta().pts_ns.unwrap_or_default();
        let shift_ns = *self.shift_ns.get_or_insert_with(|| {
            let (last_ns, at) = self.last.unwrap_or_default();
            let away_ns = now.saturating_sub(at).as_nanos() as u64;
            (last_ns + away_ns.max(STEP_NS)) as i64 - own_ns as i64
        });
        let pts_ns = own_ns.saturating_add_signed(shift_ns);
        let pts_ns = self.last.map_or(pts_ns, |(last_ns, _)| pts_ns.max(last_ns + 1));
        let first_ns = *self.first_pts_ns.get_or_insert(pts_ns);
        if self.options.max_duration_ns.is_some_and(|most| pts_ns - first_ns >= most) {
            self.leave(State::Over);
            return LiveNext::End;
        }
        if self.away {
            let away = now.saturating_sub(self.lost_at);
            tracing::warn!("{} is back after {:.1} s", self.input, away.as_secs_f64());
            (self.away, self.back_at) = (false, now);
            self.continue_sound(shift_ns);
        }
        self.last = Some((pts_ns, now));
        frame.set_meta(FrameMeta { id: self.frames, pts_ns: Some(pts_ns), ..frame.meta() });
        self.frames += 1;
        LiveNext::Frame(frame)
    }

    /// Sound of the new connection follows that of the old one, if it is of the same format.
    fn continue_sound(&mut self, shift_ns: i64) {
        let State::Here(source) = &self.state else { return };
        let (Some(old), Some(new)) = (&self.sound, source.sound()) else { return };
        if !old.replace(&new, shift_ns) {
            tracing::warn!("{} came back with sound of another format, which is left out", self.input);
        }
    }

    fn lose(&mut self, error: &IoError) -> LiveNext {
        let now = self.clock.now();
        if self.away {
            tracing::debug!("attempt {}: {error}", self.attempts);
        } else {
            // One that comes back only to go again is left alone for longer each time.
            if now.saturating_sub(self.back_at) >= SETTLED {
                self.attempts = 0;
            }
            self.away = true;
            tracing::warn!("{error}; the last picture is shown until it is back");
            self.losses += 1;
            self.lost_at = now;
            // At once: what was lost is already late.
            self.repeated_at = now.saturating_sub(REPEAT);
        }
        let until = now + self.retry.pause(self.attempts);
        self.attempts += 1;
        self.shift_ns = None;
        self.leave(State::Waiting { until });
        LiveNext::TimedOut
    }

    /// Goes over to `state`; a connection that there was is taken down elsewhere, as that may wait for the network.
    fn leave(&mut self, state: State) {
        let (dropped, corrupt) = (self.dropped(), self.corrupt());
        if let State::Here(source) = std::mem::replace(&mut self.state, state) {
            drop(aside::spawn("io-closing", move || drop(source)));
        }
        (self.dropped, self.corrupt) = (dropped, corrupt);
    }

    /// Waits for the next attempt, for the end of one, or for the time to show the last picture again.
    fn wait(&mut self, timeout: Duration) -> LiveNext {
        let now = self.clock.now();
        let repeat_at = self.repeated_at + REPEAT;
        let mut wait = timeout.min(repeat_at.saturating_sub(now));
        if let State::Waiting { until } = self.state {
            if now >= until {
                self.state = self.open();
            } else {
                wait = wait.min(until.saturating_sub(now));
            }
        }
        let opened = if let State::Opening(receiver) = &self.state {
            receiver.recv_timeout(wait)
        } else {
            // A channel that nobody sends into is how to wait without sleeping.
            crossbeam_channel::never().recv_timeout(wait)
        };
        match opened {
            Ok(Ok(source)) => self.state = State::Here(source),
            Ok(Err(error)) => drop(self.lose(&error)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let error = launch::failed(&self.input.to_string(), &"the thread that opens it panicked");
                drop(self.lose(&error));
            }
        }
        let now = self.clock.now();
        if now < repeat_at {
            return LiveNext::TimedOut;
        }
        self.repeated_at = now;
        let (last_ns, at) = self.last.unwrap_or_default();
        let pts_ns = last_ns + (now.saturating_sub(at).as_nanos() as u64).max(1);
        self.last = Some((pts_ns, now));
        let duration_ns = Some(REPEAT.as_nanos() as u64);
        LiveNext::Away(FrameMeta { id: self.frames, pts_ns: Some(pts_ns), duration_ns })
    }

    /// Opens the input on a thread of its own: that may take many seconds, in which the last picture is still shown and
    /// the user may want to stop.
    fn open(&self) -> State {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let input = self.input.clone();
        let options = SourceOptions { max_frames: None, max_duration_ns: None, ..self.options.clone() };
        let open = move || {
            // Nobody receives it where the run has ended meanwhile: then it is dropped here.
            let _ = sender.send(VideoSource::open(&input, &options).map(Box::new));
        };
        match aside::spawn("io-opening", open) {
            Ok(()) => State::Opening(receiver),
            Err(_) => State::Waiting { until: self.clock.now() + self.retry.longest },
        }
    }
}

impl Drop for LiveSource {
    fn drop(&mut self) {
        if let Some(sound) = &self.sound {
            sound.expect_return(false);
        }
        self.leave(State::Over);
        aside::settle();
    }
}
