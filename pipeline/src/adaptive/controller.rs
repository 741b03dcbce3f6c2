//! When quality is lowered and raised: a pure function of the frames' times.

use std::time::Duration;

/// Frames that a decision is made from: about half a second at 30 frames a second. Fewer would follow every hiccup of a
/// shared machine, more would leave a person with a stuttering picture.
const WINDOW: usize = 16;

/// A lower level is chosen so that a frame would take this share of its time: closer to 1, and the next hiccup lowers again.
const LOWER_TO: f64 = 0.9;

/// A higher level must be expected to take no more than this share. The gap to [`LOWER_TO`] keeps it from going up and down.
const RAISE_BELOW: f64 = 0.8;

/// How long it must have looked that way before the level is raised.
const PATIENCE: Duration = Duration::from_secs(2);

/// A raised level that must be lowered again within this time was a mistake: the next one waits twice as long.
const PROBATION: Duration = Duration::from_secs(10);

/// Longest wait before another attempt, however many failed.
const MOST_PATIENCE: Duration = Duration::from_secs(64);

/// Chooses levels by how long frames take.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// Expected cost of each level, from best to cheapest.
    weights: Vec<f64>,
    level: usize,
    /// Time that a frame may take.
    budget: Duration,
    window: Vec<Duration>,
    /// Since when a higher level would have fitted.
    fits_since: Option<Duration>,
    raised_at: Option<Duration>,
    patience: Duration,
}

/// What [`Controller::observe`] decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) level: usize,
    /// Median time of the last frames.
    pub(super) took: Duration,
}

impl Controller {
    /// Starts at `level`.
    pub(super) fn new(weights: Vec<f64>, level: usize, budget: Duration) -> Self {
        Self {
            weights,
            level,
            budget,
            window: Vec::with_capacity(WINDOW),
            fits_since: None,
            raised_at: None,
            patience: PATIENCE,
        }
    }

    /// A frame took so long, and it is `now`. `Some` when the level changes with the next frame.
    pub(super) fn observe(&mut self, now: Duration, took: Duration) -> Option<Change> {
        if self.window.len() == WINDOW {
            self.window.remove(0);
        }
        self.window.push(took);
        if self.window.len() < WINDOW {
            return None;
        }
        let took = self.median();
        let level = if took > self.budget { self.lower(now, took)? } else { self.raise(now, took)? };
        self.level = level;
        self.window.clear();
        self.fits_since = None;
        Some(Change { level, took })
    }

    fn median(&self) -> Duration {
        let mut sorted = [Duration::ZERO; WINDOW];
        sorted.copy_from_slice(&self.window);
        sorted.sort_unstable();
        sorted[WINDOW / 2]
    }

    /// The first level below that is expected to fit, else the cheapest.
    fn lower(&mut self, now: Duration, took: Duration) -> Option<usize> {
        self.fits_since = None;
        let room = self.budget.mul_f64(LOWER_TO);
        let mut below = self.level + 1..self.weights.len();
        let cheapest = below.clone().last()?;
        let level = below.find(|at| self.expected(*at, took) <= room).unwrap_or(cheapest);
        if let Some(raised_at) = self.raised_at.take() {
            let failed = now.saturating_sub(raised_at) < PROBATION;
            self.patience = if failed { (self.patience * 2).min(MOST_PATIENCE) } else { PATIENCE };
        }
        Some(level)
    }

    /// The level above, once it has looked as if it fitted for long enough.
    fn raise(&mut self, now: Duration, took: Duration) -> Option<usize> {
        let level = self.level.checked_sub(1)?;
        if self.expected(level, took) > self.budget.mul_f64(RAISE_BELOW) {
            self.fits_since = None;
            return None;
        }
        let since = *self.fits_since.get_or_insert(now);
        if now.saturating_sub(since) < self.patience {
            return None;
        }
        self.raised_at = Some(now);
        Some(level)
    }

    /// How long a frame would take at another level, if now it takes `took`.
    fn expected(&self, level: usize, took: Duration) -> Duration {
        took.mul_f64(self.weights[level] / self.weights[self.level])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(33);

    fn controller() -> Controller {
        Controller::new(vec![16.0, 9.0, 4.0, 2.0], 0, BUDGET)
    }

    /// A machine on which level 0 takes `ms(second)` milliseconds: the levels after each second.
    fn simulate(controller: &mut Controller, seconds: u64, ms: impl Fn(u64) -> f64) -> Vec<usize> {
        let mut levels = Vec::new();
        for frame in 0..seconds * 30 {
            let now = Duration::from_secs_f64(frame as f64 / 30.0);
            let share = [16.0, 9.0, 4.0, 2.0][controller.level] / 16.0;
            controller.observe(now, Duration::from_secs_f64(ms(frame / 30) * share / 1e3));
            if frame % 30 == 29 {
                levels.push(controller.level);
            }
        }
        levels
    }

    #[test]
    fn a_fast_machine_stays_at_the_top_and_a_slow_one_goes_where_it_fits_at_once() {
        assert_eq!(simulate(&mut controller(), 5, |_| 25.0), [0; 5]);
        assert_eq!(simulate(&mut controller(), 5, |_| 45.0), [1; 5]);
        assert_eq!(simulate(&mut controller(), 5, |_| 100.0), [2; 5]);
        // Nothing fits: the cheapest.
        assert_eq!(simulate(&mut controller(), 5, |_| 1000.0), [3; 5]);
    }

    #[test]
    fn quality_comes_back_when_the_machine_is_free_again_and_hiccups_change_nothing() {
        let levels = simulate(&mut controller(), 20, |second| if (3..8).contains(&second) { 100.0 } else { 20.0 });
        assert_eq!((levels[2], levels[7], levels[19]), (0, 2, 0), "{levels:?}");
        assert!(levels[7..].windows(2).all(|pair| pair[1] <= pair[0]), "{levels:?}");
        let mut steady = controller();
        for frame in 0..600_u32 {
            let took = if frame % 5 == 0 { 90 } else { 25 };
            assert_eq!(steady.observe(Duration::from_millis(u64::from(frame) * 33), Duration::from_millis(took)), None);
        }
    }

    #[test]
    fn attempts_that_fail_become_rare() {
        // Level 0 takes 34 ms, just too long, but level 1 makes it look like 34 · 9/16 = 19 ms, for which the weights promise
        // 34: no attempt. A machine whose levels differ less than their weights say tempts it again and again.
        let mut tempted = controller();
        let (mut raised, mut lowered) = (Vec::new(), 0);
        for frame in 0..30 * 300 {
            let now = Duration::from_secs_f64(f64::from(frame) / 30.0);
            let took = Duration::from_millis(if tempted.level == 0 { 40 } else { 12 });
            match tempted.observe(now, took) {
                Some(change) if change.level == 0 => raised.push(now.as_secs()),
                Some(_) => lowered += 1,
                None => {}
            }
        }
        assert!(lowered >= raised.len());
        let gaps: Vec<u64> = raised.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(raised.len() <= 9 && gaps.is_sorted(), "{raised:?}");
    }
}
