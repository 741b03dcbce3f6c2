//! Peers that publish and peers that watch, on this machine.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Takes what `publishing` sends, and counts the pictures; with the answer that it got.
fn counted(publishing: &Caller) -> (Publisher, String, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&count);
    let take = move |_| {
        theirs.fetch_add(1, Ordering::Relaxed);
    };
    let (publisher, answer) = Publisher::answer(&publishing.offer(), &loopback(), SIZE, take).unwrap();
    println!("{answer}");
    publishing.accept(&answer);
    (publisher, answer, count)
}

/// What is asked for is lost like anything else, and browsers send no whole picture of their own accord.
/// Of VP8 GStreamer asks again by itself.
#[test]
fn a_publisher_of_h264_is_asked_until_a_picture_comes() {
    if cannot_call() {
        return;
    }
    let publishing = Caller::publish("H264", "ball");
    let (publisher, _, count) = counted(&publishing);
    let pictures = |_| count.load(Ordering::Relaxed);
    publishing.until("pictures", |seen| pictures(seen) > 10);
    let deaf = publishing.lose_one_and_hear_nothing();
    let (before, stood) = (Cell::new(0), Cell::new(0));
    publishing.until("nothing after a loss", |seen| {
        let last = before.replace(pictures(seen));
        stood.set(if last == before.get() { stood.get() + 1 } else { 0 });
        stood.get() > 25
    });
    drop(deaf);
    publishing.until("pictures again", |seen| pictures(seen) > before.get() + 10);
    publisher.check().unwrap();
}

/// Without that, each loss would be a standstill up to the next whole picture, of which there would be as many.
#[test]
fn what_a_publisher_loses_is_asked_for_again() {
    if cannot_call() {
        return;
    }
    for codec in ["H264", "VP8"] {
        let publishing = Caller::publish(codec, "ball");
        let (publisher, answer, count) = counted(&publishing);
        let pictures = || count.load(Ordering::Relaxed);
        publishing.until("pictures", |_| pictures() > 5);
        let (head, _) = answer.split_once(" rtx/90000").expect("what repairs the pictures");
        let again = head.rsplit_once("a=rtpmap:").unwrap().1.parse().unwrap();
        let repairs = publishing.lose_many_sent(again);
        let before = pictures();
        publishing.until("packets sent again", |_| repairs.load(Ordering::Relaxed) > 20);
        println!("{codec}: {} pictures came meanwhile", pictures() - before);
        publishing.until("pictures again", |_| pictures() > before + 20);
        publisher.check().unwrap();
    }
}

#[test]
fn what_a_viewer_loses_is_sent_again() {
    if cannot_call() {
        return;
    }
    for codec in ["H264", "VP8"] {
        let watching = Caller::watch(codec);
        let (viewer, answer) = Viewer::answer(&watching.offer(), &loopback(), SIZE).unwrap();
        println!("{answer}");
        let (audience, viewer) = (Audience::default(), Arc::new(viewer));
        assert!(audience.reserve("a", 1));
        audience.enter("a", &viewer);
        watching.accept(&answer);
        let level = Cell::new(0_u8);
        let show = || {
            level.set(level.get().wrapping_add(16));
            audience.show(&vec![level.get(); 3 * SIZE.pixels()], SIZE).unwrap();
        };
        let shown = |is_right: &dyn Fn() -> bool| {
            show();
            is_right()
        };
        watching.until("pictures", |seen| shown(&|| seen.frames > 5));
        watching.lose_many();
        let before = watching.lost_and_repaired().0;
        watching.until("packets sent again", |_| shown(&|| watching.lost_and_repaired().1 > 20));
        let (lost, repaired) = watching.lost_and_repaired();
        println!("{codec}: {repaired} packets came again, {} never", lost - before);
        assert!(lost - before <= repaired);
        viewer.check().unwrap();
    }
}
