//! How long to wait between attempts to reach something that was lost.

use std::time::Duration;

/// Growing pauses: each twice the one before, up to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Before the first attempt.
    pub first: Duration,
    /// Before any attempt at most.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl Retry {
    /// The default with another longest pause.
    pub fn up_to(longest: Duration) -> Self {
        let usual = Self::default();
        Self { first: usual.first.min(longest), longest }
    }

    /// The pause before attempt number `attempt`, counted from 0.
    pub fn pause(&self, attempt: u32) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let seconds: Vec<f64> = (0..9).map(|attempt| Retry::default().pause(attempt).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(Retry::default().pause(u32::MAX), Duration::from_secs(30));
        assert_eq!(Retry::up_to(Duration::from_millis(100)).pause(0), Duration::from_millis(100));
    }
}
