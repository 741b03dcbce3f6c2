//! Pictures of any format and size to tensors: crop, resize, conversion to RGB and normalisation in one pass.
//!
//! The CPU's frame path does not come here: there GStreamer crops and scales, and [`rgb8_to_chw`](crate::rgb8_to_chw) does the
//! rest. This is the twin of the kernel that does it all on a GPU (resample.cu), value by value in the same order.

/// How a picture's bytes are laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PixelFormat {
    /// Three bytes a pixel.
    Rgb8,
    /// Four bytes a pixel, of which the last is not looked at.
    Rgba8,
    /// A plane of luma, and one of interleaved U and V at half the width and height (rounded up).
    Nv12(YuvMatrix),
}

/// From Y'CbCr to R'G'B', all from 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YuvMatrix {
    /// 255/219 where luma ranges from 16 to 235, 1 where it uses all values.
    pub luma_scale: f32,
    /// 16, or 0.
    pub luma_offset: f32,
    /// Weight of V in red.
    pub red_v: f32,
    /// Weight of U in green.
    pub green_u: f32,
    /// Weight of V in green.
    pub green_v: f32,
    /// Weight of U in blue.
    pub blue_u: f32,
}

impl YuvMatrix {
    /// ITU-R BT.601, as in video of standard definition, in the limited range.
    pub const BT601: Self = Self::limited(0.299, 0.114);
    /// ITU-R BT.709, as in video of high definition, in the limited range.
    pub const BT709: Self = Self::limited(0.2126, 0.0722);
    /// ITU-R BT.601 in the full range, as in JPEG and from most cameras.
    pub const JPEG: Self = Self::of(0.299, 0.114, 1.0, 1.0, 0.0);

    const fn limited(kr: f64, kb: f64) -> Self {
        Self::of(kr, kb, 255.0 / 219.0, 255.0 / 224.0, 16.0)
    }

    /// The matrix follows from the luma of red and of blue (BT.601 §2.5.1).
    const fn of(kr: f64, kb: f64, luma_scale: f64, chroma_scale: f64, luma_offset: f64) -> Self {
        let kg = 1.0 - kr - kb;
        Self {
            luma_scale: luma_scale as f32,
            luma_offset: luma_offset as f32,
            red_v: (chroma_scale * 2.0 * (1.0 - kr)) as f32,
            green_u: (-chroma_scale * 2.0 * kb * (1.0 - kb) / kg) as f32,
            green_v: (-chroma_scale * 2.0 * kr * (1.0 - kr) / kg) as f32,
            blue_u: (chroma_scale * 2.0 * (1.0 - kb)) as f32,
        }
    }
}

/// A picture in memory.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Layout of the bytes.
    pub format: PixelFormat,
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// The pixels; luma for NV12.
    pub plane: &'a [u8],
    /// Bytes from row to row.
    pub stride: usize,
    /// U and V for NV12, else empty.
    pub chroma: &'a [u8],
    /// Bytes from row to row of `chroma`.
    pub chroma_stride: usize,
}

/// The part of a picture that is taken, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crop {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
}

impl Crop {
    /// All of a picture.
    pub fn all((width, height): (usize, usize)) -> Self {
        Self { left: 0, top: 0, width, height }
    }
}

/// How values between pixels come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Between the four nearest pixels, with pixel centres at halves (torch's `interpolate(align_corners=False)`). Right for
    /// enlarging; skips pixels where it shrinks by more than 2.
    Bilinear,
    /// The mean of what a pixel of the result covers (OpenCV's `INTER_AREA`). Right for shrinking.
    Area,
}

impl Filter {
    /// Area where either side shrinks, bilinear where none does.
    pub fn for_sizes(crop: Crop, (width, height): (usize, usize)) -> Self {
        if width < crop.width || height < crop.height { Self::Area } else { Self::Bilinear }
    }
}

/// What a value from 0 to 255 becomes: `value · scale + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalise {
    /// Factor.
    pub scale: f32,
    /// Summand.
    pub bias: f32,
}

impl Normalise {
    /// [-1, 1], as VAE encoders take it.
    pub const SIGNED: Self = Self { scale: 2.0 / 255.0, bias: -1.0 };
    /// [0, 1], as ControlNets take it.
    pub const UNIT: Self = Self { scale: 1.0 / 255.0, bias: 0.0 };

