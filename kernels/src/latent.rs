//! A VAE's latents: sampled from a posterior, and brought back to the decoder's scale.

/// diffusers clamps the posterior's log-variance to this range (`DiagonalGaussianDistribution`): a wider one overflows.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// A sample of a KL VAE's posterior: mean + exp(log-variance / 2) · noise.
///
/// # Panics
/// If the lengths differ.
pub fn sample_posterior(mean: &[f32], log_variance: &[f32], noise: &[f32], out: &mut [f32]) {
    let len = out.len();
    let (mean, log_variance, noise) = (&mean[..len], &log_variance[..len], &noise[..len]);
    let (low, high) = LOG_VARIANCE;
    for (((out, mean), log_variance), noise) in out.iter_mut().zip(mean).zip(log_variance).zip(noise) {
        *out = mean + (0.5 * log_variance.clamp(low, high)).exp() * noise;
    }
}

/// latent / scale + shift: from the U-Net's scale to the decoder's.
///
/// # Panics
/// If the lengths differ.
pub fn unscale(scale: f32, shift: f32, latent: &[f32], out: &mut [f32]) {
    let latent = &latent[..out.len()];
    for (out, latent) in out.iter_mut().zip(latent) {
        *out = latent / scale + shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_posterior_without_variance_is_its_mean_and_a_wild_one_is_finite() {
        let mut out = [0.0; 3];
        sample_posterior(&[0.25, 0.25, 0.25], &[0.0, -1e9, 1e9], &[2.0, 1.0, 1.0], &mut out);
        assert_eq!(out[0], 2.25);
        assert!((out[1] - 0.25).abs() < 1e-6 && (out[2] - 10_f32.exp()).abs() < 1.0, "{out:?}");
        sample_posterior(&[0.25], &[f32::NAN], &[1.0], &mut out[..1]);
        assert!(out[0].is_nan());
    }

    #[test]
    fn unscaling_undoes_what_admit_is_given() {
        let mut out = [0.0; 2];
        unscale(0.18215, 0.5, &[0.18215, -0.36430], &mut out);
        assert_eq!(out, [1.5, -1.5]);
    }
}
