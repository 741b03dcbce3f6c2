//! The first half of every input: whatever turns the input into decoded video.

use std::sync::{Arc, Mutex};

use gst::glib;
use gst::prelude::*;

use super::chain::Chain;
use super::stills;
use crate::error::IoError;
use crate::input::{Area, Input, TestSource};
use crate::monitor::Monitor;
use crate::webrtc::Call;
use crate::{devices, launch, lock};

/// The sound of an input: where its packets come out, and their format.
pub(crate) type Sound = (gst_app::AppSink, gst::Caps);

/// Compressed sound that waits for its pictures: ten minutes and more of any usual codec. A badly interleaved file
/// that runs further ahead is an error, since waiting there would be for ever.
pub(crate) const SOUND_BYTES: u32 = 64 << 20;

/// As much live sound is kept for pictures that are still in the networks: far more than any stream batch delays them.
pub(crate) const LIVE_SOUND_NS: u64 = 10_000_000_000;
/// Ten seconds of uncompressed stereo.
pub(crate) const LIVE_SOUND_BYTES: u32 = 8 << 20;

/// Settings of `rtspsrc`: enough of a buffer for the jitter of a local network in place of two seconds, and packets that
/// are later than that are left out; a second of silence is enough to try TCP where UDP is blocked.
pub(crate) const LOW_DELAY: [(&str, &str); 3] =
    [("latency", "200"), ("drop-on-latency", "true"), ("timeout", "1000000")];

/// What the callbacks of a pipeline under construction share.
#[derive(Clone)]
struct Joint {
    pipeline: glib::WeakRef<gst::Pipeline>,
    entry: gst::Pad,
    monitor: Arc<Monitor>,
    sound: Option<Arc<Mutex<Option<Sound>>>>,
}

/// Adds to `pipeline` what `input` needs and links it to `chain`, now or as soon as it has video. The sound, if
/// `keep_audio`, is found in what is returned once the first picture is there.
pub(crate) fn attach(
    input: &Input,
    pipeline: &gst::Pipeline,
    chain: &Chain,
    monitor: &Arc<Monitor>,
    keep_audio: bool,
) -> Result<Arc<Mutex<Option<Sound>>>, IoError> {
    let sound = Arc::new(Mutex::new(None));
    let joint = Joint {
        pipeline: pipeline.downgrade(),
        entry: chain.entry().ok_or_else(|| launch::failed("input", &"no entry"))?,
        monitor: Arc::clone(monitor),
        sound: keep_audio.then(|| Arc::clone(&sound)),
    };
    forgive_decoders(pipeline, monitor);
    match input {
        Input::File(path) | Input::Images(path) => {
            if let Some(pictures) = stills::source(path, monitor) {
                direct(pictures.upcast_ref(), pipeline, &joint)?;
                return Ok(sound);
            }
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let uri = glib::filename_to_uri(&whole, None).map_err(|e| launch::failed(&monitor.what(), &e))?;
            by_uri(&uri, pipeline, joint)?;
        }
        Input::Uri(uri) => {
            let pictures = glib::filename_from_uri(uri).ok().and_then(|(path, _)| stills::source(&path, monitor));
            match pictures {
                Some(pictures) => direct(pictures.upcast_ref(), pipeline, &joint)?,
                None => by_uri(uri, pipeline, joint)?,
            }
        }
        Input::Test(test) => direct(&test_source(test)?, pipeline, &joint)?,
        Input::Camera(name) => direct(&camera(name.as_deref())?, pipeline, &joint)?,
        Input::Ndi(name) => {
            if !crate::element_available("ndisrc") {
                return Err(IoError::MissingElement { element: "ndisrc".into() });
            }
            let text = format!("ndisrc ndi-name={} ! ndisrcdemux name=d d.video ! queue", launch::quoted(name));
            direct(launch::bin(&text, true)?.upcast_ref(), pipeline, &joint)?;
        }
        Input::V4l2(path) => {
            if !path.exists() {
                let what = path.display().to_string();
                return Err(IoError::Unavailable { what, detail: "no such device".into() });
            }
            let source = launch::element("v4l2src")?;
            source.set_property("device", path.display().to_string());
            direct(&source, pipeline, &joint)?;
        }
        Input::Screen(area) => {
            if std::env::var_os("DISPLAY").is_none() {
                let detail = "DISPLAY is not set, and only X11 screens can be read".into();
                return Err(IoError::NoDisplay { what: "the screen".into(), detail });
            }
            let source = launch::element("ximagesrc")?;
            // With damage reports on, a still screen gives no pictures at all.
            source.set_property("use-damage", false);
            if let Some(Area { x, y, width, height }) = *area {
                source.set_property("startx", x);
                source.set_property("starty", y);
                source.set_property("endx", x + width - 1);
                source.set_property("endy", y + height - 1);
            }
            direct(&source, pipeline, &joint)?;
        }
        Input::Fragment(text) => {
            let bin = launch::user_source(text)?;
            direct(bin.upcast_ref(), pipeline, &joint)?;
        }
    }
    Ok(sound)
}

