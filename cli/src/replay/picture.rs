//! A case's input pictures at the size of its networks.

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use livediffusion_pipeline::frame::Size;

use super::case::Tensor;
use crate::failure::{Failure, Outcome, RUNNING};

/// Picture `id` as packed RGB of `size`; resized by Lanczos as diffusers' image processor does with Pillow. Where only
/// the recorded latents count (`resizes` is false), a picture of another size is replaced by black.
pub(super) fn fit(frames: &Tensor, id: usize, size: Size, resizes: bool) -> Outcome<Vec<u8>> {
    let failed = |what: String| Failure::new(RUNNING, format!("input/frames_u8, picture {id}: {what}"));
    let &[_, height, width, 3] = frames.shape.as_slice() else {
        return Err(failed(format!("the shape is {:?}, not [frames, height, width, 3]", frames.shape)));
    };
    let row = frames.row(id).ok_or_else(|| failed("it is missing".into()))?;
    let rgb: Vec<u8> = row.iter().map(|value| *value as u8).collect();
    if (width, height) == (size.width, size.height) {
        return Ok(rgb);
    }
    if !resizes {
        return Ok(vec![0; 3 * size.pixels()]);
    }
    let source = Image::from_vec_u8(width as u32, height as u32, rgb, PixelType::U8x3)
        .map_err(|error| failed(error.to_string()))?;
    let mut target = Image::new(size.width as u32, size.height as u32, PixelType::U8x3);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    Resizer::new().resize(&source, &mut target, &options).map_err(|error| failed(error.to_string()))?;
    Ok(target.into_vec())
}
