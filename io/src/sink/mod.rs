//! Opening an output and giving it pictures one by one.

mod encode;
mod feeder;
mod network;
mod open;
mod outputs;
mod part;
mod pictures;

pub use outputs::{Outputs, OutputsOptions};
pub use part::abandon_outputs;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use livediffusion_pipeline::frame::{FrameMeta, Size};

pub(crate) use feeder::Feeder;
pub(crate) use network::{PEER, live_kilobits};
pub(crate) use open::describe;
pub(crate) use pictures::{FILES, JPEG_QUALITY};

use crate::audio::{AudioTrack, Pump};
use crate::error::IoError;
use crate::monitor::Monitor;
use crate::output::Output;
use crate::webrtc::Call;
use crate::{launch, lock};

/// What is wanted of an output.
#[derive(Debug)]
pub struct SinkOptions {
    /// Size of the pictures that will be pushed. Video files need even sides.
    pub size: Size,
    /// Frames per second as a fraction; `None` if they come irregularly. Time stamps decide, this is what the file
    /// says of itself.
    pub framerate: Option<(u32, u32)>,
    /// Whether pictures come in real time. A window, fragment or stream then shows each at once and forgets those it has
    /// no time for; a file starts at the first picture.
    pub live: bool,
    /// The source's sound. Only video files and streams take it.
    pub audio: Option<AudioTrack>,
    /// Whether an existing file may be replaced. It stays as it is until the new one is whole.
    pub overwrite: bool,
}

impl SinkOptions {
    /// Pictures of `size` at `framerate`, without sound, replacing what exists.
    pub const fn new(size: Size, framerate: Option<(u32, u32)>) -> Self {
        Self { size, framerate, live: false, audio: None, overwrite: true }
    }
}

/// What a finished output holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkReport {
    /// Pictures pushed.
    pub frames: u64,
    /// The file or folder written, where there is one.
    pub path: Option<PathBuf>,
}

/// What is left behind.
enum Target {
    File(part::PartFile),
    Pngs(pictures::PngFolder),
    Picture(pictures::LastPicture),
    /// Pictures and sound for those who watch now, or a playlist of them.
    Stream,
    Nothing,
}

/// What the first picture's time stamp becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// What it is.
    Zero,
    /// 0: a recording begins with it.
    FirstPicture,
    /// The time on the output's clock, which its muxer goes by.
    Now,
}

impl Target {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Pngs(_) | Self::Picture(_) | Self::Stream | Self::Nothing => 0,
        }
    }
}

/// An opened output. Dropping it without [`finish`](Self::finish) leaves no file behind.
pub struct VideoSink {
    // Fields are dropped in this order: the pipeline goes down in `Drop`, which frees the pump; the file goes last.
    pump: Option<Pump>,
    pipeline: gst::Pipeline,
    feeder: Feeder,
    pool: gst::BufferPool,
    info: gst_video::VideoInfo,
    size: Size,
    monitor: Arc<Monitor>,
    target: Target,
    frames: u64,
    /// Nanoseconds that a picture is shown if it does not say.
    frame_ns: u64,
    /// Whether the frame rate was not told.
    irregular: bool,
    last_pts_ns: Option<u64>,
    /// Added to all time stamps; known with the first picture.
    shift_ns: Arc<Mutex<i64>>,
    start: Start,
    /// When a live stream last was told to begin anew.
    last_key_ns: Option<u64>,
    /// The server that it goes to over WebRTC.
    call: Option<Call>,
}

impl VideoSink {
    /// Opens `output`. Files and folders are created under temporary names.
    pub fn open(output: &Output, options: SinkOptions) -> Result<Self, IoError> {
        open::open(output, options)
    }

