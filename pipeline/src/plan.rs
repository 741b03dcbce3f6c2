//! A solver is a table: the plan of one frame from its noisy latent to its clean one.
//!
//! Every solver compiles to a [`Plan`]: one row of [`StepCoefficients`] for each step, which the kernel
//! [`advance`](livediffusion_kernels::advance) executes. Whatever a solver remembers between steps travels in the
//! frame's slot, so that every solver runs in the stream batch.

use livediffusion_kernels::StepCoefficients;

use crate::schedule::{NoiseSchedule, PlanError, PredictionType, SchedulerConfig};
use crate::solver::{self, Solver};
use crate::timesteps::{consistency_timesteps, spaced_timesteps};

/// Steps that a plan may have. More would be a mistake: each one is a row of the U-Net's batch.
pub const MAX_STEPS: usize = 64;

/// What a plan is made from, beside the noise schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanRequest {
    /// The solver.
    pub solver: Solver,
    /// Indices into the table of `num_inference_steps` diffusion times, ascending: descending noise. Its length is N.
    pub t_index_list: Vec<usize>,
    /// Length of the table of diffusion times.
    pub num_inference_steps: usize,
    /// Whether consistency solvers (LCM, Turbo, TCD) re-noise between steps; the reference's `do_add_noise`.
    pub add_noise: bool,
    /// TCD's stochasticity γ in [0, 1] (diffusers: `eta`): 0 is deterministic, 1 re-noises fully.
    pub eta: f64,
    /// Order of the multistep solvers: DEIS 0 to 3 earlier predictions, GHVB 1 to 4.
    pub order: usize,
    /// GHVB's momentum β in (0, 1]: 1 is Adams–Bashforth, smaller damps artefacts of strong guidance.
    pub beta: f64,
}

/// The steps of one frame. Immutable; a slot keeps the one that its frame was admitted with.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Diffusion time of each step.
    pub timesteps: Vec<f32>,
    /// Coefficients of each step.
    pub steps: Vec<StepCoefficients>,
    /// Solver history that a slot must keep, in latents.
    pub history: usize,
}

/// What a solver is told of one step when it fills in its row: where it is and where it goes, in f64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    /// Diffusion time.
    pub(crate) t: f64,
    /// A = √ᾱ.
    pub(crate) alpha: f64,
    /// S = √(1-ᾱ).
    pub(crate) sigma: f64,
}

impl Node {
    /// The clean end of every plan: no noise left.
    pub(crate) const CLEAN: Self = Self { t: 0.0, alpha: 1.0, sigma: 0.0 };

    /// λ = ln(A/S), half the log signal-to-noise ratio (DPM-Solver).
    pub(crate) fn lambda(self) -> f64 {
        (self.alpha / self.sigma).ln()
    }

    /// ρ = S/A, the noise level in the coordinates y = x/A (DEIS, k-diffusion's σ).
    pub(crate) fn rho(self) -> f64 {
        self.sigma / self.alpha
    }
}

impl Plan {
    /// Compiles a plan.
    ///
    /// # Errors
    /// An empty, unsorted or too long `t_index_list`, an index outside the table, a table that cannot be made, or a
    /// solver setting out of range.
    pub fn new(config: &SchedulerConfig, schedule: &NoiseSchedule, request: &PlanRequest) -> Result<Self, PlanError> {
        let table = if request.solver.is_consistency() {
            consistency_timesteps(config, request.num_inference_steps)?
        } else {
            spaced_timesteps(config, request.num_inference_steps)?
        };
        check_indices(&request.t_index_list, table.len())?;
        let nodes: Vec<Node> = request
            .t_index_list
            .iter()
            .map(|&index| {
                let t = table[index];
                let (alpha, sigma) = schedule.alpha_sigma(t);
                Node { t, alpha, sigma }
            })
            .collect();
        if nodes.windows(2).any(|pair| pair[0].t <= pair[1].t) {
            return Err(PlanError::new(
                format!("two of the steps {:?} fall on the same diffusion time", request.t_index_list),
                "use fewer steps, or indices further apart",
            ));
        }
        let mut steps = solver::rows(config, schedule, request, &nodes)?;
        for (step, node) in steps.iter_mut().zip(&nodes) {
            (step.alpha, step.sigma) = (node.alpha as f32, node.sigma as f32);
            let (eps_x, eps_p) = noise_from_prediction(config.prediction_type, *node);
            (step.eps_x, step.eps_p) = (eps_x as f32, eps_p as f32);
        }
        let history = solver::history(request);
        Ok(Self { timesteps: nodes.iter().map(|node| node.t as f32).collect(), steps, history })
    }

