//! Streams whose networks change their size while frames go on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::fake::{self, PointwiseDenoiser};
use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::resizable::{Make, Resizable};
use livediffusion_pipeline::stats::{Stage, StoppedClock};
use livediffusion_pipeline::{Control, EngineError};

use crate::support::{FACTOR, Out, SIZE, collect, facts, grey, meta, parameters, settings};

const LARGE: Size = Size::new(32, 16);
const SMALL: Size = Size::new(8, 4);

/// A U-Net without noise to take away: pictures come out as they went in. Notes the sizes that were made.
fn make(made: &Arc<Mutex<Vec<Size>>>) -> Make {
    let made = Arc::clone(made);
    Arc::new(move |size, control| {
        made.lock().unwrap().push(size);
        if size == Size::new(24, 12) {
            return Err(EngineError::Lane("no room".into()));
        }
        let networks = fake::networks(FACTOR, PointwiseDenoiser(|x, _, _, _, _| x));
        Ok(Painter::Whole(Engine::new(networks, facts(), size, control, Box::new(StoppedClock))?))
    })
}

struct Stream {
    painter: Resizable,
    control: Control,
    made: Arc<Mutex<Vec<Size>>>,
    next: u64,
    out: Vec<Out>,
}

impl Stream {
    fn start(pairs: &[(&str, &str)]) -> Self {
        let made = Arc::default();
        let control = Control::new(settings(parameters(pairs)));
        let painter = Resizable::new(make(&made), facts(), SIZE, control.clone()).unwrap();
        Self { painter, control, made, next: 0, out: Vec::new() }
    }

    fn set(&self, name: &str, value: &str) {
        let mut new = self.control.load().parameters.clone();
        new.set(name, value).unwrap();
        self.control.store(settings(new));
    }

    fn step(&mut self) {
        let rgb = grey((10 * self.next % 256) as u8);
        let view = PictureView::packed(SIZE, &rgb);
        self.out.extend(collect(self.painter.step(meta(self.next), view).unwrap()));
        self.next += 1;
    }

    /// Steps until the networks work at `size`.
    fn until(&mut self, size: Size) {
        let (_sender, never) = std::sync::mpsc::sync_channel::<()>(1);
        for _ in 0..2000 {
            self.step();
            if self.painter.network_size() == size {
                return;
            }
            let _ = never.recv_timeout(Duration::from_millis(5));
        }
        panic!("the networks never worked at {size}");
    }
}

#[test]
fn the_size_changes_between_two_frames_and_no_frame_is_lost() {
    let mut stream = Stream::start(&[("t-index", "10,20,30"), ("cfg", "none")]);
    for size in [LARGE, SMALL, SIZE] {
        stream.step();
        stream.set("size", &size.to_string());
        stream.until(size);
        // Other parameters reach the new networks as they did the old ones.
        stream.set("t-index", "10,30");
        stream.step();
        stream.set("t-index", "10,20,30");
    }
    let count = stream.next;
    let last = collect(stream.painter.flush().unwrap());
    stream.out.extend(last);
    let ids: Vec<u64> = stream.out.iter().map(|out| out.meta.id).collect();
    assert_eq!(ids, (0..count).collect::<Vec<_>>());
    assert!(stream.out.iter().all(|out| out.meta == meta(out.meta.id) && out.rgb.len() == 3 * SIZE.pixels()));
    let stats = stream.painter.stats();
    assert_eq!((stats.frames_in, stats.frames_out, stats.frames_skipped), (count, count, 0));
    assert!(stats.count(Stage::Step) >= count);
    // A second flush adds nothing.
    let (steps, rows) = (stats.count(Stage::Step), stats.unet_rows);
    assert!(stream.painter.flush().unwrap().is_empty());
    assert_eq!((stream.painter.stats().count(Stage::Step), stream.painter.stats().unet_rows), (steps, rows));
    assert_eq!(*stream.made.lock().unwrap(), [SIZE, LARGE, SMALL, SIZE]);
}

#[test]
fn sizes_that_cannot_be_had_change_nothing_and_are_tried_once() {
    let mut stream = Stream::start(&[("t-index", "20"), ("cfg", "none")]);
    for size in ["30x13", "24x12"] {
        stream.set("size", size);
        for _ in 0..20 {
            stream.step();
        }
        // The thread that fails may take a while.
        let tries = AtomicUsize::new(0);
        while stream.made.lock().unwrap().len() < 2
            && size == "24x12"
            && tries.fetch_add(1, Ordering::SeqCst) < 10_000_000
        {
            stream.step();
        }
        stream.step();
        assert_eq!(stream.painter.network_size(), SIZE);
    }
    stream.set("guidance", "1.3");
    for _ in 0..20 {
        stream.step();
    }
    assert_eq!(stream.made.lock().unwrap().len(), 2);
    assert!(stream.out.iter().all(|out| !out.repeated));
}

#[test]
fn networks_of_another_size_than_the_frames_from_the_start() {
    let mut stream = Stream::start(&[("t-index", "20"), ("cfg", "none"), ("size", "32x16")]);
    assert_eq!(stream.painter.network_size(), LARGE);
    for _ in 0..3 {
        stream.step();
    }
    assert_eq!(stream.out.len(), 3);
    let wrong = grey(0);
    let view = PictureView::packed(Size::new(8, 16), &wrong);
    assert!(stream.painter.step(meta(9), view).is_err());
}
