//! An input that is opened again when it is lost, or at its end, while its reader goes on.

mod again;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use livediffusion_pipeline::frame::FrameMeta;
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use self::again::Passes;
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
    /// It was lost, and is not to be opened again.
    Failed(IoError),
}

/// Opened aside, or why not.
type Opened = Result<Box<VideoSource>, IoError>;

enum State {
    Here(Box<VideoSource>),
    /// Until the next attempt.
    Waiting {
        until: Duration,
    },
    Opening(Receiver<Opened>),
    /// The next pass, until the last picture of the one before was shown for its time.
    Ready {
        source: Box<VideoSource>,
        until: Duration,
    },
    /// The only picture of an input that begins again, until it is shown again.
    Still {
        until: Duration,
    },
    Over,
}

/// A live input that survives its own failures: cameras that are unplugged, servers that go, networks that stall. Or a file that begins
/// again at its end ([`looped`](Self::looped)).
///
/// Times go on over a loss: a frame after it is as much later than the frame before it as it came later.
pub struct LiveSource {
    input: Input,
    options: SourceOptions,
    /// `None`: a loss is the end.
    retry: Option<Retry>,
    /// Where it begins again at its end.
    passes: Option<Passes>,
    /// Whether the next frame is the first of another pass.
    begins_again: bool,
    /// What came to its end, for the sound of its last pictures.
    over: Option<Box<VideoSource>>,
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
            retry: Some(retry),
            passes: None,
            begins_again: false,
            over: None,
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

    /// Whether it is no device, but begins again at its end.
    pub const fn is_looped(&self) -> bool {
        self.passes.is_some()
    }

    /// As [`VideoSource::has_ended`].
    pub fn has_ended(&self) -> bool {
        self.over.as_ref().is_some_and(|source| source.has_ended())
    }

    fn here(&self) -> Option<&VideoSource> {
        if let State::Here(source) = &self.state { Some(source) } else { None }
    }

    /// Waits up to `timeout` for the next frame, or for the time to show the last one again.
    pub fn next(&mut self, timeout: Duration) -> LiveNext {
        drop(self.audio.take());
        if self.options.max_frames.is_some_and(|most| self.frames >= most) {
            return self.end(false);
        }
        match &mut self.state {
            State::Over => LiveNext::End,
            State::Still { until } => {
                let until = *until;
                self.still(until, timeout)
            }
            State::Ready { until, .. } => {
                let until = *until;
                self.begin_pass(until, timeout)
            }
            State::Here(source) => match source.next(timeout) {
                Ok(Next::Frame(frame)) => self.place(frame),
                Ok(Next::TimedOut) => LiveNext::TimedOut,
                Ok(Next::End) if self.passes.is_some() => self.begin_again(),
                Ok(Next::End) if !self.input.ends_when_lost() => self.end(true),
                Ok(Next::End) => {
                    self.lose(launch::failed(&self.input.to_string(), &"the other side has ended the stream"))
                }
                Err(error) => self.lose(error),
            },
            State::Waiting { .. } | State::Opening(_) => self.wait(timeout),
        }
    }

