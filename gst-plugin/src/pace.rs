//! How long a frame takes, as far as those who wait for it have to know.

use std::time::Duration;

/// Frames before times count: the first ones prepare the networks.
const WARM_UP: u64 = 3;

/// Frames that are looked at: a machine that became slower is noticed with the second of them, one that became faster after all.
const RECENT: usize = 16;

/// Frames after which others are told that they wait for too long. A stream jumps when less is waited than before, so that it is not
/// done for every pause of whatever else keeps the machine busy.
const CALM: u64 = 150;

/// What is told is this much more than what was seen, so that the next frame that is a little slower is not too late.
const MARGIN: f64 = 1.25;

/// The time that a frame takes, which others are told seldom: whoever shows the pictures has to stop for a moment to wait longer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    frames: u64,
    /// In a ring.
    recent: [Duration; RECENT],
    /// What others know.
    told: Duration,
    /// The frame at which it was last no more than twice of what was needed.
    needed: u64,
}

impl Pace {
    /// A frame took so long.
    pub(crate) fn took(&mut self, time: Duration) {
        self.frames += 1;
        if self.frames <= WARM_UP {
            return;
        }
        self.recent[self.frames as usize % RECENT] = time;
        let with_margin = self.expected().mul_f64(MARGIN);
        if self.expected() > self.told {
            self.told = with_margin;
        }
        if with_margin >= self.told / 2 {
            self.needed = self.frames;
        } else if self.frames - self.needed >= CALM {
            self.told = with_margin;
        }
    }

    /// What frames take, as far as is known: the second slowest of late. The slowest may be a hiccup, for which nobody should wait
    /// longer from then on.
    pub(crate) fn expected(&self) -> Duration {
        let mut slowest = [Duration::ZERO; 2];
        for &time in &self.recent {
            if time > slowest[0] {
                slowest = [time, slowest[0]];
            } else if time > slowest[1] {
                slowest[1] = time;
            }
        }
        slowest[1]
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
        (0..3).for_each(|_| pace.took(ms(2000)));
        assert_eq!((pace.told(), pace.expected()), (ms(0), ms(0)));
        let mut told = vec![];
        for frame in 1..1000 {
            pace.took(ms(match frame {
                frame if frame % 50 == 0 => 400,
                frame if frame % 7 == 0 => 22,
                _ => 20,
            }));
            told.push(pace.told());
        }
        told.dedup();
        assert_eq!(told, [ms(0), ms(25)]);
    }

    #[test]
    fn a_slower_machine_is_told_at_its_second_frame_and_a_faster_one_after_a_while() {
        let mut pace = Pace::default();
        (0..10).for_each(|_| pace.took(ms(20)));
        pace.took(ms(200));
        assert_eq!(pace.told(), ms(25));
        pace.took(ms(200));
        assert_eq!((pace.told(), pace.expected()), (ms(250), ms(200)));
        (0..16).for_each(|_| pace.took(ms(20)));
        assert_eq!((pace.told(), pace.expected()), (ms(250), ms(20)));
        (0..CALM).for_each(|_| pace.took(ms(20)));
        assert_eq!(pace.told(), ms(25));
    }
}
