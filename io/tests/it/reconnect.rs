//! Live inputs and outputs that are lost and come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livediffusion_io::{
    Input, LiveNext, LiveSource, Next, Output, Outputs, OutputsOptions, Retry, SourceOptions, VideoSource,
};
use livediffusion_pipeline::frame::Size;

use crate::peers::{Peer, RtmpServer, RtspServer, has};
use crate::support;

const SIZE: Size = Size::new(64, 64);
const SHORT: Retry = Retry { first: Duration::from_millis(100), longest: Duration::from_millis(400) };
/// Looks of a tenth of a second until a test counts as hanging.
const LOOKS: usize = 600;

fn options() -> SourceOptions {
    SourceOptions { patience: Duration::from_secs(2), ..SourceOptions::new(SIZE) }
}

fn live(input: &str, options: &SourceOptions) -> LiveSource {
    let input = Input::parse(input).unwrap();
    let mut last = None;
    for _ in 0..30 {
        match VideoSource::open(&input, options) {
            Ok(source) => return LiveSource::new(source, input, options, SHORT),
            Err(error) => last = Some(error),
        }
        std::thread::park_timeout(Duration::from_millis(300));
    }
    panic!("{last:?}");
}

/// Reads a source and holds it to what is true of all of them: times ascend, and so do the numbers of frames.
struct Reader {
    source: LiveSource,
    last_ns: Option<u64>,
    frames: u64,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Frame,
    Away,
    End,
}

impl Reader {
    fn new(source: LiveSource) -> Self {
        Self { source, last_ns: None, frames: 0 }
    }

    /// Reads on until `count` of `wanted` came in a row or not.
    #[track_caller]
    fn until(&mut self, wanted: &Seen, mut count: usize) {
        let mut quiet = 0;
        while count > 0 {
            let (seen, pts_ns) = match self.source.next(Duration::from_millis(100)) {
                LiveNext::Frame(frame) => {
                    assert_eq!(frame.meta().id, self.frames);
                    self.frames += 1;
                    (Seen::Frame, frame.meta().pts_ns)
                }
                LiveNext::Away(meta) => (Seen::Away, meta.pts_ns),
                LiveNext::End => (Seen::End, None),
                LiveNext::Failed(error) => panic!("{error}"),
                LiveNext::TimedOut => {
                    quiet += 1;
                    assert!(quiet < LOOKS, "waited in vain for {wanted:?}");
                    continue;
                }
            };
            if pts_ns.is_some() {
                assert!(self.last_ns < pts_ns, "{seen:?}: {:?} and then {pts_ns:?}", self.last_ns);
                self.last_ns = pts_ns;
            }
            count -= usize::from(seen == *wanted);
            assert!(seen != Seen::End || count == 0, "it ended");
        }
    }
}

/// A camera that is unplugged after a second, again and again.
const CAMERA: &str =
    "videotestsrc is-live=true ! video/x-raw,width=64,height=64,framerate=30/1 ! identity error-after=30";

#[test]
fn a_camera_that_is_unplugged_comes_back_and_limits_count_all_of_it() {
    let options = SourceOptions { max_frames: Some(50), ..options() };
    let mut reader = Reader::new(live(CAMERA, &options));
    reader.until(&Seen::Frame, 15);
    reader.until(&Seen::Away, 1);
    reader.until(&Seen::Frame, 1);
    reader.until(&Seen::End, 1);
    assert_eq!(reader.frames, 50);
    assert!(reader.source.losses() >= 1, "{}", reader.source.losses());
}

#[test]
fn a_limit_of_time_counts_the_time_away() {
    let options = SourceOptions { max_duration_ns: Some(1_500_000_000), ..options() };
    let mut reader = Reader::new(live(CAMERA, &options));
    reader.until(&Seen::End, 1);
    // A second at 30 a second, then half a second of which some was spent away.
    assert!((20..45).contains(&reader.frames), "{}", reader.frames);
}

#[test]
fn a_fragment_that_ends_is_over() {
    let input = "videotestsrc is-live=true num-buffers=10 ! video/x-raw,width=64,height=64,framerate=30/1";
    let mut reader = Reader::new(live(input, &options()));
    reader.until(&Seen::End, 1);
    assert_eq!(reader.source.losses(), 0);
}

#[test]
fn an_rtsp_server_that_goes_and_comes_back() {
    let Some(mut server) = RtspServer::start() else { return };
    let port = server.port;
    let mut reader = Reader::new(live(&server.url("test"), &options()));
    reader.until(&Seen::Frame, 10);
    server.kill();
    reader.until(&Seen::Away, 3);
    let _server = RtspServer::start_on(port).unwrap();
    reader.until(&Seen::Frame, 10);
    assert_eq!(reader.source.losses(), 1);
}

#[test]
fn a_network_that_stalls_without_a_word() {
    let Some(server) = RtspServer::start() else { return };
    let mut reader = Reader::new(live(&server.url("test"), &options()));
    reader.until(&Seen::Frame, 10);
    server.pause();
    reader.until(&Seen::Away, 3);
    server.go_on();
    reader.until(&Seen::Frame, 10);
    assert_eq!(reader.source.losses(), 1);
}

