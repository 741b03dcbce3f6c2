//! After warm-up the frame path allocates nothing: a counting allocator watches the engine.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use livediffusion_pipeline::batching::SharedDenoiser;
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::fake::{self, LengthText};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::lanes::Lanes;
use livediffusion_pipeline::model::{Branch, Networks, TextEncoder};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, PromptPair, Settings};

struct Counting;

/// Allocations of the threads that are watched: a test harness has threads of its own.
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(u64::from(WATCHED.with(Cell::get)), Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a test makes a stream from.
#[allow(clippy::unwrap_used, reason = "a test's helper: a panic is how it fails")]
fn stream(pairs: &[(&str, &str)], size: Size) -> (Control, ModelFacts) {
    let mut parameters = Parameters::default();
    for (name, value) in pairs {
        parameters.set(name, value).unwrap();
    }
    let text = Arc::new(LengthText.encode("a fox", size).unwrap());
    let prompts = Arc::new(PromptPair { prompt: Arc::clone(&text), negative: text });
    let facts = fake::facts(4);
    (Control::new(Settings { parameters, prompts }), facts)
}

fn networks() -> Networks {
    let unet = |x: f32, _, _, _: Branch, _| {
        WATCHED.with(|watched| watched.set(true));
        0.3 * x
    };
    fake::networks(4, fake::PointwiseDenoiser(unet))
}

fn pictures(size: Size) -> Vec<Vec<u8>> {
    (0..7).map(|id: usize| (0..3 * size.pixels()).map(|i| (i * id) as u8).collect()).collect()
}

/// Allocations of a stream while it takes these frames.
fn allocated(size: Size, ids: Range<u64>, mut step: impl FnMut(FrameMeta, PictureView<'_>)) -> u64 {
    let pictures = pictures(size);
    let before = COUNT.load(Ordering::Relaxed);
    for id in ids {
        // Every picture twice, so that the filter has something to skip.
        let picture = &pictures[(id / 2 % 7) as usize];
        step(FrameMeta { id, ..FrameMeta::default() }, PictureView::packed(size, picture));
    }
    COUNT.load(Ordering::Relaxed) - before
}

#[test]
fn the_engine_allocates_nothing_after_warm_up() {
    WATCHED.with(|watched| watched.set(true));
    let size = Size::new(64, 32);
    for (t_index, cfg, solver, frame_buffer, similarity) in [
        ("45", "self", "lcm", "1", "off"),
        ("16,32,45", "initialize", "lcm", "1", "0.9"),
        ("16,32,45", "full", "deis", "2", "off"),
        ("0,16,32,45", "self", "ghvb", "3", "0.9"),
    ] {
        let pairs = [
            ("t-index", t_index),
            ("cfg", cfg),
            ("scheduler", solver),
            ("frame-buffer", frame_buffer),
            ("similarity", similarity),
            ("guidance", "1.4"),
            ("feedback", "0.2"),
        ];
        let (control, facts) = stream(&pairs, size);
        let mut engine = Engine::new(networks(), facts, size, control, Box::new(MonotonicClock::start())).unwrap();
        let mut feed = |ids| {
            allocated(size, ids, |meta, picture| {
                engine.step(meta, picture).unwrap();
            })
        };
        assert!(feed(0..40) > 0, "the counter does not count");
        assert_eq!(feed(40..200), 0, "{t_index} {cfg} {solver} {frame_buffer} {similarity}");
    }
}

#[test]
fn a_controlnet_allocates_nothing_after_warm_up() {
    WATCHED.with(|watched| watched.set(true));
    let size = Size::new(64, 32);
    let unet = || fake::ControlledDenoiser(|x: f32, shown: f32, scale: f32| 0.3 * x + scale * shown);
    for (preprocessor, frame_buffer, is_shared) in [("canny", "2", false), ("gray", "1", false), ("canny", "1", true)] {
        let pairs = [
            ("t-index", "16,32,45"),
            ("cfg", "full"),
            ("guidance", "1.4"),
            ("similarity", "0.9"),
            ("frame-buffer", frame_buffer),
            ("preprocessor", preprocessor),
        ];
        let (control, facts) = stream(&pairs, size);
        let shared = SharedDenoiser::new(Box::new(unet()), 8);
        let networks = fake::networks(4, unet());
        let networks = if is_shared { Networks { denoiser: shared.handle(), ..networks } } else { networks };
        let mut engine = Engine::new(networks, facts, size, control, Box::new(MonotonicClock::start())).unwrap();
        let mut feed = |ids| {
            allocated(size, ids, |meta, picture| {
                engine.step(meta, picture).unwrap();
            })
        };
        assert!(feed(0..60) > 0, "the counter does not count");
        assert_eq!(feed(60..300), 0, "{preprocessor} {frame_buffer} {is_shared}");
    }
}

#[test]
fn lanes_allocate_nothing_after_warm_up() {
    WATCHED.with(|watched| watched.set(true));
    let size = Size::new(64, 32);
    for similarity in ["off", "0.9"] {
        let pairs = [("t-index", "16,32"), ("cfg", "self"), ("guidance", "1.4"), ("similarity", similarity)];
        let (control, facts) = stream(&pairs, size);
        let networks = (0..3).map(|_| networks()).collect();
        let mut lanes = Lanes::new(networks, facts, size, control, &MonotonicClock::start()).unwrap();
        let mut feed = |ids| {
            allocated(size, ids, |meta, picture| {
                lanes.step(meta, picture).unwrap();
            })
        };
        assert!(feed(0..200) > 0, "the counter does not count");
        // The first wait on a channel allocates once, whenever that happens; there are two channels with two ends a lane.
        let allocated = feed(200..2000);
        assert!(allocated <= 3 * 4, "filter {similarity}: {allocated} allocations for 1800 frames");
    }
}
