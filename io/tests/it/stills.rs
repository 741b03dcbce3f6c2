//! Files that are pictures, and pictures as files.

use std::fs::File;
use std::path::Path;

use image::codecs::gif::{GifEncoder, Repeat};
use image::codecs::jpeg::JpegEncoder;
use image::{Delay, Frame, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use livediffusion_io::{IoError, Next};
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

/// Made by Pillow: three pictures of one level each.
#[test]
fn webp_and_png_move_too() {
    for name in ["moving.webp", "moving.png"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
        let read = support::read(&path, 32, 16);
        let times: Vec<_> = read.metas.iter().map(|meta| meta.pts_ns.unwrap() / 1_000_000).collect();
        assert_eq!(times, [0, 80, 180], "{name}");
        for (picture, level) in read.pictures.iter().zip([40, 120, 200]) {
            assert!(support::difference(picture, &vec![level; 3 * 32 * 16]) <= 2.0, "{name}: {level}");
        }
    }
}

/// A GIF of so many pictures of noise, which do not compress.
fn gif(path: &Path, count: u32) {
    let mut encoder = GifEncoder::new_with_speed(File::create(path).unwrap(), 30);
    for frame in 0..count {
        let noise = |x: u32, y: u32| ((x * 7 + y * 13 + frame * 31).wrapping_mul(2_654_435_761) >> 24) as u8;
        let picture = RgbaImage::from_fn(64, 32, |x, y| Rgba([noise(x, y), noise(y, x), noise(x, x), 255]));
        encoder.encode_frame(Frame::from_parts(picture, 0, 0, Delay::from_numer_denom_ms(40, 1))).unwrap();
    }
}

#[test]
fn what_breaks_off_ends_with_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    gif(&path, 6);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let read = support::read(&path, 64, 32);
    assert!((2..6).contains(&read.metas.len()) && read.corrupt == 1, "{} {}", read.metas.len(), read.corrupt);
}

#[test]
fn whoever_has_seen_enough_waits_for_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gif");
    gif(&path, 200);
    let mut source = support::open(&path.to_string_lossy(), &support::options(64, 32)).unwrap();
    let Next::Frame(_) = source.next(support::LONG).unwrap() else { panic!("no picture") };
    // Hangs where the thread that reads is not let go.
    drop(source);
}

#[test]
fn in_a_folder_each_file_is_one_picture() {
    let folder = tempfile::tempdir().unwrap();
    gif(&folder.path().join("1.gif"), 5);
    halves().save(folder.path().join("2.tga")).unwrap();
    halves().save(folder.path().join("3.ppm")).unwrap();
    let read = support::read(folder.path(), 64, 32);
    assert_eq!((read.metas.len(), read.corrupt), (3, 0));
}

#[test]
fn a_stream_of_jpegs_is_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.mjpeg");
    support::run(&format!(
        "videotestsrc num-buffers=5 ! video/x-raw,width=64,height=32,framerate=25/1 ! jpegenc ! filesink location={}",
        path.display()
    ));
    assert_eq!(support::read(&path, 64, 32).metas.len(), 5);
}

#[test]
fn a_head_that_asks_for_all_memory_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.ppm");
    std::fs::write(&path, "P6 60000 60000 255\n").unwrap();
    let error = support::open(&path.to_string_lossy(), &support::options(64, 32)).err().unwrap();
    assert!(matches!(&error, IoError::Corrupt { detail, .. } if detail.contains("limit")), "{error:?}");
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
    let check = |path: &Path| {
        let picture = image::open(path).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (64, 32));
        let is_near =
            |x, wanted: [u8; 3]| picture.get_pixel(x, 20).0.iter().zip(wanted).all(|(a, b)| a.abs_diff(b) <= 3);
        assert!(is_near(10, RED) && is_near(54, [0; 3]), "{}: {:?}", path.display(), picture.get_pixel(10, 20));
    };
    for (name, begins) in [("a.png", b"\x89PNG"), ("a.jpg", b"\xff\xd8\xff\xe0")] {
        let path = folder.path().join(name);
        let mut sink = support::sink(&path, SIZE, None, None).unwrap();
        assert!(!path.exists());
        for level in [40_u8, 80] {
            sink.push(FrameMeta::default(), &vec![level; 3 * SIZE.pixels()]).unwrap();
        }
        sink.push(FrameMeta::default(), &halves()).unwrap();
        let report = sink.finish().unwrap();
        assert_eq!((report.frames, report.path.as_deref()), (3, Some(path.as_path())));
        assert!(std::fs::read(&path).unwrap().starts_with(begins), "{name}");
        check(&path);
        // Without a picture the file stays as it was.
        support::sink(&path, SIZE, None, None).unwrap().finish().unwrap();
        drop(support::sink(&path, SIZE, None, None).unwrap());
        check(&path);
    }
    assert_eq!(support::names(folder.path()), ["a.jpg", "a.png"]);
}
