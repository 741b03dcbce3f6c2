//! Solvers of the probability-flow ODE: one step, or several with the earlier predictions from the slot's history.

use livediffusion_kernels::StepCoefficients;

use super::consistency::with_next;
use crate::plan::Node;
use crate::schedule::PlanError;

/// ρ-Adams–Bashforth with up to `order` earlier predictions (DEIS ρAB; order 0 is DDIM and Euler).
///
/// In y = x/A and ρ = S/A the ODE is dy/dρ = ε(ρ). The step y' = y + ∫_ρ^ρ' ε dρ takes ε as the polynomial through the
/// last `order`+1 predictions on the uneven grid. The first steps use what there is.
pub(super) fn adams_bashforth(nodes: &[Node], order: usize) -> Result<Vec<StepCoefficients>, PlanError> {
    with_next(nodes)
        .enumerate()
        .map(|(k, (node, next))| {
            let weights = integral_weights(nodes, k, order, next)?;
            let mut next_h = [0.0; 4];
            for (slot, weight) in next_h.iter_mut().zip(&weights) {
                *slot = (next.alpha * weight) as f32;
            }
            Ok(StepCoefficients {
                hist_m: 1.0,
                next_x: (next.alpha / node.alpha) as f32,
                next_h,
                ..StepCoefficients::default()
            })
        })
        .collect()
}

/// ∫_ρ_k^ρ' of the Lagrange basis through ρ_k, ρ_{k-1}, … (up to `order` earlier nodes), newest first.
fn integral_weights(nodes: &[Node], k: usize, order: usize, next: Node) -> Result<Vec<f64>, PlanError> {
    let points: Vec<f64> = (0..=order.min(k)).map(|j| nodes[k - j].rho()).collect();
    let (from, to) = (points[0], next.rho());
    let weights: Vec<f64> = (0..points.len())
        .map(|j| {
            // The basis polynomial's coefficients in (ρ - ρ_k), lowest first; shifting keeps the powers small.
            let mut polynomial = vec![1.0];
            for (i, point) in points.iter().enumerate().filter(|(i, _)| *i != j) {
                let (shift, scale) = (point - from, points[j] - points[i]);
                let mut product = vec![0.0; polynomial.len() + 1];
                for (power, coefficient) in polynomial.iter().enumerate() {
                    product[power + 1] += coefficient / scale;
                    product[power] -= coefficient * shift / scale;
                }
                polynomial = product;
            }
            let step = to - from;
            polynomial.iter().enumerate().map(|(p, c)| c * step.powi(p as i32 + 1) / (p + 1) as f64).sum()
        })
        .collect();
    if weights.iter().all(|weight: &f64| weight.is_finite()) {
        Ok(weights)
    } else {
        Err(PlanError::new("two steps lie at the same noise level", "use indices further apart, or a lower --order"))
    }
}

/// DPM-Solver++(2M): first order at the first and the last step (where h is infinite), second order between.
///
/// x' = (S'/S)·x - A'·(e^{-h} - 1)·D with h = λ' - λ and D = (1 + 1/2r)·x̂0 - 1/2r·x̂0_before, r = `h_before`/h.
pub(super) fn dpmpp_2m(nodes: &[Node]) -> Vec<StepCoefficients> {
    with_next(nodes)
        .enumerate()
        .map(|(k, (node, next))| {
            let last = k + 1 == nodes.len();
            let h = if last { f64::INFINITY } else { next.lambda() - node.lambda() };
            let weight = -next.alpha * ((-h).exp() - 1.0);
            let correction = if k == 0 || last { 0.0 } else { 0.5 * h / (node.lambda() - nodes[k - 1].lambda()) };
            StepCoefficients {
                hist_x: node.alpha.recip() as f32,
                hist_m: (-node.sigma / node.alpha) as f32,
                next_x: (next.sigma / node.sigma) as f32,
                next_h: [(weight * (1.0 + correction)) as f32, (-weight * correction) as f32, 0.0, 0.0],
                ..StepCoefficients::default()
            }
        })
        .collect()
}

