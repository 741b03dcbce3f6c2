//! A stream that holds its rate: what it computes when nothing is late, what it gives up when the machine is slow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livediffusion_pipeline::adaptive::{Adaptive, Fork};
use livediffusion_pipeline::fake::{self, PointwiseDenoiser};
use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::model::{Branch, DenoiseBatch, Denoiser, ModelError};
use livediffusion_pipeline::stats::{Clock, StoppedClock};
use livediffusion_pipeline::{Control, EngineError};

use crate::support::{FACTOR, Out, SIZE, collect, engine, facts, grey, meta, parameters, run, settings};

fn unet(x: f32, t: f32, step: usize, _: Branch, prompt: f32) -> f32 {
    (0.7 * x + 0.0003 * t).sin() + 0.01 * step as f32 + 0.02 * prompt
}

/// A rate so low that no picture is late.
const ANY_RATE: f64 = 1e-3;

fn adaptive(
    fork: impl Fn() -> Box<dyn Denoiser> + Send + Sync + 'static,
    pairs: &[(&str, &str)],
    target_fps: f64,
    clock: impl Clock + Clone + Sync + 'static,
) -> (Adaptive, Control) {
    let control = Control::new(settings(parameters(pairs)));
    let fork: Fork = Arc::new(move || fake::networks(FACTOR, Boxed(fork())));
    (Adaptive::new(fork, facts(), SIZE, control.clone(), target_fps, clock).unwrap(), control)
}

struct Boxed(Box<dyn Denoiser>);

impl Denoiser for Boxed {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        self.0.denoise(batch, out)
    }
}

fn step(adaptive: &mut Adaptive, id: u64) -> Vec<Out> {
    collect(adaptive.step(meta(id), PictureView::packed(SIZE, &grey((id * 9 % 256) as u8))).unwrap())
}

#[test]
fn with_time_enough_it_paints_what_the_engine_paints() {
    for pairs in [[("t-index", "45"), ("cfg", "self")], [("t-index", "10,30,45"), ("cfg", "none")]] {
        let pictures: Vec<_> = (0..10).map(|id| grey(id * 25)).collect();
        let expected = run(&mut engine(unet, &pairs).0, &pictures);
        let (mut adaptive, _) = adaptive(|| Box::new(PointwiseDenoiser(unet)), &pairs, ANY_RATE, StoppedClock);
        let mut out = Vec::new();
        for (id, rgb) in pictures.iter().enumerate() {
            out.extend(collect(adaptive.step(meta(id as u64), PictureView::packed(SIZE, rgb)).unwrap()));
        }
        out.extend(collect(adaptive.flush().unwrap()));
        assert_eq!(out.len(), expected.len());
        for (have, want) in out.iter().zip(&expected) {
            assert_eq!((have.meta, &have.rgb, have.repeated), (want.meta, &want.rgb, false));
        }
        assert_eq!((adaptive.stats().frames_in, adaptive.stats().frames_out, adaptive.quality().repeated), (10, 10, 0));
        // A stream may go on after it was finished.
        let mut again: Vec<Out> = (0..10).flat_map(|id| step(&mut adaptive, id)).collect();
        again.extend(collect(adaptive.flush().unwrap()));
        assert_eq!(again.iter().map(|out| out.meta.id).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }
}

/// A clock that only the networks move: a row costs as many microseconds as its latent has values, times a load.
#[derive(Clone, Default)]
struct Machine {
    nanos: Arc<AtomicU64>,
    load: Arc<AtomicU64>,
}

impl Clock for Machine {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst))
    }
}

struct Slow(Machine);

impl Denoiser for Slow {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let work = out.len() as u64 * self.0.load.load(Ordering::SeqCst);
        self.0.nanos.fetch_add(1_000 * work, Ordering::SeqCst);
        PointwiseDenoiser(unet).denoise(batch, out)
    }
}

#[test]
fn a_slow_machine_gets_smaller_pictures_then_fewer_steps_and_a_free_one_gets_them_back() {
    let machine = Machine::default();
    machine.load.store(100, Ordering::SeqCst);
    let theirs = machine.clone();
    let pairs = [("t-index", "20,30,45"), ("cfg", "none")];
    // 32 values a row at full size, 3 rows: 9.6 ms a frame at load 100, of 20.
    let (mut adaptive, control) = adaptive(move || Box::new(Slow(theirs.clone())), &pairs, 50.0, machine.clone());
    let mut id = 0;
    let mut out = Vec::new();
    let mut frames = |adaptive: &mut Adaptive, count: u64| {
        for _ in 0..count {
            out.extend(step(adaptive, id));
            // The rest of a frame's time passes idle.
            machine.nanos.fetch_add(10_000_000, Ordering::SeqCst);
            // A real machine's next engine is ready some frames later.
            std::thread::yield_now();
            id += 1;
        }
    };
    let until = |adaptive: &mut Adaptive, frames: &mut dyn FnMut(&mut Adaptive, u64), wanted: (Size, usize)| {
        for _ in 0..20_000 {
            frames(adaptive, 1);
            if (adaptive.quality().size, adaptive.quality().steps) == wanted {
                return;
            }
        }
        panic!("{:?} in place of {wanted:?}", adaptive.quality());
    };
    frames(&mut adaptive, 60);
    assert_eq!((adaptive.quality().size, adaptive.quality().steps, adaptive.quality().changes), (SIZE, 3, 0));
    machine.load.store(500, Ordering::SeqCst);
    // 12×4 pictures: 3 × 1 latents of 4 channels, 12 values a row, 18 ms a frame.
    until(&mut adaptive, &mut frames, (Size::new(12, 4), 3));
    machine.load.store(700, Ordering::SeqCst);
    until(&mut adaptive, &mut frames, (Size::new(8, 4), 3));
    machine.load.store(1_100, Ordering::SeqCst);
    until(&mut adaptive, &mut frames, (Size::new(8, 4), 2));
    machine.load.store(2_400, Ordering::SeqCst);
    until(&mut adaptive, &mut frames, (Size::new(8, 4), 1));
    // Settings change while quality is low: the steps that are left are the new list's last.
    control.store(settings(parameters(&[("t-index", "5,15,25"), ("cfg", "none"), ("guidance", "1.5")])));
    frames(&mut adaptive, 3);
    machine.load.store(10, Ordering::SeqCst);
    until(&mut adaptive, &mut frames, (SIZE, 3));
    assert!(adaptive.quality().changes >= 4);
    out.extend(collect(adaptive.flush().unwrap()));
    // Whatever happened, every frame left once, in order, in full size.
    assert_eq!(out.iter().map(|out| out.meta.id).collect::<Vec<_>>(), (0..id).collect::<Vec<_>>());
    assert!(out.iter().all(|out| out.rgb.len() == 3 * SIZE.pixels()));
}

