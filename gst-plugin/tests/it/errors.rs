//! What is wrong is said, with what to do about it.

use gst::prelude::*;

use crate::support::{LONG, Rig, is_ready, of_tiny};

#[test]
fn what_cannot_be_is_said_before_a_frame_is_taken() {
    if !is_ready() {
        return;
    }
    for (properties, words) in [
        ("model=nothing", ["nothing", "default"]),
        ("cfg=fuller", ["fuller", "initialize"]),
        ("size=250x250", ["250x250", "size 256x256"]),
        ("t-index=48,49,50", ["50", "t-index 32,45"]),
        ("provider=gpu", ["gpu", "gst-inspect-1.0"]),
        ("preset=crayon", ["crayon", "oil-painting"]),
    ] {
        let rig = Rig::new(properties, (64, 64));
        assert!(rig.pipeline.set_state(gst::State::Playing).is_err(), "{properties}");
        let (what, hint) = rig.error().unwrap();
        assert!(what.contains(words[0]) && hint.contains(words[1]), "{properties}: {what}; {hint}");
        assert!(!what.contains("--") && !hint.contains("--"), "{properties} names a flag: {what}; {hint}");
    }
}

#[test]
fn a_library_that_is_not_there_is_said_once() {
    if !is_ready() {
        return;
    }
    let rig = Rig::new(&of_tiny("ort-lib=/nowhere"), (64, 64)).play();
    rig.push(0, (64, 64));
    let message = rig.message(gst::MessageType::Error);
    let gst::MessageView::Error(error) = message.view() else { panic!("no error") };
    assert!(error.error().message().contains("/nowhere"), "{}", error.error());
    assert_eq!(error.src().map(|src| src.name().to_string()), Some("filter".to_owned()));
    // What follows is of the source, which finds that nobody takes its frames.
    let others =
        std::iter::from_fn(|| rig.pipeline.bus().unwrap().timed_pop_filtered(LONG / 60, &[gst::MessageType::Error]));
    assert!(others.into_iter().all(|other| other.src() != error.src()));
}
