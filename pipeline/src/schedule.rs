//! The noise schedule: what a pack's `scheduler_config.json` says, and the ᾱ table that follows from it.

use serde::Deserialize;

/// How the diffusion times of `num_inference_steps` are spread over the training times (diffusers' names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of T/M from 0, plus `steps_offset`.
    Leading,
    /// Backwards from T in steps of T/M, less one: ends far from 0, starts at T-1 (the Turbo models).
    Trailing,
    /// Evenly from 0 to T-1.
    Linspace,
}

/// What the U-Net predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// v = A·ε - S·x0 (SD 2.1-768).
    VPrediction,
    /// The clean sample x0.
    Sample,
}

/// `scheduler_config.json`, as far as the solvers need it. Unknown keys are other schedulers' business.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The scheduler class that the pack was made for, `LCMScheduler` say; decides the default solver.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Training steps T.
    pub num_train_timesteps: usize,
    /// First β.
    pub beta_start: f64,
    /// Last β.
    pub beta_end: f64,
    /// `linear`, `scaled_linear` (Stable Diffusion) or `squaredcos_cap_v2`.
    pub beta_schedule: String,
    /// β given one by one, in place of the three above.
    pub trained_betas: Option<Vec<f64>>,
    /// What the U-Net predicts.
    pub prediction_type: PredictionType,
    /// Spread of the diffusion times, for the solvers that are not consistency solvers.
    pub timestep_spacing: TimestepSpacing,
    /// Added to `leading` times.
    pub steps_offset: i64,
    /// Steps that the consistency model was distilled on (LCM, TCD).
    pub original_inference_steps: usize,
    /// Scale of t in LCM's boundary conditions.
    pub timestep_scaling: f64,
    /// Whether ᾱ_T is moved to 0 (zero terminal SNR).
    pub rescale_betas_zero_snr: bool,
}

impl Default for SchedulerConfig {
    /// Stable Diffusion's training schedule with LCM's constants, as `LCMScheduler()` has them.
    fn default() -> Self {
        Self {
            class_name: "LCMScheduler".into(),
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".into(),
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 0,
            original_inference_steps: 50,
            timestep_scaling: 10.0,
            rescale_betas_zero_snr: false,
        }
    }
}

/// Why a schedule or a plan cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct PlanError {
    /// What is wrong, with the value.
    pub what: String,
    /// What to set instead.
    pub hint: String,
}

impl PlanError {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

/// ᾱ_t for t = 0..T, computed in f64 and rounded to f32 once per coefficient.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    alphas_cumprod: Vec<f64>,
}

impl NoiseSchedule {
    /// The schedule of a scheduler configuration.
    ///
    /// # Errors
    /// An unknown `beta_schedule`, no training steps, or β outside [0, 1].
    pub fn new(config: &SchedulerConfig) -> Result<Self, PlanError> {
        let steps = config.num_train_timesteps;
        let bad = |what: String| PlanError::new(what, "check scheduler/scheduler_config.json of the model pack");
        // More than a million training steps is a broken file, and would cost memory to believe.
        if !(2..=1_000_000).contains(&steps) {
            return Err(bad(format!("num_train_timesteps is {steps}")));
        }
        let at = |i: usize| i as f64 / (steps - 1) as f64;
        let (start, end) = (config.beta_start, config.beta_end);
        let mut betas: Vec<f64> = match (&config.trained_betas, config.beta_schedule.as_str()) {
            (Some(betas), _) => betas.clone(),
            (None, "linear") => (0..steps).map(|i| start + (end - start) * at(i)).collect(),
            (None, "scaled_linear") => {
                (0..steps).map(|i| (start.sqrt() + (end.sqrt() - start.sqrt()) * at(i)).powi(2)).collect()
            }
            (None, "squaredcos_cap_v2") => {
                let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let step = |i: usize| i as f64 / steps as f64;
                (0..steps).map(|i| (1.0 - bar(step(i + 1)) / bar(step(i))).min(0.999)).collect()
            }
            (None, other) => return Err(bad(format!("beta_schedule {other:?} is not known"))),
        };
        if betas.len() != steps || betas.iter().any(|beta| !(0.0..=1.0).contains(beta)) {
            return Err(bad(format!("{} values of β for {steps} steps, or one outside [0, 1]", betas.len())));
        }
        if config.rescale_betas_zero_snr {
            rescale_zero_terminal_snr(&mut betas);
        }
        let mut product = 1.0;
        let alphas_cumprod = betas
            .iter()
            .map(|beta| {
                product *= 1.0 - beta;
                // A zero terminal SNR would divide by 0 in x̂0 = (x - S·ε)/A; diffusers caps ᾱ_T at 2^-24 likewise.
                f64::max(product, 5.96e-8)
            })
            .collect();
        Ok(Self { alphas_cumprod })
    }