/// Waits for a permit for each call.
struct Gated(Arc<Mutex<Receiver<()>>>);

impl Denoiser for Gated {
    fn denoise(&mut self, _: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let _ = self.0.lock().unwrap().recv();
        out.fill(0.1);
        Ok(())
    }
}

#[test]
fn a_late_picture_is_answered_with_the_last_one_and_shown_with_the_next_frame() {
    let (permits, gate) = sync_channel(100);
    let gate = Arc::new(Mutex::new(gate));
    let fork = move || Box::new(Gated(Arc::clone(&gate))) as Box<dyn Denoiser>;
    // Ten milliseconds for each frame, and nothing happens on the clock that the controller sees.
    let (mut adaptive, _) = adaptive(fork, &[("t-index", "45"), ("cfg", "none")], 100.0, StoppedClock);
    permits.send(()).unwrap();
    let first = step(&mut adaptive, 0);
    assert_eq!((first.len(), first[0].repeated), (1, false));
    for id in 1..5 {
        let late = step(&mut adaptive, id);
        assert_eq!((late.len(), late[0].meta.id, late[0].repeated), (1, id, true));
        assert_eq!(late[0].rgb, first[0].rgb);
    }
    assert_eq!(adaptive.quality().repeated, 4);
    permits.send(()).unwrap();
    // The picture of frame 1, as soon as it is there.
    let mut id = 5;
    let shown = loop {
        let out = step(&mut adaptive, id);
        assert_eq!((out.len(), out[0].meta.id), (1, id));
        if !out[0].repeated {
            break out;
        }
        id += 1;
    };
    assert_ne!(shown[0].rgb, first[0].rgb);
    for _ in 0..90 {
        let _ = permits.try_send(());
    }
    assert_eq!(collect(adaptive.flush().unwrap()).len(), 0);
    assert_eq!(adaptive.stats().frames_in, adaptive.stats().frames_out);
}

struct OneSize(Machine);
impl Denoiser for OneSize {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        if batch.shape != facts().latent_shape(SIZE).unwrap() {
            return Err(ModelError::new("U-Net: it takes one size"));
        }
        Slow(self.0.clone()).denoise(batch, out)
    }
}

struct Fails;
impl Denoiser for Fails {
    fn denoise(&mut self, _: &DenoiseBatch<'_>, _: &mut [f32]) -> Result<(), ModelError> {
        Err(ModelError::new("out of memory").with_hint("use a smaller --size"))
    }
}

#[test]
fn errors_come_out_a_size_that_does_not_run_is_left_out_and_nonsense_is_refused() {
    let machine = Machine::default();
    machine.load.store(1_000, Ordering::SeqCst);
    let theirs = machine.clone();
    let pairs = [("t-index", "20,45"), ("cfg", "none")];
    let (mut slow, _) = adaptive(move || Box::new(OneSize(theirs.clone())), &pairs, 50.0, machine.clone());
    let mut id = 0;
    while slow.quality().steps == 2 {
        assert!(id < 100_000, "{:?}", slow.quality());
        step(&mut slow, id);
        machine.nanos.fetch_add(1_000_000, Ordering::SeqCst);
        std::thread::yield_now();
        id += 1;
    }
    assert_eq!((slow.quality().size, slow.quality().steps), (SIZE, 1));

    let (mut fails, _) = adaptive(|| Box::new(Fails), &pairs, ANY_RATE, StoppedClock);
    for id in 0..3 {
        let error = fails.step(meta(id), PictureView::packed(SIZE, &grey(9))).err().unwrap();
        assert_eq!(error.hint().as_deref(), Some("use a smaller --size"));
    }
    assert!(collect(fails.flush().unwrap()).is_empty());
    assert!(matches!(
        fails.step(meta(9), PictureView::packed(Size::new(32, 8), &[0; 768])),
        Err(EngineError::Picture { .. })
    ));
    let control = Control::new(settings(parameters(&[("frame-buffer", "2")])));
    let fork: Fork = Arc::new(|| fake::networks(FACTOR, PointwiseDenoiser(unet)));
    assert!(Adaptive::new(fork, facts(), SIZE, control, 30.0, StoppedClock).is_err());
}
