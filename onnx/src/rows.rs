//! What all U-Nets do with the rows of a call, wherever they run; and whether a network's rows are apart: what it says of one does not
//! depend on the others, above all on their time steps.

use std::sync::Arc;

use livediffusion_kernels::{Normalise, rgb8_to_chw};
use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{Branch, Conditioning, DenoiseBatch, Denoiser, ModelError, Row};

use crate::pack::Pack;

/// A U-Net that cannot tell its rows apart is off by as much as the prediction itself; bf16 is off by about 1 %.
const SAME_ROW: f32 = 0.1;

/// Runs rows of different time steps together and alone, on latents of that height and width where the network leaves them open, and
/// says whether they come out the same.
///
/// # Errors
/// The network does not run.
pub fn rows_are_apart(unet: &mut dyn Denoiser, pack: &Pack, [height, width]: [usize; 2]) -> Result<bool, ModelError> {
    let side = |axis, open| pack.unet.sample.fixed(axis).unwrap_or(open);
    let shape = LatentShape { channels: pack.latent_channels, height: side(2, height), width: side(3, width) };
    let pooled = pack.unet.pooled.as_ref().and_then(|t| t.fixed(1));
    let conditioning = Arc::new(Conditioning {
        tokens: vec![0.1; pack.prompt_length * pack.unet_prompt_width()],
        length: pack.prompt_length,
        width: pack.unet_prompt_width(),
        pooled: pooled.map(|width| vec![0.1; width]),
        time_ids: pooled.map(|_| [512.0, 512.0, 0.0, 0.0, 512.0, 512.0]),
        timestep_cond: unet.timestep_cond_width().map(|width| vec![0.1; width]),
        unused: String::new(),
    });
    let mut image = ControlImage::new(Size::new(shape.width * pack.vae_factor, shape.height * pack.vae_factor));
    image.rgb_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 89 % 251) as u8);
    let control = unet.takes_control().then(|| Arc::new(image));
    let row = |timestep| Row {
        frame: 0,
        step: 0,
        timestep,
        branch: Branch::Prompt,
        conditioning: Arc::clone(&conditioning),
        control: control.clone(),
        control_scale: 1.0,
    };
    let rows = [row(900.0), row(100.0)];
    let latent: Vec<f32> = (0..shape.len()).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut both = vec![0.0; 2 * shape.len()];
    let mut alone = vec![0.0; shape.len()];
    let two = DenoiseBatch { sample: &latent.repeat(2), shape, rows: &rows };
    let one = DenoiseBatch { sample: &latent, shape, rows: &rows[1..] };
    unet.denoise(&two, &mut both)?;
    unet.denoise(&one, &mut alone)?;
    let peak = alone.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let mut pairs = alone.iter().zip(&both[shape.len()..]);
    Ok(pairs.all(|(a, b)| (a - b).abs() <= SAME_ROW * peak))
}

/// Whether rows can be in one call: their prompts are of one length and width, and whole.
///
/// # Errors
/// If not, what is the matter.
pub fn check_prompts(rows: &[Row]) -> Result<(), ModelError> {
    let Some(first) = rows.first() else { return Ok(()) };
    let (length, width) = (first.conditioning.length, first.conditioning.width);
    let is_like_it = |row: &Row| {
        let c = &row.conditioning;
        (c.length, c.width, c.tokens.len()) == (length, width, length * width)
    };
    if rows.iter().all(is_like_it) {
        return Ok(());
    }
    Err(ModelError::new("U-Net: the prompts of one call have different lengths"))
}

/// How strongly its control image steers a row: a row without is not steered.
pub fn control_scale(row: &Row) -> f32 {
    if row.control.is_some() { row.control_scale } else { 0.0 }
}

/// Puts what the row's ControlNet is shown into `shown`, [3, height, width] in [0, 1]; black for a row without.
///
/// # Errors
/// A control image of another size.
pub fn show_control(row: &Row, size: Size, shown: &mut Vec<f32>) -> Result<(), ModelError> {
    shown.resize(3 * size.pixels(), 0.0);
    match &row.control {
        Some(image) if image.size() != size => {
            Err(ModelError::new(format!("U-Net: a control image of {} for a frame of {size}", image.size())))
        }
        Some(image) => {
            rgb8_to_chw(image.rgb(), 3 * size.width, (size.width, size.height), Normalise::UNIT, shown);
            Ok(())
        }
        None => {
            shown.fill(0.0);
            Ok(())
        }
    }
}
