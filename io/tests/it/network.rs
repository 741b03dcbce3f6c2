//! Network streams in and out, each against a real server or peer on this machine.

use std::time::Duration;

use livediffusion_io::{Next, Output, SinkOptions, VideoSink, VideoSource};
use livediffusion_pipeline::frame::{FrameMeta, Size};

use crate::peers::{Peer, RtmpServer, RtspServer, has, needs};
use crate::support::{self, LONG};

const SIZE: Size = Size::new(128, 96);

/// Takes `count` frames of a live source and asserts that they are colourful and in order.
fn take(source: &mut VideoSource, count: usize) -> Vec<FrameMeta> {
    let mut metas: Vec<FrameMeta> = Vec::new();
    while metas.len() < count {
        match source.next(LONG).unwrap() {
            Next::Frame(frame) => {
                let picture = support::packed(&frame);
                let (least, most) = (picture.iter().min().unwrap(), picture.iter().max().unwrap());
                assert!(most - least > 100, "a flat picture");
                metas.push(frame.meta());
            }
            other => panic!("{other:?} after {}", metas.len()),
        }
    }
    assert!(metas.windows(2).all(|pair| pair[0].pts_ns < pair[1].pts_ns), "{metas:?}");
    metas
}

/// Opens an input that a server beside us may need a moment for.
fn open(input: &str) -> VideoSource {
    let mut last = None;
    for _ in 0..20 {
        match support::open(input, &support::options(SIZE.width, SIZE.height)) {
            Ok(source) => return source,
            Err(error) => last = Some(error),
        }
        std::thread::park_timeout(Duration::from_millis(300));
    }
    panic!("{input}: {last:?}");
}

/// Sends a test picture with sound to `output` as a live run does, until `watch` has seen enough.
pub(crate) fn send_while<R>(output: &str, watch: impl FnOnce() -> R) -> R {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let input = "test://smpte?live&fps=25&size=128x96";
            let mut source = support::open(input, &support::options(SIZE.width, SIZE.height)).unwrap();
            let mut options = SinkOptions::new(SIZE, Some((25, 1)));
            options.live = true;
            let mut sink = VideoSink::open(&Output::parse(output).unwrap(), options).unwrap();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                if let Next::Frame(frame) = source.next(LONG).unwrap() {
                    sink.push(frame.meta(), &support::packed(&frame)).unwrap();
                }
            }
            sink.finish()
        });
        let raise = support::Raise(&stop);
        let seen = watch();
        drop(raise);
        let finished = sending.join().unwrap();
        println!("{output}: {finished:?}");
        seen
    })
}

#[test]
fn rtsp_comes_in_from_a_server() {
    let Some(server) = RtspServer::start() else { return };
    let mut source = open(&server.url("test"));
    assert!(source.info().live);
    println!("{:?}", source.info());
    assert!(source.info().audio.is_some(), "its sound is not seen");
    take(&mut source, 20);
}

#[test]
fn rtsp_goes_out_to_a_server_that_records() {
    let Some(server) = RtspServer::start() else { return };
    if !needs("rtspclientsink") {
        return;
    }
    let frames = send_while(&server.url("record"), || server.recorded(20));
    assert!(frames >= 20, "{frames}");
}

#[test]
fn srt_comes_in_from_a_listener_and_from_a_caller() {
    if !has(&["srtsrc", "srtsink", "x264enc", "mpegtsmux"]) {
        return;
    }
    let port = Peer::free_port();
    let _peer = Peer::srt_sender(&format!("srt://127.0.0.1:{port}?mode=listener"));
    take(&mut open(&format!("srt://127.0.0.1:{port}")), 20);
    let port = Peer::free_port();
    let _peer = Peer::srt_sender(&format!("srt://127.0.0.1:{port}?mode=caller"));
    take(&mut open(&format!("srt://:{port}?mode=listener")), 20);
}

#[test]
fn srt_goes_out_to_a_caller() {
    if !has(&["srtsrc", "srtsink", "x264enc", "mpegtsmux"]) {
        return;
    }
    let port = Peer::free_port();
    let metas =
        send_while(&format!("srt://:{port}?mode=listener"), || take(&mut open(&format!("srt://127.0.0.1:{port}")), 40));
    assert_eq!(metas.len(), 40);
}

#[test]
fn rtmp_goes_out_to_a_server_and_comes_back_in() {
    let Some(server) = RtmpServer::start() else { return };
    let url = server.url("live/picture");
    send_while(&url, || {
        let mut source = open(&url);
        assert!(source.info().live);
        take(&mut source, 30);
    });
}

#[test]
fn an_hls_folder_can_be_read_as_it_is_written() {
    if !has(&["hlssink2", "hlsdemux", "x264enc"]) {
        return;
    }
    let folder = tempfile::Builder::new().prefix("100 %d live").tempdir().unwrap();
    let playlist = folder.path().join("index.m3u8");
    let output = playlist.to_str().unwrap().to_owned();
    send_while(&output, || {
        for _ in 0..200 {
            if playlist.exists() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        panic!("no playlist");
    });
    let text = std::fs::read_to_string(&playlist).unwrap();
    println!("{text}");
    assert!(text.contains("#EXTINF:") && text.contains("segment00000.ts"), "{text}");
    let mut source = open(folder.path().join("segment00000.ts").to_str().unwrap());
    take(&mut source, 20);
}

#[test]
fn a_virtual_camera_takes_pictures() {
    let device = std::path::Path::new("/dev/video10");
    if !device.exists() {
        println!("skipped: no /dev/video10 (modprobe v4l2loopback exclusive_caps=1 video_nr=10)");
        let error = VideoSink::open(&Output::V4l2(device.into()), SinkOptions::new(SIZE, None)).err().unwrap();
        assert!(error.to_string().contains("/dev/video10"), "{error}");
        assert!(error.hint().unwrap().contains("modprobe v4l2loopback"), "{error}");
        return;
    }
    send_while("/dev/video10", || std::thread::park_timeout(Duration::from_secs(1)));
}

#[test]
fn what_is_not_installed_names_its_package() {
    use livediffusion_io::{IoError, package_of};
    for (element, package) in [
        ("rtspclientsink", "gstreamer1.0-rtsp"),
        ("srtsink", "gstreamer1.0-plugins-bad"),
        ("v4l2sink", "gstreamer1.0-plugins-good"),
        ("rtmp2sink", "gstreamer1.0-plugins-bad"),
    ] {
        assert_eq!(package_of(element), Some(package));
        let hint = IoError::MissingElement { element: element.into() }.hint().unwrap();
        assert_eq!(hint, format!("apt install {package}"));
    }
    if !livediffusion_io::element_available("ndisrc") {
        let error = support::open("ndi://STUDIO (camera)", &support::options(32, 32)).err().unwrap();
        assert!(error.to_string().contains("ndisrc") && error.hint().unwrap().contains("gst-plugin-ndi"), "{error}");
    }
}
