//! Building the pipeline of an output.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;

use super::Start;
use super::network::Made;
use super::part::PartFile;
use super::pictures::{FILES, LastPicture, PngFolder};
use super::{Feeder, SinkOptions, Target, VideoSink, encode, network};
use crate::audio::{AudioTrack, Pump};
use crate::error::IoError;
use crate::launch;
use crate::monitor::{Monitor, Side};
use crate::output::{Container, Output, Protocol};
use crate::webrtc::Call;

/// Pictures that wait for the output. More would only make a slow output show itself later.
const PICTURES: u64 = 3;

/// Packets of sound that wait in the output: some seconds. The rest waits in the source.
const PACKETS: u64 = 256;

/// How long an output may take no picture before it counts as stuck.
const PATIENCE: Duration = Duration::from_mins(1);

/// The same of a live stream: whoever watches has seen it stand still by then.
const LIVE_PATIENCE: Duration = Duration::from_secs(8);

/// What goes before a fragment.
const FRAGMENT_HEAD: &str = "appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert";

pub(super) fn open(output: &Output, mut options: SinkOptions) -> Result<VideoSink, IoError> {
    crate::init()?;
    let side = match output.path() {
        Some(path) => Side::OutputFile(path.to_path_buf()),
        None => Side::Output(output.to_string()),
    };
    let monitor = Monitor::new(side);
    let mut audio = options.audio.take();
    if !takes_sound(output) && audio.take().is_some() {
        tracing::info!(output = monitor.what(), "the sound is left out: only video files and streams take it");
    }
    let (pipeline, target) = match output {
        Output::File(path, _) => {
            let file = part_file(path, &options)?;
            let text = describe(output, Some(file.part()), &options, audio.as_ref())?;
            (file_pipeline(output, &text, options.framerate)?, Target::File(file))
        }
        Output::Pngs(path) => {
            let folder = PngFolder::create(path, options.overwrite)?;
            let pipeline = launch::pipeline(&describe(output, None, &options, None)?)?;
            folder.receive(&launch::named(&pipeline, "files")?, &monitor);
            (pipeline, Target::Pngs(folder))
        }
        Output::Picture(path, still) => {
            let picture = LastPicture::create(path, *still, options.overwrite)?;
            let pipeline = launch::pipeline(&describe(output, None, &options, None)?)?;
            picture.receive(&launch::named(&pipeline, "files")?);
            (pipeline, Target::Picture(picture))
        }
        Output::Fragment(text) => (fragment(text)?, Target::Nothing),
        Output::Window => (window(&describe(output, None, &options, None)?)?, Target::Nothing),
        Output::Network(..) | Output::Hls(_) | Output::V4l2(_) => {
            prepare(output)?;
            let text = describe(output, None, &options, audio.as_ref())?;
            let streamed = matches!(output, Output::Network(..) | Output::Hls(_));
            (launch::pipeline(&text)?, if streamed { Target::Stream } else { Target::Nothing })
        }
    };
    monitor.watch(&pipeline);
    let call = match output {
        Output::Network(Protocol::Whip, address) => {
            Some(Call::to_send(launch::named(&pipeline, "peer")?, address, &monitor)?)
        }
        _ => None,
    };
    start(pipeline, target, monitor, &options, audio, call)
}

/// Whether the output can carry sound.
const fn takes_sound(output: &Output) -> bool {
    match output {
        Output::Network(protocol, _) => !matches!(protocol, Protocol::Whip),
        _ => matches!(output, Output::File(..) | Output::Hls(_)),
    }
}

/// The pipeline as `gst-launch-1.0` takes it, from its `appsrc`s named `pictures` and, with sound, `sound`. Only of a
/// fragment is it not what is built, but what is meant.
pub(crate) fn describe(
    output: &Output,
    part: Option<&Path>,
    options: &SinkOptions,
    audio: Option<&AudioTrack>,
) -> Result<String, IoError> {
    let (size, framerate, live) = (options.size, options.framerate, options.live);
    let made = Made { size, framerate, audio, live };
    Ok(match output {
        Output::File(path, container) => {
            encode::describe(*container, &part.unwrap_or(path).to_string_lossy(), (size, framerate), audio)?
        }
        Output::Pngs(_) => {
            format!("appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert ! pngenc snapshot=false ! {FILES}")
        }
        Output::Picture(..) => format!("appsrc name=pictures ! {FILES}"),
        Output::Window => {
            format!("appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert ! autovideosink sync={}", !live)
        }
        Output::Network(protocol, address) => network::stream(*protocol, address, made)?,
        Output::Hls(path) => network::hls(path, made)?,
        Output::V4l2(path) => network::camera(path, live),
        Output::Fragment(text) => format!("{FRAGMENT_HEAD} ! {text}"),
    })
}