/// Adds to `pipeline` what receives pictures from the WHEP server at `address` for `chain`.
pub(crate) fn call(
    address: &str,
    pipeline: &gst::Pipeline,
    chain: &Chain,
    monitor: &Arc<Monitor>,
) -> Result<Call, IoError> {
    let peer = launch::element("webrtcbin")?;
    add(pipeline, &peer)?;
    // Nothing is waited for: the server is called once the pipeline runs.
    chain.pictures.set_property("async", false);
    let entry = chain.entry().ok_or_else(|| launch::failed("input", &"no entry"))?;
    Call::to_receive(peer, address, monitor, pipeline, &entry)
}

/// A picture that does not decode must not end the stream: decoders that count errors are told to go on, and what they
/// leave out is counted. Pictures that libav patched up are not told from good ones.
fn forgive_decoders(pipeline: &gst::Pipeline, monitor: &Arc<Monitor>) {
    let monitor = Arc::clone(monitor);
    pipeline.connect_deep_element_added(move |_, _, element| {
        if element.has_property_with_type("max-errors", i32::static_type()) {
            element.set_property("max-errors", -1_i32);
        }
        let is_decoder = |f: &gst::ElementFactory| {
            f.has_type(gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO)
        };
        let Some(pad) = element.factory().filter(is_decoder).and_then(|_| element.static_pad("src")) else { return };
        let monitor = Arc::clone(&monitor);
        let last = Mutex::new(None);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            if let Some(buffer) = info.buffer() {
                let before = lock(&last).replace((buffer.pts(), buffer.duration()));
                // After an error a decoder marks the next picture as not following the one before.
                if let Some(before) = before.filter(|_| buffer.flags().contains(gst::BufferFlags::DISCONT)) {
                    monitor.count_corrupt(left_out(before, buffer.pts()));
                }
            }
            gst::PadProbeReturn::Ok
        });
    });
}

/// How many pictures are missing between one (its time and duration) and the next; one if that is not known.
fn left_out((time, duration): (Option<gst::ClockTime>, Option<gst::ClockTime>), next: Option<gst::ClockTime>) -> u64 {
    let step = time.zip(next).and_then(|(time, next)| next.checked_sub(time)).map_or(0, gst::ClockTime::nseconds);
    let one = duration.map_or(0, gst::ClockTime::nseconds);
    if one < 1_000 { 1 } else { ((step + one / 2) / one).saturating_sub(1).max(1) }
}

fn add(pipeline: &gst::Pipeline, element: &gst::Element) -> Result<(), IoError> {
    pipeline.add(element).map_err(|e| launch::failed("input", &e))
}

/// Reads a URI with video decoded and everything else as it is.
fn by_uri(uri: &str, pipeline: &gst::Pipeline, joint: Joint) -> Result<(), IoError> {
    let decoder = launch::element("uridecodebin")?;
    decoder.set_property("uri", uri);
    decoder.connect("source-setup", false, |values| {
        if let Some(source) = values.get(1).and_then(|value| value.get::<gst::Element>().ok()) {
            keep_delay_low(&source);
        }
        None
    });
    // Sound is copied, not decoded; subtitles are not wanted. Stopping here also means that a codec which is not
    // installed is missed only if it is the video's.
    decoder.connect("autoplug-continue", false, |values| {
        let caps = values.get(2).and_then(|value| value.get::<gst::Caps>().ok());
        let go_on = caps.as_ref().and_then(|caps| caps.structure(0)).is_none_or(|s| {
            !["audio/", "text/", "subpicture/", "closedcaption/"].iter().any(|kind| s.name().starts_with(kind))
        });
        Some(go_on.to_value())
    });
    join_when_decoded(&decoder, pipeline, joint)
}

/// Network sources are made for players, which would rather be seconds late than show a gap.
fn keep_delay_low(source: &gst::Element) {
    for (name, value) in LOW_DELAY {
        if source.factory().is_some_and(|factory| factory.name() == "rtspsrc") {
            source.set_property_from_str(name, value);
        }
    }
}

/// Links the pads of a decoding bin as they appear.
fn join_when_decoded(decoder: &gst::Element, pipeline: &gst::Pipeline, joint: Joint) -> Result<(), IoError> {
    add(pipeline, decoder)?;
    let pads = joint.clone();
    decoder.connect_pad_added(move |_, pad| {
        if let Err(error) = join(pad, &pads) {
            pads.monitor.fail(error);
        }
    });
    decoder.connect_no_more_pads(move |_| {
        if !joint.entry.is_linked() {
            joint.monitor.fail(IoError::NoVideo { what: joint.monitor.what() });
        }
    });
    Ok(())
}

