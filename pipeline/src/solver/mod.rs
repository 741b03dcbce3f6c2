//! The solvers, each a function from nodes to rows of coefficients.
//!
//! | solver | what a step is | source |
//! |---|---|---|
//! | `lcm` | x̂0 with boundary scalings, re-noised | LCM, arXiv 2310.04378, Eq. 9 and Alg. 3; diffusers `LCMScheduler` |
//! | `turbo` | x̂0 without scalings, re-noised | StreamDiffusion's SD-Turbo read-out; ADD, arXiv 2311.17042 |
//! | `ddim` | first-order exponential integrator | DDIM, arXiv 2010.02502, Eq. 12 with η = 0 |
//! | `euler` | the same step in y = x/A, ρ = S/A | EDM, arXiv 2206.00364, Alg. 1; diffusers `EulerDiscreteScheduler` |
//! | `tcd` | DDIM to an earlier time s, re-noised to t | TCD, arXiv 2402.19159, Alg. 4 |
//! | `dpmpp-2m` | second-order multistep in x̂0 and λ | DPM-Solver++, arXiv 2211.01095, Alg. 2 |
//! | `deis` | Adams–Bashforth in ε and ρ on the uneven grid | DEIS, arXiv 2204.13902, ρAB |
//! | `ghvb` | generalised heavy ball: AB through a momentum | arXiv 2307.11118, Eq. 12–15 |

mod consistency;
mod multistep;

use std::fmt;
use std::str::FromStr;

use livediffusion_kernels::StepCoefficients;

use crate::plan::{Node, PlanRequest};
use crate::schedule::{NoiseSchedule, PlanError, SchedulerConfig};

/// The solvers by the names that `--scheduler` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solver {
    /// Latent consistency models.
    Lcm,
    /// SD-Turbo's one-step read-out; with more steps LCM without boundary scalings.
    Turbo,
    /// Deterministic DDIM.
    Ddim,
    /// Trajectory consistency distillation, with stochasticity γ (`eta`).
    Tcd,
    /// DPM-Solver++(2M).
    Dpmpp2M,
    /// DEIS, ρ-Adams–Bashforth of order 0 to 3.
    Deis,
    /// Generalised heavy ball of order 1 to 4 with momentum β.
    Ghvb,
    /// Euler on the probability-flow ODE.
    Euler,
}

/// Every solver with its name.
pub const SOLVERS: [(&str, Solver); 8] = [
    ("lcm", Solver::Lcm),
    ("turbo", Solver::Turbo),
    ("ddim", Solver::Ddim),
    ("tcd", Solver::Tcd),
    ("dpmpp-2m", Solver::Dpmpp2M),
    ("deis", Solver::Deis),
    ("ghvb", Solver::Ghvb),
    ("euler", Solver::Euler),
];

impl Solver {
    /// Whether the solver's times come from the table that a consistency model was distilled on.
    pub fn is_consistency(self) -> bool {
        matches!(self, Self::Lcm | Self::Turbo | Self::Tcd)
    }

    /// The solver that a pack's scheduler class asks for. Classes without a solver of their own (PNDM, which Stable
    /// Diffusion 1.5 names) get LCM: a few-step pack made from them carries a fused LCM-LoRA, as the reference assumes.
    pub fn from_scheduler_class(class: &str) -> Self {
        match class {
            "TCDScheduler" => Self::Tcd,
            "DDIMScheduler" => Self::Ddim,
            "DPMSolverMultistepScheduler" => Self::Dpmpp2M,
            "DEISMultistepScheduler" => Self::Deis,
            "EulerDiscreteScheduler" => Self::Euler,
            _ => Self::Lcm,
        }
    }
}

impl fmt::Display for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SOLVERS.iter().find(|(_, solver)| solver == self).map_or("lcm", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Solver {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        SOLVERS.iter().find(|(known, _)| *known == name).map(|(_, solver)| *solver).ok_or_else(|| {
            let known: Vec<&str> = SOLVERS.iter().map(|(name, _)| *name).collect();
            format!("{name:?} is none of {}", known.join(", "))
        })
    }
}

/// History that a slot keeps for the request's solver, in latents.
pub(crate) fn history(request: &PlanRequest) -> usize {
    match request.solver {
        Solver::Lcm | Solver::Turbo | Solver::Ddim | Solver::Tcd | Solver::Euler => 0,
        Solver::Dpmpp2M => 1,
        Solver::Deis => request.order,
        // The momentum itself is history, also at order 1.
        Solver::Ghvb => request.order.saturating_sub(1).max(1),
    }
}

/// The rows of a plan, without the coefficients that only depend on the node (A, S, prediction type).
pub(crate) fn rows(
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    request: &PlanRequest,
    nodes: &[Node],
) -> Result<Vec<StepCoefficients>, PlanError> {
    match request.solver {
        Solver::Lcm => Ok(consistency::lcm(nodes, Some(config.timestep_scaling), request.add_noise)),
        Solver::Turbo => Ok(consistency::lcm(nodes, None, request.add_noise)),
        Solver::Tcd => {
            if !(0.0..=1.0).contains(&request.eta) {
                return Err(PlanError::new(format!("eta is {}", request.eta), "use 0 to 1; 0.3 is usual"));
            }
            Ok(consistency::tcd(nodes, schedule, request.eta, request.add_noise))
        }
        Solver::Ddim | Solver::Euler => multistep::adams_bashforth(nodes, 0),
        Solver::Dpmpp2M => Ok(multistep::dpmpp_2m(nodes)),
        Solver::Deis => {
            if request.order > 3 {
                return Err(PlanError::new(format!("order {} for deis", request.order), "use --order 0 to 3"));
            }
            multistep::adams_bashforth(nodes, request.order)
        }
        Solver::Ghvb => {
            if !(1..=4).contains(&request.order) {
                return Err(PlanError::new(format!("order {} for ghvb", request.order), "use --order 1 to 4"));
            }
            if !(request.beta > 0.0 && request.beta <= 1.0) {
                return Err(PlanError::new(format!("beta is {}", request.beta), "use over 0 and up to 1"));
            }
            multistep::ghvb(nodes, request.order, request.beta)
        }
    }
}
