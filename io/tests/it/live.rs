use livediffusion_io::{Next, Output, SinkOptions, VideoSink};
use livediffusion_pipeline::frame::Size;

use crate::support::{self, LONG};

#[test]
fn a_test_source_gives_every_frame() {
    let mut source = support::open("test://snow?frames=40&size=64x64", &support::options(32, 32)).unwrap();
    assert!(!source.info().live);
    assert_eq!(source.info().framerate, Some((30, 1)));
    let (read, error) = support::drain(&mut source);
    assert!(error.is_none());
    assert_eq!((read.metas.len(), source.dropped()), (40, 0));
    assert_eq!(read.metas[30].pts_ns, Some(1_000_000_000));
}

#[test]
fn an_endless_test_source_ends_at_its_limit() {
    let mut options = support::options(32, 32);
    options.max_frames = Some(7);
    let mut source = support::open("test://", &options).unwrap();
    assert_eq!(support::drain(&mut source).0.metas.len(), 7);
}

#[test]
fn a_slow_consumer_of_a_live_source_gets_the_newest_and_counts_the_rest() {
    let input = "test://ball?live&frames=60&fps=60&size=64x64";
    let mut source = support::open(input, &support::options(32, 32)).unwrap();
    assert!(source.info().live);
    let mut metas = Vec::new();
    let (_keep, never) = crossbeam_channel::bounded::<()>(1);
    while let Next::Frame(frame) = source.next(LONG).unwrap() {
        metas.push(frame.meta());
        // Slower than the source by far.
        let _ = never.recv_timeout(std::time::Duration::from_millis(150));
    }
    assert!(source.dropped() > 0);
    assert_eq!(metas.len() as u64 + source.dropped(), 60);
    assert!(metas.iter().enumerate().all(|(i, meta)| meta.id == i as u64));
    assert!(metas.windows(2).all(|pair| pair[0].pts_ns < pair[1].pts_ns));
}

#[test]
fn live_fragments_are_noticed_and_may_be_overridden() {
    let input = "videotestsrc is-live=true num-buffers=5 ! video/x-raw,width=64,height=64,framerate=50/1";
    let mut options = support::options(32, 32);
    assert!(support::open(input, &options).unwrap().info().live);
    options.live = Some(false);
    let mut source = support::open(input, &options).unwrap();
    assert!(!source.info().live);
    assert_eq!(support::drain(&mut source).0.metas.len(), 5);
}

#[test]
fn fragments_take_pictures_live_or_not() {
    for live in [false, true] {
        let output = Output::parse("appsrc ! videoconvert ! fakesink sync=false").unwrap();
        let mut options = SinkOptions::new(Size::new(32, 32), Some((30, 1)));
        options.live = live;
        let mut sink = VideoSink::open(&output, options).unwrap();
        let mut source = support::open("test://?frames=10", &support::options(32, 32)).unwrap();
        while let Next::Frame(frame) = source.next(LONG).unwrap() {
            sink.push(frame.meta(), &support::packed(&frame)).unwrap();
        }
        let report = sink.finish().unwrap();
        assert_eq!((report.frames, report.path), (10, None));
    }
}

#[test]
fn a_live_recording_starts_at_its_first_picture() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mp4");
    let mut options = SinkOptions::new(Size::new(32, 32), Some((30, 1)));
    options.live = true;
    let mut sink = VideoSink::open(&Output::parse(out.to_str().unwrap()).unwrap(), options).unwrap();
    for i in 0..10_u64 {
        let pts_ns = Some(7_000_000_000 + i * 33_333_333);
        let meta = livediffusion_pipeline::frame::FrameMeta { id: i, pts_ns, duration_ns: Some(33_333_333) };
        sink.push(meta, &[128; 32 * 32 * 3]).unwrap();
    }
    sink.finish().unwrap();
    let read = support::read(&out, 32, 32);
    assert_eq!((read.metas.len(), read.metas[0].pts_ns), (10, Some(0)));
}

/// A demuxer shows its pads late, and what it holds has sound as well: the fragment's links must wait for its video.
#[test]
fn a_fragment_may_decode_a_file_with_sound() {
    let folder = tempfile::tempdir().unwrap();
    let clip = support::mp4(folder.path());
    let frames = support::read(&clip, 64, 48).metas.len();
    for tail in ["decodebin", "decodebin ! videoconvert ! videoscale", "decodebin ! video/x-raw,format=I420"] {
        let fragment = format!("filesrc location={} ! {tail}", clip.display());
        let mut source = support::open(&fragment, &support::options(64, 48)).unwrap();
        let (read, error) = support::drain(&mut source);
        assert!(error.is_none(), "{tail}: {error:?}");
        assert_eq!(read.metas.len(), frames, "{tail}");
    }
}

/// How long a frame waited when the engine takes it: never longer than until its successor came, however slow the engine is
/// and however long it runs. Simulated: 5 000 frames at 30 a second against an engine that takes now 10 ms, now 200.
#[test]
fn the_delay_before_the_engine_does_not_grow() {
    const FRAME_NS: u64 = 33_333_333;
    const FRAMES: u64 = 5_000;
    let (sender, queue) = livediffusion_io::newest();
    let (mut now_ns, mut sent, mut taken, mut longest_ns, mut random) = (0_u64, 0_u64, 0_u64, 0_u64, 1_u64);
    loop {
        // Everything that arrived while the engine was busy.
        while sent < FRAMES && sent * FRAME_NS <= now_ns {
            sender.send(sent);
            sent += 1;
        }
        match queue.receive(std::time::Duration::ZERO) {
            livediffusion_io::Received::Item(frame) => {
                longest_ns = longest_ns.max(now_ns - frame * FRAME_NS);
                taken += 1;
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                now_ns += 10_000_000 + (random >> 33) % 190_000_000;
            }
            _ if sent == FRAMES => break,
            _ => now_ns = sent * FRAME_NS,
        }
    }
    assert_eq!(taken + queue.dropped(), FRAMES);
    assert!(queue.dropped() > FRAMES / 2, "the engine was not overloaded: {}", queue.dropped());
    assert!(longest_ns < 2 * FRAME_NS, "{longest_ns}");
}

/// The same through GStreamer: a source of 100 frames a second and an engine of 10. Were frames to wait their turn, the last
/// would be ten seconds old.
#[test]
fn frames_of_a_live_source_are_not_older_for_a_slow_engine() {
    use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};
    let mut source = support::open("test://ball?live&fps=100&size=64x64", &support::options(32, 32)).unwrap();
    let (_keep, never) = crossbeam_channel::bounded::<()>(1);
    let clock = MonotonicClock::start();
    let mut start = None;
    let mut ages = Vec::new();
    for _ in 0..60 {
        let Next::Frame(frame) = source.next(LONG).unwrap() else { panic!("it ended") };
        let (now, pts_ns) = (clock.now().as_nanos() as i128, i128::from(frame.meta().pts_ns.unwrap()));
        let (began, first_ns) = *start.get_or_insert((now, pts_ns));
        ages.push((now - began) - (pts_ns - first_ns));
        let _ = never.recv_timeout(std::time::Duration::from_millis(100));
    }
    // Against the middle: a machine that is busy for a moment makes single frames late.
    ages.sort_unstable();
    let (middle, early) = (ages[30], ages[0]);
    println!("{} ms later than the first in the middle, {} at least", middle / 1_000_000, early / 1_000_000);
    assert!(source.dropped() > 300, "{}", source.dropped());
    assert!(middle.abs() < 500_000_000, "{ages:?}");
}
