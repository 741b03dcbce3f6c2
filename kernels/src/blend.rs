//! Blending of two tensors: the last picture's latent into that of the next frame.

/// x += weight · (other − x): 0 leaves `x` alone, 1 makes it `other`. What is no number in `other` is left out, so that one broken frame
/// does not break all that come after it.
///
/// # Panics
/// If the lengths differ.
pub fn blend(weight: f32, other: &[f32], x: &mut [f32]) {
    assert_eq!(other.len(), x.len(), "the tensors have different sizes");
    for (x, other) in x.iter_mut().zip(other) {
        *x += if other.is_finite() { weight * (other - *x) } else { 0.0 };
    }
}

#[cfg(test)]
mod tests {
    use super::blend;

    #[test]
    fn the_weight_goes_from_one_to_the_other() {
        let mut x = [1.0, -2.0, 4.0];
        blend(0.0, &[5.0, 6.0, 8.0], &mut x);
        assert_eq!(x, [1.0, -2.0, 4.0]);
        blend(0.25, &[5.0, 6.0, 8.0], &mut x);
        assert_eq!(x, [2.0, 0.0, 5.0]);
        blend(1.0, &[5.0, 6.0, 8.0], &mut x);
        assert_eq!(x, [5.0, 6.0, 8.0]);
        blend(1.0, &[f32::NAN, f32::INFINITY, 1.0], &mut x);
        assert_eq!(x, [5.0, 6.0, 1.0]);
    }
}
