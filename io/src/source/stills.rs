//! Files that are pictures, still or moving (GIF, animated WebP and PNG): read by the `image` crate and given to a pipeline.
//!
//! GStreamer reads some of these, each in a way of its own: GIFs never end, BMP and TIFF want another decoder, and none turns
//! a photo upright.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::{Arc, Mutex};

use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{
    AnimationDecoder, DynamicImage, Frame, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult, Limits,
    RgbaImage,
};

use crate::error::IoError;
use crate::lock;
use crate::monitor::Monitor;

/// What a browser makes of a picture that names no time of its own, or one too short to be meant (at most [`TOO_SHORT_MS`]).
const USUAL_MS: u64 = 100;
const TOO_SHORT_MS: u64 = 10;

/// What `path` is, by its first bytes, if it is a picture.
fn format(path: &Path) -> Option<ImageFormat> {
    let format = ImageReader::open(path).ok()?.with_guessed_format().ok()?.format()?;
    format.reading_enabled().then_some(format)
}

/// An element that gives the pictures in `path`; `None` if it is no file of pictures.
pub(super) fn source(path: &Path, monitor: &Arc<Monitor>) -> Option<gst_app::AppSrc> {
    let format = format(path)?;
    let source = gst_app::AppSrc::builder().format(gst::Format::Time).block(true).max_buffers(2).max_bytes(0).build();
    let todo = Mutex::new(Some((path.to_path_buf(), Arc::downgrade(monitor))));
    // A thread of its own, begun when the first picture is wanted: a decoder keeps its place in the file.
    let need_data = move |source: &gst_app::AppSrc, _| {
        let Some((path, monitor)) = lock(&todo).take() else { return };
        let source = source.clone();
        let read = move || {
            if let (Err(error), Some(monitor)) = (give(&path, format, &source), monitor.upgrade()) {
                monitor.fail(error);
            }
            // Refused only where nobody listens any more.
            let _ = source.end_of_stream();
        };
        if let Err(error) = std::thread::Builder::new().name("io-picture".into()).spawn(read) {
            tracing::warn!("a thread for pictures: {error}");
        }
    };
    source.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(need_data).build());
    Some(source)
}

/// Pushes every picture, until the last or until nobody takes them.
fn give(path: &Path, format: ImageFormat, source: &gst_app::AppSrc) -> Result<(), IoError> {
    let what = || path.display().to_string();
    let failed = |error: ImageError| match error {
        ImageError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            IoError::Failed { what: what(), detail: error.to_string() }
        }
        other => IoError::Corrupt { what: what(), detail: other.to_string().replace('\n', " ") },
    };
    let too_large = || IoError::Corrupt { what: what(), detail: "it is too large for video".into() };
    let mut format_of_all = None;
    let mut begin = gst::ClockTime::ZERO;
    for picture in read(path, format).map_err(failed)? {
        let (picture, duration) = picture.map_err(failed)?;
        let info = if let Some(info) = &format_of_all {
            info
        } else {
            let info = video(picture.dimensions(), duration).ok_or_else(too_large)?;
            source.set_caps(info.to_caps().ok().as_ref());
            format_of_all.insert(info)
        };
        let mut buffer = packed(&picture, info).ok_or_else(too_large)?;
        let writable = buffer.make_mut();
        writable.set_pts(begin);
        writable.set_duration(duration);
        begin += duration.unwrap_or_default();
        if source.push_buffer(buffer).is_err() {
            break;
        }
    }
    Ok(())
}

type Timed = ImageResult<(RgbaImage, Option<gst::ClockTime>)>;

/// The pictures of a file, each with how long it is shown if it is one of many.
fn read(path: &Path, format: ImageFormat) -> ImageResult<Box<dyn Iterator<Item = Timed>>> {
    let file = || File::open(path).map(BufReader::new);
    let limits = Limits::default();
    let moving = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file()?)?;
            decoder.set_limits(limits)?;
            Some(decoder.into_frames())
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(file()?)?;
            decoder.set_limits(limits)?;
            decoder.has_animation().then(|| decoder.into_frames())
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file()?, limits)?;
            if decoder.is_apng()? { Some(decoder.apng()?.into_frames()) } else { None }
        }
        _ => None,
    };
    Ok(match moving {
        Some(frames) => Box::new(frames.map(|frame| frame.map(timed))),
        None => Box::new(std::iter::once(still(path).map(|picture| (picture.into_rgba8(), None)))),
    })
}

fn timed(frame: Frame) -> (RgbaImage, Option<gst::ClockTime>) {
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    let ms = u64::from(numerator) / u64::from(denominator.max(1));
    let ms = if ms <= TOO_SHORT_MS { USUAL_MS } else { ms };
    (frame.into_buffer(), Some(gst::ClockTime::from_mseconds(ms)))
}

/// One picture, turned as its camera says that it was held.
fn still(path: &Path) -> ImageResult<DynamicImage> {
    let mut decoder = ImageReader::open(path)?.with_guessed_format()?.into_decoder()?;
    // Absent or broken, it says nothing of the picture itself.
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder)?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok(picture)
}

/// The format of pictures as large as the first, at the rate that it begins with; `None` if they are too large for video.
fn video((width, height): (u32, u32), duration: Option<gst::ClockTime>) -> Option<gst_video::VideoInfo> {
    let rate = duration.map_or(gst::Fraction::new(0, 1), |time| gst::Fraction::new(1_000, time.mseconds() as i32));
    gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height).fps(rate).build().ok()
}

/// The picture before black, as video players show it, with rows as long as GStreamer wants them.
fn packed(picture: &RgbaImage, info: &gst_video::VideoInfo) -> Option<gst::Buffer> {
    let mut buffer = gst::Buffer::with_size(info.size()).ok()?;
    let stride = *info.stride().first()? as usize;
    let mut map = buffer.get_mut()?.map_writable().ok()?;
    for (to, from) in map.chunks_mut(stride).zip(picture.rows()) {
        for (to, from) in to.chunks_exact_mut(3).zip(from) {
            let [r, g, b, alpha] = from.0.map(u16::from);
            to.copy_from_slice(&[r, g, b].map(|level| ((level * alpha + 127) / 255) as u8));
        }
    }
    drop(map);
    Some(buffer)
}
