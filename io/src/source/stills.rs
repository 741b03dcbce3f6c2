//! Files that are pictures, still or moving (GIF, animated WebP and PNG): read by the `image` crate and given to a pipeline.
//!
//! GStreamer reads some of these, each in a way of its own: GIFs never end, BMP and TIFF want another decoder, and none turns
//! a photo upright.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{
    AnimationDecoder, ColorType, DynamicImage, Frame, ImageDecoder, ImageError, ImageFormat, ImageReader, ImageResult,
    Limits, RgbaImage,
};

use crate::error::IoError;
use crate::lock;
use crate::monitor::Monitor;

/// What a browser makes of a picture that names no time of its own, or one too short to be meant (at most [`TOO_SHORT_NS`]).
const USUAL_NS: u64 = 100_000_000;
const TOO_SHORT_NS: u64 = 10_000_000;

/// The longest side that GStreamer scales.
const MOST_SIDE: u32 = 32_767;

/// What `path` is, if its name is that of a picture and its first bytes, where the format has any of its own, agree. A name of
/// another kind means something else: a stream of JPEGs (`.mjpeg`) begins as one does.
fn format(path: &Path) -> Option<ImageFormat> {
    ImageFormat::from_extension(path.extension()?).filter(ImageFormat::reading_enabled)?;
    // A pipe must not be opened twice.
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let format = ImageReader::open(path).ok()?.with_guessed_format().ok()?.format()?;
    format.reading_enabled().then_some(format)
}

/// An element that gives the pictures in `path`; `None` if it is no file of pictures.
pub(super) fn source(path: &Path, monitor: &Arc<Monitor>) -> Option<gst_app::AppSrc> {
    let format = format(path)?;
    let source = gst_app::AppSrc::builder().format(gst::Format::Time).block(true).max_buffers(2).max_bytes(0).build();
    let todo = Mutex::new(Some((path.to_path_buf(), Arc::downgrade(monitor))));
    // A thread of its own, begun when the first picture is wanted: a decoder keeps its place in the file. It ends when the
    // pipeline does, which takes nothing more then.
    let need_data = move |source: &gst_app::AppSrc, _| {
        let Some((path, monitor)) = lock(&todo).take() else { return };
        let reading = Reading { path, source: source.clone(), monitor, given: 0, is_over: false };
        // Where there is no thread, what is dropped says so.
        let _ = std::thread::Builder::new().name("io-picture".into()).spawn(move || reading.run(format));
    };
    source.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(need_data).build());
    Some(source)
}

/// The reading of one file. However it ends, the stream does.
struct Reading {
    path: PathBuf,
    source: gst_app::AppSrc,
    monitor: Weak<Monitor>,
    given: u64,
    is_over: bool,
}

impl Reading {
    fn run(mut self, format: ImageFormat) {
        let given = self.give(format);
        self.is_over = true;
        if let (Err(error), Some(monitor)) = (given, self.monitor.upgrade()) {
            if self.given == 0 {
                monitor.fail(error);
            } else {
                // What was seen until then stays.
                tracing::warn!("{error}; it ends there");
                monitor.count_corrupt(1);
            }
        }
    }

    /// Pushes every picture, until the last or until nobody takes them.
    fn give(&mut self, format: ImageFormat) -> Result<(), IoError> {
        let what = self.path.display().to_string();
        let failed = |error: ImageError| match error {
            ImageError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                IoError::Failed { what: what.clone(), detail: error.to_string() }
            }
            other => IoError::Corrupt { what: what.clone(), detail: other.to_string().replace('\n', " ") },
        };
        let too_large = || IoError::Corrupt { what: what.clone(), detail: "it is too large for video".into() };
        let mut format_of_all = None;
        let mut begin = gst::ClockTime::ZERO;
        for picture in read(&self.path, format).map_err(failed)? {
            let (picture, duration) = picture.map_err(failed)?;
            let info = if let Some(info) = &format_of_all {
                info
            } else {
                let info = video(picture.dimensions(), duration).ok_or_else(too_large)?;
                self.source.set_caps(info.to_caps().ok().as_ref());
                format_of_all.insert(info)
            };
            let mut buffer = packed(&picture, info).ok_or_else(too_large)?;
            let writable = buffer.make_mut();
            writable.set_pts(begin);
            writable.set_duration(duration);
            begin += duration.unwrap_or_default();
            if self.source.push_buffer(buffer).is_err() {
                break;
            }
            self.given += 1;
        }
        Ok(())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.is_over
            && let Some(monitor) = self.monitor.upgrade()
        {
            // A decoder that panics, or no thread to be had.
            let what = self.path.display().to_string();
            monitor.fail(IoError::Corrupt { what, detail: "its decoder gave up".into() });
        }
        // Refused only where nobody listens any more.
        let _ = self.source.end_of_stream();
    }
}

type Timed = ImageResult<(RgbaImage, Option<gst::ClockTime>)>;

/// The pictures of a file, each with how long it is shown if it is one of many.
fn read(path: &Path, format: ImageFormat) -> ImageResult<Box<dyn Iterator<Item = Timed>>> {
    let file = || File::open(path).map(BufReader::new);
    let moving = match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file()?)?;
            decoder.set_limits(Limits::default())?;
            Some(decoder.into_frames())
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file()?)?;
            // It has no limits of its own.
            let (width, height) = decoder.dimensions();
            Limits::default().reserve_buffer(width, height, ColorType::Rgba8)?;
            decoder.has_animation().then(|| decoder.into_frames())
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file()?, Limits::default())?;
            // Of more bits the first picture alone can be had.
            let is_in_bytes = decoder.color_type().bytes_per_pixel() == decoder.color_type().channel_count();
            if is_in_bytes && decoder.is_apng()? { Some(decoder.apng()?.into_frames()) } else { None }
        }
        _ => None,
    };
    Ok(match moving {
        Some(frames) => Box::new(frames.map(|frame| frame.map(timed))),
        None => Box::new(std::iter::once(still(file()?, format).map(|picture| (picture.into_rgba8(), None)))),
    })
}

fn timed(frame: Frame) -> (RgbaImage, Option<gst::ClockTime>) {
    let (numerator, denominator) = frame.delay().numer_denom_ms();
    let ns = 1_000_000 * u64::from(numerator) / u64::from(denominator.max(1));
    let ns = if ns <= TOO_SHORT_NS { USUAL_NS } else { ns };
    (frame.into_buffer(), Some(gst::ClockTime::from_nseconds(ns)))
}

/// One picture, turned as its camera says that it was held.
fn still(file: BufReader<File>, format: ImageFormat) -> ImageResult<DynamicImage> {
    let mut decoder = ImageReader::with_format(file, format).into_decoder()?;
    let mut limits = Limits::default();
    limits.reserve(decoder.total_bytes())?;
    decoder.set_limits(limits)?;
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
    // In microseconds: a 30th of a second is no whole number of milliseconds.
    let rate = duration.map_or(gst::Fraction::new(0, 1), |time| {
        gst::Fraction::new(1_000_000, time.useconds().clamp(1, i32::MAX as u64) as i32)
    });
    if width.max(height) > MOST_SIDE {
        return None;
    }
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
