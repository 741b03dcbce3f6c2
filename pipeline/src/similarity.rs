//! The stochastic similarity filter (paper §3.4): skips the networks for frames that look like the last one processed.
//!
//! The closer a frame is to the last processed one, the likelier it is skipped: p = max(0, 1 - (1-s)/(1-η)), compared
//! with a uniform number, which is smoother to the eye than a hard threshold. Everything is computed in f32 and f64: in
//! f16, as the reference does it, one step near s = 1 is 2.4 % of the range between η = 0.98 and 1.

use std::fmt;
use std::str::FromStr;

use livediffusion_kernels::dot_products;

/// How likeness is measured, on pixels in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The paper's: cosine of the angle between the pictures as vectors. Blind on flat dark or bright scenes, where
    /// all pictures point the same way, and undefined on mid-grey.
    Cosine,
    /// 1 - Σ(x-y)² / 2Σv² with v² = 1/3, the mean square of a picture with evenly spread values, in place of the
    /// picture's own: equals the cosine on ordinary pictures, whatever the brightness on others.
    Difference,
}

/// Mean square that [`Metric::Difference`] takes every picture to have: a uniform distribution on [-1, 1]. A larger
/// value would skip more.
const MEAN_SQUARE: f64 = 1.0 / 3.0;

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Cosine { "cosine" } else { "difference" })
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "cosine" => Ok(Self::Cosine),
            "difference" => Ok(Self::Difference),
            _ => Err(format!("{name:?} is neither cosine nor difference")),
        }
    }
}

/// What the filter thought of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// s, or `None` for the first frame.
    pub similarity: Option<f64>,
    /// The uniform number that was drawn.
    pub sample: Option<f64>,
    /// Whether the networks are skipped.
    pub skip: bool,
}

impl Decision {
    /// The frame is processed, without having been looked at.
    pub const PROCESS: Self = Self { similarity: None, sample: None, skip: false };
}

/// The filter's state: the last processed picture and how many frames were skipped since it was last forced.
#[derive(Clone, Debug, Default)]
pub struct SimilarityFilter {
    previous: Vec<f32>,
    skipped: u32,
}

impl SimilarityFilter {
    /// Decides on one picture, [3, H, W]. `threshold` is η, `max_skip` bounds the skips (counted, as in the reference,
    /// across frames processed by chance in between) before a frame is processed whatever it looks like, `uniform`
    /// draws from [0, 1).
    pub fn decide(
        &mut self,
        picture: &[f32],
        metric: Metric,
        threshold: f64,
        max_skip: u32,
        uniform: impl FnOnce() -> f64,
    ) -> Decision {
        if self.previous.len() != picture.len() {
            self.remember(picture);
            return Decision::PROCESS;
        }
        let similarity = similarity(metric, &self.previous, picture);
        let sample = uniform();
        let skip_probability =
            if threshold >= 1.0 { 0.0 } else { (1.0 - (1.0 - similarity) / (1.0 - threshold)).max(0.0) };
        let wants_skip = skip_probability >= sample && skip_probability > 0.0;
        let skip = wants_skip && self.skipped <= max_skip;
        if skip {
            self.skipped += 1;
        } else {
            if wants_skip {
                self.skipped = 0;
            }
            self.remember(picture);
        }
        Decision { similarity: Some(similarity), sample: Some(sample), skip }
    }

    /// Forgets the last picture: the next frame is processed.
    pub fn reset(&mut self) {
        self.previous.clear();
        self.skipped = 0;
    }

    fn remember(&mut self, picture: &[f32]) {
        self.previous.clear();
        self.previous.extend_from_slice(picture);
    }
}

/// Likeness of two pictures, 1 for equal ones.
pub fn similarity(metric: Metric, x: &[f32], y: &[f32]) -> f64 {
    let sums = dot_products(x, y);
    match metric {
        Metric::Cosine => sums.xy / (sums.xx.sqrt() * sums.yy.sqrt()).max(1e-6),
        Metric::Difference => 1.0 - sums.difference / (2.0 * MEAN_SQUARE * x.len().max(1) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 3 * 32 * 32;

    fn flat(level: f32) -> Vec<f32> {
        vec![level; N]
    }

    #[test]
    fn equal_frames_are_skipped_up_to_the_limit_and_then_forced() {
        let mut filter = SimilarityFilter::default();
        let frame: Vec<f32> = (0..N).map(|i| (i % 7) as f32 / 3.5 - 1.0).collect();
        let decisions: Vec<bool> =
            (0..10).map(|_| filter.decide(&frame, Metric::Cosine, 0.98, 2, || 0.5).skip).collect();
        assert_eq!(decisions, [false, true, true, true, false, true, true, true, false, true]);
    }

    #[test]
    fn the_chance_of_a_skip_is_the_papers() {
        let mut filter = SimilarityFilter::default();
        let (frame, noisy): (Vec<f32>, Vec<f32>) = (0..N)
            .map(|i| {
                ((i % 7) as f32 / 3.5 - 1.0, (i % 7) as f32 / 3.5 - 1.0 + ((i * 31 % 17) as f32 / 16.0 - 0.5) * 0.2)
            })
            .unzip();
        let s = similarity(Metric::Cosine, &frame, &noisy);
        let p = 1.0 - (1.0 - s) / 0.02;
        assert!((0.05..0.95).contains(&p), "the test picture says nothing: s {s}");
        for (sample, skip) in [(p - 1e-6, true), (p + 1e-6, false)] {
            filter.reset();
            filter.decide(&frame, Metric::Cosine, 0.98, 10, || 0.0);
            assert_eq!(filter.decide(&noisy, Metric::Cosine, 0.98, 10, || sample).skip, skip);
        }
    }

    #[test]
    fn a_threshold_of_one_never_skips() {
        let mut filter = SimilarityFilter::default();
        assert!((0..5).all(|_| !filter.decide(&flat(0.3), Metric::Cosine, 1.0, 10, || 0.0).skip));
    }

    /// Reference bug 14: on a flat dark scene the cosine sees no difference; the default metric does.
    #[test]
    fn bug_14_dark_scenes_do_not_fool_the_default_metric() {
        let (dark, lighter) = (flat(-0.98), flat(-0.60));
        assert!(similarity(Metric::Cosine, &dark, &lighter) > 0.999_999);
        assert!(similarity(Metric::Difference, &dark, &lighter) < 0.98);
        // Mid-grey: two pictures that differ by one grey level in 255 are nearly the same, and are said to be.
        let (grey, next) = (flat(0.5 / 255.0), flat(-0.5 / 255.0));
        assert!(similarity(Metric::Cosine, &grey, &next) < -0.9);
        assert!(similarity(Metric::Difference, &grey, &next) > 0.9999);
    }
}
