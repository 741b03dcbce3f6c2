//! Pictures as files: a folder of numbered ones, and the last of a stream.

use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use livediffusion_pipeline::frame::{FrameMeta, PictureView};

use crate::error::IoError;
use crate::lock;
use crate::monitor::Monitor;
use crate::output::Still;
use crate::source::SourceFrame;

use super::part::{PartFile, write_error};

/// Where pictures are numbered from 0: `frame_000000.png`.
#[derive(Debug)]
pub(super) struct PngFolder {
    folder: PathBuf,
    created: bool,
}

impl PngFolder {
    /// Makes the folder if need be. Frames of an earlier run are in the way unless `overwrite`: then each is replaced when
    /// its successor is whole, and what is left over is removed at the end. Pictures of others that have such names always are.
    pub(super) fn create(folder: &Path, overwrite: bool) -> Result<Self, IoError> {
        let unwritable = |e: std::io::Error| IoError::Unwritable { path: folder.to_path_buf(), detail: e.to_string() };
        let created = !folder.is_dir();
        if created {
            std::fs::create_dir(folder).map_err(unwritable)?;
        }
        for entry in std::fs::read_dir(folder).map_err(unwritable)? {
            let path = entry.map_err(unwritable)?.path();
            if frame_number(&path).is_some() && !(overwrite && is_ours(&path)) {
                return Err(IoError::OutputExists { path });
            }
        }
        // Notices a folder that cannot be written; the file is gone again at the end of this line.
        PartFile::create(&folder.join("frame.png")).map(drop)?;
        Ok(Self { folder: folder.to_path_buf(), created })
    }

    /// Writes every picture that comes out of `files`.
    pub(super) fn receive(&self, files: &gst_app::AppSink, monitor: &Arc<Monitor>) {
        let (folder, monitor) = (self.folder.clone(), Arc::clone(monitor));
        let mut index = 0_u64;
        let new_sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
            let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
            let png = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
            write(&folder.join(format!("frame_{index:06}.png")), &png).map_err(|error| {
                monitor.fail(error);
                gst::FlowError::Error
            })?;
            index += 1;
            Ok(gst::FlowSuccess::Ok)
        };
        files.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
    }

    /// Removes the frames that a longer run before this one left behind: all from number `written` on.
    pub(super) fn finish(&self, written: u64) -> Result<(), IoError> {
        let failed = |e: std::io::Error| write_error(&self.folder, &e);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if frame_number(&path).is_some_and(|number| number >= written) && is_ours(&path) {
                std::fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }
}

impl Drop for PngFolder {
    fn drop(&mut self) {
        if self.created {
            // Only succeeds where no picture came: an empty folder of our own is not worth leaving behind.
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

/// Where pictures leave a pipeline to become files, as it is written there.
pub(crate) const FILES: &str = "appsink name=files sync=false max-buffers=2";

/// What programs for photos take for what is kept: lower shows where a picture is flat, higher mostly grows.
pub(crate) const JPEG_QUALITY: u8 = 95;

/// One file, in which the last picture is written once no other can come.
pub(super) struct LastPicture {
    path: PathBuf,
    still: Still,
    last: Arc<Mutex<Option<gst::Sample>>>,
}

impl LastPicture {
    /// Notices at once what cannot be written; nothing is left of that.
    pub(super) fn create(path: &Path, still: Still, overwrite: bool) -> Result<Self, IoError> {
        if !overwrite && path.exists() {
            return Err(IoError::OutputExists { path: path.to_path_buf() });
        }
        PartFile::create(path).map(drop)?;
        Ok(Self { path: path.to_path_buf(), still, last: Arc::default() })
    }

    /// Keeps the last picture that comes out of `files`, in RGB: only one is worth encoding.
    pub(super) fn receive(&self, files: &gst_app::AppSink) {
        let last = Arc::clone(&self.last);
        let new_sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
            *lock(&last) = Some(sample);
            Ok(gst::FlowSuccess::Ok)
        };
        files.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
    }

    /// Writes it, of `written` that came.
    pub(super) fn finish(self, written: u64) -> Result<PathBuf, IoError> {
        let failed = |detail: String| IoError::Write { path: self.path.clone(), detail };
        let picture = lock(&self.last).take().and_then(rgb).ok_or_else(|| failed("no picture came".into()))?;
        let mut bytes = Cursor::new(Vec::new());
        let encoded = match self.still {
            Still::Png => picture.write_to(&mut bytes, ImageFormat::Png),
            Still::Jpeg => picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)),
        };
        encoded.map_err(|e| failed(e.to_string()))?;
        match self.still {
            Still::Png => write(&self.path, bytes.get_ref())?,
            Still::Jpeg => write_parts(&self.path, &[bytes.get_ref()])?,
        }
        if written > 1 {
            let path = self.path.display();
            tracing::warn!("{path} has the last of {written} pictures: a folder (ending in `/`) takes all of them");
        }
        Ok(self.path)
    }
}

/// A picture of the pipeline's, without what GStreamer puts between rows.
fn rgb(sample: gst::Sample) -> Option<RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    let packed = |picture: PictureView<'_>| picture.rows().flatten().copied().collect();
    let levels = SourceFrame::new(FrameMeta::default(), sample, info.clone()).with_picture(packed).ok()?;
    RgbImage::from_raw(info.width(), info.height(), levels)
}

/// The number of a frame that this sink wrote: of six digits, more only where six do not do.
fn frame_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    let number = name.strip_prefix("frame_")?.strip_suffix(".png")?;
    (number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().ok())?
}

/// Bytes of a PNG's signature and its first chunk, behind which others may come.
const HEAD: usize = 8 + 25;

/// A chunk that says what wrote the picture (PNG specification, 11.3.4.3), by which its own are known again.
const SOFTWARE: &[u8] = b"tEXtSoftware\0livediffusion";

/// Whether this program wrote a picture.
fn is_ours(path: &Path) -> bool {
    let mut head = [0; HEAD + 4 + SOFTWARE.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head.ends_with(SOFTWARE)
}

fn write(path: &Path, png: &[u8]) -> Result<(), IoError> {
    let (head, rest) = png.split_at(HEAD.min(png.len()));
    // A chunk is its length without its name, its name and content, and a checksum of these.
    let length = (SOFTWARE.len() as u32 - 4).to_be_bytes();
    let checksum = crc32fast::hash(SOFTWARE).to_be_bytes();
    write_parts(path, &[head, &length, SOFTWARE, &checksum, rest])
}

/// Writes a file whole or not at all.
fn write_parts(path: &Path, parts: &[&[u8]]) -> Result<(), IoError> {
    let part = PartFile::create(path)?;
    let mut file = std::fs::File::create(part.part()).map_err(|e| write_error(path, &e))?;
    for bytes in parts {
        file.write_all(bytes).map_err(|e| write_error(path, &e))?;
    }
    part.finish().map(drop)
}
