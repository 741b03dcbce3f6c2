//! Medians, spreads and percentiles of a handful of measurements.

use std::time::Duration;

use serde::Serialize;

/// Minimum, median and maximum of a few rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// Middle one; the mean of the two middle ones of an even number.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    ///
    /// # Panics
    /// If there is none.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let median = f64::midpoint(sorted[last / 2], sorted[last.div_ceil(2)]);
        Self { min: sorted[0], median, max: sorted[last] }
    }
}

/// Percentiles of times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Times {
    /// Median.
    pub p50: f64,
    /// 95 of 100 stayed below or at it.
    pub p95: f64,
    /// 99 of 100 stayed below or at it.
    pub p99: f64,
    /// Number of times.
    pub samples: usize,
}

impl Times {
    /// Of some times; `None` of none. A percentile is one of the times (the nearest rank), not a value between two.
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let rank = |share: f64| ((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
        let at = |share: f64| sorted.get(rank(share) - 1).map(|time| time.as_secs_f64() * 1e3);
        if sorted.is_empty() {
            return None;
        }
        Some(Self { p50: at(0.50)?, p95: at(0.95)?, p99: at(0.99)?, samples: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(Spread::of(&[3.0]), Spread { min: 3.0, median: 3.0, max: 3.0 });
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]).median, 3.0);
    }

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(Times::of(&times), Some(Times { p50: 50.0, p95: 95.0, p99: 99.0, samples: 100 }));
        let one = Times::of(&[Duration::from_millis(7)]);
        assert_eq!(one, Some(Times { p50: 7.0, p95: 7.0, p99: 7.0, samples: 1 }));
        assert_eq!(Times::of(&[]), None);
    }
}
