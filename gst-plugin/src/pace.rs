//! How long a frame takes, as far as those who wait for it have to know.

use std::time::Duration;

/// Groups of frames before times count: the first ones prepare the networks.
const WARM_UP: u64 = 3;

/// Groups that are looked at: a machine that became slower is noticed with the second of them, one that became faster after all.
const RECENT: usize = 16;

/// Groups after which others are told that they wait for too long. A stream jumps when less is waited than before, so that it is not
/// done for every pause of whatever else keeps the machine busy.
const CALM: u64 = 150;

/// What is told is this much more than what was seen, so that the next frame that is a little slower is not too late.
const MARGIN: f64 = 1.25;

/// The time that a frame takes, which others are told seldom: whoever shows the pictures has to stop for a moment to wait longer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Frames of the group that is not complete, and the time that they took.
    group: (u32, Duration),
    groups: u64,
    /// The group from which on times count.
    warm: u64,
    /// Time of a frame in each, in a ring.
    recent: [Duration; RECENT],
    /// What others know.
    told: Duration,
    /// The group at which it was last no more than twice of what was needed.
    needed: u64,
}

impl Pace {
    /// Other networks, or other calls of them, from here on; of these it takes `delay` frames until all were made.
    pub(crate) fn warm_up(&mut self, delay: usize) {
        self.warm = self.groups + WARM_UP.max(delay as u64);
    }

    /// A frame took so long. Frames come in groups of so many that belong together, or that are worked on at once: of these most take no
    /// time, and one takes that of all.
    pub(crate) fn took(&mut self, time: Duration, group: usize) {
        self.group = (self.group.0 + 1, self.group.1.saturating_add(time));
        if (self.group.0 as usize) < group {
            return;
        }
        let (frames, time) = std::mem::take(&mut self.group);
        self.groups += 1;
        if self.groups <= self.warm {
            return;
        }
        self.recent[self.groups as usize % RECENT] = time / frames;
        // The slowest may be a hiccup, for which nobody should wait longer from then on.
        let needed = self.slowest(1);
        let with_margin = needed.mul_f64(MARGIN);
        if needed > self.told {
            self.told = with_margin;
        }
        if with_margin >= self.told / 2 {
            self.needed = self.groups;
        } else if self.groups - self.needed >= CALM {
            self.told = with_margin;
        }
    }

    /// The time that three quarters of the frames take at most, as far as is known: what the next one will.
    pub(crate) fn expected(&self) -> Duration {
        self.slowest(RECENT / 4)
    }

    /// Of late, but for as many that were slower still.
    fn slowest(&self, but: usize) -> Duration {
        let mut recent = self.recent;
        recent.sort_unstable();
        recent[RECENT - 1 - but]
    }

    /// What others are told.
    pub(crate) const fn told(&self) -> Duration {
        self.told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_frames_and_hiccups_do_not_count_and_what_is_told_changes_seldom() {
        let mut pace = Pace::default();
        pace.warm_up(1);
        (0..3).for_each(|_| pace.took(ms(2000), 1));
        assert_eq!((pace.told(), pace.expected()), (ms(0), ms(0)));
        let mut told = vec![];
        for frame in 1..1000 {
            pace.took(
                ms(match frame {
                    frame if frame % 50 == 0 => 400,
                    frame if frame % 7 == 0 => 22,
                    _ => 20,
                }),
                1,
            );
            told.push(pace.told());
        }
        told.dedup();
        assert_eq!(told, [ms(0), ms(25)]);
    }

    #[test]
    fn frames_that_belong_together_share_their_time() {
        let mut pace = Pace::default();
        pace.warm_up(1);
        for frame in 0..40 {
            pace.took(ms(if frame % 4 == 3 { 80 } else { 0 }), 4);
        }
        assert_eq!((pace.told(), pace.expected()), (ms(25), ms(20)));
    }

    #[test]
    fn a_slower_machine_is_told_at_its_second_frame_and_a_faster_one_after_a_while() {
        let mut pace = Pace::default();
        pace.warm_up(1);
        (0..10).for_each(|_| pace.took(ms(20), 1));
        pace.took(ms(200), 1);
        assert_eq!(pace.told(), ms(25));
        pace.took(ms(200), 1);
        assert_eq!((pace.told(), pace.expected()), (ms(250), ms(20)));
        (0..3).for_each(|_| pace.took(ms(200), 1));
        assert_eq!(pace.expected(), ms(200));
        (0..16).for_each(|_| pace.took(ms(20), 1));
        assert_eq!((pace.told(), pace.expected()), (ms(250), ms(20)));
        (0..CALM).for_each(|_| pace.took(ms(20), 1));
        assert_eq!(pace.told(), ms(25));
    }
}
