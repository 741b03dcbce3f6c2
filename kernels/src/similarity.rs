//! The sums that the similarity filter needs of two pictures, in one pass over both.

/// Sums over two equally long tensors x and y, accumulated in f64 from f32 partial sums.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DotProducts {
    /// Σ x·y
    pub xy: f64,
    /// Σ x·x
    pub xx: f64,
    /// Σ y·y
    pub yy: f64,
    /// Σ (x - y)²; not xx - 2xy + yy, which cancels for near-equal pictures.
    pub difference: f64,
}

/// One pass over `x` and `y`.
///
/// # Panics
/// If the lengths differ.
pub fn dot_products(x: &[f32], y: &[f32]) -> DotProducts {
    // 16 lanes fill an AVX-512 register; blocks of 512 values make each f32 sum 32 terms long, good for 1e-6.
    // Longer blocks lose digits on flat pictures, whose rounding errors all point the same way.
    const LANES: usize = 16;
    const BLOCK: usize = 512;
    assert_eq!(x.len(), y.len(), "the pictures have different sizes");
    let mut sums = DotProducts::default();
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        let mut lanes = [[0.0_f32; LANES]; 4];
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (y, y_rest) = y.as_chunks::<LANES>();
        for (x, y) in x.iter().zip(y) {
            for lane in 0..LANES {
                let (a, b) = (x[lane], y[lane]);
                let d = a - b;
                lanes[0][lane] += a * b;
                lanes[1][lane] += a * a;
                lanes[2][lane] += b * b;
                lanes[3][lane] += d * d;
            }
        }
        let mut totals = lanes.map(|lane| lane.iter().map(|value| f64::from(*value)).sum::<f64>());
        for (a, b) in x_rest.iter().zip(y_rest) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            for (total, term) in totals.iter_mut().zip([a * b, a * a, b * b, (a - b) * (a - b)]) {
                *total += term;
            }
        }
        sums.xy += totals[0];
        sums.xx += totals[1];
        sums.yy += totals[2];
        sums.difference += totals[3];
    }
    sums
}

/// As [`dot_products`], over every `step`-th pixel of every `step`-th row of planar pictures: a likeness for which a quarter or
/// a sixteenth of the pixels says as much.
///
/// # Panics
/// If a slice is not `planes` of `size`, or `step` is 0.
pub fn dot_products_sampled(
    x: &[f32],
    y: &[f32],
    (width, height): (usize, usize),
    planes: usize,
    step: usize,
) -> DotProducts {
    assert!(x.len() == planes * width * height && y.len() == x.len(), "the pictures have other sizes");
    if step == 1 {
        return dot_products(x, y);
    }
    let mut sums = DotProducts::default();
    for row in (0..planes * height).filter(|row| (row % height).is_multiple_of(step)) {
        let (x, y) = (&x[row * width..][..width], &y[row * width..][..width]);
        let mut part = [0.0_f32; 4];
        for (a, b) in x.iter().zip(y).step_by(step) {
            let d = a - b;
            for (sum, term) in part.iter_mut().zip([a * b, a * a, b * b, d * d]) {
                *sum += term;
            }
        }
        sums.xy += f64::from(part[0]);
        sums.xx += f64::from(part[1]);
        sums.yy += f64::from(part[2]);
        sums.difference += f64::from(part[3]);
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sampling_looks_at_every_second_pixel_of_every_second_row() {
        // Two planes of 3 x 3; what is looked at is 1, the rest would show.
        let plane = [1.0, 9.0, 1.0, 9.0, 9.0, 9.0, 1.0, 9.0, 1.0];
        let x: Vec<f32> = plane.iter().chain(&plane).copied().collect();
        let y = vec![0.5; 18];
        let got = dot_products_sampled(&x, &y, (3, 3), 2, 2);
        assert_eq!(got, DotProducts { xy: 4.0, xx: 8.0, yy: 2.0, difference: 2.0 });
    }

    proptest! {
        #[test]
        fn equals_the_plain_sums(pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..9000)) {
            let (x, y): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let got = dot_products(&x, &y);
            let sum = |f: fn(f64, f64) -> f64| -> f64 {
                x.iter().zip(&y).map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
            };
            let scale = 1.0 + x.len() as f64;
            prop_assert!((got.xy - sum(|a, b| a * b)).abs() < 1e-6 * scale);
            prop_assert!((got.xx - sum(|a, _| a * a)).abs() < 1e-6 * scale);
            prop_assert!((got.yy - sum(|_, b| b * b)).abs() < 1e-6 * scale);
            prop_assert!((got.difference - sum(|a, b| (a - b) * (a - b))).abs() < 1e-6 * scale);
        }
    }
}
