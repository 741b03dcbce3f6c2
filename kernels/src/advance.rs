//! `admit` and `advance`: what happens to a latent between two U-Net calls.
//!
//! `advance` does guidance, the solver's step, the read-out and the re-noising of one slot in one pass over memory. A
//! solver is a row of coefficients ([`StepCoefficients`]), so that one loop serves LCM, Turbo, DDIM, Euler, TCD,
//! DPM-Solver++(2M), DEIS and GHVB. All arithmetic is f32.

/// Earlier history entries that a step may read. Three past entries and the new one make a solver of order 4.
pub const MAX_HISTORY: usize = 3;

/// One denoising step of any solver, as coefficients. x is the slot's latent, P the network's raw prediction, ε̂ the
/// prediction as noise, m the guided noise, h the slot's history (newest first), z the step's fixed noise:
///
/// ```text
/// ε̂    = eps_x·x + eps_p·P                      noise, velocity and sample prediction alike
/// h0   = hist_x·x + hist_m·m + hist_h·h[0]      what this step adds to the history (x̂0 for LCM and DPM++, ε̂ for DEIS…)
/// next = next_x·x + next_h[0]·h0 + Σ_j next_h[j+1]·h[j] + next_z·z
/// ```
///
/// After the last step `next` is the clean latent that is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)] // as advance.cu reads it
pub struct StepCoefficients {
    /// A = √ᾱ at this step.
    pub alpha: f32,
    /// S = √(1-ᾱ) at this step.
    pub sigma: f32,
    /// Weight of x in ε̂.
    pub eps_x: f32,
    /// Weight of the raw prediction in ε̂.
    pub eps_p: f32,
    /// Weight of x in the new history entry.
    pub hist_x: f32,
    /// Weight of the guided noise in the new history entry.
    pub hist_m: f32,
    /// Weight of the newest old entry in the new one (GHVB's momentum).
    pub hist_h: f32,
    /// Weight of x in the next latent.
    pub next_x: f32,
    /// Weights of the new entry and of the old ones in the next latent.
    pub next_h: [f32; MAX_HISTORY + 1],
    /// Weight of the noise of the next step in the next latent; 0 at the last step and for deterministic solvers.
    pub next_z: f32,
}

/// How the guided noise m comes from the predictions e (prompt) and u (negative): m = u + γ(e - u).
#[derive(Debug)]
pub enum Guidance<'a> {
    /// m = e.
    None,
    /// Classifier-free guidance: u is the network's raw prediction under the negative prompt.
    Full {
        /// Raw prediction under the negative prompt.
        negative: &'a [f32],
        /// γ.
        scale: f32,
    },
    /// Residual CFG (paper Eq. 5): u = δ·(x - A·x0_ref)/S, no network call.
    Residual {
        /// The latent that the residual noise is measured against: the frame's own VAE latent for *self*, the negative
        /// prompt's x̂0 for *initialize*.
        reference: &'a [f32],
        /// γ.
        scale: f32,
        /// δ.
        delta: f32,
    },
    /// First step of *initialize* (one-time negative): u = δ·n with n the negative prediction, whose x̂0 = (x - S·n)/A is
    /// written to `reference` for the later steps.
    Initialize {
        /// Raw prediction under the negative prompt.
        negative: &'a [f32],
        /// Receives the negative prompt's x̂0.
        reference: &'a mut [f32],
        /// γ.
        scale: f32,
        /// δ.
        delta: f32,
    },
}

/// A slot's solver history: up to [`MAX_HISTORY`] tensors, newest first, in one allocation.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: Vec<f32>,
    capacity: usize,
    newest: usize,
}

impl History {
    /// Makes room for `capacity` entries of `len` values; only allocates when it has to grow.
    ///
    /// # Panics
    /// If `capacity` is over [`MAX_HISTORY`].
    pub fn reset(&mut self, capacity: usize, len: usize) {
        assert!(capacity <= MAX_HISTORY, "a solver asked for {capacity} history entries");
        self.capacity = capacity;
        self.newest = 0;
        self.entries.clear();
        self.entries.resize(capacity * len, 0.0);
    }

