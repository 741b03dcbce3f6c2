//! A contact sheet: rows of pictures with a label above each row.

use std::path::Path;

use font8x8::UnicodeFonts;
use image::{ImageError, RgbImage, imageops};
use livediffusion_pipeline::frame::Size;

/// Height of a picture on the sheet: small enough that nine rows fit on a screen.
const THUMB_HEIGHT: u32 = 128;
/// Gap between pictures, in pixels.
const GAP: u32 = 4;
/// The font's 8 × 8 pixels are drawn this much larger.
const TEXT_SCALE: u32 = 2;
const LABEL_HEIGHT: u32 = 8 * TEXT_SCALE + GAP;

/// Rows of equally large pictures.
pub(super) struct Sheet {
    size: Size,
    columns: usize,
    rows: Vec<(String, Vec<Vec<u8>>)>,
}

impl Sheet {
    pub(super) fn new(size: Size, columns: usize) -> Self {
        Self { size, columns, rows: Vec::new() }
    }

    /// Adds a row of packed RGB pictures of the sheet's size.
    pub(super) fn row(&mut self, label: &str, pictures: Vec<Vec<u8>>) {
        self.rows.push((label.to_owned(), pictures));
    }

    /// Writes the sheet as a PNG under a temporary name and then under its own.
    pub(super) fn save(&self, path: &Path) -> Result<(), ImageError> {
        let (width, height) = (self.size.width as u32, self.size.height as u32);
        let thumb_width = (width * THUMB_HEIGHT / height).max(1);
        let row_height = LABEL_HEIGHT + THUMB_HEIGHT + GAP;
        let mut sheet = RgbImage::from_pixel(
            self.columns as u32 * (thumb_width + GAP) + GAP,
            self.rows.len() as u32 * row_height + GAP,
            image::Rgb([24, 24, 24]),
        );
        for (index, (label, pictures)) in self.rows.iter().enumerate() {
            let top = index as u32 * row_height + GAP;
            write(&mut sheet, GAP, top, label);
            for (column, rgb) in pictures.iter().take(self.columns).enumerate() {
                let Some(picture) = RgbImage::from_raw(width, height, rgb.clone()) else { continue };
                let thumb = imageops::resize(&picture, thumb_width, THUMB_HEIGHT, imageops::FilterType::Triangle);
                let left = GAP + column as u32 * (thumb_width + GAP);
                imageops::replace(&mut sheet, &thumb, i64::from(left), i64::from(top + LABEL_HEIGHT));
            }
        }
        let part = path.with_extension("png.part");
        sheet.save_with_format(&part, image::ImageFormat::Png)?;
        std::fs::rename(&part, path).map_err(ImageError::IoError)
    }
}

/// Draws a line of text; characters that the font lacks are left blank.
fn write(sheet: &mut RgbImage, left: u32, top: u32, text: &str) {
    for (index, character) in text.chars().enumerate() {
        let Some(glyph) = font8x8::BASIC_FONTS.get(character) else { continue };
        for (y, bits) in glyph.iter().enumerate() {
            for x in (0..8_u32).filter(|x| bits & (1 << x) != 0) {
                for (dx, dy) in (0..TEXT_SCALE).flat_map(|dx| (0..TEXT_SCALE).map(move |dy| (dx, dy))) {
                    let at = (left + (index as u32 * 8 + x) * TEXT_SCALE + dx, top + y as u32 * TEXT_SCALE + dy);
                    if let Some(pixel) = sheet.get_pixel_mut_checked(at.0, at.1) {
                        *pixel = image::Rgb([230, 230, 230]);
                    }
                }
            }
        }
    }
}
