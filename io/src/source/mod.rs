//! Opening an input and taking its pictures one by one.

mod chain;
mod frame;
mod head;
mod images;
mod open;
mod reconnect;
mod stills;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gst::prelude::*;
use livediffusion_pipeline::frame::{FrameMeta, Size};
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

pub(crate) use chain::Chain;
pub use frame::SourceFrame;
pub(crate) use head::LOW_DELAY;
pub(crate) use images::list as list_images;
pub use reconnect::{LiveNext, LiveSource};

use crate::audio::{AudioTrack, Hub};
use crate::error::IoError;
use crate::input::{Fit, Input};
use crate::launch;
use crate::monitor::Monitor;
use crate::queue::{Lossless, Newest, Received};
use crate::webrtc::Call;

/// How long a running input may be silent: network streams stall for some seconds without being lost.
const STALL: Duration = Duration::from_secs(30);
/// How long pictures may still come after an error: those on their way when it struck are good.
const AFTER_ERROR: Duration = Duration::from_millis(250);
/// How often a wait looks up for errors. Pictures wake it at once.
const LOOK_UP: Duration = Duration::from_millis(50);

/// What is wanted of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceOptions {
    /// Pictures are handed out in exactly this size.
    pub size: Size,
    /// How they are brought to it.
    pub fit: Fit,
    /// End after so many frames.
    pub max_frames: Option<u64>,
    /// End before the first frame that starts this many nanoseconds after the first.
    pub max_duration_ns: Option<u64>,
    /// Overrides what the input says of itself. A file that is made live plays at its own speed and drops frames that
    /// nobody takes in time; a camera that is made lossless waits.
    pub live: Option<bool>,
    /// Whether the sound is wanted.
    pub keep_audio: bool,
    /// How long the input may be silent once it has begun, before that is an error.
    pub patience: Duration,
}

impl SourceOptions {
    /// Everything that the input has, in pictures of `size`.
    pub const fn new(size: Size) -> Self {
        Self {
            size,
            fit: Fit::Cover,
            max_frames: None,
            max_duration_ns: None,
            live: None,
            keep_audio: true,
            patience: STALL,
        }
    }
}

/// What an input says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Size before fitting, upright and with square pixels.
    pub natural: Size,
    /// Frames per second as a fraction; `None` if they come irregularly or it is not known.
    pub framerate: Option<(u32, u32)>,
    /// Whether frames come in real time and late ones are dropped.
    pub live: bool,
    /// Length in nanoseconds, with the limits of [`SourceOptions`] applied where they are known to apply.
    pub duration_ns: Option<u64>,
    /// Number of frames to expect; for progress only.
    pub frames_estimate: Option<u64>,
    /// Format of the sound, such as `audio/mpeg, mpegversion=4`.
    pub audio: Option<String>,
}

/// What [`VideoSource::next`] ended with.
#[derive(Debug)]
pub enum Next {
    /// The next frame.
    Frame(SourceFrame),
    /// None came in the time given; ask again.
    TimedOut,
    /// There are no more.
    End,
}

enum Queue {
    Newest(Newest<gst::Sample>),
    Lossless(Lossless<gst::Sample>),
}

/// What produces the samples.
enum Producer {
    Pipeline(gst::Pipeline),
    Images(Option<JoinHandle<()>>),
}

/// Who sees to it that pictures do not come before their time.
enum Pace {
    /// Nobody: they come as they are read, or a device gives them.
    Own,
    /// GStreamer's clock.
    Clock {
        /// What is ready to run, until somebody asks for the first picture.
        to_start: Option<gst::Pipeline>,
        /// Whether the next picture is there and its time has not come.
        held: Arc<AtomicBool>,
    },
    /// We, by the pictures' time stamps.
    Times {
        clock: MonotonicClock,
        /// When the first was handed out, and its time stamp.
        begun: Option<(Duration, u64)>,
    },
}

/// An opened input.
pub struct VideoSource {
    info: SourceInfo,
    options: SourceOptions,
    picture: gst_video::VideoInfo,
    producer: Producer,
    /// `None` once stopped.
    queue: Option<Queue>,
    monitor: Arc<Monitor>,
    /// The first sample, which opening waited for.
    first: Option<gst::Sample>,
    audio: Option<AudioTrack>,
    hub: Option<Arc<Hub>>,
    /// Whether its sound is taken by those who listen to that of another: none of it may be lost until they come to it.
    sound_follows: bool,
    pace: Pace,
    frames: u64,
    first_pts_ns: Option<u64>,
    dropped: u64,
    /// Live frames that came and went before the first was asked for: nobody was late for them.
    missed: u64,
    idle: Duration,
    /// Whether the input came to its own end, rather than to a limit.
    ended: Arc<AtomicBool>,
    /// Whether there is nothing more to give, for any reason.
    done: bool,
    closed: Arc<AtomicBool>,
    /// The server that it comes from over WebRTC.
    call: Option<Call>,
}