    /// Number of entries kept.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// x = A·latent + S·noise: puts a clean latent at the noise level of its first step (SDEdit, forward diffusion).
///
/// # Panics
/// If the lengths differ.
pub fn admit(alpha: f32, sigma: f32, latent: &[f32], noise: &[f32], x: &mut [f32]) {
    let len = x.len();
    let (latent, noise) = (&latent[..len], &noise[..len]);
    for ((x, latent), noise) in x.iter_mut().zip(latent).zip(noise) {
        *x = alpha * latent + sigma * noise;
    }
}

/// Advances one slot by one step, in place. `prediction` is the network's raw output for the prompt, `noise` the fixed
/// noise of the step that the latent goes to (unused where `next_z` is 0: may be empty).
///
/// # Panics
/// If the lengths differ.
pub fn advance(
    step: &StepCoefficients,
    guidance: Guidance<'_>,
    prediction: &[f32],
    noise: &[f32],
    history: &mut History,
    x: &mut [f32],
) {
    let (ex, ep) = (step.eps_x, step.eps_p);
    match guidance {
        Guidance::None => solve(step, noise, history, x, prediction, |x, p, _| ex * x + ep * p),
        Guidance::Full { negative, scale } => {
            let negative = &negative[..x.len()];
            solve(step, noise, history, x, prediction, |x, p, i| {
                let (e, u) = (ex * x + ep * p, ex * x + ep * negative[i]);
                u + scale * (e - u)
            });
        }
        Guidance::Residual { reference, scale, delta } => {
            let reference = &reference[..x.len()];
            let (nx, nr) = (delta / step.sigma, delta * step.alpha / step.sigma);
            solve(step, noise, history, x, prediction, |x, p, i| {
                let u = nx * x - nr * reference[i];
                u + scale * (ex * x + ep * p - u)
            });
        }
        Guidance::Initialize { negative, reference, scale, delta } => {
            let len = x.len();
            let (rx, rn) = (step.alpha.recip(), step.sigma / step.alpha);
            for ((reference, x), negative) in reference[..len].iter_mut().zip(&*x).zip(&negative[..len]) {
                *reference = rx * x - rn * (ex * x + ep * negative);
            }
            let negative = &negative[..len];
            solve(step, noise, history, x, prediction, |x, p, i| {
                let u = delta * (ex * x + ep * negative[i]);
                u + scale * (ex * x + ep * p - u)
            });
        }
    }
}

/// The solver's part of [`advance`], over the guided noise that `guided(x, prediction, index)` gives.
#[inline(always)]
#[allow(clippy::inline_always, reason = "each guidance must become a loop of its own for the compiler to vectorise it")]
fn solve(
    step: &StepCoefficients,
    noise: &[f32],
    history: &mut History,
    x: &mut [f32],
    prediction: &[f32],
    guided: impl Fn(f32, f32, usize) -> f32,
) {
    let len = x.len();
    let prediction = &prediction[..len];
    let StepCoefficients { hist_x, hist_m, next_x, next_h, next_z, .. } = *step;
    if history.capacity == 0 {
        // LCM, Turbo, DDIM, Euler, TCD: x̂0 or ε̂ is used at once and never kept.
        let entry = |x: f32, p: f32, i: usize| hist_x * x + hist_m * guided(x, p, i);
        if next_z == 0.0 {
            for i in 0..len {
                x[i] = next_x * x[i] + next_h[0] * entry(x[i], prediction[i], i);
            }
        } else {
            let noise = &noise[..len];
            for i in 0..len {
                x[i] = next_x * x[i] + next_h[0] * entry(x[i], prediction[i], i) + next_z * noise[i];
            }
        }
        return;
    }
    let capacity = history.capacity;
    let at = |age: usize| (history.newest + age) % capacity * len;
    // The new entry takes the place of the oldest, after that one has been read.
    let oldest = (history.newest + capacity - 1) % capacity;
    for i in 0..len {
        let newest_value = history.entries[at(0) + i];
        let entry = hist_x * x[i] + hist_m * guided(x[i], prediction[i], i) + step.hist_h * newest_value;
        let mut next = next_x * x[i] + next_h[0] * entry;
        for age in 0..capacity {
            next += next_h[age + 1] * history.entries[at(age) + i];
        }
        if next_z != 0.0 {
            next += next_z * noise[i];
        }
        history.entries[oldest * len + i] = entry;
        x[i] = next;
    }
    history.newest = oldest;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() <= 1e-5 * (1.0 + a.abs().max(b.abs()))
    }

