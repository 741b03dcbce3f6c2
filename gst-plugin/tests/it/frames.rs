//! Frames and their pictures.

use std::process::Command;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use livediffusion_pipeline::Control;
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_session::{Layer, ModelOptions, OpenPack, Session};

use crate::support::{FRAME, Picture, Rig, frame, is_ready, of_tiny, tiny};

const SIDE: usize = 64;
const SQUARE: (usize, usize) = (SIDE, SIDE);

/// What the engine makes of frames, without GStreamer.
fn expected(values: &[(&str, &str)], count: u64) -> Vec<Vec<u8>> {
    let options =
        ModelOptions { model: Some(tiny()), provider: "cpu".parse().ok(), threads: Some(1), ..ModelOptions::default() };
    let open = OpenPack::open(&options).unwrap();
    let values = values.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let layer = Layer { origin: String::new(), values };
    let mut parameters = livediffusion_session::parameters(&open.pack, None, &[layer]).unwrap();
    let size = Size::new(SIDE, SIDE);
    parameters.size = Some(size);
    let mut session = Session::load(&options, open, 1).unwrap();
    let control = Control::new(session.settings(parameters, size).unwrap());
    let mut painter = session.painter(size, control).unwrap();
    let mut pictures = Vec::new();
    for id in 0..count {
        let rgb = frame(id, SIDE, SIDE);
        let meta = FrameMeta { id, ..FrameMeta::default() };
        let emitted = painter.step(meta, PictureView::packed(size, &rgb)).unwrap();
        pictures.extend(emitted.iter().map(|picture| picture.rgb.to_vec()));
    }
    pictures.extend(painter.flush().unwrap().iter().map(|picture| picture.rgb.to_vec()));
    pictures
}

#[test]
fn pictures_are_those_of_the_engine_and_have_what_is_known_of_their_frames() {
    if !is_ready() {
        return;
    }
    for (steps, lanes) in [("45", 1u32), ("20,32,45", 1), ("20,32,45", 2)] {
        let properties = of_tiny(&format!("size=64x64 prompt=\"a fox\" t-index={steps} seed=7"));
        let rig = Rig::new(&properties, SQUARE);
        rig.filter.set_property("lanes", lanes);
        rig.filter.set_property("threads", lanes);
        let rig = rig.play();
        (0..7).for_each(|index| rig.push(index, SQUARE));
        let pictures = rig.finish();
        let expected = expected(&[("prompt", "a fox"), ("t-index", steps), ("seed", "7")], 7);
        assert_eq!(pictures.len(), 7);
        for (index, (Picture { ms, duration_ms, offset, rgb, .. }, expected)) in
            pictures.iter().zip(expected).enumerate()
        {
            let index = index as u64;
            assert_eq!((*ms, *duration_ms, *offset), (index * FRAME, Some(FRAME), index));
            assert!(*rgb == expected, "{steps} {lanes}: picture {index} is another one");
        }
        let stats = rig.filter.property::<gst::Structure>("stats");
        assert_eq!((stats.get("frames-in"), stats.get("frames-out")), (Ok(7u64), Ok(7u64)));
        assert_eq!((stats.get::<&str>("provider"), stats.get("lanes")), (Ok("cpu"), Ok(lanes)));
    }
}

#[test]
fn frames_of_any_size_keep_it_and_their_shape() {
    if !is_ready() {
        return;
    }
    // 70 pixels a row are 210 bytes, behind which GStreamer leaves two.
    let (width, height) = (70, 126);
    let rig = Rig::new("threads=1", (width, height)).play();
    for index in 0..2 {
        let mut padded = Vec::new();
        let drawn = frame(index, width, height);
        drawn.chunks(3 * width).for_each(|row| padded.extend(row.iter().chain(&[0, 0])));
        rig.push_bytes(index, padded);
    }
    let pictures = rig.finish();
    assert_eq!(pictures.iter().map(|picture| picture.size).collect::<Vec<_>>(), [(70, 126); 2]);
    let levels = |rgb: &[u8]| rgb.iter().max().unwrap() - rgb.iter().min().unwrap();
    assert!(pictures.iter().all(|picture| levels(&picture.rgb) > 20), "a picture is flat");
    // As many pixels as the model's 256x256, in the shape of the frames.
    assert_eq!(rig.filter.property::<String>("size"), "192x352");
    assert_eq!(rig.filter.property::<gst::Structure>("stats").get::<&str>("size"), Ok("192x352"));
}

