//! Peers that publish and peers that watch, on this machine.

use std::sync::Arc;

use livediffusion_io::{Audience, Publisher, Reach, Viewer};
use livediffusion_pipeline::frame::Size;

use crate::caller::{Caller, cannot_call};
use crate::support;

const SIZE: Size = Size::new(128, 96);

fn loopback() -> Reach {
    Reach::bound_to("127.0.0.1".parse().unwrap(), None)
}

/// What a publisher sends goes to a viewer, through us and back.
fn mirror(publishes: &str, watches: &str) {
    let audience = Arc::new(Audience::default());
    let publishing = Caller::publish(publishes, "ball");
    let theirs = Arc::clone(&audience);
    let (publisher, answer) = Publisher::answer(&publishing.offer(), &loopback(), SIZE, move |frame| {
        let size = frame.with_picture(|picture| picture.size).unwrap();
        theirs.show(&support::packed(&frame), size).unwrap();
    })
    .unwrap();
    println!("{answer}");
    publishing.accept(&answer);
    let watching = Caller::watch(watches);
    let (viewer, answer) = Viewer::answer(&watching.offer(), &loopback(), SIZE).unwrap();
    println!("{answer}");
    let viewer = Arc::new(viewer);
    assert!(audience.reserve("a", 1) && !audience.reserve("b", 1));
    audience.enter("a", &viewer);
    watching.accept(&answer);
    let seen = watching.until("pictures", |seen| seen.frames > 30 && seen.moved > 0.0);
    assert_eq!(seen.size, (128, 96));
    // Another size, while the stream runs.
    publisher.resize(Size::new(96, 96));
    watching.until("another size", |seen| seen.size == (96, 96));
    publisher.check().unwrap();
    viewer.check().unwrap();
}

#[test]
fn h264_comes_in_and_goes_out() {
    if !cannot_call() {
        mirror("H264", "H264");
    }
}

#[test]
fn vp8_comes_in_and_goes_out() {
    if !cannot_call() {
        mirror("VP8", "VP8");
    }
}
