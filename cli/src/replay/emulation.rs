//! The reference's own recursion, defects included, on its own recorded U-Net outputs.
//!
//! A case with a defect is not matched by a correct engine. That the difference is that defect and nothing else is shown
//! by two things together: this emulation, which has the defect, gives the recording; the engine, which has not, differs.

use super::Deviation;
use super::case::{Case, ReferenceBug};
use super::ledger::Ledger;
use crate::args::Level;
use crate::failure::Outcome;

/// Looks at a replayed case with a defect: how far ours is from the recording, and the defect's emulation at the
/// arithmetic level.
pub(super) fn check(case: &Case, bug: ReferenceBug, level: Level, ledger: &mut Ledger) -> Outcome<Deviation> {
    let mut apart = Ledger::default();
    for (got, recorded) in &ledger.deviating {
        apart.compare("latent_out", got, recorded);
    }
    let emulation = if level == Level::Arithmetic { Some(emulate(case)?) } else { None };
    tracing::debug!(?bug, "emulated");
    Ok(Deviation { emulation, difference: apart.worst().0 })
}

type Rows = Vec<Vec<f64>>;

/// Coefficients as the reference keeps them: A and S by row of the batch, the boundary scalings by step.
struct Coefficients {
    alpha: Vec<f64>,
    sigma: Vec<f64>,
    c_skip: Vec<f64>,
    c_out: Vec<f64>,
}

impl Coefficients {
    /// The reference's `scheduler_step_batch`.
    fn step(&self, row: usize, stage: usize, prediction: &[f64], x: &[f64]) -> Vec<f64> {
        let (a, s) = (self.alpha[row], self.sigma[row]);
        let (skip, out) = (self.c_skip[stage], self.c_out[stage]);
        x.iter().zip(prediction).map(|(x, p)| out * (x - s * p) / a + skip * x).collect()
    }
}

/// Largest error of the emulated outputs, and of the emulated inputs where the defect is in them.
fn emulate(case: &Case) -> Outcome<f64> {
    let doubles = |key: &str| -> Outcome<Vec<f64>> {
        Ok(case.tensor(key)?.values.iter().map(|value| f64::from(*value)).collect())
    };
    let coefficients = Coefficients {
        alpha: doubles("const/alpha_prod_t_sqrt")?,
        sigma: doubles("const/beta_prod_t_sqrt")?,
        c_skip: doubles("const/c_skip")?,
        c_out: doubles("const/c_out")?,
    };
    let mut init_noise = rows(case, "const/init_noise")?;
    let mut stock: Rows = init_noise.iter().map(|row| vec![0.0; row.len()]).collect();
    let mut buffer: Rows = Vec::new();
    let mut worst = 0.0_f64;
    for &frame in &case.processed {
        let recorded_x = rows(case, &format!("f{frame:02}/x_t_latent"))?;
        for (x, latent) in recorded_x.iter().zip(rows(case, &format!("f{frame:02}/x0_latent"))?) {
            let (a, s) = (coefficients.alpha[0], coefficients.sigma[0]);
            let noised: Vec<f64> = latent.iter().zip(&init_noise[0]).map(|(l, z)| a * l + s * z).collect();
            worst = worst.max(error(&noised, x));
        }
        let out = if case.config.use_denoising_batch {
            batch_call(case, &coefficients, frame, recorded_x, &init_noise, &mut stock, &mut buffer)?
        } else {
            let out = sequential_call(case, &coefficients, frame, recorded_x.clone(), &mut stock)?;
            // The defect "seq-init-noise".
            init_noise = recorded_x;
            out
        };
        for (got, recorded) in out.iter().zip(rows(case, &format!("f{frame:02}/latent_out"))?) {
            worst = worst.max(error(got, &recorded));
        }
    }
    Ok(worst)
}