    /// Training steps T.
    #[allow(clippy::len_without_is_empty, reason = "a schedule has at least two steps")]
    pub fn len(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// ᾱ at diffusion time `t` in [0, T-1]; between two times σ = √((1-ᾱ)/ᾱ) is interpolated linearly, as diffusers'
    /// Euler scheduler does.
    pub fn alpha_cumprod(&self, t: f64) -> f64 {
        let last = self.alphas_cumprod.len() - 1;
        let t = t.clamp(0.0, last as f64);
        let below = t.floor() as usize;
        let fraction = t - t.floor();
        if fraction == 0.0 || below == last {
            return self.alphas_cumprod[below];
        }
        let sigma = |i: usize| ((1.0 - self.alphas_cumprod[i]) / self.alphas_cumprod[i]).sqrt();
        let sigma = sigma(below) * (1.0 - fraction) + sigma(below + 1) * fraction;
        1.0 / (1.0 + sigma * sigma)
    }

    /// (A, S) = (√ᾱ, √(1-ᾱ)) at diffusion time `t`.
    pub fn alpha_sigma(&self, t: f64) -> (f64, f64) {
        let alpha_bar = self.alpha_cumprod(t);
        (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt())
    }
}

/// Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", Algorithm 1.
fn rescale_zero_terminal_snr(betas: &mut [f64]) {
    let mut product = 1.0;
    let mut roots: Vec<f64> = betas
        .iter()
        .map(|beta| {
            product *= 1.0 - beta;
            product
        })
        .map(f64::sqrt)
        .collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    for root in &mut roots {
        *root = (*root - last) * first / (first - last);
    }
    let mut before = 1.0;
    for (beta, root) in betas.iter_mut().zip(roots) {
        let bar = root * root;
        *beta = 1.0 - bar / before;
        before = bar.max(f64::MIN_POSITIVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Double-precision values of Stable Diffusion's schedule at LCM's times: t, ᾱ, √ᾱ, √(1-ᾱ).
    const TABLE: [(f64, f64, f64, f64); 5] = [
        (999.0, 0.004_660_10, 0.068_264_91, 0.997_667_23),
        (599.0, 0.161_752_52, 0.402_184_68, 0.915_558_56),
        (359.0, 0.491_500_35, 0.701_070_86, 0.713_091_61),
        (99.0, 0.895_462_77, 0.946_288_95, 0.323_322_17),
        (19.0, 0.982_243_99, 0.991_082_23, 0.133_251_68),
    ];

    #[test]
    fn stable_diffusions_table() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        for (t, bar, alpha, sigma) in TABLE {
            assert!((schedule.alpha_cumprod(t) - bar).abs() < 1e-8, "{t}");
            let (a, s) = schedule.alpha_sigma(t);
            assert!((a - alpha).abs() < 1e-8 && (s - sigma).abs() < 1e-8, "{t}");
        }
    }

    #[test]
    fn between_two_times_alpha_falls() {
        let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        let at = |t| schedule.alpha_cumprod(t);
        assert!(at(500.0) > at(500.25) && at(500.25) > at(500.75) && at(500.75) > at(501.0));
    }

    #[test]
    fn zero_terminal_snr_ends_at_almost_nothing_and_starts_where_it_did() {
        let plain = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        let config = SchedulerConfig { rescale_betas_zero_snr: true, ..SchedulerConfig::default() };
        let zero = NoiseSchedule::new(&config).unwrap();
        assert!((plain.alpha_cumprod(0.0) - zero.alpha_cumprod(0.0)).abs() < 1e-12);
        assert!(zero.alpha_cumprod(999.0) < 1e-7 && zero.alpha_cumprod(500.0) > 0.1);
    }

    #[test]
    fn a_broken_configuration_is_named() {
        for (config, word) in [
            (SchedulerConfig { beta_schedule: "sigmoid".into(), ..SchedulerConfig::default() }, "sigmoid"),
            (SchedulerConfig { num_train_timesteps: 0, ..SchedulerConfig::default() }, "num_train_timesteps"),
            (SchedulerConfig { beta_end: f64::NAN, ..SchedulerConfig::default() }, "β"),
            (SchedulerConfig { trained_betas: Some(vec![0.1; 3]), ..SchedulerConfig::default() }, "3 values"),
        ] {
            let error = NoiseSchedule::new(&config).unwrap_err();
            assert!(error.what.contains(word), "{}", error.what);
        }
    }
}
