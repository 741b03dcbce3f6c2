//! Pictures to tensors and back: 8-bit interleaved RGB with a stride ↔ planar f32 in [-1, 1], or to [0, 1].
//!
//! No `mul_add` here: without a target feature for it the compiler calls a library function per value.

use crate::resample::Normalise;

/// Writes an RGB picture as three planes of f32: in [-1, 1] with [`Normalise::SIGNED`] (diffusers' `VaeImageProcessor`:
/// `2 · v/255 - 1`), in [0, 1] with [`Normalise::UNIT`].
///
/// `rgb` has `height` rows of `3 · width` bytes, `stride` bytes apart; `chw` holds `3 · width · height` values.
///
/// # Panics
/// If a slice is too short for the size: the engine checks sizes once, where a frame enters.
pub fn rgb8_to_chw(rgb: &[u8], stride: usize, (width, height): (usize, usize), normalise: Normalise, chw: &mut [f32]) {
    let plane = width * height;
    let (red, rest) = chw[..3 * plane].split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for y in 0..height {
        let row = &rgb[y * stride..y * stride + 3 * width];
        let at = y * width..(y + 1) * width;
        let (r, g, b) = (&mut red[at.clone()], &mut green[at.clone()], &mut blue[at]);
        for (((pixel, r), g), b) in row.as_chunks::<3>().0.iter().zip(r).zip(g).zip(b) {
            *r = normalise.apply(f32::from(pixel[0]));
            *g = normalise.apply(f32::from(pixel[1]));
            *b = normalise.apply(f32::from(pixel[2]));
        }
    }
}

/// Writes three planes of f32 as interleaved RGB without padding: `round(255 · clamp(v/2 + 1/2, 0, 1))`, ties to even as
/// numpy rounds. NaN becomes 0.
///
/// # Panics
/// If a slice is too short for the size.
pub fn chw_to_rgb8(chw: &[f32], width: usize, height: usize, rgb: &mut [u8]) {
    let plane = width * height;
    let (red, rest) = chw[..3 * plane].split_at(plane);
    let (green, blue) = rest.split_at(plane);
    for (((pixel, r), g), b) in rgb[..3 * plane].as_chunks_mut::<3>().0.iter_mut().zip(red).zip(green).zip(blue) {
        *pixel = [quantise(*r), quantise(*g), quantise(*b)];
    }
}

fn quantise(value: f32) -> u8 {
    // Adding 1.5 · 2^23 leaves the rounded integer in the low mantissa bits: round-half-even without a function call,
    // which lets the loop vectorise. It needs 0 ≤ v ≤ 255, which the clamp gives.
    const MAGIC: f32 = 12_582_912.0;
    let scaled = (value * 127.5 + 127.5).clamp(0.0, 255.0);
    let scaled = if scaled.is_nan() { 0.0 } else { scaled };
    (scaled + MAGIC).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        let rgb: Vec<u8> = (0..=255).flat_map(|v| [v, 255 - v, v ^ 0x55]).collect();
        let mut chw = vec![0.0; rgb.len()];
        rgb8_to_chw(&rgb, 16 * 3, (16, 16), Normalise::SIGNED, &mut chw);
        assert!((chw[0] + 1.0).abs() < 1e-6 && (chw[255] - 1.0).abs() < 1e-6);
        let mut back = vec![0; rgb.len()];
        chw_to_rgb8(&chw, 16, 16, &mut back);
        assert_eq!(back, rgb);
    }

    #[test]
    fn padding_at_the_end_of_a_row_is_not_read() {
        let rgb = [10, 20, 30, 40, 50, 60, 99, 99, 70, 80, 90, 100, 110, 120, 99, 99];
        let mut chw = vec![0.0; 12];
        rgb8_to_chw(&rgb, 8, (2, 2), Normalise::SIGNED, &mut chw);
        let mut back = vec![0; 12];
        chw_to_rgb8(&chw, 2, 2, &mut back);
        assert_eq!(back, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]);
    }

    proptest! {
        #[test]
        fn quantise_equals_numpy(value in prop_oneof![-2.0_f32..2.0, Just(f32::NAN), Just(f32::INFINITY), Just(-1.0e30)]) {
            let expected = (value * 127.5 + 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
            prop_assert_eq!(quantise(value), expected);
        }
    }
}
