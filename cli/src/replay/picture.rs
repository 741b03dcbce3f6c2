//! A case's input pictures at the size of its networks.

use std::f64::consts::PI;

use livediffusion_pipeline::frame::Size;

use super::case::Tensor;
use crate::failure::{Failure, Outcome, RUNNING};

/// Picture `id` as packed RGB of `size`; resized by Lanczos as diffusers' image processor does with Pillow. Where only
/// the recorded latents count (`resizes` is false), a picture of another size is replaced by black.
pub(super) fn fit(frames: &Tensor, id: usize, size: Size, resizes: bool) -> Outcome<Vec<u8>> {
    let failed = |what: String| Failure::new(RUNNING, format!("input/frames_u8, picture {id}: {what}"));
    let &[_, height, width, 3] = frames.shape.as_slice() else {
        return Err(failed(format!("the shape is {:?}, not [frames, height, width, 3]", frames.shape)));
    };
    let row = frames.row(id).ok_or_else(|| failed("it is missing".into()))?;
    let rgb: Vec<u8> = row.iter().map(|value| *value as u8).collect();
    if (width, height) == (size.width, size.height) {
        return Ok(rgb);
    }
    if !resizes {
        return Ok(vec![0; 3 * size.pixels()]);
    }
    // Across first, then down, with 8-bit pictures between: another order, or floats between, gives other bytes.
    let across = pass(&rgb, 3, width, 3 * width, height, size.width);
    Ok(pass(&across, 3 * size.width, height, 3, size.width, size.height))
}

/// Bits behind the point of Pillow's fixed-point weights.
const PRECISION: u32 = 22;

/// Resizes one dimension to `out` samples. Samples along it are `step` apart in the input, of which there are `len`;
/// lines across it are `line_step` apart, of which there are `lines`.
fn pass(input: &[u8], step: usize, len: usize, line_step: usize, lines: usize, out: usize) -> Vec<u8> {
    let across = step == 3;
    let mut output = vec![0; out * lines * 3];
    for (target, (first, weights)) in weights(len, out).into_iter().enumerate() {
        for line in 0..lines {
            for channel in 0..3 {
                let sum: i64 = weights
                    .iter()
                    .enumerate()
                    .map(|(i, weight)| {
                        i64::from(input[line * line_step + (first + i) * step + channel]) * weight
                    })
                    .sum();
                let value = (sum + (1 << (PRECISION - 1))) >> PRECISION;
                let at = if across { (line * out + target) * 3 } else { (target * lines + line) * 3 };
                output[at + channel] = value.clamp(0, 255) as u8;
            }
        }
    }
    output
}

/// First input sample and fixed-point weights of every output sample (Pillow's `precompute_coeffs`).
fn weights(len: usize, out: usize) -> Vec<(usize, Vec<i64>)> {
    let scale = len as f64 / out as f64;
    let filter_scale = scale.max(1.0);
    let support = 3.0 * filter_scale;
    (0..out)
        .map(|target| {
            let center = (target as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let last = ((center + support + 0.5) as usize).min(len);
            let raw: Vec<f64> =
                (first..last).map(|i| lanczos3((i as f64 - center + 0.5) / filter_scale)).collect();
            let total: f64 = raw.iter().sum();
            let fixed = |weight: f64| (weight / total * f64::from(1 << PRECISION)).round() as i64;
            (first, raw.into_iter().map(fixed).collect())
        })
        .collect()
}

fn lanczos3(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (PI * x).sin() / (PI * x) };
    if x.abs() < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}
