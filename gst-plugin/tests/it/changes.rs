//! What changes while frames pass.

use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};

use crate::support::{LONG, Picture, Rig, is_ready, of_tiny};

const SQUARE: (usize, usize) = (64, 64);

/// Sends the same frame under new times until its picture is as wanted.
fn until(rig: &Rig, next: &mut u64, wanted: impl Fn(&Picture) -> bool) -> Picture {
    let began = MonotonicClock::start();
    while began.now() < LONG.into() {
        rig.push_bytes(*next, vec![90; 3 * SQUARE.0 * SQUARE.1]);
        *next += 1;
        let picture = rig.pull().unwrap();
        if wanted(&picture) {
            return picture;
        }
    }
    panic!("the change never came");
}

#[test]
fn parameters_change_while_frames_pass_and_what_cannot_be_changes_nothing() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=45 prompt=\"a fox\""), SQUARE).play();
    let mut next = 0;
    let first = until(&rig, &mut next, |_| true);
    assert!(until(&rig, &mut next, |_| true).rgb == first.rgb, "the same frame has another picture");
    // Not set by anyone: what the pack says.
    let guidance = rig.filter.property::<f64>("guidance");
    rig.filter.set_property("prompt", "a castle");
    assert_eq!(rig.filter.property::<String>("prompt"), "a castle");
    let castle = until(&rig, &mut next, |picture| picture.rgb != first.rgb);

    for (name, bad, good) in [("cfg", "fuller", "self"), ("t-index", "48,49,50", "45"), ("size", "250x250", "64x64")] {
        rig.filter.set_property(name, bad);
        let word = bad.split(',').next_back().unwrap();
        assert!(rig.warning().contains(word), "{name}");
        assert_eq!(rig.filter.property::<String>(name), good);
    }
    assert_eq!(rig.filter.property::<gst::Structure>("stats").get::<&str>("size"), Ok("64x64"));
    assert_eq!(rig.filter.property::<f64>("guidance"), guidance);
    assert!(until(&rig, &mut next, |_| true).rgb == castle.rgb);

    // The first prompt under its own seed: what was there before comes again.
    rig.filter.set_property("prompt", "a fox");
    until(&rig, &mut next, |picture| picture.rgb == first.rgb);
    rig.filter.set_property("seed", 9u64);
    until(&rig, &mut next, |picture| picture.rgb != first.rgb);
    assert!(rig.error().is_none());
}

#[test]
fn the_networks_take_another_size_while_frames_keep_theirs() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=45"), SQUARE).play();
    let mut next = 0;
    let first = until(&rig, &mut next, |_| true);
    rig.filter.set_property("size", "128x64");
    let other = until(&rig, &mut next, |picture| picture.rgb != first.rgb);
    assert_eq!(other.size, (64, 64));
    rig.filter.set_property("size", "auto");
    until(&rig, &mut next, |picture| picture.rgb == first.rgb);
}

#[test]
fn a_preset_wins_over_what_was_set_before_it_and_not_over_what_is_set_after() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new("threads=1 size=128x128 preset=neon-lights prompt=\"a fox\"", SQUARE).play();
    let mut next = 0;
    let fox = until(&rig, &mut next, |_| true);
    assert_eq!(rig.filter.property::<String>("prompt"), "a fox");
    rig.filter.set_property("preset", "pencil sketch");
    until(&rig, &mut next, |picture| picture.rgb != fox.rgb);
    assert_ne!(rig.filter.property::<String>("prompt"), "a fox");
    let sketch = until(&rig, &mut next, |_| true);
    rig.filter.set_property("prompt", "a fox");
    until(&rig, &mut next, |picture| picture.rgb != sketch.rgb);
    assert_eq!(rig.filter.property::<String>("prompt"), "a fox");
    rig.filter.set_property("preset", "crayon");
    assert!(rig.warning().contains("oil-painting"));
    assert_eq!(rig.filter.property::<String>("preset"), "pencil sketch");
}

