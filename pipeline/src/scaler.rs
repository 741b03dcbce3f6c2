//! Pictures between the stream's size and the network's.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use crate::frame::Size;

/// Scales pictures, with buffers that are kept.
#[derive(Default)]
pub(crate) struct Scaler {
    resizer: Resizer,
    small: Vec<u8>,
}

impl Scaler {
    /// A frame at the network's size: itself where that is the stream's.
    pub(crate) fn scale<'a>(&'a mut self, rgb: &'a [u8], from: Size, to: Size) -> &'a [u8] {
        if from == to {
            return rgb;
        }
        self.small.resize(3 * to.pixels(), 0);
        resize(&mut self.resizer, FilterType::Bilinear, (rgb, from), (&mut self.small, to));
        &self.small
    }

    /// A picture of the network at the stream's size, in `out`.
    pub(crate) fn enlarge(&mut self, rgb: &[u8], from: Size, to: Size, out: &mut Vec<u8>) {
        out.resize(3 * to.pixels(), 0);
        if from == to {
            out.copy_from_slice(rgb);
        } else {
            // Sharper than bilinear, without Lanczos's rings around lines.
            resize(&mut self.resizer, FilterType::CatmullRom, (rgb, from), (out, to));
        }
    }
}

fn resize(resizer: &mut Resizer, filter: FilterType, (from, old): (&[u8], Size), (to, new): (&mut [u8], Size)) {
    let side = |side: usize| side as u32;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let source = ImageRef::new(side(old.width), side(old.height), from, PixelType::U8x3);
    let target = Image::from_slice_u8(side(new.width), side(new.height), to, PixelType::U8x3);
    let (Ok(source), Ok(mut target)) = (source, target) else {
        // Both buffers were made for these sizes.
        tracing::error!("a picture of {old} has the wrong number of bytes");
        return;
    };
    if let Err(error) = resizer.resize(&source, &mut target, &options) {
        tracing::error!(%error, "a picture could not be scaled");
    }
}
