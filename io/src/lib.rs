//! Where frames come from and go to: GStreamer sources and sinks.
//!
//! A [`VideoSource`] turns a file, a folder of pictures, a network stream, a camera, a screen or any `gst-launch`
//! fragment into RGB pictures of one size; a [`VideoSink`] turns RGB pictures into a file, a folder, a window or any
//! other fragment. Decoding, conversion, scaling and encoding happen in GStreamer's threads, so that the thread that
//! runs the networks only ever maps a finished picture and copies one back.
//!
//! Files are lossless: as many pictures out as in, each with its time stamp, and the sound copied without decoding it
//! where the container takes the codec. Live sources keep only the newest picture and count what they drop.
//!
//! When not to use this crate: where the pictures are in memory already. The engine takes those directly.

#![forbid(unsafe_code)]

mod aside;
mod audio;
mod devices;
mod elements;
mod error;
mod input;
mod launch;
mod monitor;
mod natural;
mod output;
mod print;
mod queue;
mod retry;
mod secret;
mod sink;
mod source;
mod webrtc;

pub use audio::AudioTrack;
pub use devices::{Device, DeviceClass, devices};
pub use elements::{ElementNeed, element_available, gstreamer_version, package_of, required_elements};
pub use error::{ErrorKind, IoError};
pub use input::{Fit, Input, TestSource};
pub use output::{Container, Output, Protocol, Still};
pub use print::{sink_command, source_command};
pub use queue::{Lossless, LosslessSender, Newest, NewestSender, Received, lossless, newest};
pub use retry::Retry;
pub use sink::{Outputs, OutputsOptions, SinkOptions, SinkReport, VideoSink, abandon_outputs};
pub use source::{LiveNext, LiveSource, Next, SourceFrame, SourceInfo, SourceOptions, VideoSource};

pub use webrtc::{Audience, Publisher, Reach, Viewer, webrtc_missing};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Starts GStreamer once; every entry point calls it, so that callers need not.
pub(crate) fn init() -> Result<(), IoError> {
    gst::init().map_err(|e| IoError::Init { detail: e.to_string() })
}

/// Locks `mutex` even if a thread panicked while holding it: what is guarded here is always whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
