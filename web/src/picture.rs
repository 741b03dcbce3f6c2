//! Pictures to and from the formats that browsers speak.

use std::io::Cursor;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{ImageFormat, ImageReader, Limits};
use jpeg_encoder::{ColorType, Encoder};
use livediffusion_pipeline::frame::{PictureView, Size};

use crate::message::Values;

/// Longest side of a frame that a visitor may send; it is scaled down at once.
pub(crate) const MOST_SIDE: u32 = 4096;

/// JPEG quality of pictures: at 85 nobody sees the difference at video's pace, at 95 they are twice as large.
const QUALITY: u8 = 85;

/// A decoded frame's pixels, decoders' own buffers included: four bytes for each of the largest frame's.
const MOST_BYTES: u64 = 4 * (MOST_SIDE as u64) * (MOST_SIDE as u64);

/// Reads, crops and scales frames, with buffers that are kept.
#[derive(Default)]
pub(crate) struct Reader {
    resizer: Resizer,
    rgb: Vec<u8>,
    /// A picture of another size without the gaps between its rows.
    packed: Vec<u8>,
}

impl Reader {
    /// A picture that is decoded already, likewise. Its sender was told the size, and knows it unless it changed just now.
    pub(crate) fn fit(&mut self, view: PictureView<'_>, size: Size) -> Result<&[u8], String> {
        let packed = if view.size == size { &mut self.rgb } else { &mut self.packed };
        packed.clear();
        view.rows().for_each(|row| packed.extend_from_slice(row));
        if view.size != size {
            let packed = std::mem::take(&mut self.packed);
            let scaled = self.scale(&packed, (view.size.width as u32, view.size.height as u32), size);
            self.packed = packed;
            scaled?;
        }
        Ok(&self.rgb)
    }

    /// A JPEG or WebP as interleaved RGB of `size`, scaled and cropped so that it covers it.
    pub(crate) fn read(&mut self, encoded: &[u8], size: Size) -> Result<&[u8], String> {
        let mut reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(|e| e.to_string())?;
        if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::WebP)) {
            return Err("a frame must be JPEG or WebP".into());
        }
        let mut limits = Limits::default();
        (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
        limits.max_alloc = Some(MOST_BYTES);
        reader.limits(limits);
        let picture = reader.decode().map_err(|error| format!("the frame cannot be read: {error}"))?.into_rgb8();
        self.scale(picture.as_raw(), picture.dimensions(), size)?;
        Ok(&self.rgb)
    }

    /// Scales and crops `rgb` into our own.
    fn scale(&mut self, rgb: &[u8], (width, height): (u32, u32), size: Size) -> Result<(), String> {
        self.rgb.resize(3 * size.pixels(), 0);
        let fail = |error: &dyn std::fmt::Display| format!("the frame cannot be scaled: {error}");
        let source = ImageRef::new(width, height, rgb, PixelType::U8x3).map_err(|e| fail(&e))?;
        let (width, height) = (size.width as u32, size.height as u32);
        let mut target = Image::from_slice_u8(width, height, &mut self.rgb, PixelType::U8x3).map_err(|e| fail(&e))?;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .fit_into_destination(Some((0.5, 0.5)));
        self.resizer.resize(&source, &mut target, &options).map_err(|e| fail(&e))
    }
}

/// Interleaved RGB as JPEG.
pub(crate) fn jpeg(rgb: &[u8], size: Size) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(size.pixels() / 4);
    // Sides are at most 8192, as the parameter's parser sees to.
    Encoder::new(&mut out, QUALITY)
        .encode(rgb, size.width as u16, size.height as u16, ColorType::Rgb)
        .map_err(|error| format!("the picture cannot be encoded: {error}"))?;
    Ok(out)
}

/// Interleaved RGB as PNG, with the parameters that it was painted under in text chunks: all of them as JSON under
/// `livediffusion`, the prompt under `Description`.
pub(crate) fn png(rgb: &[u8], size: Size, parameters: &Values) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let fail = |error: png::EncodingError| format!("the picture cannot be encoded: {error}");
    let mut encoder = png::Encoder::new(&mut out, size.width as u32, size.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let prompt = parameters.get("prompt").cloned().unwrap_or_default();
    let json = serde_json::to_string(parameters).map_err(|error| error.to_string())?;
    for (keyword, text) in [("Software", "livediffusion".to_owned()), ("Description", prompt), ("livediffusion", json)]
    {
        encoder.add_itxt_chunk(keyword.into(), text).map_err(fail)?;
    }
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(rgb).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_covers_the_size_and_keeps_its_middle() {
        // Red, green and blue thirds beside each other; a square sees the middle.
        let size = Size::new(96, 32);
        let rgb: Vec<u8> = (0..32 * 96).flat_map(|at| [[255, 0, 0], [0, 255, 0], [0, 0, 255]][at % 96 / 32]).collect();
        let encoded = jpeg(&rgb, size).unwrap();
        let mut reader = Reader::default();
        let square = reader.read(&encoded, Size::new(16, 16)).unwrap();
        for pixel in square.chunks(3).skip(3).step_by(16).take(16) {
            assert!(pixel[1] > 150 && pixel[0] < 100 && pixel[2] < 100, "{pixel:?}");
        }
        assert_eq!(square.len(), 3 * 256);
    }

    #[test]
    fn a_decoded_frame_is_fitted_whatever_its_size_and_stride() {
        let mut reader = Reader::default();
        // Two rows of two pixels, with a gap of two bytes after each.
        let rgb = [10, 10, 10, 20, 20, 20, 0, 0, 30, 30, 30, 40, 40, 40, 0, 0];
        let view = PictureView { size: Size::new(2, 2), stride: 8, rgb: &rgb };
        assert_eq!(reader.fit(view, Size::new(2, 2)).unwrap(), [10, 10, 10, 20, 20, 20, 30, 30, 30, 40, 40, 40]);
        assert_eq!(reader.fit(view, Size::new(1, 1)).unwrap(), [25, 25, 25]);
        assert_eq!(reader.fit(view, Size::new(4, 4)).unwrap().len(), 48);
    }

    #[test]
    fn broken_and_foreign_frames_are_refused() {
        let mut reader = Reader::default();
        let good = jpeg(&[9; 3 * 64], Size::new(8, 8)).unwrap();
        for bad in [&b"GIF89a......"[..], &good[..good.len() / 3], b"", b"\xff\xd8\xff\xe0 nothing"] {
            assert!(reader.read(bad, Size::new(8, 8)).is_err());
        }
    }

    #[test]
    fn a_snapshot_carries_its_parameters() {
        let values =
            Values::from([("prompt".into(), "ein Fuchs, größer 🦊".into()), ("guidance".into(), "1.2".into())]);
        let encoded = png(&[7; 3 * 64], Size::new(8, 8), &values).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(encoded)).read_info().unwrap();
        let mut pixels = vec![0; 3 * 64];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, [7; 3 * 64]);
        let texts = &reader.info().utf8_text;
        let text = |key: &str| texts.iter().find(|text| text.keyword == key).unwrap().get_text().unwrap();
        assert_eq!(text("Description"), values["prompt"]);
        assert_eq!(serde_json::from_str::<Values>(&text("livediffusion")).unwrap(), values);
    }
}