impl VideoSource {
    /// Opens `input` and waits for its first picture, up to ten seconds.
    pub fn open(input: &Input, options: &SourceOptions) -> Result<Self, IoError> {
        open::open(input, options)
    }

    /// Opens `input` for the listeners of another source's sound, none of which is lost until they come to it.
    fn prepare(input: &Input, options: &SourceOptions) -> Result<Self, IoError> {
        let mut source = Self::open(input, options)?;
        source.sound_follows = true;
        Ok(source)
    }

    /// What the input says of itself.
    pub const fn info(&self) -> &SourceInfo {
        &self.info
    }

    /// Whether the input came to its own end, rather than to a limit.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits up to `timeout` for the next picture. Pictures that were read before an error come before the error.
    pub fn next(&mut self, timeout: Duration) -> Result<Next, IoError> {
        if !self.sound_follows {
            // Nobody asked for the sound before the first picture: it must not fill its queue.
            drop(self.audio.take());
        }
        if self.done || self.options.max_frames.is_some_and(|most| self.frames >= most) {
            self.done = true;
            return Ok(Next::End);
        }
        self.start()?;
        let received = match self.first.take() {
            Some(first) => self.begin(first),
            None => self.wait(timeout)?,
        };
        let received = self.hold(received, timeout);
        let sample = match received {
            Received::Item(sample) => sample,
            Received::Empty => return Ok(Next::TimedOut),
            Received::Closed => {
                self.done = true;
                self.monitor.check()?;
                self.ended.store(true, Ordering::Release);
                return Ok(Next::End);
            }
        };
        let pts_ns = running_time(&sample);
        // Where frames come irregularly, some decoders say that each is shown for a nanosecond: they do not know.
        let told_ns = sample.buffer().and_then(gst::BufferRef::duration).map(gst::ClockTime::nseconds);
        let duration_ns = told_ns.filter(|ns| *ns > 1_000);
        let first_pts_ns = *self.first_pts_ns.get_or_insert(pts_ns.unwrap_or_default());
        let since_first = pts_ns.map(|pts| pts.saturating_sub(first_pts_ns));
        if self.options.max_duration_ns.zip(since_first).is_some_and(|(most, since)| since >= most) {
            self.done = true;
            return Ok(Next::End);
        }
        let meta = FrameMeta { id: self.frames, pts_ns, duration_ns };
        self.frames += 1;
        Ok(Next::Frame(SourceFrame::new(meta, sample, self.picture.clone())))
    }

    /// Lets the clock of a file run that is to play at its own speed.
    fn start(&mut self) -> Result<(), IoError> {
        let Pace::Clock { to_start, .. } = &mut self.pace else { return Ok(()) };
        let Some(pipeline) = to_start.take() else { return Ok(()) };
        if pipeline.set_state(gst::State::Playing).is_err() {
            self.done = true;
            self.monitor.check()?;
            return Err(launch::failed(&self.monitor.what(), &"it does not start"));
        }
        Ok(())
    }

    /// Keeps a picture back until its time has come, where nobody else does. One that is late by more than its own time makes room for the
    /// next, if that is there; else what follows is as much later.
    fn hold(&mut self, received: Received<gst::Sample>, timeout: Duration) -> Received<gst::Sample> {
        let Pace::Times { clock, begun } = &mut self.pace else { return received };
        let Received::Item(sample) = received else { return received };
        let (now, pts_ns) = (clock.now(), running_time(&sample).unwrap_or_default());
        let (from, first_ns) = *begun.get_or_insert((now, pts_ns));
        let due = from + Duration::from_nanos(pts_ns.saturating_sub(first_ns));
        let shown = sample.buffer().and_then(gst::BufferRef::duration).map_or(Duration::ZERO, Into::into);
        if now >= due + shown {
            if let Some(Queue::Lossless(queue)) = &self.queue
                && let Received::Item(newer) = queue.receive(Duration::ZERO)
            {
                self.dropped += 1;
                self.first = Some(newer);
                return Received::Empty;
            }
            *begun = Some((now, pts_ns));
            return Received::Item(sample);
        }
        let early = due.saturating_sub(now);
        pause(early.min(timeout));
        if early <= timeout {
            return Received::Item(sample);
        }
        self.first = Some(sample);
        Received::Empty
    }

