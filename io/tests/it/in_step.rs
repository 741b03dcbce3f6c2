//! Live sound stays in step with pictures that the networks delay.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gst::prelude::*;
use livediffusion_io::{Input, package_of};
use livediffusion_io::{LiveNext, LiveSource, Output, Outputs, OutputsOptions, Retry, SourceOptions, VideoSource};
use livediffusion_pipeline::frame::Size;

use crate::peers::{Peer, has};
use crate::support;

const SIZE: Size = Size::new(64, 64);
/// Frames that the stream batch holds back.
const DELAY: usize = 12;

/// A picture that turns from black to white or back every second, and a tick every second, in MPEG-TS. Each turn is half a
/// second before its tick, as `videorate` takes whichever picture is nearer.
fn clapper(kind: &str, to: &str) -> Vec<String> {
    let (pictures, sounds) =
        if kind == "live" { ("is-live=true", "is-live=true") } else { ("num-buffers=8", "num-buffers=330") };
    let text = format!(
        "videotestsrc {pictures} pattern=blink ! video/x-raw,width=64,height=64,framerate=1/1 ! videorate \
         ! video/x-raw,framerate=25/1 ! x264enc tune=zerolatency key-int-max=25 ! h264parse \
         ! queue ! m. \
         audiotestsrc {sounds} wave=ticks volume=1 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse \
         ! queue max-size-time=5000000000 ! m. mpegtsmux name=m alignment=7 latency=2000000000 ! {to}"
    );
    text.split_whitespace().map(str::to_owned).collect()
}

/// When the picture changes between black and white, in seconds.
fn changes(path: &Path) -> Vec<f64> {
    let read = support::read(path, SIZE.width, SIZE.height);
    let white: Vec<bool> = read.pictures.iter().map(|rgb| rgb[rgb.len() / 2] > 127).collect();
    let times = read.metas.iter().map(|meta| meta.pts_ns.unwrap() as f64 / 1e9);
    times.skip(1).zip(white.windows(2)).filter(|(_, pair)| pair[0] != pair[1]).map(|(time, _)| time).collect()
}

/// When ticks begin, in seconds.
fn ticks(path: &Path) -> Vec<f64> {
    let uri = gst::glib::filename_to_uri(path, None).unwrap();
    let text = format!(
        "uridecodebin uri={uri} caps=audio/x-raw expose-all-streams=false ! audioconvert ! audioresample \
         ! audio/x-raw,format=S16LE,channels=1,rate=48000 ! appsink name=sound sync=false"
    );
    let pipeline = gst::parse::launch(&text).unwrap().downcast::<gst::Pipeline>().unwrap();
    let sound = pipeline.by_name("sound").unwrap().downcast::<gst_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut found: Vec<f64> = Vec::new();
    while let Some(sample) = sound.try_pull_sample(gst::ClockTime::from_seconds(10)) {
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap().clone();
        let buffer = sample.buffer().unwrap();
        let start = segment.to_running_time(buffer.pts().unwrap()).map_or(0.0, |t| t.nseconds() as f64 / 1e9);
        let map = buffer.map_readable().unwrap();
        for (i, pair) in map.chunks_exact(2).enumerate() {
            let time = start + i as f64 / 48e3;
            let loud = i16::from_le_bytes([pair[0], pair[1]]).unsigned_abs() > 8000;
            if loud && found.last().is_none_or(|last| time - last > 0.5) {
                found.push(time);
            }
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    found
}

/// How long after a change its tick comes, in seconds: the middle one, as a busy machine drops frames and then shows a
/// change late.
fn distance(path: &Path) -> f64 {
    let (changes, ticks) = (changes(path), ticks(path));
    println!("{}: changes {changes:.2?}, ticks {ticks:.2?}", path.display());
    let next = |change: &f64| ticks.iter().find(|tick| *tick > change).map(|tick| tick - change);
    let mut distances: Vec<f64> = changes.iter().filter_map(next).collect();
    assert!(distances.len() >= 3, "{distances:?}");
    distances.sort_unstable_by(f64::total_cmp);
    distances[distances.len() / 2]
}

#[test]
fn ticks_stay_at_their_pictures_through_srt_and_in_a_recording() {
    if !has(&["srtsrc", "srtsink", "x264enc", "mpegtsmux", "avenc_aac"]) {
        return;
    }
    assert!(package_of("tsdemux").is_some());
    let folder = tempfile::tempdir().unwrap();
    let (record, received) = (folder.path().join("record.mkv"), folder.path().join("received.ts"));
    let uri = format!("srt://127.0.0.1:{}", Peer::free_port());
    let out = Peer::free_port();
    let direct = folder.path().join("direct.ts");
    let to = format!("filesink location={}", direct.display());
    let done = Command::new("gst-launch-1.0").args(clapper("whole", &to)).stdout(Stdio::null()).status().unwrap();
    assert!(done.success());
    let wanted = distance(&direct);
    let to = format!("srtsink uri={uri}?mode=listener wait-for-connection=false sync=false");
    let _sender = Peer::start(Command::new("gst-launch-1.0").args(clapper("live", &to)).stdout(Stdio::null())).unwrap();
    let (input, options) = (Input::parse(&uri).unwrap(), SourceOptions::new(SIZE));
    let source = (0..20).find_map(|_| {
        std::thread::park_timeout(Duration::from_millis(300));
        VideoSource::open(&input, &options).ok()
    });
    let mut source = LiveSource::new(source.expect("an SRT sender"), input, &options, Retry::default());
    assert!(source.info().audio.is_some(), "no sound");
    let outputs = [record.display().to_string(), format!("srt://:{out}?mode=listener")];
    let outputs: Vec<Output> = outputs.iter().map(|text| Output::parse(text).unwrap()).collect();
    let options = OutputsOptions {
        size: SIZE,
        framerate: Some((25, 1)),
        live: true,
        audio: source.take_audio(),
        retry: Some(Retry::default()),
    };
    let mut outputs = Outputs::open(&outputs, options).unwrap();
    let text = format!("srtsrc uri=srt://127.0.0.1:{out} ! filesink location={}", received.display());
    let mut receiver =
        Peer::start(Command::new("gst-launch-1.0").args(text.split_whitespace()).stdout(Stdio::null())).unwrap();
    let mut held = VecDeque::new();
    let mut frames = 0;
    while frames < 25 * 7 {
        match source.next(support::LONG) {
            LiveNext::Frame(frame) => held.push_back((frame.meta(), support::packed(&frame))),
            other => panic!("{other:?}"),
        }
        if held.len() > DELAY {
            let (meta, rgb) = held.pop_front().unwrap();
            outputs.push(meta, &rgb).unwrap();
            frames += 1;
        }
    }
    drop(source);
    outputs.finish().unwrap();
    receiver.kill();
    // Sound that came at its own time would be half a second ahead of pictures held back by 12 frames.
    for path in [&record, &received] {
        let found = distance(path);
        println!("{found:.3} s where {wanted:.3} s went in");
        assert!((found - wanted).abs() < 0.15, "{found} s where {wanted} s went in");
    }
}
