use std::path::Path;

use livediffusion_io::{Next, VideoSink};
use livediffusion_pipeline::frame::Size;

use crate::support::{self, LONG, Read};

/// Same number of frames, time stamps within `tolerance_ns` and pictures that look the same.
fn assert_same(a: &Read, b: &Read, tolerance_ns: u64) {
    assert_eq!(a.metas.len(), b.metas.len());
    for (i, (x, y)) in a.metas.iter().zip(&b.metas).enumerate() {
        assert_eq!((x.id, y.id), (i as u64, i as u64));
        let (x, y) = (x.pts_ns.unwrap(), y.pts_ns.unwrap());
        assert!(x.abs_diff(y) <= tolerance_ns, "frame {i}: {x} became {y}");
        let difference = support::difference(&a.pictures[i], &b.pictures[i]);
        assert!(difference < 4.0, "frame {i} differs by {difference}");
    }
}

fn assert_same_sound(a: &Path, b: &Path) {
    let (a, b) = (support::sound(a), support::sound(b));
    assert!(!a.is_empty());
    assert_eq!(a.len(), b.len(), "packets");
    assert!(a.iter().zip(&b).all(|(a, b)| a.1 == b.1), "bytes differ");
}

#[test]
fn mp4_to_mp4_keeps_frames_times_and_sound() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::mp4(folder.path()), folder.path().join("out.mp4"));
    let report = support::copy(&clip, &out, Size::new(256, 192), 3);
    assert_eq!((report.frames, report.path.as_deref()), (50, Some(out.as_path())));
    let (a, b) = (support::read(&clip, 256, 192), support::read(&out, 256, 192));
    assert_eq!((a.metas.len(), a.info.framerate), (50, Some((25, 1))));
    // The file is as long as its sound, which is a little longer.
    assert!(matches!(a.info.frames_estimate, Some(50 | 51)) && !a.info.live);
    assert_eq!(a.metas[0].pts_ns, Some(0));
    assert_eq!(b.info.framerate, Some((25, 1)));
    assert_same(&a, &b, 0);
    assert_same_sound(&clip, &out);
    assert_eq!(support::names(folder.path()), ["clip.mp4", "out.mp4"]);
}

#[test]
fn mp4_to_mkv_keeps_frames_times_and_sound() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::mp4(folder.path()), folder.path().join("out.mkv"));
    support::copy(&clip, &out, Size::new(256, 192), 3);
    assert_same(&support::read(&clip, 256, 192), &support::read(&out, 256, 192), 0);
    assert_same_sound(&clip, &out);
}

#[test]
fn webm_to_webm_keeps_frames_times_and_sound() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::webm(folder.path()), folder.path().join("out.webm"));
    support::copy(&clip, &out, Size::new(320, 240), 3);
    let (a, b) = (support::read(&clip, 320, 240), support::read(&out, 320, 240));
    assert_eq!(a.metas.len(), 30);
    // Matroska counts in milliseconds.
    assert_same(&a, &b, 1_000_000);
    assert_same_sound(&clip, &out);
}

#[test]
fn sound_that_the_container_does_not_take_is_re_encoded() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::mp4(folder.path()), folder.path().join("out.webm"));
    support::copy(&clip, &out, Size::new(256, 192), 3);
    let read = support::read(&out, 256, 192);
    assert_eq!((read.metas.len(), read.info.audio.as_deref()), (50, Some("audio/x-opus")));
    let sound = support::sound(&out);
    // Two seconds in packets of 20 ms.
    assert!((98..=104).contains(&sound.len()), "{}", sound.len());
}

#[test]
fn sound_of_every_usual_codec_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    for (encoder, muxer, name, out) in [
        ("lamemp3enc", "matroskamux", "a.mkv", "a.mp4"),
        ("vorbisenc", "matroskamux", "b.mkv", "b.webm"),
        ("flacenc", "matroskamux", "c.mkv", "d.mkv"),
        ("avenc_aac ! aacparse", "mpegtsmux", "e.ts", "e.mp4"),
        ("capsfilter caps=audio/x-raw,format=S16LE", "matroskamux", "f.mkv", "f.mov"),
        ("capsfilter caps=audio/x-raw,format=S16LE", "avimux", "g.avi", "g.mkv"),
    ] {
        let (clip, out) = (folder.path().join(name), folder.path().join(out));
        support::run(&format!(
            "videotestsrc pattern=ball num-buffers=25 ! video/x-raw,width=64,height=64,framerate=25/1 ! x264enc bframes=0 ! {muxer} name=m \
             ! filesink location={} audiotestsrc num-buffers=44 ! audioconvert ! audio/x-raw,rate=44100,channels=2 ! {encoder} ! m.",
            clip.display()
        ));
        support::copy(&clip, &out, Size::new(64, 64), 3);
        let (a, b) = (support::read(&clip, 64, 64), support::read(&out, 64, 64));
        println!("{name}: {:?} -> {:?}", a.info, b.info);
        assert_same(&a, &b, 1_000_000);
        let codec = |read: &Read| read.info.audio.as_ref().unwrap().split(", layer").next().unwrap().to_owned();
        assert_eq!(codec(&a), codec(&b), "{name}");
        if encoder.starts_with("capsfilter") {
            let bytes = |path: &Path| support::sound(path).into_iter().flat_map(|(_, b)| b).collect::<Vec<_>>();
            assert!(bytes(&clip) == bytes(&out));
        } else if clip.extension().is_some_and(|extension| extension == "ts") {
            // In a transport stream each packet has a header of seven bytes in front, which mp4 keeps elsewhere.
            let (a, b) = (support::sound(&clip), support::sound(&out));
            assert!(a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.1[7..] == b.1));
        } else {
            assert_same_sound(&clip, &out);
        }
    }
}

