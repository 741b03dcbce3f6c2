//! Figures of the StreamDiffusion paper (arXiv 2312.12491) to print next to ours. They are of an RTX 4090 with TensorRT.

/// Table 2: milliseconds a picture at 1 to 5 steps, as (self-negative R-CFG, one-time-negative R-CFG, full CFG).
const TABLE_2: [(f64, f64, f64); 5] =
    [(11.04, 16.55, 16.74), (16.61, 20.64, 27.18), (20.64, 27.25, 35.91), (26.19, 31.65, 49.71), (31.47, 36.04, 64.64)];

/// Times as fast as full guidance at that many steps, of (self, initialize), to the two digits that the paper prints;
/// `None` beyond its table.
pub fn full_over(steps: usize) -> Option<(f64, f64)> {
    let (own, initialize, full) = *TABLE_2.get(steps.checked_sub(1)?)?;
    let ratio = |time: f64| (full / time * 100.0).round() / 100.0;
    Some((ratio(own), ratio(initialize)))
}

#[cfg(test)]
mod tests {
    use super::full_over;

    #[test]
    fn the_ratios_are_those_that_the_paper_prints() {
        assert_eq!(full_over(1), Some((1.52, 1.01)));
        assert_eq!(full_over(5), Some((2.05, 1.79)));
        assert_eq!((full_over(0), full_over(6)), (None, None));
    }
}
