//! The few element-wise kernels between the networks, on the CPU and (not yet run on one) on a GPU.
//!
//! Each function works on plain slices in the layout that the networks use (NCHW, f32) and is written so that the
//! compiler vectorises its inner loop: no branch inside it that depends on data, and slices cut to one length before it.
//!
//! Beside each lies its CUDA twin (`.cu`), which [`gpu`] calls and [`cuda`] compiles and launches. Tests compile the same source for
//! the host and compare the two.

mod advance;
mod blend;
pub mod cuda;
pub mod gpu;
mod half;
mod latent;
mod picture;
mod resample;
mod similarity;

pub use advance::{Guidance, History, MAX_HISTORY, StepCoefficients, admit, advance};
pub use blend::blend;
pub use half::{f16, f16_to_f32, f32_to_f16};
pub use latent::{sample_posterior, unscale};
pub use picture::{chw_to_rgb8, rgb8_to_chw};
pub use resample::{Crop, Filter, Normalise, Picture, PixelFormat, YuvMatrix, picture_to_chw};
pub use similarity::{DotProducts, dot_products, dot_products_sampled};

/// Whether every value is finite. One pass; used to keep a broken picture from reaching the sink.
pub fn all_finite(values: &[f32]) -> bool {
    // x * 0 is 0 for a finite x and NaN for infinity and NaN, so that the sum tells without a branch per value.
    // Eight sums side by side: a single chain of additions would run at the latency of one addition each.
    let mut lanes = [0.0_f32; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value * 0.0;
        }
    }
    lanes.iter().sum::<f32>() == 0.0 && rest.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::all_finite;

    #[test]
    fn one_bad_value_anywhere_is_found() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..21 {
                let mut values = vec![-3.0e38_f32; 21];
                assert!(all_finite(&values));
                values[at] = bad;
                assert!(!all_finite(&values), "{bad} at {at}");
            }
        }
    }
}
