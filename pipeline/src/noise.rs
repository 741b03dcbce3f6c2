//! Seeded Gaussian noise: the same seed gives the same picture on every machine and every backend.
//!
//! The generator is `ChaCha8` (rand's value-stable variant) with the seed as its key; what the noise is for selects the
//! `ChaCha` stream, so that the noise of one step or frame does not depend on how many others were drawn. Pairs of f64
//! uniforms become pairs of normals by Box–Muller, rounded to f32.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Where the random tensors of a stream come from. Shared by the slots in flight, so that a frame ends with the noise
/// that it began with when the seed changes.
pub trait NoiseSource: Send + Sync {
    /// z_k: what is added on the way to denoising step `step`, of one latent. Fixed for the whole stream, which is what
    /// keeps still scenes still; `frame` is for recorded noise, which may differ from frame to frame.
    fn step(&self, step: usize, frame: u64) -> &[f32];

    /// The start of a txt2img frame: fresh standard normal noise.
    fn initial(&self, frame: u64, out: &mut [f32]);

    /// Noise for sampling a KL VAE's posterior.
    fn posterior(&self, frame: u64, out: &mut [f32]);
}

/// Streams above those of the steps.
const INITIAL: u64 = 1 << 40;
const POSTERIOR: u64 = 2 << 40;
const FILTER: u64 = 3 << 40;

/// Noise from a seed, or from several that are blended.
#[derive(Clone, Debug)]
pub struct SeededNoise {
    /// Seeds, and what the noise of each is multiplied by: squares that sum to 1, so that sums of independent normal noises
    /// are as strong as each.
    seeds: Vec<(u64, f32)>,
    len: usize,
    steps: Vec<f32>,
}

impl SeededNoise {
    /// Draws the fixed noise of `steps` steps for latents of `len` values.
    pub fn new(seed: u64, steps: usize, len: usize) -> Self {
        Self::blend(&[(seed, 1.0)], steps, len)
    }

    /// As [`new`](Self::new), of several seeds with weights.
    pub fn blend(seeds: &[(u64, f32)], steps: usize, len: usize) -> Self {
        let norm = seeds.iter().map(|(_, weight)| weight * weight).sum::<f32>().sqrt();
        let seeds: Vec<_> = seeds.iter().map(|(seed, weight)| (*seed, weight / norm)).collect();
        let mut noise = Self { seeds, len, steps: vec![0.0; steps * len] };
        let mut table = std::mem::take(&mut noise.steps);
        for (step, out) in table.chunks_mut(len.max(1)).enumerate() {
            noise.fill(step as u64, out);
        }
        Self { steps: table, ..noise }
    }

    /// The noise of a `ChaCha` stream.
    fn fill(&self, stream: u64, out: &mut [f32]) {
        if let [(seed, _)] = self.seeds[..] {
            fill_normal(&mut generator(seed, stream), out);
            return;
        }
        out.fill(0.0);
        for (seed, factor) in &self.seeds {
            let generator = &mut generator(*seed, stream);
            for pair in out.chunks_mut(2) {
                let mut normals = [0.0; 2];
                fill_normal(generator, &mut normals);
                pair.iter_mut().zip(normals).for_each(|(value, normal)| *value += factor * normal);
            }
        }
    }

    /// Steps that noise was drawn for.
    pub fn steps(&self) -> usize {
        self.steps.len() / self.len.max(1)
    }
}

impl NoiseSource for SeededNoise {
    fn step(&self, step: usize, _frame: u64) -> &[f32] {
        &self.steps[step * self.len..(step + 1) * self.len]
    }

    fn initial(&self, frame: u64, out: &mut [f32]) {
        self.fill(INITIAL + frame, out);
    }

    fn posterior(&self, frame: u64, out: &mut [f32]) {
        self.fill(POSTERIOR + frame, out);
    }
}

/// Uniform numbers in [0, 1) for the similarity filter.
#[derive(Clone, Debug)]
pub struct SeededUniform(ChaCha8Rng);

impl SeededUniform {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(generator(seed, FILTER))
    }

    /// The next number.
    pub fn next_uniform(&mut self) -> f64 {
        uniform(&mut self.0)
    }
}

fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut generator = ChaCha8Rng::from_seed(key);
    generator.set_stream(stream);
    generator
}

/// [0, 1) in steps of 2^-53.
fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn fill_normal(generator: &mut ChaCha8Rng, out: &mut [f32]) {
    for pair in out.chunks_mut(2) {
        // 1 - u is in (0, 1]: its logarithm is finite.
        let radius = (-2.0 * (1.0 - uniform(generator)).ln()).sqrt();
        let angle = std::f64::consts::TAU * uniform(generator);
        let normals = [radius * angle.cos(), radius * angle.sin()];
        for (value, normal) in pair.iter_mut().zip(normals) {
            *value = normal as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_a_standard_normal() {
        let noise = SeededNoise::new(7, 1, 200_000);
        let z = noise.step(0, 0);
        let n = z.len() as f64;
        let moment = |p: i32| z.iter().map(|v| f64::from(*v).powi(p)).sum::<f64>() / n;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
    }

    #[test]
    fn a_seed_is_a_picture_for_ever() {
        // These values must never change: a user's seed would give another picture after an update.
        let noise = SeededNoise::new(2, 2, 4);
        let expected =
            [1.834_335_2, 2.032_547_5, 0.943_878_35, -0.455_212_83, -0.590_922_4, 1.052_924_3, 0.669_127, 0.327_487_32];
        let got: Vec<f32> = (0..2).flat_map(|k| noise.step(k, 0).to_vec()).collect();
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} instead of {expected}");
        }
    }

    #[test]
    fn a_blend_of_seeds_is_as_strong_as_each_and_like_both() {
        let len = 50_000;
        let (a, b) = (SeededNoise::new(1, 1, len), SeededNoise::new(2, 1, len));
        let blend = SeededNoise::blend(&[(1, 0.75), (2, 0.25)], 1, len);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / len as f64;
        let z = blend.step(0, 0);
        let norm = 0.625_f64.sqrt();
        assert!((dot(z, z) - 1.0).abs() < 0.02);
        assert!((dot(z, a.step(0, 0)) - 0.75 / norm).abs() < 0.02 && (dot(z, b.step(0, 0)) - 0.25 / norm).abs() < 0.02);
        // One seed alone is that seed's noise to the last bit, whatever it weighs.
        assert_eq!(SeededNoise::blend(&[(1, 0.3)], 1, 9).step(0, 0), SeededNoise::new(1, 1, 9).step(0, 0));
        // Of an odd length too.
        assert!(SeededNoise::blend(&[(1, 0.5), (2, 0.5)], 1, 7).step(0, 0).iter().all(|v| *v != 0.0));
    }

    #[test]
    fn steps_do_not_depend_on_how_many_there_are_and_frames_differ() {
        let (two, four) = (SeededNoise::new(5, 2, 16), SeededNoise::new(5, 4, 16));
        assert_eq!(two.step(1, 0), four.step(1, 0));
        assert_ne!(four.step(1, 0), four.step(2, 0));
        let (mut a, mut b) = (vec![0.0; 16], vec![0.0; 16]);
        two.initial(3, &mut a);
        two.initial(4, &mut b);
        assert_ne!(a, b);
        four.initial(3, &mut b);
        assert_eq!(a, b);
        two.posterior(3, &mut b);
        assert_ne!(a, b);
    }
}