#[test]
fn frames_in_flight_leave_before_frames_of_another_size() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=20,32,45"), SQUARE).play();
    (0..4).for_each(|index| rig.push(index, SQUARE));
    rig.size(96, SIDE);
    (4..8).for_each(|index| rig.push(index, (96, SIDE)));
    let pictures = rig.finish();
    let seen: Vec<_> = pictures.iter().map(|picture| (picture.ms / FRAME, picture.size.0)).collect();
    assert_eq!(seen, [(0, 64), (1, 64), (2, 64), (3, 64), (4, 96), (5, 96), (6, 96), (7, 96)]);
    assert_eq!(rig.filter.property::<gst::Structure>("stats").get("frames-in"), Ok(8u64));
}

#[test]
fn frames_in_flight_leave_before_what_comes_after_them() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=20,32,45"), SQUARE);
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let theirs = Arc::clone(&seen);
    let kinds = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM;
    rig.filter.static_pad("src").unwrap().add_probe(kinds, move |_, info| {
        let what = match info.data.as_ref() {
            Some(gst::PadProbeData::Buffer(buffer)) => format!("{}", buffer.pts().unwrap().mseconds() / FRAME),
            Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::CustomDownstream => {
                "mark".to_owned()
            }
            _ => return gst::PadProbeReturn::Ok,
        };
        theirs.lock().unwrap().push(what);
        gst::PadProbeReturn::Ok
    });
    let rig = rig.play();
    (0..4).for_each(|index| rig.push(index, SQUARE));
    rig.entered(4);
    let mark = gst::event::CustomDownstream::new(gst::Structure::new_empty("mark"));
    rig.src.static_pad("src").unwrap().push_event(mark);
    (4..6).for_each(|index| rig.push(index, SQUARE));
    rig.finish();
    assert_eq!(*seen.lock().unwrap(), ["0", "1", "2", "3", "mark", "4", "5"]);
}

#[test]
fn a_line_is_painted_at_no_more_than_the_models_size() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new("threads=1", (320, 240)).play();
    rig.push(0, (320, 240));
    rig.size(4096, 1);
    rig.push(1, (4096, 1));
    let sizes: Vec<_> = rig.finish().iter().map(|picture| picture.size).collect();
    assert_eq!(sizes, [(320, 240), (4096, 1)]);
    assert!(rig.error().is_none());
}

#[test]
fn a_gap_lets_frames_in_flight_go_and_a_flush_forgets_them() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=20,32,45"), SQUARE).play();
    rig.push(0, SQUARE);
    rig.push(1, SQUARE);
    rig.entered(2);
    let gap = gst::event::Gap::builder(gst::ClockTime::from_mseconds(2 * FRAME)).build();
    rig.src.static_pad("src").unwrap().push_event(gap);
    assert_eq!([rig.pull().unwrap().ms, rig.pull().unwrap().ms], [0, FRAME]);
    (2..6).for_each(|index| rig.push(index, SQUARE));
    // The third of them brings the first one's picture.
    assert_eq!(rig.pull().unwrap().ms, 2 * FRAME);
    assert_eq!(rig.pull().unwrap().ms, 3 * FRAME);
    rig.entered(6);
    // To the source itself: past it, on its pad, it would stop for good if it came for the next frame just between the two.
    rig.src.send_event(gst::event::FlushStart::new());
    rig.src.send_event(gst::event::FlushStop::new(false));
    (20..24).for_each(|index| rig.push(index, SQUARE));
    let times: Vec<_> = rig.finish().iter().map(|picture| picture.ms / FRAME).collect();
    assert_eq!(times, [20, 21, 22, 23]);
}

#[test]
fn what_gstreamer_loads_is_the_plugin() {
    gst::init().unwrap();
    // Beside the tests: Cargo builds all kinds of the library at once.
    let built = std::env::current_exe().unwrap().with_file_name("libgstlivediffusion.so");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(&built, folder.path().join("libgstlivediffusion.so")).unwrap();
    let inspected = Command::new("gst-inspect-1.0")
        .arg("livediffusion")
        .env("GST_PLUGIN_PATH", folder.path())
        .env("GST_REGISTRY", folder.path().join("registry"))
        .env_remove("GST_DEBUG")
        .output();
    let Ok(inspected) = inspected else {
        println!("skipped: there is no gst-inspect-1.0");
        return;
    };
    let text = String::from_utf8_lossy(&inspected.stdout);
    for word in ["Filter/Effect/Video", "MIT/X11", "What the picture shall become", "negative-prompt", "PLAYING"] {
        assert!(text.contains(word), "{word}: {text} {}", String::from_utf8_lossy(&inspected.stderr));
    }
    let is_flag = |word: &&str| word.trim_start_matches('-').len() + 2 == word.len() && word.len() > 2;
    assert_eq!(text.split_whitespace().find(is_flag), None);
}
