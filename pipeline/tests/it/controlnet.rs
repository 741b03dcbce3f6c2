//! A ControlNet: each row is steered by the picture of its own frame, however many steps later, under the scale of the call.

use std::sync::{Arc, Mutex};

use livediffusion_pipeline::batching::SharedDenoiser;
use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::fake::{self, ControlledDenoiser};
use livediffusion_pipeline::frame::PictureView;
use livediffusion_pipeline::model::{Branch, DenoiseBatch, Denoiser, ModelError, Networks};
use livediffusion_pipeline::stats::Stage;

use crate::support::{FACTOR, Out, SIZE, collect, engine_of, grey, meta, parameters, settings};

/// A row as the U-Net saw it: call, frame, step, branch, the control image's first byte, scale.
type Seen = (usize, u64, usize, Branch, Option<u8>, f32);

/// A U-Net with a ControlNet that writes down its rows.
struct Noting {
    seen: Arc<Mutex<Vec<Seen>>>,
    calls: usize,
}

impl Denoiser for Noting {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        self.calls += 1;
        let first = |image: &Arc<ControlImage>| {
            assert!(image.size() == SIZE && image.rgb().iter().all(|byte| *byte == image.rgb()[0]));
            image.rgb()[0]
        };
        let rows = batch.rows.iter().map(|row| {
            (self.calls, row.frame, row.step, row.branch, row.control.as_ref().map(first), row.control_scale)
        });
        self.seen.lock().unwrap().extend(rows);
        out.copy_from_slice(batch.sample);
        Ok(())
    }

    fn takes_control(&self) -> bool {
        true
    }
}

fn noting() -> (Networks, Arc<Mutex<Vec<Seen>>>) {
    let seen = Arc::default();
    (fake::networks(FACTOR, Noting { seen: Arc::clone(&seen), calls: 0 }), seen)
}

/// A grey for each frame.
fn level(frame: u64) -> u8 {
    (10 + 20 * frame) as u8
}

#[test]
fn every_row_sees_its_own_frame() {
    for (frame_buffer, cfg) in [("1", "full"), ("2", "initialize"), ("1", "none")] {
        let (networks, seen) = noting();
        let more = [("cfg", cfg), ("guidance", "2"), ("frame-buffer", frame_buffer), ("t-index", "10,20,30")];
        let pairs = [&[("preprocessor", "passthrough"), ("control-scale", "0.7")], &more[..]].concat();
        let (mut engine, _) = engine_of(networks, &pairs);
        for id in 0..8 {
            engine.step(meta(id), PictureView::packed(SIZE, &grey(level(id)))).unwrap();
        }
        engine.flush().unwrap();
        let seen = seen.lock().unwrap();
        assert!(seen.len() >= 8 * 3, "{}", seen.len());
        assert_eq!(seen.iter().any(|row| row.3 == Branch::Negative), cfg != "none");
        for &(_, frame, step, branch, shown, scale) in &*seen {
            assert_eq!((shown, scale), (Some(level(frame)), 0.7), "frame {frame}, step {step}, {branch:?}");
        }
        assert_eq!(engine.stats().count(Stage::Control), 8);
    }
}

#[test]
fn the_scale_changes_for_frames_in_flight_and_the_picture_for_later_ones() {
    let (networks, seen) = noting();
    let pairs = [("preprocessor", "passthrough"), ("t-index", "10,20,30"), ("cfg", "none")];
    let (mut engine, control) = engine_of(networks, &pairs);
    for id in 0..6 {
        if id == 3 {
            let changed = [&pairs[1..], &[("preprocessor", "canny"), ("control-scale", "0.25")]].concat();
            control.store(settings(parameters(&changed)));
        }
        engine.step(meta(id), PictureView::packed(SIZE, &grey(level(id)))).unwrap();
    }
    let shown = |frame| if frame < 3 { level(frame) } else { 0 };
    for &(call, frame, _, _, image, scale) in &*seen.lock().unwrap() {
        let wanted = if call <= 3 { 1.0 } else { 0.25 };
        assert_eq!((image, scale), (Some(shown(frame)), wanted), "call {call}, frame {frame}");
    }
}