#[test]
fn an_srt_peer_that_goes_and_comes_back() {
    if !has(&["srtsrc", "srtsink", "x264enc", "mpegtsmux"]) {
        return;
    }
    let uri = format!("srt://127.0.0.1:{}", Peer::free_port());
    let mut peer = Peer::srt_sender(&format!("{uri}?mode=listener"));
    let mut reader = Reader::new(live(&uri, &options()));
    reader.until(&Seen::Frame, 10);
    peer.kill();
    reader.until(&Seen::Away, 3);
    let _peer = Peer::srt_sender(&format!("{uri}?mode=listener"));
    reader.until(&Seen::Frame, 10);
}

/// Pushes a live test picture into outputs on a thread of its own, for as long as `watch` takes, and finishes them.
fn push_while<R>(outputs: &[Output], watch: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let pushing = scope.spawn(|| {
            let mut source = support::open("test://smpte?live&fps=25&size=64x64", &support::options(64, 64)).unwrap();
            let options = OutputsOptions {
                size: SIZE,
                framerate: Some((25, 1)),
                live: true,
                audio: source.take_audio(),
                retry: Some(SHORT),
            };
            let mut outputs = Outputs::open(outputs, options).unwrap();
            let mut frames = 0;
            while !stop.load(Ordering::Relaxed) {
                if let Next::Frame(frame) = source.next(support::LONG).unwrap() {
                    outputs.push(frame.meta(), &support::packed(&frame)).unwrap();
                    frames += 1;
                }
            }
            outputs.finish().unwrap();
            frames
        });
        let raise = support::Raise(&stop);
        let seen = watch();
        drop(raise);
        println!("{} frames", pushing.join().unwrap());
        seen
    })
}

#[test]
fn an_rtmp_server_that_goes_leaves_the_recording_alone_and_is_found_again() {
    let Some(mut server) = RtmpServer::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.mkv");
    let (url, port) = (server.url("live/picture"), server.port);
    let outputs = [Output::parse(&url).unwrap(), Output::parse(file.to_str().unwrap()).unwrap()];
    push_while(&outputs, || {
        let mut before = Reader::new(live(&url, &options()));
        before.until(&Seen::Frame, 10);
        server.kill();
        before.until(&Seen::Away, 3);
        drop(before);
        let _server = RtmpServer::start_on(port).unwrap();
        let mut after = Reader::new(live(&url, &options()));
        after.until(&Seen::Frame, 10);
    });
    let read = support::read(&file, 64, 64);
    // Without a gap: the recording did not wait for the server.
    let longest = read.metas.windows(2).map(|pair| pair[1].pts_ns.unwrap() - pair[0].pts_ns.unwrap()).max().unwrap();
    assert!(read.metas.len() > 20 && longest < 2_000_000_000, "{} frames, {longest} ns", read.metas.len());
}

#[test]
fn an_only_output_that_never_answered_is_an_error() {
    if !has(&["rtmp2sink", "flvmux", "x264enc"]) {
        return;
    }
    let server = format!("rtmp://127.0.0.1:{}/live/", Peer::free_port());
    let url = format!("{server}publishers-key");
    let options = OutputsOptions { size: SIZE, framerate: Some((25, 1)), live: true, audio: None, retry: Some(SHORT) };
    let outcome = Outputs::open(&[Output::parse(&url).unwrap()], options).and_then(|mut outputs| {
        let mut source = support::open("test://smpte?live&fps=25&size=64x64", &support::options(64, 64)).unwrap();
        for _ in 0..100 {
            if let Next::Frame(frame) = source.next(support::LONG).unwrap() {
                outputs.push(frame.meta(), &support::packed(&frame))?;
            }
        }
        Ok(())
    });
    let error = outcome.unwrap_err();
    println!("{error} / {:?}", error.hint());
    assert!(error.to_string().contains(&server), "{error}");
    assert!(!error.to_string().contains("publishers-key"), "the key would stand in every log: {error}");
}

/// The muxer of HLS waits for sound that does not come and holds the pictures back, but neither fails nor loses them.
#[test]
fn an_hls_output_with_sound_outlives_an_input_that_is_away() {
    if !has(&["srtsrc", "srtsink", "x264enc", "mpegtsmux", "hlssink2"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let uri = format!("srt://127.0.0.1:{}", Peer::free_port());
    let mut peer = Peer::srt_sender(&format!("{uri}?mode=listener"));
    let mut source = live(&uri, &options());
    let audio = source.take_audio();
    assert!(audio.is_some());
    let options = OutputsOptions { size: SIZE, framerate: Some((25, 1)), live: true, audio, retry: Some(SHORT) };
    let output = Output::Hls(folder.path().join("index.m3u8"));
    let mut outputs = Outputs::open(&[output], options).unwrap();
    let (mut frames, mut away, mut last) = (0, 0, vec![0; SIZE.pixels() * 3]);
    // Twelve seconds away: longer than an output may take nothing.
    while away < 60 {
        match source.next(Duration::from_millis(100)) {
            LiveNext::Frame(frame) => {
                last = support::packed(&frame);
                outputs.push(frame.meta(), &last).unwrap();
                frames += 1;
                if frames == 50 {
                    peer.kill();
                }
            }
            LiveNext::Away(meta) => {
                outputs.push(meta, &last).unwrap();
                away += 1;
            }
            LiveNext::TimedOut => {}
            LiveNext::End | LiveNext::Failed(_) => panic!("it ended"),
        }
    }
    drop(source);
    outputs.finish().unwrap();
    let segments = support::names(folder.path()).into_iter().filter(|name| name.starts_with("segment")).count();
    assert!(segments >= 4, "{segments} segments");
}