/// `predict_x0_batch` with the stream batch.
fn batch_call(
    case: &Case,
    coefficients: &Coefficients,
    frame: usize,
    x_t: Rows,
    init_noise: &Rows,
    stock: &mut Rows,
    buffer: &mut Rows,
) -> Outcome<Rows> {
    let (n, f) = (case.steps(), case.config.frame_buffer_size);
    let total = n * f;
    let mut x = x_t;
    if n > 1 {
        if buffer.is_empty() {
            *buffer = vec![vec![0.0; x[0].len()]; total - f];
        }
        x.append(buffer);
        stock.rotate_right(1);
        stock[0].clone_from(&init_noise[0]);
    }
    let m = guided(case, &rows(case, &format!("f{frame:02}/unet0/out"))?, total, stock);
    let denoised: Rows = (0..total).map(|row| coefficients.step(row, row / f, &m[row], &x[row])).collect();
    if case.config.guidance_scale > 1.0 && matches!(case.config.cfg_type.as_str(), "self" | "initialize") {
        for row in 0..total {
            let scaled: Vec<f64> = stock[row].iter().map(|value| coefficients.sigma[row] * value).collect();
            let delta = coefficients.step(row, row / f, &m[row], &scaled);
            let (a, s) =
                if row + 1 < total { (coefficients.alpha[row + 1], coefficients.sigma[row + 1]) } else { (1.0, 1.0) };
            let noise = &init_noise[(row + 1) % total];
            stock[row] = noise.iter().zip(&delta).map(|(z, delta)| z + a * delta / s).collect();
        }
    }
    *buffer = (f..total)
        .map(|row| {
            let (a, s) = (coefficients.alpha[row], coefficients.sigma[row]);
            let noise = if case.config.do_add_noise { s } else { 0.0 };
            denoised[row - f].iter().zip(&init_noise[row]).map(|(d, z)| a * d + noise * z).collect()
        })
        .collect();
    Ok(denoised[total - f..].to_vec())
}

/// `predict_x0_batch` without the stream batch.
fn sequential_call(
    case: &Case,
    coefficients: &Coefficients,
    frame: usize,
    mut x: Rows,
    stock: &mut Rows,
) -> Outcome<Rows> {
    let mut draws = case.draws(frame, "randn_like")?.into_iter();
    let mut denoised = Vec::new();
    for step in 0..case.steps() {
        let m = guided(case, &rows(case, &format!("f{frame:02}/unet{step}/out"))?, x.len(), stock);
        denoised = x.iter().zip(&m).map(|(x, m)| coefficients.step(step, step, m, x)).collect::<Rows>();
        if step + 1 < case.steps() {
            let (a, s) = (coefficients.alpha[step + 1], coefficients.sigma[step + 1]);
            let draw = if case.config.do_add_noise { draws.next() } else { None };
            let noise = draw.map(|key| rows(case, &key)).transpose()?;
            x = denoised
                .iter()
                .enumerate()
                .map(|(row, d)| {
                    let z = |i: usize| noise.as_ref().map_or(0.0, |noise| noise[row][i]);
                    d.iter().enumerate().map(|(i, d)| a * d + s * z(i)).collect()
                })
                .collect();
        }
    }
    Ok(denoised)
}

/// `unet_step`'s guidance over recorded outputs; the last `total` rows are the prompt's.
fn guided(case: &Case, outputs: &[Vec<f64>], total: usize, stock: &mut Rows) -> Rows {
    let (gamma, delta) = (f64::from(case.config.guidance_scale), f64::from(case.config.delta));
    let (negative, prompt) = outputs.split_at(outputs.len() - total);
    let cfg = if gamma > 1.0 { case.config.cfg_type.as_str() } else { "none" };
    if cfg == "initialize"
        && let Some(first) = negative.first()
    {
        stock[0].clone_from(first);
    }
    prompt
        .iter()
        .enumerate()
        .map(|(row, e)| {
            let u: Vec<f64> = match cfg {
                "full" => negative[row].clone(),
                "self" | "initialize" => stock[row].iter().map(|value| delta * value).collect(),
                _ => return e.clone(),
            };
            e.iter().zip(&u).map(|(e, u)| u + gamma * (e - u)).collect()
        })
        .collect()
}

fn rows(case: &Case, key: &str) -> Outcome<Rows> {
    let tensor = case.tensor(key)?;
    Ok((0..tensor.rows())
        .filter_map(|row| tensor.row(row))
        .map(|row| row.iter().map(|value| f64::from(*value)).collect())
        .collect())
}

fn error(got: &[f64], recorded: &[f64]) -> f64 {
    let peak = recorded.iter().fold(1.0_f64, |peak, value| peak.max(value.abs()));
    got.iter().zip(recorded).fold(0.0_f64, |worst, (a, b)| worst.max((a - b).abs())) / peak
}