#[test]
fn frames_that_are_skipped_or_come_of_noise_have_no_control_image() {
    let (networks, seen) = noting();
    let pairs = [("preprocessor", "passthrough"), ("t-index", "10,20"), ("similarity", "0.99"), ("cfg", "none")];
    let (mut engine, _) = engine_of(networks, &pairs);
    // The second looks like the first.
    for (id, grey_level) in [(0, 50), (1, 50), (2, 200)] {
        engine.step(meta(id), PictureView::packed(SIZE, &grey(grey_level))).unwrap();
    }
    let skipped = engine.stats().frames_skipped;
    assert_eq!(engine.stats().count(Stage::Control), 3 - skipped);
    assert!(skipped > 0);
    for id in 3..6 {
        engine.generate(meta(id)).unwrap();
    }
    engine.flush().unwrap();
    let seen = seen.lock().unwrap();
    for &(_, frame, _, _, shown, scale) in &*seen {
        let wanted = match frame {
            0 | 1 => (Some(50), 1.0),
            2 => (Some(200), 1.0),
            _ => (None, 0.0),
        };
        assert_eq!((shown, scale), wanted, "frame {frame}");
    }
    assert!(seen.iter().any(|row| row.1 == 5));
}

/// What leaves of eight frames, in order.
fn painted(networks: Networks, more: &[(&str, &str)]) -> Vec<Out> {
    let pairs = [&[("preprocessor", "passthrough"), ("t-index", "10,20,30"), ("cfg", "none")], more].concat();
    let (mut engine, _) = engine_of(networks, &pairs);
    let mut all = Vec::new();
    for id in 0..8 {
        all.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(level(id)))).unwrap()));
    }
    all.extend(collect(engine.flush().unwrap()));
    all
}

fn steered() -> ControlledDenoiser<impl Fn(f32, f32, f32) -> f32 + Send> {
    ControlledDenoiser(|x: f32, shown: f32, scale: f32| (0.4 * x + 0.9 * scale * shown).sin())
}

#[test]
fn pictures_are_the_same_with_and_without_the_stream_batch_and_with_a_shared_unet() {
    let one = painted(fake::networks(FACTOR, steered()), &[]);
    assert_eq!(one.len(), 8);
    assert_eq!(painted(fake::networks(FACTOR, steered()), &[("stream-batch", "false")]), one);
    let shared = SharedDenoiser::new(Box::new(steered()), 8);
    assert_eq!(painted(Networks { denoiser: shared.handle(), ..fake::networks(FACTOR, steered()) }, &[]), one);
    assert_ne!(painted(fake::networks(FACTOR, steered()), &[("control-scale", "0.2")]), one);
}

#[test]
fn what_is_shown_to_it_can_be_looked_at() {
    for stream_batch in ["true", "false"] {
        let (networks, _) = noting();
        let pairs = [("preprocessor", "passthrough"), ("t-index", "10,20"), ("stream-batch", stream_batch)];
        let (mut engine, control) = engine_of(networks, &pairs);
        let mut all = Vec::new();
        for id in 0..6 {
            let value = if id == 3 { "true" } else { "false" };
            control.store(settings(parameters(&[&pairs[..], &[("show-control", value)]].concat())));
            all.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(level(id)))).unwrap()));
        }
        all.extend(collect(engine.flush().unwrap()));
        // While it is on the frame leaves that is ready then.
        let shown = if stream_batch == "true" { 2 } else { 3 };
        assert_eq!(all.iter().map(|out| out.meta.id).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        for out in all {
            assert_eq!(out.rgb == grey(level(out.meta.id)), out.meta.id == shown, "frame {}", out.meta.id);
            assert!(!out.repeated);
        }
    }
}

/// Gives no numbers for every third frame.
struct Breaking;

impl Denoiser for Breaking {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let len = batch.shape.len();
        for (row, out) in batch.rows.iter().zip(out.chunks_mut(len)) {
            out.fill(if row.frame % 3 == 2 { f32::NAN } else { 0.0 });
        }
        Ok(())
    }

    fn takes_control(&self) -> bool {
        true
    }
}

#[test]
fn frames_that_break_now_and_then_do_not_end_what_is_looked_at() {
    let pairs = [("preprocessor", "passthrough"), ("t-index", "10,20"), ("show-control", "true")];
    let (mut engine, _) = engine_of(fake::networks(FACTOR, Breaking), &pairs);
    let mut all = Vec::new();
    for id in 0..12 {
        all.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(level(id)))).unwrap()));
    }
    all.extend(collect(engine.flush().unwrap()));
    assert!(all.iter().zip(0..).all(|(out, id)| out.meta.id == id && out.rgb == grey(level(id))));
    assert_eq!((all.len(), engine.stats().frames_failed), (12, 4));
}