    /// Gives the next picture: `rgb` is interleaved, without gaps between rows. Waits while the output is busy.
    pub fn push(&mut self, meta: FrameMeta, rgb: &[u8]) -> Result<(), IoError> {
        if rgb.len() != self.size.pixels() * 3 {
            return Err(IoError::WrongSize { expected: self.size, got: rgb.len() });
        }
        if let Some(call) = &self.call {
            call.check()?;
        }
        let pts_ns = meta.pts_ns.unwrap_or(self.frames * self.frame_ns);
        // A frame that does not say how long it is shown is shown as long as the one before.
        if let Some(step_ns) = self.last_pts_ns.and_then(|last| pts_ns.checked_sub(last)).filter(|ns| *ns > 0) {
            self.frame_ns = if self.irregular { step_ns } else { self.frame_ns };
        }
        self.last_pts_ns = Some(pts_ns);
        let duration_ns = meta.duration_ns.unwrap_or(self.frame_ns);
        if self.frames == 0 {
            let starts_ns = match self.start {
                Start::Zero => pts_ns,
                Start::FirstPicture => 0,
                Start::Now => self.pipeline.current_running_time().map_or(0, gst::ClockTime::nseconds),
            };
            *lock(&self.shift_ns) = starts_ns as i64 - pts_ns as i64;
        }
        let shown_ns = pts_ns.saturating_add_signed(*lock(&self.shift_ns));
        self.begin_anew_now_and_then(shown_ns);
        let mut buffer = self.pool.acquire_buffer(None).map_err(|flow| self.failed(&flow))?;
        {
            let writable = buffer.make_mut();
            writable.set_pts(gst::ClockTime::from_nseconds(shown_ns));
            writable.set_duration(gst::ClockTime::from_nseconds(duration_ns));
            let stride = self.info.stride().first().copied().unwrap_or_default() as usize;
            let mut map = writable.map_writable().map_err(|e| self.failed(&e))?;
            let row = self.size.width * 3;
            for (to, from) in map.chunks_mut(stride.max(row)).zip(rgb.chunks_exact(row)) {
                to[..row].copy_from_slice(from);
            }
        }
        self.feeder.push(buffer)?;
        self.frames += 1;
        if let Some(pump) = &self.pump {
            pump.advance(pts_ns + duration_ns.max(1));
        }
        Ok(())
    }

    /// Asks a live stream's encoder for a key frame every two seconds of the stream's own time: counted in frames, as
    /// encoders do, it would be late whenever frames are missing.
    fn begin_anew_now_and_then(&mut self, shown_ns: u64) {
        const EVERY_NS: u64 = network::KEY_FRAME_SECONDS * 1_000_000_000;
        if self.start != Start::Now || self.last_key_ns.is_some_and(|last| shown_ns < last + EVERY_NS) {
            return;
        }
        self.last_key_ns = Some(shown_ns);
        self.feeder.send(gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(true).build());
    }

    /// Pictures pushed so far.
    pub const fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes out what is on its way, waits for the sound, and gives the file its name. Without a picture nothing is written, and what was
    /// there before stays.
    pub fn finish(mut self) -> Result<SinkReport, IoError> {
        if self.frames == 0 && matches!(self.target, Target::File(_) | Target::Pngs(_) | Target::Picture(_)) {
            return Ok(SinkReport { frames: 0, path: None });
        }
        if let Some(pump) = &self.pump {
            pump.finish();
        }
        self.feeder.end();
        // What a peer has seen is not known, and its end is told by hanging up.
        if self.call.is_none() {
            // A stream grows in time alone.
            let played = || self.pipeline.query_position::<gst::ClockTime>().map_or(0, gst::ClockTime::mseconds);
            self.feeder.wait_for_end(|| self.target.len() + played())?;
        }
        self.shut_down();
        let path = match std::mem::replace(&mut self.target, Target::Nothing) {
            Target::File(file) => Some(file.finish()?),
            Target::Pngs(folder) => {
                folder.finish(self.frames)?;
                Some(folder.path().to_path_buf())
            }
            Target::Picture(picture) => Some(picture.finish(self.frames)?),
            Target::Stream | Target::Nothing => None,
        };
        Ok(SinkReport { frames: self.frames, path })
    }

    /// Gives up: what was written so far of a file is removed. Pictures in a folder are whole and stay.
    pub fn abort(self) {
        drop(self);
    }

    fn shut_down(&mut self) {
        self.call = None;
        // The pipeline first: the pump may be waiting for room in it.
        if let Err(error) = self.pipeline.set_state(gst::State::Null) {
            tracing::debug!(output = self.monitor.what(), "stopping: {error}");
        }
        self.pump = None;
        // Fails only if it was never active.
        let _ = self.pool.set_active(false);
    }

    fn failed(&self, detail: &dyn std::fmt::Display) -> IoError {
        launch::failed(&self.monitor.what(), detail)
    }
}

impl Drop for VideoSink {
    fn drop(&mut self) {
        self.shut_down();
    }
}