/// What must be there before the pipeline is built.
fn prepare(output: &Output) -> Result<(), IoError> {
    match output {
        Output::V4l2(path) if !path.exists() => Err(IoError::NoVirtualCamera { path: path.clone() }),
        Output::Hls(path) => {
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)
                .map_err(|e| IoError::Unwritable { path: path.clone(), detail: e.to_string() })
        }
        _ => Ok(()),
    }
}

fn start(
    pipeline: gst::Pipeline,
    target: Target,
    monitor: Arc<Monitor>,
    options: &SinkOptions,
    audio: Option<AudioTrack>,
    call: Option<Call>,
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

    let start = match target {
        Target::File(_) | Target::Pngs(_) | Target::Picture(_) if options.live => Start::FirstPicture,
        // Sound and pictures keep their distance, which stamps of arrival would lose.
        Target::Stream if options.live => Start::Now,
        _ => Start::Zero,
    };
    let patience = if start == Start::Now { LIVE_PATIENCE } else { PATIENCE };
    let feeder = Feeder::new(launch::named(&pipeline, "pictures")?, &caps, &monitor, PICTURES, patience);
    match target {
        Target::Nothing if options.live => feeder.make_live(true),
        Target::Stream if options.live => feeder.make_live(false),
        _ => {}
    }
    let shift_ns = Arc::new(Mutex::new(0));
    let pump = match audio {
        Some(track) => {
            let source = launch::named(&pipeline, "sound")?;
            // Sound waits for pictures, and pictures for the networks: that is no sign of a stuck output.
            let sound = Feeder::new(source, track.caps(), &monitor, PACKETS, Duration::MAX);
            if start == Start::Now {
                sound.make_live(false);
            }
            Some(Pump::start(track, sound, Arc::clone(&shift_ns)).map_err(|e| failed(&e))?)
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
        shift_ns,
        start,
        last_key_ns: None,
        call,
    };
    if sink.pipeline.set_state(gst::State::Playing).is_err() {
        sink.monitor.check()?;
        return Err(failed(&"it does not start"));
    }
    if let Some(call) = &sink.call {
        call.place()?;
    }
    Ok(sink)
}

fn part_file(path: &Path, options: &SinkOptions) -> Result<PartFile, IoError> {
    if !options.overwrite && path.exists() {
        return Err(IoError::OutputExists { path: path.to_path_buf() });
    }
    PartFile::create(path)
}

fn file_pipeline(output: &Output, text: &str, framerate: Option<(u32, u32)>) -> Result<gst::Pipeline, IoError> {
    let pipeline = launch::pipeline(text)?;
    if matches!(output, Output::File(_, Container::Mp4 | Container::Mov)) {
        let muxer = launch::named::<gst::Element>(&pipeline, "muxer")?;
        for pad in muxer.sink_pads().into_iter().filter(|pad| pad.name().starts_with("video")) {
            pad.set_property("trak-timescale", encode::timescale(framerate));
        }
    }
    Ok(pipeline)
}

fn window(text: &str) -> Result<gst::Pipeline, IoError> {
    if ["DISPLAY", "WAYLAND_DISPLAY"].iter().all(|name| std::env::var_os(name).is_none()) {
        // GStreamer would quietly show the pictures to nobody.
        let detail = "neither DISPLAY nor WAYLAND_DISPLAY is set".into();
        return Err(IoError::NoDisplay { what: "a window".into(), detail });
    }
    let pipeline = launch::pipeline(text)?;
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
    let head = launch::bin(FRAGMENT_HEAD, true)?;
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
