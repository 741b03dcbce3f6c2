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
    let across = pass(&rgb, Line { len: width, step: 3 }, Line { len: height, step: 3 * width }, size.width);
    let (along, lines) = (Line { len: height, step: 3 * size.width }, Line { len: size.width, step: 3 });
    let down = pass(&across, along, lines, size.height);
    Ok(transpose(&down, size))
}

/// Bits behind the point of Pillow's fixed-point weights.
const PRECISION: u32 = 22;

/// Pixels in a row or a column, and bytes from one to the next.
#[derive(Clone, Copy)]
struct Line {
    len: usize,
    step: usize,
}

/// Resizes every line `along` to `out` pixels. The result has the lines one after the other.
fn pass(input: &[u8], along: Line, lines: Line, out: usize) -> Vec<u8> {
    let mut output = vec![0; out * lines.len * 3];
    for (target, (first, weights)) in weights(along.len, out).into_iter().enumerate() {
        for line in 0..lines.len {
            for channel in 0..3 {
                let at = |i: usize| line * lines.step + (first + i) * along.step + channel;
                let sum: i64 = weights.iter().enumerate().map(|(i, weight)| i64::from(input[at(i)]) * weight).sum();
                let value = (sum + (1 << (PRECISION - 1))) >> PRECISION;
                output[(line * out + target) * 3 + channel] = value.clamp(0, 255) as u8;
            }
        }
    }
    output
}

/// A picture stored by columns as one stored by rows.
fn transpose(columns: &[u8], size: Size) -> Vec<u8> {
    let pixel = |x: usize, y: usize| &columns[(x * size.height + y) * 3..][..3];
    (0..size.height).flat_map(|y| (0..size.width).flat_map(move |x| pixel(x, y).iter().copied())).collect()
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
            let raw: Vec<f64> = (first..last).map(|i| lanczos3((i as f64 - center + 0.5) / filter_scale)).collect();
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