/// A stream whose application answers the first word of loading, which waits for that, with `then`.
fn while_loading(prompt: &str, then: impl Fn(&gst::Element) + Send + Sync + 'static) -> Rig {
    let rig = Rig::new(&of_tiny(&format!("t-index=45 prompt=\"{prompt}\"")), SQUARE);
    let (filter, done) = (rig.filter.clone(), AtomicBool::new(false));
    rig.pipeline.bus().unwrap().set_sync_handler(move |_, message| {
        if message.type_() == gst::MessageType::Progress && !done.swap(true, Ordering::SeqCst) {
            then(&filter);
        }
        gst::BusSyncReply::Pass
    });
    rig.play()
}

#[test]
fn what_is_set_while_the_model_is_loaded_counts_as_far_as_it_can() {
    if !is_ready() {
        return;
    }
    let first = |rig: &Rig| until(rig, &mut 0, |_| true).rgb;
    let fox = first(&while_loading("a fox", |_| {}));
    assert!(first(&while_loading("a castle", |_| {})) != fox);
    let rig = while_loading("a castle", |filter| {
        filter.set_property("t-index", "48,49,50");
        filter.set_property("frame-buffer", 2u64);
        filter.set_property("prompt", "a fox");
    });
    assert!(first(&rig) == fox);
    assert!(rig.warning().contains("50"));
    assert_eq!(rig.filter.property::<String>("t-index"), "45");
    // It waits for the next start.
    assert_eq!(rig.filter.property::<u64>("frame-buffer"), 2);
    // Together they are right, in this order as in the other.
    let rig = while_loading("a castle", |filter| {
        filter.set_property("t-index", "2");
        filter.set_property("steps", 4u64);
    });
    assert!(first(&rig) != fox);
    assert_eq!(rig.filter.property::<String>("t-index"), "2");
}

#[test]
fn an_automatic_size_is_that_of_the_model_whatever_was_asked_for_before() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new("threads=1 size=128x128", (320, 240)).play();
    rig.push(0, (320, 240));
    assert_eq!(rig.pull().unwrap().size, (320, 240));
    rig.filter.set_property("size", "auto");
    let size = || rig.filter.property::<gst::Structure>("stats").get::<String>("size").unwrap();
    let (mut next, began) = (1, MonotonicClock::start());
    while size() != "288x224" {
        rig.push(next, (320, 240));
        rig.pull().unwrap();
        next += 1;
        assert!(began.now() < LONG.into(), "it stays at {}", size());
    }
}

/// Of a slow source, in ms: longer than any machine works on one.
const FRAME: u64 = 10_000;

#[test]
fn it_says_how_late_its_pictures_are() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=20,32,45"), SQUARE);
    rig.size_at(SQUARE.0, SQUARE.1, gst::Fraction::new(1000, FRAME as i32));
    rig.src.set_is_live(true);
    rig.src.set_property("min-latency", 0i64);
    let rig = rig.play();
    (0..3).for_each(|index| rig.push(index, SQUARE));
    assert_eq!(rig.pull().unwrap().ms, 0);
    // Its own two frames before it, and the work.
    assert_eq!(rig.latency(), (true, 3 * FRAME));
    while rig.pipeline.bus().unwrap().pop_filtered(&[gst::MessageType::Latency]).is_some() {}
    rig.filter.set_property("t-index", "45");
    let mut next = 3;
    until(&rig, &mut next, |_| rig.latency() == (true, FRAME));
    rig.message(gst::MessageType::Latency);
}

#[test]
fn it_starts_again_after_it_was_stopped() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("t-index=45 prompt=\"a fox\""), SQUARE).play();
    let first = until(&rig, &mut 0, |_| true);
    rig.pipeline.set_state(gst::State::Null).unwrap();
    rig.filter.set_property("prompt", "a castle");
    rig.pipeline.set_state(gst::State::Playing).unwrap();
    assert!(until(&rig, &mut 0, |_| true).rgb != first.rgb);
    rig.pipeline.set_state(gst::State::Ready).unwrap();
    rig.filter.set_property("prompt", "a fox");
    rig.pipeline.set_state(gst::State::Playing).unwrap();
    assert!(until(&rig, &mut 0, |_| true).rgb == first.rgb);
}
