//! Consistency solvers: predict the clean latent, then noise it again for the next step.

use livediffusion_kernels::StepCoefficients;

use crate::plan::Node;
use crate::schedule::NoiseSchedule;

/// LCM's σ_data: 0.5 in the paper and in diffusers.
const SIGMA_DATA: f64 = 0.5;

/// LCM: D = `c_out`·(x - S·m)/A + `c_skip`·x, next = A'·D + S'·z (`add_noise`) or A'·D, and D after the last step.
///
/// With `scaling` s: `c_skip`(t) = σ²/((s·t)² + σ²), `c_out`(t) = s·t/√((s·t)² + σ²) (arXiv 2310.04378, Eq. 9, as diffusers
/// has it; the StreamDiffusion paper's Eq. 12 prints one σ more). `None` is `c_skip` = 0 and `c_out` = 1: the read-out of
/// SD-Turbo.
pub(super) fn lcm(nodes: &[Node], scaling: Option<f64>, add_noise: bool) -> Vec<StepCoefficients> {
    with_next(nodes)
        .map(|(node, next)| {
            let (c_skip, c_out) = scaling.map_or((0.0, 1.0), |scaling| {
                let t = scaling * node.t;
                let squared = t * t + SIGMA_DATA * SIGMA_DATA;
                (SIGMA_DATA * SIGMA_DATA / squared, t / squared.sqrt())
            });
            StepCoefficients {
                hist_x: (c_out / node.alpha + c_skip) as f32,
                hist_m: (-c_out * node.sigma / node.alpha) as f32,
                next_h: [next.alpha as f32, 0.0, 0.0, 0.0],
                next_z: if add_noise { next.sigma as f32 } else { 0.0 },
                ..StepCoefficients::default()
            }
        })
        .collect()
}

/// TCD: x̂0 is taken to the earlier time s = ⌊(1-γ)·t'⌋ by DDIM and re-noised from there to t'; after the last step it is
/// x̂0 itself (diffusers stops at ᾱ_0 = 0.999, which would leave 3 % of ε̂ in the picture).
pub(super) fn tcd(nodes: &[Node], schedule: &NoiseSchedule, eta: f64, add_noise: bool) -> Vec<StepCoefficients> {
    with_next(nodes)
        .enumerate()
        .map(|(k, (node, next))| {
            let last = k + 1 == nodes.len();
            let (alpha_s, sigma_s) =
                if last { (1.0, 0.0) } else { schedule.alpha_sigma(((1.0 - eta) * next.t).floor()) };
            // x_s = A_s·x̂0 + S_s·ε̂ with x̂0 = (x - S·ε̂)/A; x' = (A'/A_s)·x_s + √(1 - A'²/A_s²)·z. At γ = 0, s = t'.
            let shrink = if last { 1.0 } else { next.alpha / alpha_s };
            let noise = (1.0 - shrink * shrink).max(0.0).sqrt();
            StepCoefficients {
                next_x: (shrink * alpha_s / node.alpha) as f32,
                hist_m: 1.0,
                next_h: [(shrink * (sigma_s - alpha_s * node.sigma / node.alpha)) as f32, 0.0, 0.0, 0.0],
                next_z: if add_noise && !last { noise as f32 } else { 0.0 },
                ..StepCoefficients::default()
            }
        })
        .collect()
}

/// Every node with the one that it goes to, the last with the clean end.
pub(super) fn with_next(nodes: &[Node]) -> impl Iterator<Item = (Node, Node)> + '_ {
    let next = nodes.iter().skip(1).copied().chain([Node::CLEAN]);
    nodes.iter().copied().zip(next)
}
