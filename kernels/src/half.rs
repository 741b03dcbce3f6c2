//! 16-bit floats, as networks on a GPU take and give them. `half` uses the processor's own conversion where it has one.

pub use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// Widens every value; exact.
///
/// # Panics
/// If the lengths differ.
pub fn f16_to_f32(from: &[f16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}

/// Rounds every value to the nearest, ties to even; beyond 65 504 it becomes infinite.
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_f16(from: &[f32], to: &mut [f16]) {
    to.convert_from_f32_slice(from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_round_trip() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        f16_to_f32(&all, &mut wide);
        let mut back = vec![f16::ZERO; all.len()];
        f32_to_f16(&wide, &mut back);
        for (a, b) in all.iter().zip(&back) {
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{a:?} became {b:?}");
        }
    }

    #[test]
    fn ties_go_to_even_and_large_values_to_infinity() {
        let from = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65519.0, 65520.0, -1e30, 1e-9];
        let mut to = [f16::ZERO; 6];
        f32_to_f16(&from, &mut to);
        let want = [1.0, 1.0 + 2.0 / 1024.0, 65504.0, f32::INFINITY, f32::NEG_INFINITY, 0.0];
        assert_eq!(to.map(f16::to_f32), want);
    }
}
