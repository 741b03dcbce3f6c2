//! Which frames are not worth painting, because their pictures could not be shown any more.
//!
//! A source that waits for a slow machine hands over old frames first, a file the next one, however late it is. Were all of them painted,
//! pictures would be later and later, and a sink that keeps time would show none. So frames are passed over up to one whose picture can be
//! on time. Where nobody keeps time, as in a recording, every frame is painted.

use std::time::Duration;

/// A frame is painted this often whatever the clock says, as sinks show one then: a still picture would look like a stream that has
/// ended.
const AT_LEAST: Duration = Duration::from_secs(1);

/// A sink that was not heard of for so long is gone, or another one: they speak up with every picture, and get one a second.
const SILENCE: Duration = Duration::from_secs(5);

/// What is known of those who show the pictures. Times are running times of the pipeline.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deadline {
    /// When someone last told that he keeps time.
    kept: Option<Duration>,
    /// When the last frame was painted.
    painted: Option<Duration>,
}

impl Deadline {
    /// A sink told how early or late a picture was.
    pub(crate) const fn keep(&mut self, now: Duration) {
        self.kept = Some(now);
    }

    /// Whether the picture of a frame of `time`, which comes at `now`, cannot be ready in time: it takes `work`, and the pipeline shows
    /// pictures `latency` after their own time.
    pub(crate) fn is_missed(&self, now: Duration, time: Duration, latency: Duration, work: Duration) -> bool {
        let is_due = self.painted.is_none_or(|painted| now.saturating_sub(painted) >= AT_LEAST);
        let is_kept = self.kept.is_some_and(|kept| now.saturating_sub(kept) < SILENCE);
        is_kept && !is_due && now.saturating_add(work) > time.saturating_add(latency)
    }

    /// A frame was painted.
    pub(crate) const fn painted(&mut self, now: Duration) {
        self.painted = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Time between frames, in ms.
    const FRAME: u64 = 33;

    /// Lateness at which sinks leave a picture out, in ms.
    const TOO_LATE: u64 = 5;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Pictures that a sink shows in 20 s: of a camera with so many buffers, or of a file, whose frames are there at any time, on a machine
    /// that takes `work` ms for a frame. The sink waits for the time of each on the thread that paints, or with a `queue` before it, on
    /// another.
    fn shown(work: u64, buffers: Option<usize>, queue_behind: bool) -> usize {
        // What is told, and what sinks add for themselves.
        let told = if work * 5 / 4 > FRAME { work * 5 / 4 + FRAME } else { FRAME };
        let latency = if buffers.is_some() { told + 20 } else { 0 };
        let (mut deadline, mut now, mut made, mut shown) = (Deadline::default(), 0, 0, 0);
        let mut queue = VecDeque::new();
        while now < 20_000 {
            while made * FRAME <= now {
                // What a camera has no buffer for is lost.
                if queue.len() < buffers.unwrap_or(usize::MAX) {
                    queue.push_back(made * FRAME);
                }
                made += 1;
            }
            let of = match (queue.pop_front(), buffers) {
                (Some(of), _) => of,
                (None, Some(_)) => {
                    now = made * FRAME;
                    continue;
                }
                (None, None) => {
                    made += 1;
                    (made - 1) * FRAME
                }
            };
            // Taking a frame and looking at it.
            now += 1;
            if deadline.is_missed(ms(now), ms(of), ms(latency), ms(work)) {
                continue;
            }
            now += work;
            deadline.painted(ms(now));
            deadline.keep(ms(now));
            if now <= of + latency + TOO_LATE {
                shown += 1;
                // A queue holds a second.
                let ahead = if queue_behind { 1000 } else { 0 };
                now = now.max((of + latency).saturating_sub(ahead));
            }
        }
        shown
    }

    #[test]
    fn as_many_pictures_are_shown_as_there_is_time_for() {
        for work in [5, 10, 20, 25, 30, 40, 60, 100, 200, 500] {
            for buffers in [None, Some(1), Some(2), Some(4), Some(8)] {
                let most = 20_000 / (work + 1).max(FRAME);
                // With few buffers the freshest frame is up to one old, and each that is passed over takes a moment.
                let least = 20_000 / (work + FRAME / 2 + buffers.unwrap_or(8) as u64).max(FRAME) * 9 / 10;
                let with_queue = shown(work, buffers, true) as u64;
                // What the queue has not handed on, and the first ones.
                let held = 1000 / FRAME + 2;
                assert!(
                    with_queue <= most + held && with_queue >= least,
                    "{work} {buffers:?}: {least} {with_queue} {most}"
                );
                // Else what a camera has no buffer for while the sink waits is lost.
                let least = if work <= 25 { most * 9 / 10 } else { least / 3 };
                let without = shown(work, buffers, false) as u64;
                assert!(without <= most + 2 && without >= least, "{work} {buffers:?}: {least} {without} {most}");
            }
        }
    }

    #[test]
    fn what_is_late_for_good_is_shown_now_and_then() {
        // A sink shows what is late once a second; this one does not, and each of the camera's frames is too late.
        let mut deadline = Deadline::default();
        let mut painted = 0;
        for index in 0..600u64 {
            let now = ms(index * FRAME + 300);
            if !deadline.is_missed(now, ms(index * FRAME), ms(100), ms(10)) {
                painted += 1;
                deadline.painted(now);
                deadline.keep(now);
            }
        }
        assert!((19..=20).contains(&painted), "{painted}");
    }

    #[test]
    fn where_nobody_keeps_time_nothing_is_passed_over() {
        let mut deadline = Deadline::default();
        deadline.painted(ms(0));
        assert!(!deadline.is_missed(ms(900), ms(0), ms(10), ms(10)));
        deadline.keep(ms(0));
        assert!(deadline.is_missed(ms(900), ms(0), ms(10), ms(10)));
        assert!(!deadline.is_missed(ms(1000), ms(0), ms(10), ms(10)));
        assert!(!deadline.is_missed(ms(900), ms(900), ms(10), ms(10)));
        // Another sink, which does not.
        for second in 1..10 {
            deadline.painted(ms(1000 * second));
            assert_eq!(deadline.is_missed(ms(1000 * second + 100), ms(0), ms(10), ms(10)), second < 5);
        }
    }
}