fn join(pad: &gst::Pad, joint: &Joint) -> Result<(), IoError> {
    let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
    let kind = caps.structure(0).map(|s| s.name().to_string()).unwrap_or_default();
    let failed = |e: &dyn std::fmt::Display| launch::failed(&joint.monitor.what(), e);
    if kind.starts_with("video/x-raw") && !joint.entry.is_linked() {
        pad.link(&joint.entry).map_err(|e| failed(&e))?;
    } else if let (true, Some(sound)) = (kind.starts_with("audio/"), &joint.sound) {
        if lock(sound).is_some() {
            tracing::info!(input = joint.monitor.what(), "more than one sound track: the first is kept");
            return Ok(());
        }
        let Some(pipeline) = joint.pipeline.upgrade() else {
            return Ok(());
        };
        let bin = launch::bin(
            &format!(
                "queue name=waiting max-size-bytes={SOUND_BYTES} max-size-buffers=0 max-size-time=0 \
                 ! appsink name=sound sync=false async=false max-buffers=1"
            ),
            true,
        )?;
        let monitor = Arc::clone(&joint.monitor);
        launch::named::<gst::Element>(&bin, "waiting")?.connect("overrun", false, move |values| {
            let queue = values.first().and_then(|value| value.get::<gst::Element>().ok());
            if queue.is_some_and(|queue| queue.property::<u32>("max-size-bytes") < SOUND_BYTES) {
                // Live sound: what nobody took in time is gone.
                return None;
            }
            let detail = "its sound runs too far ahead of its pictures; remux it".into();
            monitor.fail(IoError::Failed { what: monitor.what(), detail });
            None
        });
        add(&pipeline, bin.upcast_ref())?;
        bin.sync_state_with_parent().map_err(|e| failed(&e))?;
        let entry = bin.static_pad("sink").ok_or_else(|| failed(&"no pad"))?;
        pad.link(&entry).map_err(|e| failed(&e))?;
        *lock(sound) = Some((launch::named(&bin, "sound")?, caps));
    }
    Ok(())
}

/// Links a source that may give raw video right away, or through a decoder if it does not.
fn direct(source: &gst::Element, pipeline: &gst::Pipeline, joint: &Joint) -> Result<(), IoError> {
    add(pipeline, source)?;
    let failed = |e: &dyn std::fmt::Display| launch::failed(&joint.monitor.what(), e);
    let pad = source.src_pads().into_iter().next().ok_or_else(|| failed(&"no source pad"))?;
    if pad.link(&joint.entry).is_ok() {
        return Ok(());
    }
    let decoder = launch::element("decodebin")?;
    join_when_decoded(&decoder, pipeline, joint.clone())?;
    let entry = decoder.static_pad("sink").ok_or_else(|| failed(&"no pad"))?;
    pad.link(&entry).map(|_| ()).map_err(|e| failed(&e))
}

fn test_source(test: &TestSource) -> Result<gst::Element, IoError> {
    let bin = launch::bin("videotestsrc name=test ! capsfilter name=caps", true)?;
    let source = launch::named::<gst::Element>(&bin, "test")?;
    let patterns = source.find_property("pattern").map(|spec| spec.value_type());
    let patterns = patterns.and_then(glib::EnumClass::with_type);
    let patterns = patterns.ok_or_else(|| launch::failed("videotestsrc", &"no patterns"))?;
    let Some(pattern) = patterns.to_value_by_nick(&test.pattern) else {
        let known: Vec<_> = patterns.values().iter().map(glib::EnumValue::nick).collect();
        let why = format!("the patterns are {}", known.join(", "));
        return Err(IoError::CannotParse { text: format!("test://{}", test.pattern), why });
    };
    source.set_property_from_value("pattern", &pattern);
    source.set_property("is-live", test.live);
    if let Some(frames) = test.frames {
        source.set_property("num-buffers", i32::try_from(frames).unwrap_or(i32::MAX));
    }
    let (n, d) = test.framerate;
    let caps = gst::Caps::builder("video/x-raw")
        .field("width", test.size.width as i32)
        .field("height", test.size.height as i32)
        .field("framerate", gst::Fraction::new(n as i32, d as i32))
        .build();
    launch::named::<gst::Element>(&bin, "caps")?.set_property("caps", &caps);
    Ok(bin.upcast())
}

/// The first camera, or the first whose name contains `name`, whatever the case.
fn camera(name: Option<&str>) -> Result<gst::Element, IoError> {
    let what = name.map_or_else(|| "the camera".to_owned(), |name| format!("camera {name:?}"));
    let unavailable = |detail: String| IoError::Unavailable { what: what.clone(), detail };
    let camera = devices::camera(name).map_err(|names| {
        unavailable(if names.is_empty() {
            "none is connected".into()
        } else {
            format!("there is {}", names.join(", "))
        })
    })?;
    camera.create_element(None).map_err(|e| unavailable(e.to_string()))
}
