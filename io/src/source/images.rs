//! A folder of pictures as a stream: one small pipeline a picture, so that formats and sizes may differ.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use gst::prelude::*;
use livediffusion_pipeline::frame::Size;

use super::chain::Chain;
use super::head;
use crate::error::IoError;
use crate::input::{Fit, Input};
use crate::monitor::{Monitor, Side};
use crate::queue::LosslessSender;
use crate::{launch, natural};

const EXTENSIONS: &[&str] =
    &["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif", "tga", "ppm", "pgm", "pbm", "pnm"];

/// Pictures a second: what most video of Europe has, and a whole number of milliseconds each.
pub(crate) const FRAMERATE: (u32, u32) = (25, 1);

/// How long one picture may take to read.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_UP: Duration = Duration::from_millis(50);

/// The pictures in `folder`, in the order in which people number files.
pub(crate) fn list(folder: &Path) -> Result<Vec<PathBuf>, IoError> {
    let what = || folder.display().to_string();
    let entries = std::fs::read_dir(folder).map_err(|e| launch::failed(&what(), &e))?;
    let is_picture = |path: &PathBuf| {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        path.is_file() && extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_picture).collect();
    if paths.is_empty() {
        return Err(IoError::EmptyInput { what: what(), why: format!("no {} in it", EXTENSIONS.join(", ")) });
    }
    paths.sort_by(|a, b| natural::compare(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(paths)
}

/// The size of a picture before it was fitted.
pub(crate) fn natural_size(path: &Path, size: Size, fit: Fit) -> Option<Size> {
    decode(path, size, fit, &AtomicBool::new(false)).ok().map(|(_, natural)| natural)
}

/// Reads `paths` one after the other in a thread of its own. What cannot be read is counted and passed over.
pub(crate) fn spawn(
    paths: Vec<PathBuf>,
    (size, fit): (Size, Fit),
    sender: LosslessSender<gst::Sample>,
    monitor: Arc<Monitor>,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, IoError> {
    let read_all = move || {
        let mut shown = 0;
        for path in paths {
            match decode(&path, size, fit, &stop) {
                Ok((sample, _)) => {
                    if !sender.send(stamped(&sample, shown)) {
                        return;
                    }
                    shown += 1;
                }
                Err(_) if stop.load(Ordering::Relaxed) => return,
                Err(error @ IoError::Corrupt { .. }) => {
                    tracing::warn!("{error}; passed over");
                    monitor.count_corrupt(1);
                }
                Err(error) => return monitor.fail(error),
            }
        }
    };
    let thread = std::thread::Builder::new().name("io-images".into()).spawn(read_all);
    thread.map_err(|e| launch::failed("a thread for pictures", &e))
}

/// `sample` with the time stamp of the picture number `index`.
fn stamped(sample: &gst::Sample, index: u64) -> gst::Sample {
    let time = |n: u64| gst::ClockTime::from_nseconds(n * 1_000_000_000 * FRAMERATE.1 as u64 / FRAMERATE.0 as u64);
    let mut buffer = sample.buffer_owned().unwrap_or_default();
    let writable = buffer.make_mut();
    writable.set_pts(time(index));
    writable.set_duration(time(index + 1) - time(index));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    let caps = sample.caps_owned().unwrap_or_else(gst::Caps::new_empty);
    gst::Sample::builder().buffer(&buffer).caps(&caps).segment(&segment).build()
}

fn decode(path: &Path, size: Size, fit: Fit, stop: &AtomicBool) -> Result<(gst::Sample, Size), IoError> {
    let what = path.display().to_string();
    let monitor = Monitor::new(Side::Input(what.clone()));
    let pipeline = gst::Pipeline::new();
    monitor.watch(&pipeline);
    let chain = Chain::new(size, fit)?;
    pipeline.add(&chain.bin).map_err(|e| launch::failed(&what, &e))?;
    head::attach(&Input::File(path.to_path_buf()), &pipeline, &chain, &monitor, false)?;
    let started = pipeline.set_state(gst::State::Playing);
    let mut waited = Duration::ZERO;
    let sample = loop {
        if let Some(sample) = chain.pictures.try_pull_sample(gst::ClockTime::from_nseconds(LOOK_UP.as_nanos() as u64)) {
            break Ok(sample);
        }
        waited += LOOK_UP;
        let over = monitor.failed() || started.is_err() || chain.pictures.is_eos() || stop.load(Ordering::Relaxed);
        if over || waited >= PATIENCE {
            let nothing = || IoError::Corrupt { what: what.clone(), detail: "it gives no picture".into() };
            break Err(monitor.check().err().unwrap_or_else(nothing));
        }
    };
    let natural = chain.natural().map_or(size, |(natural, _)| natural);
    // Going back to nothing only fails where the pipeline has failed already, which is reported above.
    let _ = pipeline.set_state(gst::State::Null);
    // Whatever is wrong with a picture, it is this picture only.
    sample.map(|sample| (sample, natural)).map_err(|error| match error {
        IoError::Failed { what, detail } => IoError::Corrupt { what, detail },
        IoError::NoVideo { what } => IoError::Corrupt { what, detail: "it is not a picture".into() },
        other => other,
    })
}