    /// What a value from 0 to 255 becomes.
    pub(crate) fn apply(self, value: f32) -> f32 {
        value * self.scale + self.bias
    }
}

/// Writes the `crop` of a picture as three planes of `width · height` values, resized by `filter` where the sizes differ. A row
/// of NV12 shares its chroma with its neighbour, without interpolation.
///
/// # Panics
/// If the crop lies outside the picture or is empty, or a slice is too short.
pub fn picture_to_chw(
    picture: &Picture<'_>,
    crop: Crop,
    filter: Filter,
    normalise: Normalise,
    (width, height): (usize, usize),
    chw: &mut [f32],
) {
    let inside = crop.left + crop.width <= picture.size.0 && crop.top + crop.height <= picture.size.1;
    assert!(inside && crop.width > 0 && crop.height > 0, "{crop:?} is no part of a picture of {:?}", picture.size);
    let plane = width * height;
    let same = (crop.width, crop.height) == (width, height);
    let ratio = (crop.width as f32 / width as f32, crop.height as f32 / height as f32);
    let at = |x: usize, y: usize| picture.colour(crop.left + x, crop.top + y);
    for y in 0..height {
        for x in 0..width {
            let colour = match filter {
                _ if same => at(x, y),
                Filter::Bilinear => bilinear(&at, Tap::of(x, ratio.0, crop.width), Tap::of(y, ratio.1, crop.height)),
                Filter::Area => area(&at, &Box::of(x, ratio.0, crop.width), &Box::of(y, ratio.1, crop.height)),
            };
            for (channel, value) in colour.into_iter().enumerate() {
                chw[channel * plane + y * width + x] = normalise.apply(value);
            }
        }
    }
}

impl Picture<'_> {
    /// Red, green and blue from 0 to 255.
    fn colour(&self, x: usize, y: usize) -> [f32; 3] {
        let interleaved = |bytes: usize| {
            let pixel = &self.plane[y * self.stride + bytes * x..][..3];
            [f32::from(pixel[0]), f32::from(pixel[1]), f32::from(pixel[2])]
        };
        match self.format {
            PixelFormat::Rgb8 => interleaved(3),
            PixelFormat::Rgba8 => interleaved(4),
            PixelFormat::Nv12(m) => {
                let chroma = &self.chroma[y / 2 * self.chroma_stride + x / 2 * 2..][..2];
                let luma = (f32::from(self.plane[y * self.stride + x]) - m.luma_offset) * m.luma_scale;
                let (u, v) = (f32::from(chroma[0]) - 128.0, f32::from(chroma[1]) - 128.0);
                let rgb = [luma + m.red_v * v, luma + m.green_u * u + m.green_v * v, luma + m.blue_u * u];
                rgb.map(|value| value.clamp(0.0, 255.0))
            }
        }
    }
}

/// The two pixels along one side that a value lies between.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    /// Weight of `high`.
    weight: f32,
}

impl Tap {
    fn of(at: usize, ratio: f32, size: usize) -> Self {
        let centre = ((at as f32 + 0.5) * ratio - 0.5).clamp(0.0, (size - 1) as f32);
        let low = centre as usize;
        Self { low, high: (low + 1).min(size - 1), weight: centre - low as f32 }
    }
}

fn bilinear(at: &impl Fn(usize, usize) -> [f32; 3], h: Tap, v: Tap) -> [f32; 3] {
    let (a, b, c, d) = (at(h.low, v.low), at(h.high, v.low), at(h.low, v.high), at(h.high, v.high));
    std::array::from_fn(|i| {
        let upper = a[i] + h.weight * (b[i] - a[i]);
        let lower = c[i] + h.weight * (d[i] - c[i]);
        upper + v.weight * (lower - upper)
    })
}

/// The pixels along one side that a pixel of the result covers.
struct Box {
    first: usize,
    end: usize,
    from: f32,
    to: f32,
}

impl Box {
    fn of(at: usize, ratio: f32, size: usize) -> Self {
        let (from, to) = (at as f32 * ratio, (at + 1) as f32 * ratio);
        let first = (from as usize).min(size - 1);
        let end = (to.ceil() as usize).min(size).max(first + 1);
        Self { first, end, from, to }
    }

    /// The length that is covered of a pixel: at least something, as the ends of a tiny box may round to the same value.
    fn weight(&self, at: usize) -> f32 {
        (self.to.min((at + 1) as f32) - self.from.max(at as f32)).max(1e-6)
    }
}

