//! ControlNet (arXiv 2302.05543): what of a frame's structure its picture keeps.
//!
//! A U-Net with a ControlNet takes a second picture for each row, made of the frame by a preprocessor: its edges, say. It travels with
//! the frame's slot, so that a row is steered by its own frame, however many steps later and whatever is beside it in the call.

mod canny;

use std::fmt;
use std::str::FromStr;

use self::canny::Canny;
use crate::frame::{PictureView, Size};

/// The parameters that a model without a ControlNet has no use for.
pub const PARAMETERS: [&str; 5] = ["control-scale", "preprocessor", "canny-low", "canny-high", "show-control"];

/// Warns of parameters that somebody set for a model without a ControlNet.
pub fn warn_without_effect(names: &[&str]) {
    tracing::warn!("without effect, since the model has no ControlNet: {}", names.join(", "));
}

/// What a ControlNet is shown of a frame (diffusers' `control_image`): packed 8-bit RGB, of which 255 is 1.0 in the network's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlImage {
    size: Size,
    rgb: Vec<u8>,
}

impl ControlImage {
    /// A black picture: for edges, that there are none.
    pub fn new(size: Size) -> Self {
        Self { size, rgb: vec![0; 3 * size.pixels()] }
    }

    /// Width and height in pixels: those of the frame.
    pub const fn size(&self) -> Size {
        self.size
    }

    /// `3 * width * height` bytes, rows without a gap.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The same, to be written.
    pub fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }
}

/// What is made of a frame for the ControlNet. Which one is right is a matter of what the network was trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preprocessor {
    /// White edges on black, as OpenCV's `Canny` finds them in the three colours.
    Canny,
    /// Its lightness: for networks that colour a picture.
    Gray,
    /// The frame itself: for networks that are shown the picture, such as those for tiles.
    Passthrough,
}

impl Preprocessor {
    /// The names, as the parameter has them.
    pub const NAMES: &'static [&'static str] = &["canny", "gray", "passthrough"];
}

impl fmt::Display for Preprocessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Canny => "canny",
            Self::Gray => "gray",
            Self::Passthrough => "passthrough",
        })
    }
}

impl FromStr for Preprocessor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [Self::Canny, Self::Gray, Self::Passthrough];
        all.into_iter().zip(Self::NAMES).find(|(_, name)| **name == text).map(|(found, _)| found).ok_or(())
    }
}

/// What a ControlNet is shown of each frame, and how strongly it steers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ControlParameters {
    /// diffusers' `conditioning_scale`, from 0, which is not at all, to 2.
    pub scale: f32,
    /// What is made of a frame.
    pub preprocessor: Preprocessor,
    /// Strength of a gradient over which what touches an edge is one too, for [`Preprocessor::Canny`]. No gradient is over 2040.
    pub canny_low: u32,
    /// Strength of a gradient over which it is an edge.
    pub canny_high: u32,
    /// Whether that is what leaves in place of the painted pictures.
    pub is_shown: bool,
}

impl Default for ControlParameters {
    /// Edges by the thresholds of ControlNet's own examples.
    fn default() -> Self {
        Self { scale: 1.0, preprocessor: Preprocessor::Canny, canny_low: 100, canny_high: 200, is_shown: false }
    }
}

/// Makes control images, with the room that it takes: nothing is allocated once it has seen a size.
#[derive(Debug, Default)]
pub(crate) struct Preprocessing {
    canny: Canny,
}

impl Preprocessing {
    /// Writes what the ControlNet is shown of `picture`, packed RGB of its size, to `image`.
    pub(crate) fn run(&mut self, picture: PictureView<'_>, parameters: &ControlParameters, image: &mut [u8]) {
        match parameters.preprocessor {
            Preprocessor::Canny => self.canny.run(picture, [parameters.canny_low, parameters.canny_high], image),
            Preprocessor::Gray => {
                let pixels = picture.rows().flat_map(|row| row.as_chunks::<3>().0);
                for (to, from) in image.as_chunks_mut::<3>().0.iter_mut().zip(pixels) {
                    *to = [lightness(*from); 3];
                }
            }
            Preprocessor::Passthrough => {
                for (to, from) in image.chunks_exact_mut(3 * picture.size.width).zip(picture.rows()) {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}

/// BT.601's luma in 16 bits after the point, as Pillow's `convert("L")` rounds it.
fn lightness([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_is_in_the_table() {
        assert!(PARAMETERS.iter().all(|name| crate::params::spec(name).is_some_and(|spec| spec.hot)));
    }

    #[test]
    fn names_are_read_back() {
        for name in Preprocessor::NAMES {
            assert_eq!(name.parse::<Preprocessor>().unwrap().to_string(), *name);
        }
        assert!("depth".parse::<Preprocessor>().is_err());
    }

    #[test]
    fn a_frame_with_gaps_between_its_rows_comes_out_packed() {
        let size = Size::new(2, 2);
        let rgb = [255, 0, 0, 0, 255, 0, 9, 9, 0, 0, 255, 200, 100, 50];
        let picture = PictureView { size, stride: 8, rgb: &rgb };
        let mut image = [1; 12];
        let run = |preprocessor, image: &mut [u8]| {
            Preprocessing::default().run(
                picture,
                &ControlParameters { preprocessor, ..ControlParameters::default() },
                image,
            );
        };
        run(Preprocessor::Passthrough, &mut image);
        assert_eq!(image, [255, 0, 0, 0, 255, 0, 0, 0, 255, 200, 100, 50]);
        run(Preprocessor::Gray, &mut image);
        // As Pillow has these colours.
        assert_eq!(image, [76, 76, 76, 150, 150, 150, 29, 29, 29, 124, 124, 124]);
    }
}
