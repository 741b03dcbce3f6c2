//! Files that are pictures, and pictures as files.

use std::fs::File;
use std::path::Path;

use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::jpeg::JpegEncoder;
use image::{Delay, Frame, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use livediffusion_io::IoError;
use livediffusion_pipeline::frame::{FrameMeta, Size};

use crate::support;

const RED: [u8; 3] = [230, 20, 10];
const SIZE: Size = Size::new(64, 32);

/// Red on the left, black on the right.
fn halves() -> RgbImage {
    RgbImage::from_fn(64, 32, |x, _| Rgb(if x < 32 { RED } else { [0; 3] }))
}

fn is_red(picture: &[u8], (x, y): (usize, usize), width: usize) -> bool {
    let at = 3 * (y * width + x);
    picture[at] > 200 && picture[at + 1] < 60 && picture[at + 2] < 60
}

#[test]
fn one_picture_of_any_kind_is_a_stream_of_one() {
    let folder = tempfile::tempdir().unwrap();
    for format in [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::Pnm,
        ImageFormat::Tga,
    ] {
        let path = folder.path().join(format!("a.{}", format.extensions_str()[0]));
        halves().save_with_format(&path, format).unwrap();
        let read = support::read(&path, 64, 32);
        assert_eq!((read.metas.len(), read.info.natural), (1, SIZE), "{format:?}");
        let picture = &read.pictures[0];
        assert!(is_red(picture, (10, 16), 64) && !is_red(picture, (54, 16), 64), "{format:?}");
    }
}

#[test]
fn a_gif_moves_at_its_own_times_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    let mut encoder = GifEncoder::new(File::create(&path).unwrap());
    encoder.set_repeat(Repeat::Infinite).unwrap();
    // No time at all is what browsers take for a tenth of a second.
    for (level, ms) in [(40, 80), (120, 0), (200, 240)] {
        let picture = RgbaImage::from_pixel(64, 32, Rgba([level, level, level, 255]));
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, Delay::from_numer_denom_ms(ms, 1))).unwrap();
    }
    drop(encoder);
    let read = support::read(&path, 64, 32);
    let times: Vec<_> = read.metas.iter().map(|meta| (meta.pts_ns, meta.duration_ns)).collect();
    let ms = |ms: u64| Some(ms * 1_000_000);
    assert_eq!(times, [(ms(0), ms(80)), (ms(80), ms(100)), (ms(180), ms(240))]);
    assert_eq!((read.info.natural, read.info.framerate), (SIZE, Some((25, 2))));
    for (picture, level) in read.pictures.iter().zip([40, 120, 200]) {
        assert!(support::difference(picture, &vec![level; 3 * 64 * 32]) <= 2.0, "{level}");
    }
}

#[test]
fn a_photo_is_turned_upright() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jpg");
    let mut encoder = JpegEncoder::new_with_quality(File::create(&path).unwrap(), 95);
    // TIFF's head, and one entry: orientation (0x0112), one 16-bit number, 6: to be turned by a quarter to the right.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    encoder.write_image(&halves(), 64, 32, image::ExtendedColorType::Rgb8).unwrap();
    let read = support::read(&path, 32, 64);
    assert_eq!(read.info.natural, Size::new(32, 64));
    // What was on the left is above.
    assert!(is_red(&read.pictures[0], (16, 10), 32) && !is_red(&read.pictures[0], (16, 54), 32));
}

#[test]
fn what_cannot_be_seen_is_black() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    // White, of which nothing is to be seen on the right.
    RgbaImage::from_fn(64, 32, |x, _| Rgba([255, 255, 255, if x < 32 { 255 } else { 0 }])).save(&path).unwrap();
    let picture = support::read(&path, 64, 32).pictures.remove(0);
    let at = |x: usize| picture[3 * (16 * 64 + x)];
    assert_eq!((at(10), at(54)), (255, 0));
}

#[test]
fn a_broken_picture_is_an_error_of_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("a.bmp");
    halves().save(&whole).unwrap();
    let bytes = std::fs::read(&whole).unwrap();
    let broken = folder.path().join("b.bmp");
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let error = support::open(&broken.to_string_lossy(), &support::options(64, 32)).err().unwrap();
    assert!(matches!(error, IoError::Corrupt { .. }), "{error:?}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn the_last_picture_becomes_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let level = |path: &Path| {
        let picture = image::open(path).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (64, 32));
        picture.get_pixel(20, 20).0[0]
    };
    for name in ["a.png", "a.jpg"] {
        let path = folder.path().join(name);
        let mut sink = support::sink(&path, SIZE, None, None).unwrap();
        assert!(!path.exists());
        for level in [40_u8, 80, 160] {
            sink.push(FrameMeta::default(), &vec![level; 3 * SIZE.pixels()]).unwrap();
        }
        let report = sink.finish().unwrap();
        assert_eq!((report.frames, report.path.as_deref()), (3, Some(path.as_path())));
        assert!(level(&path).abs_diff(160) <= 1, "{name}");
        // Without a picture the file stays as it was.
        support::sink(&path, SIZE, None, None).unwrap().finish().unwrap();
        drop(support::sink(&path, SIZE, None, None).unwrap());
        assert!(level(&path).abs_diff(160) <= 1, "{name}");
    }
    assert_eq!(support::names(folder.path()), ["a.jpg", "a.png"]);
}
