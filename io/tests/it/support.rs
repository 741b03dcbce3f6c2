//! Clips to read, and short ways to read and write whole streams.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gst::prelude::*;
use livediffusion_io::{
    AudioTrack, Input, IoError, Next, Output, SinkOptions, SinkReport, SourceInfo, SourceOptions, VideoSink,
    VideoSource,
};
use livediffusion_pipeline::frame::{FrameMeta, Size};

/// Long enough that only a hang reaches it.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Runs a `gst-launch` pipeline to its end.
pub(crate) fn run(text: &str) {
    gst::init().unwrap();
    let pipeline = gst::parse::launch(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &wanted).expect("the pipeline ends");
    pipeline.set_state(gst::State::Null).unwrap();
    if let gst::MessageView::Error(error) = message.view() {
        panic!("{text}: {} {:?}", error.error(), error.debug());
    }
}

/// 256x192, 50 frames at 25 fps, H.264 with AAC.
pub(crate) fn mp4(folder: &Path) -> PathBuf {
    let path = folder.join("clip.mp4");
    run(&format!(
        "videotestsrc num-buffers=50 pattern=ball ! video/x-raw,format=I420,width=256,height=192,framerate=25/1 \
         ! x264enc bframes=2 ! mp4mux name=m ! filesink location={} \
         audiotestsrc num-buffers=94 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! m.",
        path.display()
    ));
    path
}

/// 320x240, 30 frames at 30 fps, VP8 with Opus.
pub(crate) fn webm(folder: &Path) -> PathBuf {
    let path = folder.join("clip.webm");
    run(&format!(
        "videotestsrc num-buffers=30 pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=30/1 \
         ! vp8enc deadline=1 ! webmmux name=m ! filesink location={} \
         audiotestsrc num-buffers=47 ! audio/x-raw,rate=48000,channels=2 ! opusenc ! m.",
        path.display()
    ));
    path
}

/// Everything that a source gave.
pub(crate) struct Read {
    pub(crate) info: SourceInfo,
    pub(crate) metas: Vec<FrameMeta>,
    pub(crate) pictures: Vec<Vec<u8>>,
    pub(crate) corrupt: u64,
}

pub(crate) fn options(width: usize, height: usize) -> SourceOptions {
    SourceOptions::new(Size::new(width, height))
}

pub(crate) fn open(input: &str, options: &SourceOptions) -> Result<VideoSource, IoError> {
    VideoSource::open(&Input::parse(input)?, options)
}

/// Takes every frame; the error, if one ends the stream, comes with what was read before.
pub(crate) fn drain(source: &mut VideoSource) -> (Read, Option<IoError>) {
    let mut read = Read { info: source.info().clone(), metas: Vec::new(), pictures: Vec::new(), corrupt: 0 };
    let mut error = None;
    loop {
        match source.next(LONG) {
            Ok(Next::Frame(frame)) => {
                read.metas.push(frame.meta());
                read.pictures.push(packed(&frame));
            }
            Ok(Next::End) => break,
            Ok(Next::TimedOut) => panic!("nothing for {LONG:?}"),
            Err(e) => {
                error = Some(e);
                break;
            }
        }
    }
    read.corrupt = source.corrupt();
    (read, error)
}

pub(crate) fn packed(frame: &livediffusion_io::SourceFrame) -> Vec<u8> {
    let copy = |view: livediffusion_pipeline::frame::PictureView<'_>| {
        assert!(view.is_consistent());
        view.rows().flatten().copied().collect()
    };
    frame.with_picture(copy).unwrap()
}

pub(crate) fn read(input: &Path, width: usize, height: usize) -> Read {
    let mut source = open(input.to_str().unwrap(), &options(width, height)).unwrap();
    let (read, error) = drain(&mut source);
    assert!(error.is_none(), "{error:?}");
    read
}

pub(crate) fn sink(
    output: &Path,
    size: Size,
    framerate: Option<(u32, u32)>,
    audio: Option<AudioTrack>,
) -> Result<VideoSink, IoError> {
    let mut options = SinkOptions::new(size, framerate);
    options.audio = audio;
    VideoSink::open(&Output::parse(output.to_str().unwrap())?, options)
}

/// Copies `input` to `output`, holding back `delay` frames as the stream batch does.
pub(crate) fn copy(input: &Path, output: &Path, size: Size, delay: usize) -> SinkReport {
    let mut source = open(input.to_str().unwrap(), &options(size.width, size.height)).unwrap();
    let mut sink = sink(output, size, source.info().framerate, source.take_audio()).unwrap();
    let mut held = std::collections::VecDeque::new();
    loop {
        match source.next(LONG).unwrap() {
            Next::Frame(frame) => held.push_back((frame.meta(), packed(&frame))),
            Next::End => break,
            Next::TimedOut => panic!("nothing for {LONG:?}"),
        }
        if held.len() > delay {
            let (meta, picture) = held.pop_front().unwrap();
            sink.push(meta, &picture).unwrap();
        }
    }
    for (meta, picture) in held {
        sink.push(meta, &picture).unwrap();
    }
    sink.finish().unwrap()
}

/// The compressed packets of the first sound track, and their times in nanoseconds.
pub(crate) fn sound(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let uri = gst::glib::filename_to_uri(path, None).unwrap();
    let text = format!("urisourcebin uri={uri} ! parsebin name=p ! fakesink sync=false async=false");
    let pipeline = gst::parse::launch(&text).unwrap().downcast::<gst::Pipeline>().unwrap();
    let packets = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let into = std::sync::Arc::clone(&packets);
    pipeline.by_name("p").unwrap().connect_pad_added(move |_, pad| {
        if !pad.query_caps(None).structure(0).unwrap().name().starts_with("audio/") {
            return;
        }
        let into = std::sync::Arc::clone(&into);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let buffer = info.buffer().unwrap();
            let time = buffer.pts().map_or(0, gst::ClockTime::nseconds);
            into.lock().unwrap().push((time, buffer.map_readable().unwrap().to_vec()));
            gst::PadProbeReturn::Ok
        });
        let pipeline = pad.parent_element().unwrap().parent().unwrap().downcast::<gst::Bin>().unwrap();
        let end =
            gst::ElementFactory::make("fakesink").property("sync", false).property("async", false).build().unwrap();
        pipeline.add(&end).unwrap();
        end.sync_state_with_parent().unwrap();
        // The video pad takes the element named in the description, unless this one was first.
        let _ = pad.link(&end.static_pad("sink").unwrap());
    });
    pipeline.set_state(gst::State::Playing).unwrap();
    let wanted = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(30), &wanted).unwrap();
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline.set_state(gst::State::Null).unwrap();
    let packets = packets.lock().unwrap();
    packets.clone()
}

/// Mean absolute difference of two pictures, in levels of 255.
pub(crate) fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// Names of everything in `folder`, hidden files too.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Raises a flag when a test is done with something, however it ends: the thread that looks at it must not wait for ever.
pub(crate) struct Raise<'a>(pub(crate) &'a std::sync::atomic::AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