    /// What its clock says, from the beginning on; `None` where GStreamer has none for it.
    fn running_ns(&self) -> Option<u64> {
        let Producer::Pipeline(pipeline) = &self.producer else { return None };
        pipeline.current_running_time().map(gst::ClockTime::nseconds)
    }

    /// Whether it is a file that plays at its own speed.
    pub const fn is_paced(&self) -> bool {
        !matches!(self.pace, Pace::Own)
    }

    /// Live frames that were replaced by newer ones before they were taken.
    pub fn dropped(&self) -> u64 {
        match &self.queue {
            Some(Queue::Newest(queue)) => queue.dropped().saturating_sub(self.missed),
            _ => self.dropped,
        }
    }

    /// Frames that decoded badly and were passed over, as far as the decoder tells.
    pub fn corrupt(&self) -> u64 {
        self.monitor.corrupt()
    }

    /// The sound, for [`SinkOptions::audio`](crate::SinkOptions::audio). Take it before the first [`next`](Self::next):
    /// sound that nobody took by then is thrown away.
    pub fn take_audio(&mut self) -> Option<AudioTrack> {
        self.audio.take()
    }

    /// The sound without a listener: it may go on although pictures were taken.
    fn sound(&self) -> Option<Arc<Hub>> {
        self.hub.clone()
    }

    /// Ends the input. Dropping it does the same.
    pub fn stop(&mut self) {
        self.dropped = self.dropped();
        self.done = true;
        self.call = None;
        self.closed.store(true, Ordering::Release);
        // First the queue: a producer that waits for room in it is let go.
        self.queue = None;
        self.first = None;
        match &mut self.producer {
            Producer::Pipeline(pipeline) => {
                if let Err(error) = pipeline.set_state(gst::State::Null) {
                    tracing::debug!("stopping {}: {error}", self.monitor.what());
                }
            }
            Producer::Images(thread) => {
                if thread.take().is_some_and(|thread| thread.join().is_err()) {
                    tracing::error!("the thread that reads pictures panicked");
                }
            }
        }
    }

    /// The picture to begin with. A live input ran on while its user got ready: it begins with the newest picture rather
    /// than with the one that opening waited for, so that no limit and no recording counts the time between.
    fn begin(&mut self, first: gst::Sample) -> Received<gst::Sample> {
        if let Some(Queue::Newest(queue)) = &self.queue {
            self.missed = queue.dropped();
            if let Received::Item(newer) = queue.receive(Duration::ZERO) {
                return Received::Item(newer);
            }
        }
        Received::Item(first)
    }

    /// Waits for a sample, looking up for errors and silence now and then.
    fn wait(&mut self, timeout: Duration) -> Result<Received<gst::Sample>, IoError> {
        let mut left = timeout;
        loop {
            let slice = left.min(LOOK_UP);
            let received = match &self.queue {
                Some(Queue::Newest(queue)) => queue.receive(slice),
                Some(Queue::Lossless(queue)) => queue.receive(slice),
                None => Received::Closed,
            };
            if !matches!(received, Received::Empty) {
                self.idle = Duration::ZERO;
                return Ok(received);
            }
            left -= slice;
            self.idle += slice;
            if let Some(Err(error)) = self.call.as_ref().map(Call::check) {
                self.monitor.fail(error);
            }
            if self.monitor.failed() && self.idle >= AFTER_ERROR {
                self.done = true;
                self.monitor.check()?;
            }
            // A picture that is shown for long is no silence.
            if matches!(&self.pace, Pace::Clock { held, .. } if held.load(Ordering::Acquire)) {
                self.idle = Duration::ZERO;
            }
            // Silence before the first picture is another thing: a key frame may be seconds away.
            if self.frames > 0 && self.idle >= self.options.patience {
                self.done = true;
                let seconds = self.options.patience.as_secs();
                return Err(IoError::Stalled { what: self.monitor.what(), seconds });
            }
            if left.is_zero() {
                return Ok(Received::Empty);
            }
        }
    }
}

impl Drop for VideoSource {
    fn drop(&mut self) {
        self.stop();
    }
}

/// From decoded video to pictures, as `gst-launch-1.0` takes it.
pub(crate) fn describe_chain(size: Size, fit: Fit) -> String {
    Chain::describe(size, fit)
}

/// A channel that nobody sends into is how to wait without sleeping.
fn pause(time: Duration) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(time);
}

/// When a sample is shown, counted from the start of the stream: edit lists, seeks and streams that start late are
/// accounted for, so that pictures and sound share one clock.
pub(crate) fn running_time(sample: &gst::Sample) -> Option<u64> {
    let pts = sample.buffer()?.pts()?;
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    segment.to_running_time(pts).map(gst::ClockTime::nseconds)
}
