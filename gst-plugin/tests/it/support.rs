//! A pipeline with the element between frames that a test makes and pictures that it looks at.

use std::path::{Path, PathBuf};
use std::sync::Once;

use gst::prelude::*;
use livediffusion_session::ModelOptions;

/// Long enough that only a hang reaches it.
pub(crate) const LONG: gst::ClockTime = gst::ClockTime::from_seconds(60);

/// Time between frames, in ms.
pub(crate) const FRAME: u64 = 40;

/// GStreamer with the plugin; `false`, said, where no ONNX Runtime is.
pub(crate) fn is_ready() -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        gst::init().unwrap();
        gstlivediffusion::plugin_register_static().unwrap();
    });
    let found = ModelOptions::default().runtime();
    if let Err(error) = &found {
        println!("skipped: {error}");
    }
    found.is_ok()
}

/// A tiny pack of random weights.
pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/goldens/models/tiny-sd15")
}

/// What the tiny pack is set to: fast, and the same everywhere.
pub(crate) fn of_tiny(others: &str) -> String {
    format!("model={} provider=cpu threads=1 lanes=1 {others}", tiny().display())
}

/// A frame that differs from all others.
pub(crate) fn frame(index: u64, width: usize, height: usize) -> Vec<u8> {
    let value = |at: usize| ((at as u64 * 7 + at as u64 / 97 * 31 + index * 53) % 256) as u8;
    (0..3 * width * height).map(value).collect()
}

/// A picture that came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) ms: u64,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) offset: u64,
    pub(crate) size: (u32, u32),
    pub(crate) rgb: Vec<u8>,
}

/// Waits so long: parking would end with whatever woke this thread before.
pub(crate) fn wait(milliseconds: u64) {
    let (_sender, never) = std::sync::mpsc::sync_channel::<()>(1);
    let _ = never.recv_timeout(std::time::Duration::from_millis(milliseconds));
}

/// The pipeline.
pub(crate) struct Rig {
    pub(crate) pipeline: gst::Pipeline,
    pub(crate) src: gst_app::AppSrc,
    pub(crate) filter: gst::Element,
    sink: gst_app::AppSink,
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

impl Rig {
    /// With these properties of the element, for frames of this size.
    pub(crate) fn new(properties: &str, (width, height): (usize, usize)) -> Self {
        let launch = format!(
            "appsrc name=src format=time ! livediffusion name=filter {properties} ! appsink name=sink sync=false max-buffers=1000"
        );
        let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
        let named = |name| pipeline.by_name(name).unwrap();
        let src = named("src").downcast::<gst_app::AppSrc>().unwrap();
        let rig = Self {
            src,
            filter: named("filter"),
            sink: named("sink").downcast::<gst_app::AppSink>().unwrap(),
            pipeline,
        };
        rig.size(width, height);
        rig
    }

    pub(crate) fn play(self) -> Self {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        self
    }

    /// Frames of this size from here on.
    pub(crate) fn size(&self, width: usize, height: usize) {
        self.size_at(width, height, gst::Fraction::new(1000 / FRAME as i32, 1));
    }

    /// The same, so many a second.
    pub(crate) fn size_at(&self, width: usize, height: usize, rate: gst::Fraction) {
        let caps = gst::Caps::builder("video/x-raw")
            .field("format", "RGB")
            .field("width", width as i32)
            .field("height", height as i32)
            .field("framerate", rate)
            .build();
        self.src.set_caps(Some(&caps));
    }

    /// Sends a frame of the size that was set last, in rows without the gaps that GStreamer may leave.
    pub(crate) fn push(&self, index: u64, (width, height): (usize, usize)) {
        self.push_bytes(index, frame(index, width, height));
    }

    pub(crate) fn push_bytes(&self, index: u64, rgb: Vec<u8>) {
        let mut buffer = gst::Buffer::from_mut_slice(rgb);
        let of = buffer.get_mut().unwrap();
        of.set_pts(gst::ClockTime::from_mseconds(index * FRAME));
        of.set_duration(gst::ClockTime::from_mseconds(FRAME));
        of.set_offset(index);
        self.src.push_buffer(buffer).unwrap();
    }

    /// The next picture; `None` at the end.
    pub(crate) fn pull(&self) -> Option<Picture> {
        let sample = self.sink.try_pull_sample(LONG);
        if sample.is_none() {
            assert!(self.sink.is_eos(), "no picture came: {:?}", self.error());
        }
        let sample = sample?;
        let (buffer, caps) = (sample.buffer().unwrap(), sample.caps().unwrap().structure(0).unwrap());
        let side = |name| u32::try_from(caps.get::<i32>(name).unwrap()).unwrap();
        let size = (side("width"), side("height"));
        let map = buffer.map_readable().unwrap();
        let stride = map.len() / size.1 as usize;
        let rows = map.chunks(stride).flat_map(|row| &row[..3 * size.0 as usize]);
        Some(Picture {
            ms: buffer.pts().unwrap().mseconds(),
            duration_ms: buffer.duration().map(gst::ClockTime::mseconds),
            offset: buffer.offset(),
            size,
            rgb: rows.copied().collect(),
        })
    }

    /// Waits until the element took so many frames.
    pub(crate) fn entered(&self, frames: u64) {
        for _ in 0..3000 {
            if self.filter.property::<gst::Structure>("stats").get::<u64>("frames-in") == Ok(frames) {
                return;
            }
            wait(10);
        }
        panic!("the frames do not enter: {:?}", self.error());
    }

    /// Ends the stream and takes all pictures that are left.
    pub(crate) fn finish(&self) -> Vec<Picture> {
        self.src.end_of_stream().unwrap();
        std::iter::from_fn(|| self.pull()).collect()
    }

    /// The first error on the bus, as what and hint.
    pub(crate) fn error(&self) -> Option<(String, String)> {
        let message = self.pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Error])?;
        let gst::MessageView::Error(error) = message.view() else { return None };
        let debug = error.debug().unwrap_or_default();
        Some((error.error().message().to_owned(), debug.lines().last().unwrap_or_default().to_owned()))
    }

    /// The next message of that kind.
    pub(crate) fn message(&self, kind: gst::MessageType) -> gst::Message {
        self.pipeline.bus().unwrap().timed_pop_filtered(LONG, &[kind]).expect("the message comes")
    }

    /// What the next warning says, with its hint.
    pub(crate) fn warning(&self) -> String {
        let message = self.message(gst::MessageType::Warning);
        let gst::MessageView::Warning(warning) = message.view() else { panic!("no warning") };
        format!("{} {}", warning.error().message(), warning.debug().unwrap_or_default())
    }

    /// The element's own latency in ms, and whether the pipeline is live.
    pub(crate) fn latency(&self) -> (bool, u64) {
        let mut query = gst::query::Latency::new();
        assert!(self.filter.static_pad("src").unwrap().query(&mut query));
        let (live, least, _) = query.result();
        (live, least.mseconds())
    }
}
