//! Which frames of a live source are too old to be painted.
//!
//! A camera that waits for a slow machine hands over what it captured meanwhile, the oldest first. Were all of that painted, pictures
//! would be later and later, and a sink that keeps time would show none of them. So what is left over from the waiting is passed over,
//! up to a frame whose picture can still be on time.

use std::time::Duration;

/// How long frames are passed over at most, and how long a source that becomes late by itself keeps its old measure: passing over all
/// that any camera holds takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How late a frame may come so that its picture is on time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// By the time that the whole pipeline keeps: that of its source and its sink, which others may not need, too.
    pub(crate) whole: Duration,
    /// After the freshest frames: of a source that is later than it says, and where nobody keeps time.
    pub(crate) own: Duration,
}

/// Looks at when frames come. Times are running times of the pipeline.
#[derive(Clone, Debug, Default)]
pub(crate) struct Freshness {
    /// Lateness of the freshest frames, in nanoseconds: the source's own.
    least: Option<i64>,
    /// The same of frames since `since` that did not wait for us.
    own: Option<i64>,
    since: Duration,
    /// When the last frame was done with.
    done: Option<Duration>,
    /// When the last frame was painted.
    painted: Duration,
}

impl Freshness {
    /// Whether a frame that comes at `now`, `late` nanoseconds after its own time, is left over from the time when frames waited for us.
    /// `frame` is how long one lasts.
    pub(crate) fn is_stale(&mut self, now: Duration, late: i64, frame: Duration, room: Room) -> bool {
        let least = self.least.map_or(late, |least| least.min(late));
        self.least = Some(least);
        let waited = self.done.is_some_and(|done| now.saturating_sub(done) < frame / 2);
        if !waited {
            // A source that had its own time came late by itself, as networks do: nothing is won by passing its frames over.
            self.own = Some(self.own.map_or(late, |own| own.min(late)));
            if now.saturating_sub(self.since) >= PATIENCE {
                (self.least, self.own, self.since) = (self.own, None, now);
            }
            return false;
        }
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        if late <= nanos(room.whole).max(least.saturating_add(nanos(room.own))) {
            return false;
        }
        if now.saturating_sub(self.painted) >= PATIENCE {
            // There is nothing fresher.
            self.least = Some(late);
            return false;
        }
        true
    }

    /// A frame was painted, at `now`.
    pub(crate) fn painted(&mut self, now: Duration) {
        self.painted = now;
    }

    /// The next frame can come, at `now`: the last was passed over, or whoever its picture was sent to is done with it.
    pub(crate) fn done(&mut self, now: Duration) {
        self.done = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u64 = 33;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A camera that captures into so many buffers and waits when they are full, a machine that needs `work` ms a frame, and where the
    /// pictures go, which waits until it is time for each, and so much longer, or does not: how late the pictures are, in ms, but for the
    /// first second's.
    fn run(work: u64, buffers: usize, jitter: impl Fn(u64) -> u64, waits: Option<u64>) -> (Vec<u64>, usize) {
        // As the pipeline is told.
        let told = if work * 5 / 4 > FRAME { work * 5 / 4 + FRAME } else { FRAME };
        let whole = told + waits.unwrap_or(0);
        let room = Room { whole: ms(whole - work), own: ms(told - work) };
        let (mut freshness, mut now, mut captured) = (Freshness::default(), 0, 0);
        let mut queue = std::collections::VecDeque::new();
        let (mut pictures, mut passed) = (Vec::new(), 0);
        while now < 20_000 {
            while captured * FRAME <= now {
                // Without a free buffer what is captured is lost.
                if queue.len() < buffers {
                    queue.push_back(captured * FRAME);
                }
                captured += 1;
            }
            let Some(of) = queue.pop_front() else {
                now = captured * FRAME;
                continue;
            };
            now = now.max(of + jitter(of / FRAME));
            let late = i64::try_from((now - of) * 1_000_000).unwrap();
            if freshness.is_stale(ms(now), late, ms(FRAME), room) {
                passed += 1;
                // Taking one from the camera and looking at it.
                now += 1;
            } else {
                now += work;
                freshness.painted(ms(now));
                if now > 1000 {
                    pictures.push(now - of);
                }
                if waits.is_some() {
                    now = now.max(of + whole);
                }
            }
            freshness.done(ms(now));
        }
        (pictures, passed)
    }

    #[test]
    fn on_a_slow_machine_all_pictures_are_on_time_and_as_many_as_there_is_time_for() {
        for work in [30, 40, 60, 100, 200, 500] {
            for buffers in [1, 2, 4, 8] {
                for waits in [None, Some(0), Some(53)] {
                    let (pictures, passed) = run(work, buffers, |_| 0, waits);
                    let worst = *pictures.iter().max().unwrap();
                    assert!(worst <= work * 5 / 4 + FRAME + waits.unwrap_or(0), "{work} {buffers} {waits:?}: {worst}");
                    // While a picture waits for its time, a camera with few buffers keeps only what is too old then.
                    let waited = waits
                        .filter(|more| buffers as u64 * FRAME < work + more)
                        .map_or(0, |more| work / 4 + FRAME + more);
                    let least = 19_000 / (work + FRAME + waited + buffers as u64) * 19 / 20;
                    assert!(pictures.len() as u64 > least, "{work} {buffers} {waits:?}: {} {least}", pictures.len());
                    assert!(passed > 0 || buffers == 1 || work < 2 * FRAME, "{work} {buffers} {waits:?}");
                }
            }
        }
    }

    #[test]
    fn a_fast_machine_paints_all_whatever_the_network_does() {
        let all = 20_000 / FRAME - 1000 / FRAME;
        for jitter in [|_| 0, |index| 50 + index % 7 * 5, |index: u64| if index.is_multiple_of(10) { 25 } else { 0 }] {
            for waits in [None, Some(0), Some(53)] {
                let (pictures, passed) = run(5, 4, jitter, waits);
                assert_eq!(passed, 0);
                assert!(pictures.len() as u64 + 5 > all, "{}", pictures.len());
            }
        }
    }

    #[test]
    fn a_source_that_becomes_late_for_good_is_painted_again_after_a_while() {
        let mut freshness = Freshness::default();
        let mut painted = 0;
        for index in 0..600u64 {
            let now = ms(index * FRAME);
            let late = if index < 100 { 0 } else { 300_000_000 };
            // Every frame waited for us.
            let done = now + ms(FRAME - 1);
            if !freshness.is_stale(now, late, ms(FRAME), Room { whole: ms(20), own: ms(10) }) {
                painted += 1;
                freshness.painted(now);
            }
            freshness.done(done);
        }
        // Two seconds were passed over.
        assert!(painted > 600 - 2100 / FRAME, "{painted}");
    }
}
