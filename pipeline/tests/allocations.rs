//! After warm-up the frame path allocates nothing: a counting allocator watches the engine.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one only counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::fake::{self, LengthText};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::model::{Branch, TextEncoder};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::schedule::SchedulerConfig;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, PromptPair, Settings};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
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

#[test]
fn the_engine_allocates_nothing_after_warm_up() {
    let size = Size::new(64, 32);
    for (t_index, cfg, solver, frame_buffer, similarity) in [
        ("45", "self", "lcm", "1", "off"),
        ("16,32,45", "initialize", "lcm", "1", "0.9"),
        ("16,32,45", "full", "deis", "2", "off"),
        ("0,16,32,45", "self", "ghvb", "3", "0.9"),
    ] {
        let mut parameters = Parameters::default();
        for (name, value) in [
            ("t-index", t_index),
            ("cfg", cfg),
            ("scheduler", solver),
            ("frame-buffer", frame_buffer),
            ("similarity", similarity),
            ("guidance", "1.4"),
        ] {
            parameters.set(name, value).unwrap();
        }
        let text = Arc::new(LengthText.encode("a fox", size).unwrap());
        let prompts = Arc::new(PromptPair { prompt: Arc::clone(&text), negative: text });
        let control = Control::new(Settings { parameters, prompts });
        let facts =
            ModelFacts { vae_factor: 4, latent_multiple: 1, latent_channels: 4, scheduler: SchedulerConfig::default() };
        let networks = fake::networks(4, fake::PointwiseDenoiser(|x: f32, _, _, _: Branch, _| 0.3 * x));
        let mut engine = Engine::new(networks, facts, size, control, Box::new(MonotonicClock::start())).unwrap();
        let pictures: Vec<Vec<u8>> =
            (0..7).map(|id: usize| (0..3 * size.pixels()).map(|i| (i * id) as u8).collect()).collect();
        let mut feed = |ids: std::ops::Range<u64>| {
            let before = COUNT.with(Cell::get);
            for id in ids {
                // Every picture twice, so that the filter has something to skip.
                let picture = &pictures[(id / 2 % 7) as usize];
                let meta = FrameMeta { id, ..FrameMeta::default() };
                engine.step(meta, PictureView::packed(size, picture)).unwrap();
            }
            COUNT.with(Cell::get) - before
        };
        assert!(feed(0..40) > 0, "the counter does not count");
        assert_eq!(feed(40..200), 0, "{t_index} {cfg} {solver} {frame_buffer} {similarity}");
    }
}