fn area(at: &impl Fn(usize, usize) -> [f32; 3], h: &Box, v: &Box) -> [f32; 3] {
    let mut width = 0.0;
    for i in h.first..h.end {
        width += h.weight(i);
    }
    let (mut total, mut height) = ([0.0; 3], 0.0);
    for j in v.first..v.end {
        let mut row = [0.0; 3];
        for i in h.first..h.end {
            let (colour, weight) = (at(i, j), h.weight(i));
            for (sum, value) in row.iter_mut().zip(colour) {
                *sum += weight * value;
            }
        }
        let weight = v.weight(j);
        height += weight;
        for (sum, row) in total.iter_mut().zip(row) {
            *sum += weight * row;
        }
    }
    let whole: f32 = width * height;
    total.map(|sum: f32| sum / whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rgb8_to_chw;

    fn rgb(plane: &[u8], size: (usize, usize)) -> Picture<'_> {
        Picture { format: PixelFormat::Rgb8, size, plane, stride: 3 * size.0, chroma: &[], chroma_stride: 0 }
    }

    const BYTES: Normalise = Normalise { scale: 1.0, bias: 0.0 };

    #[test]
    fn without_resizing_it_is_the_plain_conversion() {
        let bytes: Vec<u8> = (0..7 * 5 * 3).map(|i| (i * 37 % 256) as u8).collect();
        let (mut plain, mut ours) = (vec![0.0; bytes.len()], vec![0.0; bytes.len()]);
        rgb8_to_chw(&bytes, 21, (7, 5), Normalise::SIGNED, &mut plain);
        for filter in [Filter::Bilinear, Filter::Area] {
            picture_to_chw(&rgb(&bytes, (7, 5)), Crop::all((7, 5)), filter, Normalise::SIGNED, (7, 5), &mut ours);
            assert_eq!(ours, plain);
        }
    }

    #[test]
    fn area_takes_means_and_bilinear_goes_between() {
        // One row: 0 10 20 30 (grey).
        let bytes: Vec<u8> = [0, 10, 20, 30].into_iter().flat_map(|v| [v; 3]).collect();
        let red = |crop: Crop, filter, width| {
            let mut chw = vec![0.0; 3 * width];
            picture_to_chw(&rgb(&bytes, (4, 1)), crop, filter, BYTES, (width, 1), &mut chw);
            chw[..width].to_vec()
        };
        let all = Crop::all((4, 1));
        assert_eq!(red(all, Filter::Area, 2), [5.0, 25.0]);
        assert_eq!(red(all, Filter::Area, 1), [15.0]);
        assert_eq!(red(all, Filter::Bilinear, 8), [0.0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30.0]);
        assert_eq!(red(Crop { left: 1, width: 2, ..all }, Filter::Area, 1), [15.0]);
        // Of three boxes over four pixels, the middle one covers two thirds of each of its two.
        let thirds = red(all, Filter::Area, 3);
        assert!((thirds[1] - 15.0).abs() < 1e-4 && (thirds[0] - 2.5).abs() < 1e-4, "{thirds:?}");
    }

    #[test]
    fn nv12_gives_the_colours_that_the_standards_name() {
        // 75 % bars in BT.709 limited: white 180/128/128, red 51/109/212, blue 28/212/120 (SMPTE RP 219 rounds them).
        let cases = [((180, 128, 128), [191, 191, 191]), ((51, 109, 212), [191, 0, 0]), ((28, 212, 120), [0, 0, 191])];
        for ((y, u, v), expected) in cases {
            let (luma, chroma) = ([y; 1], [u, v]);
            let picture = Picture {
                format: PixelFormat::Nv12(YuvMatrix::BT709),
                size: (1, 1),
                plane: &luma,
                stride: 1,
                chroma: &chroma,
                chroma_stride: 2,
            };
            let mut chw = [0.0; 3];
            picture_to_chw(&picture, Crop::all((1, 1)), Filter::Area, BYTES, (1, 1), &mut chw);
            for (have, want) in chw.into_iter().zip(expected) {
                assert!((have - want as f32).abs() < 2.0, "{chw:?} instead of {expected:?}");
            }
        }
        let grey = YuvMatrix::JPEG;
        assert_eq!((grey.luma_scale, grey.luma_offset, grey.red_v, grey.blue_u), (1.0, 0.0, 1.402, 1.772));
    }
}