/// GHVB: Adams–Bashforth through a momentum v' = (1-β)·v + β·ε, started at v = ε.
///
/// ε = v + κ∇v with κ = (1-β)/β exactly, whatever the grid; AB's polynomial in backward differences of ε,
/// 1 + w1·∇ + w2·∇² + …, with the uneven grid's own weights, becomes one in ∇ of v, truncated to ∇^(order-1). On an even
/// grid that is the paper's (1 + κ∇)(1 + 1/2·∇ + 5/12·∇² + …); at β = 1 it is DEIS.
pub(super) fn ghvb(nodes: &[Node], order: usize, beta: f64) -> Result<Vec<StepCoefficients>, PlanError> {
    let kappa = (1.0 - beta) / beta;
    with_next(nodes)
        .enumerate()
        .map(|(k, (node, next))| {
            let step = next.rho() - node.rho();
            let used = order.min(k + 1);
            let adams: Vec<f64> =
                integral_weights(nodes, k, used - 1, next)?.iter().map(|weight| weight / step).collect();
            // From weights of values to weights of backward differences: w_p = Σ_j (-1)^p·C(j, p)·b_j.
            let differences: Vec<f64> = (0..used)
                .map(|p| {
                    let sign = if p % 2 == 0 { 1.0 } else { -1.0 };
                    sign * (p..used).map(|j| binomial(j, p) * adams[j]).sum::<f64>()
                })
                .collect();
            // Times (1 + κ∇), truncated.
            let momentum: Vec<f64> =
                (0..used).map(|p| differences[p] + if p > 0 { kappa * differences[p - 1] } else { 0.0 }).collect();
            // And back to weights of values of v.
            let mut next_h = [0.0; 4];
            for (j, weight) in next_h.iter_mut().enumerate().take(used) {
                let sign = if j % 2 == 0 { 1.0 } else { -1.0 };
                let sum: f64 = (j..used).map(|p| binomial(p, j) * momentum[p]).sum();
                *weight = (next.alpha * step * sign * sum) as f32;
            }
            let first = k == 0;
            Ok(StepCoefficients {
                hist_m: if first { 1.0 } else { beta as f32 },
                hist_h: if first { 0.0 } else { (1.0 - beta) as f32 },
                next_x: (next.alpha / node.alpha) as f32,
                next_h,
                ..StepCoefficients::default()
            })
        })
        .collect()
}

fn binomial(n: usize, k: usize) -> f64 {
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(rho: f64) -> Node {
        let alpha = 1.0 / (1.0 + rho * rho).sqrt();
        Node { t: rho * 100.0, alpha, sigma: rho * alpha }
    }

    #[test]
    fn even_grids_give_the_textbook_weights() {
        let nodes: Vec<Node> = [5.0, 4.0, 3.0, 2.0].map(node).to_vec();
        let weights = |order| integral_weights(&nodes, 3, order, node(1.0)).unwrap();
        for (order, expected) in [
            (0, vec![1.0]),
            (1, vec![1.5, -0.5]),
            (2, vec![23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0]),
            (3, vec![55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0]),
        ] {
            for (got, expected) in weights(order).iter().zip(expected) {
                assert!((got + expected).abs() < 1e-9, "order {order}: {got} instead of {}", -expected);
            }
        }
    }

    #[test]
    fn ghvb_at_full_momentum_is_deis() {
        let nodes: Vec<Node> = [9.0, 5.5, 3.0, 1.2, 0.4].map(node).to_vec();
        for order in 1..=4 {
            let (ghvb, deis) = (ghvb(&nodes, order, 1.0).unwrap(), adams_bashforth(&nodes, order - 1).unwrap());
            for (a, b) in ghvb.iter().zip(&deis) {
                for (a, b) in a.next_h.iter().zip(b.next_h) {
                    assert!((a - b).abs() < 1e-5, "order {order}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn ghvb_of_order_two_on_an_even_grid_is_the_papers() {
        // ((2+β)·v' - (2-β)·v) / 2β
        let nodes: Vec<Node> = [4.0, 3.0, 2.0].map(node).to_vec();
        let beta = 0.8;
        let row = &ghvb(&nodes, 2, beta).unwrap()[1];
        let scale = -nodes[2].alpha;
        assert!((f64::from(row.next_h[0]) - scale * (2.0 + beta) / (2.0 * beta)).abs() < 1e-6);
        assert!((f64::from(row.next_h[1]) + scale * (2.0 - beta) / (2.0 * beta)).abs() < 1e-6);
    }
}