#[test]
fn irregular_frames_keep_their_times() {
    let folder = tempfile::tempdir().unwrap();
    // Every third frame is left out, so that steps alternate between 40 and 80 ms.
    let clip = folder.path().join("clip.mkv");
    let size = Size::new(64, 64);
    let mut sink = support::sink(&clip, size, None, None).unwrap();
    let mut times = Vec::new();
    for i in (0..30_u64).filter(|i| i % 3 != 1) {
        let meta = livediffusion_pipeline::frame::FrameMeta { id: i, pts_ns: Some(i * 40_000_000), duration_ns: None };
        times.push(meta.pts_ns.unwrap());
        sink.push(meta, &vec![(i * 8) as u8; 64 * 64 * 3]).unwrap();
    }
    sink.finish().unwrap();
    for name in ["out.mp4", "out.mkv", "out.webm"] {
        let out = folder.path().join(name);
        support::copy(&clip, &out, size, 3);
        let got: Vec<_> = support::read(&out, 64, 64).metas.iter().map(|meta| meta.pts_ns.unwrap()).collect();
        assert_eq!(got, times, "{name}");
    }
}

#[test]
fn pictures_that_start_after_the_sound_stay_in_step_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mkv");
    support::run(&format!(
        "videotestsrc pattern=ball num-buffers=25 timestamp-offset=200000000 ! video/x-raw,width=64,height=64,framerate=25/1 \
         ! x264enc bframes=0 ! matroskamux name=m ! filesink location={} \
         audiotestsrc num-buffers=60 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! m.",
        clip.display()
    ));
    let out = folder.path().join("out.mp4");
    support::copy(&clip, &out, Size::new(64, 64), 3);
    let (a, b) = (support::read(&clip, 64, 64), support::read(&out, 64, 64));
    assert_eq!(a.metas[0].pts_ns, Some(200_000_000));
    assert_same(&a, &b, 100_000);
    assert_same_sound(&clip, &out);
}

#[test]
fn limits_end_the_stream_and_the_sound_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::mp4(folder.path()), folder.path().join("out.mp4"));
    let mut options = support::options(64, 48);
    options.max_frames = Some(25);
    let mut source = support::open(clip.to_str().unwrap(), &options).unwrap();
    assert_eq!(source.info().frames_estimate, Some(25));
    let mut sink = support::sink(&out, options.size, source.info().framerate, source.take_audio()).unwrap();
    while let Next::Frame(frame) = source.next(LONG).unwrap() {
        sink.push(frame.meta(), &support::packed(&frame)).unwrap();
    }
    assert_eq!(sink.finish().unwrap().frames, 25);
    // One second of 1024-sample packets at 48 kHz.
    let packets = support::sound(&out).len();
    assert!((46..=48).contains(&packets), "{packets}");

    options.max_frames = None;
    options.max_duration_ns = Some(400_000_000);
    let mut source = support::open(clip.to_str().unwrap(), &options).unwrap();
    assert_eq!(source.info().frames_estimate, Some(10));
    assert_eq!(support::drain(&mut source).0.metas.len(), 10);
}

#[test]
fn an_aborted_or_dropped_sink_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::mp4(folder.path()), folder.path().join("out.mp4"));
    std::fs::write(&out, "an older file").unwrap();
    let give_up: [fn(VideoSink); 2] = [VideoSink::abort, drop];
    for give_up in give_up {
        let mut source = support::open(clip.to_str().unwrap(), &support::options(64, 48)).unwrap();
        let mut sink = support::sink(&out, Size::new(64, 48), Some((25, 1)), source.take_audio()).unwrap();
        for _ in 0..10 {
            let Next::Frame(frame) = source.next(LONG).unwrap() else { panic!("a frame is there") };
            sink.push(frame.meta(), &support::packed(&frame)).unwrap();
        }
        give_up(sink);
        assert_eq!(support::names(folder.path()), ["clip.mp4", "out.mp4"]);
        assert_eq!(std::fs::read(&out).unwrap(), b"an older file");
        // The source goes on without anyone taking its sound.
        assert_eq!(support::drain(&mut source).0.metas.len(), 40);
    }
}

#[test]
fn a_source_may_go_before_its_sink() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (support::mp4(folder.path()), folder.path().join("out.mp4"));
    let mut source = support::open(clip.to_str().unwrap(), &support::options(64, 48)).unwrap();
    let mut sink = support::sink(&out, Size::new(64, 48), Some((25, 1)), source.take_audio()).unwrap();
    let Next::Frame(frame) = source.next(LONG).unwrap() else { panic!("a frame is there") };
    sink.push(frame.meta(), &support::packed(&frame)).unwrap();
    source.stop();
    assert!(matches!(source.next(LONG), Ok(Next::End)));
    drop((frame, source));
    assert_eq!(sink.finish().unwrap().frames, 1);
    assert_eq!(support::read(&out, 64, 48).metas.len(), 1);
}

#[test]
fn a_real_clip_comes_out_whole() {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bigbuckbunny.mp4");
    if !clip.exists() {
        println!("skipped: {} is not there", clip.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.mp4");
    let size = Size::new(256, 144);
    let report = support::copy(&clip, &out, size, 3);
    let (a, b) = (support::read(&clip, 256, 144), support::read(&out, 256, 144));
    println!("{:?}, {} frames", a.info, report.frames);
    assert_eq!(a.info.natural, Size::new(1280, 720));
    assert_same(&a, &b, 0);
    assert_same_sound(&clip, &out);
}