    /// A step in which every coefficient matters.
    fn odd_step() -> StepCoefficients {
        StepCoefficients {
            alpha: 0.7,
            sigma: 0.714,
            eps_x: 0.3,
            eps_p: 0.8,
            hist_x: 1.1,
            hist_m: -0.4,
            hist_h: 0.25,
            next_x: 0.9,
            next_h: [0.5, -0.2, 0.1, 0.05],
            next_z: 0.6,
        }
    }

    #[test]
    fn history_is_read_newest_first_and_the_oldest_falls_out() {
        let step = odd_step();
        let mut history = History::default();
        history.reset(3, 1);
        let mut x = [0.5_f32];
        let mut expected_x = 0.5_f32;
        let mut entries = [0.0_f32; 3];
        for call in 0..8 {
            let (p, z) = (0.1 * call as f32, 0.3 - 0.05 * call as f32);
            let m = step.eps_x * expected_x + step.eps_p * p;
            let entry = step.hist_x * expected_x + step.hist_m * m + step.hist_h * entries[0];
            expected_x = step.next_x * expected_x
                + step.next_h[0] * entry
                + (0..3).map(|j| step.next_h[j + 1] * entries[j]).sum::<f32>()
                + step.next_z * z;
            entries = [entry, entries[0], entries[1]];
            advance(&step, Guidance::None, &[p], &[z], &mut history, &mut x);
            assert!(close(x[0], expected_x), "call {call}: {} instead of {expected_x}", x[0]);
        }
    }

    #[test]
    fn initialize_leaves_the_reference_that_residual_reads() {
        let step = odd_step();
        let mut reference = [0.0];
        let mut x = [0.4];
        advance(
            &step,
            Guidance::Initialize { negative: &[0.2], reference: &mut reference, scale: 1.4, delta: 0.5 },
            &[0.7],
            &[0.1],
            &mut History::default(),
            &mut x,
        );
        let n = step.eps_x * 0.4 + step.eps_p * 0.2;
        assert!(close(reference[0], (0.4 - step.sigma * n) / step.alpha));
        // With that reference, Eq. 5 gives back n: the two forms agree on the first step.
        let mut again = [0.4];
        let guidance = Guidance::Residual { reference: &reference, scale: 1.4, delta: 0.5 };
        advance(&step, guidance, &[0.7], &[0.1], &mut History::default(), &mut again);
        assert!(close(x[0], again[0]));
    }

    #[test]
    fn full_guidance_at_scale_one_is_none() {
        let step = odd_step();
        let (mut a, mut b) = ([0.4, -0.3], [0.4, -0.3]);
        let none = &mut History::default();
        advance(&step, Guidance::Full { negative: &[9.0, 8.0], scale: 1.0 }, &[0.7, 0.2], &[0.1, 0.2], none, &mut a);
        advance(&step, Guidance::None, &[0.7, 0.2], &[0.1, 0.2], none, &mut b);
        assert!(close(a[0], b[0]) && close(a[1], b[1]));
    }
}
