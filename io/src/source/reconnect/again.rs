//! An input that begins again at its end: beside the pass that is shown the next one is opened, and of those before the last sound is
//! taken.

use std::collections::VecDeque;
use std::time::Duration;

use crossbeam_channel::Receiver;
use livediffusion_pipeline::frame::FrameMeta;
use livediffusion_pipeline::stats::Clock as _;

use super::{LiveNext, LiveSource, Opened, State, open_aside};
use crate::audio::Hub;
use crate::error::IoError;
use crate::input::Input;
use crate::retry::Retry;
use crate::source::open::NO_PICTURE;
use crate::source::{SourceFrame, SourceInfo, SourceOptions, VideoSource, pause};
use crate::{aside, launch};

/// How long before its end the next pass is opened: longer than that takes, and no longer than a server may keep an idle connection.
const AHEAD_NS: u64 = 5_000_000_000;

/// How long a picture is shown that is the only one of its input, or of which nobody knows.
const STILL: Duration = Duration::from_millis(40);

/// The passes around the one that is shown.
pub(super) struct Passes {
    /// The next one: it is opened, or on the way to it.
    next: Option<Receiver<Opened>>,
    /// Those before whose last sound may still be wanted, oldest first.
    before: VecDeque<Box<VideoSource>>,
    /// Frames of this one.
    frames: u64,
    /// Its first frame.
    first: Option<SourceFrame>,
    /// How long its last frame is shown.
    frame_ns: u64,
    /// The own time of its last frame.
    last_ns: u64,
    /// When the last frame of the pass before has been shown for its time.
    over_at: Duration,
    /// How many have ended.
    ended: u64,
}

impl Passes {
    pub(super) fn new() -> Self {
        Self {
            next: None,
            before: VecDeque::new(),
            frames: 0,
            first: None,
            frame_ns: STILL.as_nanos() as u64,
            last_ns: 0,
            over_at: Duration::ZERO,
            ended: 0,
        }
    }

    /// A frame of this pass came. Gives whether it is time to open the next.
    pub(super) fn see(&mut self, frame: &SourceFrame, info: &SourceInfo, input: &Input) -> bool {
        let meta = frame.meta();
        self.frames += 1;
        // One alone is kept: a second shows that it is not needed.
        self.first = (self.frames == 1).then(|| frame.clone());
        self.last_ns = meta.pts_ns.unwrap_or_default();
        let usual_ns = info.framerate.map(|(n, d)| 1_000_000_000 * u64::from(d) / u64::from(n.max(1)));
        self.frame_ns = meta.duration_ns.or(usual_ns).unwrap_or(STILL.as_nanos() as u64);
        let near = match info.duration_ns.zip(meta.pts_ns) {
            Some((all, at)) => at + AHEAD_NS >= all,
            // Nobody knows when: a server is asked at the end, what lies on this machine at once.
            None => !matches!(input, Input::Uri(_)),
        };
        self.next.is_none() && near
    }

    /// The next pass is on its way.
    pub(super) fn expect(&mut self, next: Option<Receiver<Opened>>) {
        self.next = next;
    }

    /// The pass is over, and the next one wanted. Its own clock says how long its last frame is still to be shown: whoever took that may
    /// have been late, at `taken`.
    pub(super) fn end(&mut self, source: &VideoSource, now: Duration, taken: Duration) -> Option<Receiver<Opened>> {
        self.ended += 1;
        let shown = Duration::from_nanos(self.frame_ns);
        self.over_at = match source.running_ns().map(Duration::from_nanos) {
            Some(running) => (now + Duration::from_nanos(self.last_ns) + shown).saturating_sub(running),
            None => taken + shown,
        };
        (self.frames, self.first) = (0, None);
        self.next.take()
    }

    /// The pass was lost: what comes next is opened when it can be.
    pub(super) fn give_up(&mut self) {
        (self.frames, self.first, self.next) = (0, None, None);
    }

    /// The frame of a pass that had but one.
    pub(super) fn only(&self) -> Option<&SourceFrame> {
        self.first.as_ref()
    }

    /// Frames that this pass had.
    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }

    /// How far the first frame of a pass is behind the last one before, if it is due then: on a clock that goes on.
    pub(super) fn step_ns(&self, due: Duration, is_live: bool) -> u64 {
        let late = if is_live { due.saturating_sub(self.over_at) } else { Duration::ZERO };
        self.frame_ns + late.as_nanos() as u64
    }

    /// When the next pass may begin.
    pub(super) const fn over_at(&self) -> Duration {
        self.over_at
    }

    /// How many passes have ended.
    pub(super) const fn ended(&self) -> u64 {
        self.ended
    }

    /// Keeps a pass for its last sound.
    pub(super) fn keep(&mut self, source: Box<VideoSource>) {
        self.before.push_back(source);
    }

    /// Lets those go whose sound is over.
    pub(super) fn tidy(&mut self, sound: Option<&Hub>) {
        let needed = sound.map_or(0, Hub::to_follow);
        while self.before.len() > needed {
            let source = self.before.pop_front();
            drop(aside::spawn("io-closing", move || drop(source)));
        }
    }
}

