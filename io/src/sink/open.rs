//! Building the pipeline of an output.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;

use super::part::PartFile;
use super::pngs::PngFolder;
use super::{Feeder, SinkOptions, Target, VideoSink, encode};
use crate::audio::{AudioTrack, Pump};
use crate::error::IoError;
use crate::launch;
use crate::monitor::{Monitor, Side};
use crate::output::{Container, Output};

/// Pictures that wait for the output. More would only make a slow output show itself later.
const PICTURES: u64 = 3;

/// Packets of sound that wait in the output: some seconds. The rest waits in the source.
const PACKETS: u64 = 256;

/// How long an output may take no picture before it counts as stuck.
const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn open(output: &Output, mut options: SinkOptions) -> Result<VideoSink, IoError> {
    crate::init()?;
    let side = match output.path() {
        Some(path) => Side::OutputFile(path.to_path_buf()),
        None => Side::Output(output.to_string()),
    };
    let monitor = Monitor::new(side);
    let mut audio = options.audio.take();
    let (pipeline, target) = match output {
        Output::File(path, container) => {
            let (pipeline, file) = file(path, *container, &options, audio.as_ref())?;
            (pipeline, Target::File(file))
        }
        Output::Pngs(path) => {
            let folder = PngFolder::create(path, options.overwrite)?;
            let pipeline = launch::pipeline(
                "appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert ! pngenc snapshot=false \
                 ! appsink name=files sync=false max-buffers=2",
            )?;
            folder.receive(&launch::named(&pipeline, "files")?, &monitor);
            (pipeline, Target::Pngs(folder))
        }
        Output::Window => (window(options.live)?, Target::Nothing),
        Output::Fragment(text) => (fragment(text)?, Target::Nothing),
    };
    if let Some(track) = audio.take_if(|_| !matches!(target, Target::File(_))) {
        tracing::info!(output = monitor.what(), "the sound is left out: only video files take it");
        track.discard();
    }
    monitor.watch(&pipeline);
    start(pipeline, target, monitor, &options, audio)
}

fn start(
    pipeline: gst::Pipeline,
    target: Target,
    monitor: Arc<Monitor>,
    options: &SinkOptions,
    audio: Option<AudioTrack>,
) -> Result<VideoSink, IoError> {
    let what = monitor.what();
    let failed = |e: &dyn std::fmt::Display| launch::failed(&what, e);
    let (n, d) = options.framerate.filter(|(n, d)| *n > 0 && *d > 0).unwrap_or((0, 1));
    let (width, height) = (options.size.width as u32, options.size.height as u32);
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height)
        .fps(gst::Fraction::new(n as i32, d as i32))
        .build()
        .map_err(|e| failed(&e))?;
    let caps = info.to_caps().map_err(|e| failed(&e))?;

    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    // No upper bound here: what is in use is bounded by the queues of the pipeline.
    config.set_params(Some(&caps), info.size() as u32, 2, 0);
    pool.set_config(config).map_err(|e| failed(&e))?;
    pool.set_active(true).map_err(|e| failed(&e))?;

    let feeder = Feeder::new(launch::named(&pipeline, "pictures")?, &caps, &monitor, PICTURES, PATIENCE);
    let is_file = matches!(target, Target::File(_) | Target::Pngs(_));
    if options.live && !is_file {
        feeder.make_live();
    }
    let offset_ns = Arc::new(Mutex::new(0));
    let pump = match audio {
        Some(track) => {
            let source = launch::named(&pipeline, "sound")?;
            // Sound waits for pictures, and pictures for the networks: that is no sign of a stuck output.
            let sound = Feeder::new(source, track.caps(), &monitor, PACKETS, Duration::MAX);
            Some(Pump::start(track, sound, Arc::clone(&offset_ns)).map_err(|e| failed(&e))?)
        }
        None => None,
    };
    let frame_ns = if n == 0 { 40_000_000 } else { 1_000_000_000 * u64::from(d) / u64::from(n) };
    let sink = VideoSink {
        pump,
        pipeline,
        feeder,
        pool,
        info,
        size: options.size,
        monitor,
        target,
        frames: 0,
        frame_ns,
        irregular: n == 0,
        last_pts_ns: None,
        offset_ns,
        starts_at_first: options.live && is_file,
    };
    if sink.pipeline.set_state(gst::State::Playing).is_err() {
        sink.monitor.check()?;
        return Err(failed(&"it does not start"));
    }
    Ok(sink)
}

fn file(
    path: &Path,
    container: Container,
    options: &SinkOptions,
    audio: Option<&AudioTrack>,
) -> Result<(gst::Pipeline, PartFile), IoError> {
    if !options.overwrite && path.exists() {
        return Err(IoError::OutputExists { path: path.to_path_buf() });
    }
    let file = PartFile::create(path)?;
    let part = file.part().to_string_lossy();
    let text = encode::describe(container, &part, (options.size, options.framerate), audio)?;
    let pipeline = launch::pipeline(&text)?;
    if matches!(container, Container::Mp4 | Container::Mov) {
        let muxer = launch::named::<gst::Element>(&pipeline, "muxer")?;
        for pad in muxer.sink_pads().into_iter().filter(|pad| pad.name().starts_with("video")) {
            pad.set_property("trak-timescale", encode::timescale(options.framerate));
        }
    }
    Ok((pipeline, file))
}

fn window(live: bool) -> Result<gst::Pipeline, IoError> {
    if ["DISPLAY", "WAYLAND_DISPLAY"].iter().all(|name| std::env::var_os(name).is_none()) {
        // GStreamer would quietly show the pictures to nobody.
        let detail = "neither DISPLAY nor WAYLAND_DISPLAY is set".into();
        return Err(IoError::NoDisplay { what: "a window".into(), detail });
    }
    let sync = !live;
    let pipeline = launch::pipeline(&format!(
        "appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert ! autovideosink sync={sync}"
    ))?;
    pipeline.connect_deep_element_added(|_, _, element| {
        // Where the networks are slower than the file's frame rate every picture is late, and none would be shown.
        if element.has_property_with_type("max-lateness", i64::static_type()) {
            element.set_property("max-lateness", -1_i64);
        }
    });
    Ok(pipeline)
}

fn fragment(text: &str) -> Result<gst::Pipeline, IoError> {
    let bad = |detail: &str| IoError::BadFragment { fragment: text.to_owned(), detail: detail.to_owned() };
    let pipeline = gst::Pipeline::new();
    let head = launch::bin("appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert", true)?;
    let tail = launch::user_sink(text)?;
    if tail.sink_pads().is_empty() {
        return Err(bad("it has no free end that takes pictures"));
    }
    if !tail.src_pads().is_empty() {
        return Err(bad("it does not end in a sink"));
    }
    pipeline.add_many([&head, &tail]).map_err(|e| bad(&e.to_string()))?;
    head.link(&tail).map_err(|_| bad("it does not take raw video"))?;
    Ok(pipeline)
}
