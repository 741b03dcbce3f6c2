//! After the first frame of a shape, a frame allocates nothing on the Rust side.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{DenoiseBatch, TextEncoder as _};

use crate::support::{load, noise, pack_dir, row, runtime};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Counts this thread's allocations; ONNX Runtime's own do not pass through it.
struct Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe by definition")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_frame_allocates_nothing() {
    let Some(runtime) = runtime() else { return };
    for name in ["tiny-sd15-kl", "tiny-sdxlturbo"] {
        let (_, mut loaded) = load(&runtime, &pack_dir(name));
        let size = Size::new(64, 64);
        let shape = LatentShape { channels: 4, height: 8, width: 8 };
        let prompts = ["a cat", "a dog"].map(|p| Arc::new(loaded.text.encode(p, size).unwrap()));
        let encoder = loaded.networks.encoder.as_mut().unwrap();
        let picture = noise(3 * size.pixels(), 0.0);
        let (mut latent, mut back) = (vec![0.0; shape.len()], vec![0.0; picture.len()]);
        let (sample, mut out) = (noise(3 * shape.len(), 1.0), vec![0.0; 3 * shape.len()]);
        for frame in 0..6 {
            let prompt = &prompts[frame % 2];
            let rows = [row(900.0, &prompts[0]), row(500.0, prompt), row(100.0, prompt)];
            let before = COUNT.with(Cell::get);
            encoder.encode(&picture, 1, size, None, &mut latent).unwrap();
            let batch = DenoiseBatch { sample: &sample, shape, rows: &rows };
            loaded.networks.denoiser.denoise(&batch, &mut out).unwrap();
            loaded.networks.decoder.decode(&latent, 1, shape, &mut back).unwrap();
            let count = COUNT.with(Cell::get) - before;
            assert!(frame == 0 || count == 0, "{name}: frame {frame} allocated {count} times");
        }
    }
}