impl LiveSource {
    /// As [`new`](Self::new), of an input that does not come in real time: at its end it begins again, opened anew beforehand, so that
    /// neither pictures nor sound wait. At its own speed, or lossless, as `options` say. The only picture of an input is shown again
    /// 25 times a second.
    pub fn looped(source: VideoSource, input: Input, options: &SourceOptions, retry: Option<Retry>) -> Self {
        let mut looped = Self::new(source, input, options, Retry::default());
        looped.options.live = options.live;
        (looped.retry, looped.passes) = (retry, Some(Passes::new()));
        // It has no end.
        (looped.info.duration_ns, looped.info.frames_estimate) = (None, None);
        if let Some(sound) = &looped.sound {
            sound.pictures_go_on();
        }
        looped
    }

    /// How often it came to its end and began again.
    pub fn passes_ended(&self) -> u64 {
        self.passes.as_ref().map_or(0, Passes::ended)
    }

    /// Sound of this pass follows that of the one before, which has the same format: it is the same input.
    pub(super) fn follow_sound(&mut self, shift_ns: i64, pts_ns: u64) {
        let State::Here(source) = &self.state else { return };
        if let (Some(old), Some(new)) = (&self.sound, source.sound())
            && !old.follow(&new, shift_ns, pts_ns)
        {
            tracing::warn!("{} began again with sound of another format, which is left out", self.input);
        }
    }

    /// The input came to its end: the next pass is waited for, which is open by now.
    pub(super) fn begin_again(&mut self) -> LiveNext {
        let now = self.clock.now();
        let Some(passes) = &mut self.passes else { return LiveNext::End };
        let State::Here(source) = &self.state else { return LiveNext::End };
        if passes.only().is_some() && source.dropped() == 0 {
            // Its sound, if it has any, plays to its end.
            if let State::Here(source) = std::mem::replace(&mut self.state, State::Still { until: now }) {
                self.corrupt += source.corrupt();
                self.over = Some(source);
            }
            return LiveNext::TimedOut;
        }
        if passes.frames() == 0 {
            return self.lose(IoError::EmptyInput { what: self.input.to_string(), why: NO_PICTURE.into() });
        }
        let taken = self.last.map_or(now, |(_, at)| at);
        let next =
            passes.end(source, now, taken).or_else(|| open_aside(&self.input, &self.options, VideoSource::prepare));
        let Some(next) = next else {
            return self.lose(launch::failed(&self.input.to_string(), &"there is no thread that could open it"));
        };
        (self.shift_ns, self.begins_again, self.repeated_at) = (None, true, now);
        (self.dropped, self.corrupt) = (self.dropped(), self.corrupt());
        let old = std::mem::replace(&mut self.state, State::Opening(next));
        if let (State::Here(source), Some(passes)) = (old, &mut self.passes) {
            passes.keep(source);
        }
        LiveNext::TimedOut
    }

    /// Lets the next pass begin, when its time has come.
    pub(super) fn begin_pass(&mut self, until: Duration, timeout: Duration) -> LiveNext {
        let early = until.saturating_sub(self.clock.now());
        pause(early.min(timeout));
        if early <= timeout
            && let State::Ready { source, .. } = std::mem::replace(&mut self.state, State::Over)
        {
            self.state = State::Here(source);
        }
        LiveNext::TimedOut
    }

    /// The only picture again, when its time has come.
    pub(super) fn still(&mut self, until: Duration, timeout: Duration) -> LiveNext {
        let now = self.clock.now();
        let Some(mut frame) = self.passes.as_ref().and_then(Passes::only).cloned() else { return self.end(false) };
        if self.info.live && now < until {
            pause(timeout.min(until.saturating_sub(now)));
            if self.clock.now() < until {
                return LiveNext::TimedOut;
            }
        }
        // Behind its time it does not hurry.
        self.state = State::Still { until: until.max(now.saturating_sub(STILL)) + STILL };
        let (now, still_ns) = (self.clock.now(), STILL.as_nanos() as u64);
        let (last_ns, at) = self.last.unwrap_or_default();
        let since_ns = if self.info.live { now.saturating_sub(at).as_nanos() as u64 } else { still_ns };
        let pts_ns = last_ns + since_ns.max(1);
        if self.options.max_duration_ns.zip(self.first_pts_ns).is_some_and(|(most, first)| pts_ns - first >= most) {
            return self.end(false);
        }
        self.last = Some((pts_ns, now));
        frame.set_meta(FrameMeta { id: self.frames, pts_ns: Some(pts_ns), duration_ns: Some(still_ns) });
        self.frames += 1;
        LiveNext::Frame(frame)
    }
}
