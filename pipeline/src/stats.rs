//! What a stream did: counts, and how long each stage took.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The stages of the frame path, in the order in which a frame passes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The frame to the device; none where the networks are on the host.
    Upload,
    /// 8-bit picture to tensor.
    Preprocess,
    /// Similarity filter.
    Similarity,
    /// What a ControlNet is shown; none where the U-Net has none.
    Control,
    /// VAE encoder.
    Encode,
    /// U-Net.
    Denoise,
    /// Guidance, solver, re-noising.
    Advance,
    /// VAE decoder.
    Decode,
    /// Tensor to 8-bit picture.
    Postprocess,
    /// The picture from the device.
    Download,
    /// All of a call of the engine.
    Step,
}

/// Every stage with the name that reports use.
pub const STAGES: [(Stage, &str); 11] = [
    (Stage::Upload, "upload"),
    (Stage::Preprocess, "preprocess"),
    (Stage::Similarity, "similarity"),
    (Stage::Control, "control"),
    (Stage::Encode, "encode"),
    (Stage::Denoise, "denoise"),
    (Stage::Advance, "advance"),
    (Stage::Decode, "decode"),
    (Stage::Postprocess, "postprocess"),
    (Stage::Download, "download"),
    (Stage::Step, "step"),
];

/// Longest stage time that a histogram tells apart: a minute. Longer ones count as a minute.
const LONGEST_NS: u64 = 60_000_000_000;

/// Counts and stage times of one stream. Fixed memory (about 0.2 MB a stage), no allocation after it is made.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Frames that entered.
    pub frames_in: u64,
    /// Pictures that left, repeated ones included.
    pub frames_out: u64,
    /// Frames that the similarity filter answered with the last picture.
    pub frames_skipped: u64,
    /// Frames lost to NaN or infinity out of a network.
    pub frames_failed: u64,
    /// Rows that the U-Net computed.
    pub unet_rows: u64,
    stages: [Histogram<u64>; STAGES.len()],
    totals: [Duration; STAGES.len()],
}

impl Default for Stats {
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "the bounds are constants that hdrhistogram accepts")]
        let histogram = || Histogram::new_with_bounds(1_000, LONGEST_NS, 2).expect("constant bounds");
        Self {
            frames_in: 0,
            frames_out: 0,
            frames_skipped: 0,
            frames_failed: 0,
            unet_rows: 0,
            stages: std::array::from_fn(|_| histogram()),
            totals: [Duration::ZERO; STAGES.len()],
        }
    }
}

impl Stats {
    /// Records how long a stage took.
    pub fn record(&mut self, stage: Stage, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS);
        self.totals[stage as usize] = self.totals[stage as usize].saturating_add(time);
        self.stages[stage as usize].saturating_record(nanos.min(LONGEST_NS));
    }

    /// What came since `before`, an earlier state of the same stream: counts, and the times of stages.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (count, before) in [
            (&mut since.frames_in, before.frames_in),
            (&mut since.frames_out, before.frames_out),
            (&mut since.frames_skipped, before.frames_skipped),
            (&mut since.frames_failed, before.frames_failed),
            (&mut since.unet_rows, before.unet_rows),
        ] {
            *count = count.saturating_sub(before);
        }
        for (stage, its) in since.stages.iter_mut().zip(&before.stages) {
            // Equal bounds, and an earlier state: this cannot fail.
            let _ = stage.subtract(its);
        }
        for (total, its) in since.totals.iter_mut().zip(before.totals) {
            *total = total.saturating_sub(its);
        }
        since
    }

    /// Adds the stage times and the U-Net's rows of `other`, whose frames are counted elsewhere.
    pub(crate) fn absorb_stages(&mut self, other: &Self) {
        self.unet_rows += other.unet_rows;
        for (mine, its) in self.stages.iter_mut().zip(&other.stages) {
            // Equal bounds: this cannot fail.
            let _ = mine.add(its);
        }
        for (mine, its) in self.totals.iter_mut().zip(other.totals) {
            *mine = mine.saturating_add(its);
        }
    }

    /// Time below which the share `quantile` (0 to 1) of a stage's calls stayed; zero where there were none.
    pub fn quantile(&self, stage: Stage, quantile: f64) -> Duration {
        let histogram = &self.stages[stage as usize];
        if histogram.is_empty() { Duration::ZERO } else { Duration::from_nanos(histogram.value_at_quantile(quantile)) }
    }

    /// Calls of a stage.
    pub fn count(&self, stage: Stage) -> u64 {
        self.stages[stage as usize].len()
    }

    /// Time of all of a stage's calls together.
    pub fn total(&self, stage: Stage) -> Duration {
        self.totals[stage as usize]
    }

    /// Mean time of a stage's calls; zero where there were none.
    pub fn mean(&self, stage: Stage) -> Duration {
        Duration::from_nanos(self.stages[stage as usize].mean() as u64)
    }
}

/// The clock that the engine reads, so that tests run on made-up time.
pub trait Clock: Send {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
}

/// The machine's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(std::time::Instant);

impl MonotonicClock {
    /// A clock that starts now.
    #[allow(clippy::disallowed_methods, reason = "this is the one edge through which the pipeline gets the time")]
    pub fn start() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that stands still: every stage takes no time.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_percent_and_extremes_do_not_panic() {
        let mut stats = Stats::default();
        for ms in 1..=100 {
            stats.record(Stage::Decode, Duration::from_millis(ms));
        }
        let p50 = stats.quantile(Stage::Decode, 0.5).as_secs_f64();
        assert!((p50 - 0.050).abs() < 0.001, "{p50}");
        let before = stats.clone();
        stats.record(Stage::Decode, Duration::from_millis(700));
        let since = stats.since(&before);
        assert_eq!((since.count(Stage::Decode), since.total(Stage::Decode)), (1, Duration::from_millis(700)));
        assert!((since.quantile(Stage::Decode, 0.5).as_secs_f64() - 0.7).abs() < 0.007);
        stats.record(Stage::Encode, Duration::MAX);
        stats.record(Stage::Encode, Duration::ZERO);
        assert_eq!(stats.count(Stage::Encode), 2);
        assert_eq!(stats.quantile(Stage::Step, 0.99), Duration::ZERO);
    }
}