    /// Gives a frame its place in the whole stream.
    fn place(&mut self, mut frame: SourceFrame) -> LiveNext {
        let now = self.clock.now();
        let own_ns = frame.meta().pts_ns.unwrap_or_default();
        let shift_ns = self.shift_ns.unwrap_or_else(|| self.shift_from(now, own_ns));
        self.shift_ns = Some(shift_ns);
        let pts_ns = own_ns.saturating_add_signed(shift_ns);
        let pts_ns = self.last.map_or(pts_ns, |(last_ns, _)| pts_ns.max(last_ns + 1));
        let first_ns = *self.first_pts_ns.get_or_insert(pts_ns);
        if self.options.max_duration_ns.is_some_and(|most| pts_ns - first_ns >= most) {
            return self.end(false);
        }
        if let Some(passes) = &mut self.passes {
            let State::Here(source) = &self.state else { return LiveNext::TimedOut };
            if passes.see(&frame, source.info(), &self.input) {
                let next = open_aside(&self.input, &self.options, VideoSource::prepare);
                passes.expect(next);
            }
        }
        if std::mem::take(&mut self.begins_again) {
            self.follow_sound(shift_ns, pts_ns);
        }
        if let Some(passes) = &mut self.passes {
            passes.tidy(self.sound.as_deref());
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

    /// What is added to the times of a connection or pass, whose first frame came now.
    fn shift_from(&self, now: Duration, own_ns: u64) -> i64 {
        let (last_ns, at) = self.last.unwrap_or_default();
        let step_ns = match self.passes.as_ref().filter(|_| self.begins_again) {
            Some(passes) => {
                // When the frame was due, by the input's own clock: it may have been taken late.
                let running_ns = self.here().and_then(VideoSource::running_ns).unwrap_or(own_ns);
                let due = now.saturating_sub(Duration::from_nanos(running_ns.saturating_sub(own_ns)));
                passes.step_ns(due, self.info.live)
            }
            None => (now.saturating_sub(at).as_nanos() as u64).max(STEP_NS),
        };
        (last_ns + step_ns) as i64 - own_ns as i64
    }

    /// Sound of the new connection follows that of the old one, if it is of the same format.
    fn continue_sound(&mut self, shift_ns: i64) {
        let State::Here(source) = &self.state else { return };
        let (Some(old), Some(new)) = (&self.sound, source.sound()) else { return };
        if !old.replace(&new, shift_ns) {
            tracing::warn!("{} came back with sound of another format, which is left out", self.input);
        }
    }

    /// No more of it is wanted, but for the sound of what was handed out: dropping it ends that too.
    pub fn finish(&mut self) {
        self.end(false);
    }

    /// The end of it all, at the input's own or at a limit. A device, whose sound would never end, goes at once.
    fn end(&mut self, own: bool) -> LiveNext {
        if let Some(sound) = &self.sound {
            sound.expect_return(false);
        }
        if self.passes.is_none() && !own {
            self.leave(State::Over);
        } else if let State::Here(source) = std::mem::replace(&mut self.state, State::Over) {
            (self.dropped, self.corrupt) = (self.dropped + source.dropped(), self.corrupt + source.corrupt());
            self.over = Some(source);
        }
        LiveNext::End
    }

    fn lose(&mut self, error: IoError) -> LiveNext {
        let now = self.clock.now();
        let Some(retry) = self.retry else {
            self.end(false);
            return LiveNext::Failed(error);
        };
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
        let until = now + retry.pause(self.attempts);
        self.attempts += 1;
        (self.shift_ns, self.begins_again) = (None, false);
        if let Some(passes) = &mut self.passes {
            passes.give_up();
        }
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
        let mut wait = if self.info.live { timeout.min(repeat_at.saturating_sub(now)) } else { timeout };
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
            crossbeam_channel::never().recv_timeout(wait)
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(RecvTimeoutError::Timeout) => return self.repeat(),
            Err(RecvTimeoutError::Disconnected) => {
                Err(launch::failed(&self.input.to_string(), &"the thread that opens it panicked"))
            }
        };
        match opened {
            Ok(source) => {
                self.state = match self.passes.as_ref().filter(|_| self.begins_again && self.info.live) {
                    Some(passes) => State::Ready { source, until: passes.over_at() },
                    None => State::Here(source),
                };
                LiveNext::TimedOut
            }
            Err(error) => self.lose(error),
        }
    }

    /// The last picture again, where it is time to show it.
    fn repeat(&mut self) -> LiveNext {
        let now = self.clock.now();
        if now < self.repeated_at + REPEAT || !self.info.live {
            return LiveNext::TimedOut;
        }
        self.repeated_at = now;
        let (last_ns, at) = self.last.unwrap_or_default();
        let pts_ns = last_ns + (now.saturating_sub(at).as_nanos() as u64).max(1);
        self.last = Some((pts_ns, now));
        let duration_ns = Some(REPEAT.as_nanos() as u64);
        LiveNext::Away(FrameMeta { id: self.frames, pts_ns: Some(pts_ns), duration_ns })
    }

    fn open(&self) -> State {
        let longest = self.retry.unwrap_or_default().longest;
        let open = if self.passes.is_some() { VideoSource::prepare } else { VideoSource::open };
        match open_aside(&self.input, &self.options, open) {
            Some(receiver) => State::Opening(receiver),
            None => State::Waiting { until: self.clock.now() + longest },
        }
    }
}

/// Opens an input on a thread of its own: that may take many seconds, in which the last picture is still shown and the user may want to
/// stop. `None` where there is no thread to be had.
fn open_aside(
    input: &Input,
    options: &SourceOptions,
    open: fn(&Input, &SourceOptions) -> Result<VideoSource, IoError>,
) -> Option<Receiver<Opened>> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let (input, options) =
        (input.clone(), SourceOptions { max_frames: None, max_duration_ns: None, ..options.clone() });
    let work = move || {
        // Nobody receives it where the run has ended meanwhile: then it is dropped here.
        let _ = sender.send(open(&input, &options).map(Box::new));
    };
    aside::spawn("io-opening", work).ok().map(|()| receiver)
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
