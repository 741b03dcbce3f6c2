//! Whether a case has every tensor that its configuration promises, in the right shape: asked before anything runs.

use super::case::{CONTRADICTION, Case, Tensor};
use crate::failure::{Failure, Outcome};

/// Names the first tensor that is missing or contradicts the configuration.
pub(super) fn check(case: &Case) -> Outcome<()> {
    let config = &case.config;
    let (steps, frames) = (case.steps(), config.frame_buffer_size);
    let noise = case.tensor("const/init_noise")?;
    let &[noises, channels, height, width] = noise.shape.as_slice() else {
        return Err(contradiction(case, "const/init_noise", &noise, "has to be [rows, channels, height, width]"));
    };
    let wanted = if config.use_denoising_batch { steps * frames } else { 1 };
    if noises < wanted {
        return Err(contradiction(case, "const/init_noise", &noise, &format!("{wanted} rows are needed")));
    }
    for key in ["const/alpha_prod_t_sqrt", "const/beta_prod_t_sqrt"] {
        let tensor = case.tensor(key)?;
        if tensor.rows() == 0 || tensor.rows() % steps != 0 {
            return Err(contradiction(case, key, &tensor, &format!("a row for each of {steps} steps is needed")));
        }
    }
    if case.is_img2img() {
        let pictures = case.tensor("input/frames_u8")?;
        let [height, width] = [1, 2].map(|dim| pictures.shape.get(dim).copied().unwrap_or(0));
        case.expect_shape("input/frames_u8", &pictures, &[config.frames * frames, height, width, 3])?;
    }
    let latent = |key: &str| case.expect_shape(key, &case.tensor(key)?, &[frames, channels, height, width]);
    let (calls, rows) = if config.use_denoising_batch { (1, steps * frames) } else { (steps, frames) };
    for &frame in &case.processed {
        if case.is_img2img() {
            latent(&format!("f{frame:02}/x0_latent"))?;
        }
        latent(&format!("f{frame:02}/latent_out"))?;
        for call in 0..calls {
            let key = |what: &str| format!("f{frame:02}/unet{call}/{what}");
            let sample = case.tensor(&key("sample"))?;
            if sample.rows() < rows {
                return Err(contradiction(case, &key("sample"), &sample, &format!("{rows} rows are needed")));
            }
            let shape = [sample.rows(), channels, height, width];
            case.expect_shape(&key("sample"), &sample, &shape)?;
            case.expect_shape(&key("out"), &case.tensor(&key("out"))?, &shape)?;
            case.expect_shape(&key("timestep"), &case.tensor(&key("timestep"))?, &shape[..1])?;
        }
    }
    Ok(())
}

fn contradiction(case: &Case, key: &str, tensor: &Tensor, what: &str) -> Failure {
    let what = format!("{}: {key} has the shape {:?}: {what}", case.name, tensor.shape);
    Failure::usage(what, CONTRADICTION)
}