    /// Number of denoising steps N.
    #[allow(clippy::len_without_is_empty, reason = "a plan has at least one step")]
    pub fn len(&self) -> usize {
        self.steps.len()
    }
}

/// Weights (of x, of the prediction) that give the noise ε̂.
fn noise_from_prediction(prediction: PredictionType, node: Node) -> (f64, f64) {
    match prediction {
        PredictionType::Epsilon => (0.0, 1.0),
        // v = A·ε - S·x0 and x = A·x0 + S·ε give ε = A·v + S·x.
        PredictionType::VPrediction => (node.sigma, node.alpha),
        PredictionType::Sample => (1.0 / node.sigma, -node.alpha / node.sigma),
    }
}

fn check_indices(list: &[usize], table: usize) -> Result<(), PlanError> {
    // Two thirds and nine tenths of the way, as the usual 32,45 of 50.
    let (last, example) = (table - 1, [table * 16 / 25, table * 9 / 10]);
    let example = if example[0] < example[1] { format!("{},{}", example[0], example[1]) } else { last.to_string() };
    let range = format!("give 1 to {MAX_STEPS} ascending indices of 0..={last}, for example --t-index {example}");
    if list.is_empty() {
        return Err(PlanError::new("t_index_list is empty", range));
    }
    if list.len() > MAX_STEPS {
        return Err(PlanError::new(format!("t_index_list has {} steps", list.len()), range));
    }
    if let Some(index) = list.iter().find(|&&index| index >= table) {
        let what = format!("t_index {index} is outside the table of {table} steps (--steps)");
        return Err(PlanError::new(what, range));
    }
    if list.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(PlanError::new(format!("t_index_list {list:?} is not ascending"), range));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(list: &[usize]) -> PlanRequest {
        PlanRequest {
            solver: Solver::Lcm,
            t_index_list: list.to_vec(),
            num_inference_steps: 50,
            add_noise: true,
            eta: 0.3,
            order: 2,
            beta: 0.8,
        }
    }

    fn plan(list: &[usize]) -> Result<Plan, PlanError> {
        let config = SchedulerConfig::default();
        Plan::new(&config, &NoiseSchedule::new(&config).unwrap(), &request(list))
    }

    #[test]
    fn lcm_rows_reach_the_clean_latent() {
        let plan = plan(&[32, 45]).unwrap();
        assert_eq!(plan.timesteps, [359.0, 99.0]);
        assert_eq!(plan.history, 0);
        // First row: x1 = A1·x̂0 + S1·z1; last row: x̂0 itself.
        assert!((plan.steps[0].next_h[0] - 0.946_289).abs() < 1e-6 && (plan.steps[0].next_z - 0.323_322).abs() < 1e-6);
        assert_eq!((plan.steps[1].next_h[0], plan.steps[1].next_z, plan.steps[1].next_x), (1.0, 0.0, 0.0));
    }

    #[test]
    fn indices_out_of_range_unsorted_or_missing_are_named() {
        for (list, word) in
            [(vec![], "empty"), (vec![50], "50"), (vec![45, 32], "ascending"), (vec![3, 3], "ascending")]
        {
            assert!(plan(&list).unwrap_err().what.contains(word), "{list:?}");
        }
    }

    #[test]
    fn prediction_types_give_back_the_noise() {
        let node = Node { t: 300.0, alpha: 0.8, sigma: 0.6 };
        let (x0, noise) = (0.37, -1.2);
        let x = node.alpha * x0 + node.sigma * noise;
        for (kind, prediction) in [
            (PredictionType::Epsilon, noise),
            (PredictionType::VPrediction, node.alpha * noise - node.sigma * x0),
            (PredictionType::Sample, x0),
        ] {
            let (eps_x, eps_p) = noise_from_prediction(kind, node);
            assert!((eps_x * x + eps_p * prediction - noise).abs() < 1e-12, "{kind:?}");
        }
    }
}
