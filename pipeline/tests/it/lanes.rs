//! Lanes compute what one engine computes, in the same order, whatever happens to single frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use livediffusion_pipeline::fake::{self, PointwiseDenoiser};
use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::lanes::Lanes;
use livediffusion_pipeline::model::{Branch, DenoiseBatch, Denoiser, ModelError, Networks};
use livediffusion_pipeline::stats::{Stage, StoppedClock};
use livediffusion_pipeline::{Control, EngineError};

use crate::support::{FACTOR, Out, SIZE, collect, engine, facts, grey, meta, parameters, run, settings};

fn unet(x: f32, t: f32, step: usize, branch: Branch, prompt: f32) -> f32 {
    let branch = if branch == Branch::Negative { -0.2 } else { 0.1 };
    (0.7 * x + 0.0003 * t + branch).sin() + 0.01 * step as f32 + 0.02 * prompt
}

fn lanes_of(networks: Vec<Networks>, pairs: &[(&str, &str)]) -> (Lanes, Control) {
    let control = Control::new(settings(parameters(pairs)));
    (Lanes::new(networks, facts(), SIZE, control.clone(), &StoppedClock).unwrap(), control)
}

fn lanes(count: usize, pairs: &[(&str, &str)]) -> (Lanes, Control) {
    lanes_of((0..count).map(|_| fake::networks(FACTOR, PointwiseDenoiser(unet))).collect(), pairs)
}

fn run_lanes(lanes: &mut Lanes, pictures: &[Vec<u8>]) -> Vec<Out> {
    let mut out = Vec::new();
    for (id, rgb) in pictures.iter().enumerate() {
        out.extend(collect(lanes.step(meta(id as u64), PictureView::packed(SIZE, rgb)).unwrap()));
    }
    out.extend(collect(lanes.flush().unwrap()));
    out
}

fn ids(out: &[Out]) -> Vec<u64> {
    out.iter().map(|out| out.meta.id).collect()
}

/// Sees the frames of a stream's U-Net calls, and may take its time or fail.
struct Watched<F>(F);

impl<F: FnMut(u64, &mut [f32]) -> Result<(), ModelError> + Send> Denoiser for Watched<F> {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let len = batch.shape.len();
        out.fill(0.1);
        batch.rows.iter().zip(out.chunks_mut(len)).try_for_each(|(row, out)| (self.0)(row.frame, out))
    }
}

/// Counts how many of it were dropped.
struct Counted(Arc<AtomicUsize>);

impl Denoiser for Counted {
    fn denoise(&mut self, _: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        out.fill(0.0);
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn lanes_equal_one_engine(
        count in 1..5_usize,
        frames in 0..14_u8,
        cfg in 0..4_usize,
        indices in prop::collection::btree_set(0..50_usize, 1..5),
        guidance in 0.5_f32..3.0,
        filter in any::<bool>(),
        seed in any::<u64>(),
        levels in prop::collection::vec(any::<bool>(), 14),
    ) {
        let indices: Vec<_> = indices.iter().map(usize::to_string).collect();
        let cfg = ["none", "self", "initialize", "full"][cfg];
        let similarity = if filter { "0.9" } else { "off" };
        let pairs = [
            ("cfg", cfg), ("t-index", &indices.join(",")), ("guidance", &guidance.to_string()),
            ("seed", &seed.to_string()), ("prompt", "a fox"), ("similarity", similarity), ("max-skip", "2"),
            ("stream-batch", "false"),
        ];
        // Runs of equal pictures, so that the filter has something to skip.
        let pictures: Vec<_> = (0..frames).map(|id| grey(if levels[usize::from(id)] { 40 } else { 40 + 9 * id })).collect();
        let (mut one, _) = engine(unet, &pairs);
        let expected = run(&mut one, &pictures);
        let (mut many, _) = lanes(count, &pairs);
        prop_assert_eq!(&run_lanes(&mut many, &pictures), &expected);
        prop_assert_eq!(many.stats().frames_in, one.stats().frames_in);
        prop_assert_eq!(many.stats().frames_out, one.stats().frames_out);
        prop_assert_eq!(many.stats().frames_skipped, one.stats().frames_skipped);
        prop_assert_eq!(many.stats().unet_rows, one.stats().unet_rows);
        prop_assert_eq!(many.stats().count(Stage::Decode), one.stats().count(Stage::Decode));
        prop_assert_eq!(many.into_networks().len(), count);
    }
}

#[test]
fn txt2img_in_lanes_equals_one_engine() {
    let pairs = [("t-index", "10,30"), ("seed", "5"), ("stream-batch", "false")];
    let (mut one, _) = engine(unet, &pairs);
    let (mut many, _) = lanes(3, &pairs);
    let (mut expected, mut got) = (Vec::new(), Vec::new());
    for id in 0..7 {
        expected.extend(collect(one.generate(meta(id)).unwrap()));
        got.extend(collect(many.generate(meta(id)).unwrap()));
    }
    expected.extend(collect(one.flush().unwrap()));
    got.extend(collect(many.flush().unwrap()));
    assert_eq!(got, expected);
}

#[test]
fn a_change_takes_effect_at_a_frame_and_never_flickers() {
    let pictures: Vec<_> = (0..12).map(|id| grey(id * 20)).collect();
    let change = ["a fox", "a long painting of a fox"];
    let one = |prompt| {
        let (mut engine, _) = engine(unet, &[("t-index", "20,45"), ("stream-batch", "false"), ("prompt", prompt)]);
        run(&mut engine, &pictures)
    };
    let (before, after) = (one(change[0]), one(change[1]));
    let (mut many, control) = lanes(3, &[("t-index", "20,45"), ("prompt", change[0])]);
    let mut out = Vec::new();
    for (id, rgb) in pictures.iter().enumerate() {
        if id == 5 {
            control.store(settings(parameters(&[("t-index", "20,45"), ("prompt", change[1])])));
        }
        out.extend(collect(many.step(meta(id as u64), PictureView::packed(SIZE, rgb)).unwrap()));
    }
    out.extend(collect(many.flush().unwrap()));
    assert_eq!(out[..5], before[..5]);
    assert_eq!(out[5..], after[5..]);
    assert_ne!(before[5], after[5]);
}

#[test]
fn broken_frames_show_the_picture_before_and_three_in_a_row_stop_the_stream() {
    let broken = |bad: fn(u64) -> bool| {
        move |frame: u64, out: &mut [f32]| {
            if bad(frame) {
                out[0] = f32::NAN;
            }
            Ok(())
        }
    };
    let networks = |bad| (0..2).map(|_| fake::networks(FACTOR, Watched(broken(bad)))).collect();
    // Every second frame: each of one lane's, and never three in a row of the stream.
    let (mut every_second, _) = lanes_of(networks(|id| id % 2 == 1), &[("t-index", "45")]);
    let out = run_lanes(&mut every_second, &(0..10).map(|id| grey(id * 25)).collect::<Vec<_>>());
    assert_eq!(ids(&out), (0..10).collect::<Vec<_>>());
    for pair in out.chunks(2) {
        assert_eq!((&pair[1].rgb, pair[1].repeated), (&pair[0].rgb, true));
    }
    assert_eq!(every_second.stats().frames_failed, 5);

    let (mut dies, _) = lanes_of(networks(|id| id >= 3), &[("t-index", "45")]);
    let error = (0..12).find_map(|id| dies.step(meta(id), PictureView::packed(SIZE, &grey(9))).err());
    assert!(matches!(error, Some(EngineError::NotFinite { frames: 3 })), "{error:?}");
}

#[test]
fn pictures_leave_while_no_frame_comes() {
    let (mut lanes, _) = lanes(2, &[("t-index", "45")]);
    let mut out = collect(lanes.step(meta(0), PictureView::packed(SIZE, &grey(9))).unwrap());
    while out.is_empty() {
        out = collect(lanes.ready().unwrap());
        std::thread::yield_now();
    }
    assert_eq!(ids(&out), [0]);
    assert!(collect(lanes.ready().unwrap()).is_empty() && collect(lanes.flush().unwrap()).is_empty());
}

#[test]
fn a_network_error_comes_at_its_frame_and_the_rest_goes_on() {
    let fails = |frame: u64, _: &mut [f32]| {
        if frame == 4 { Err(ModelError::new("out of memory").with_hint("use a smaller --size")) } else { Ok(()) }
    };
    let networks = (0..3).map(|_| fake::networks(FACTOR, Watched(fails))).collect();
    let (mut lanes, _) = lanes_of(networks, &[("t-index", "45")]);
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    for id in 0..12 {
        match lanes.step(meta(id), PictureView::packed(SIZE, &grey(9))) {
            Ok(emitted) => out.extend(ids(&collect(emitted))),
            Err(error) => errors.push(error),
        }
    }
    match lanes.flush() {
        Ok(emitted) => out.extend(ids(&collect(emitted))),
        Err(error) => errors.push(error),
    }
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].hint().as_deref(), Some("use a smaller --size"));
    // Nothing else is lost: neither what was collected before the error nor the frame of the call that brought it.
    assert_eq!(out, (0..12).filter(|id| *id != 4).collect::<Vec<_>>());
}

#[test]
fn a_lane_that_panics_is_an_error_and_dropping_in_mid_stream_ends_the_threads() {
    let panics = |frame: u64, _: &mut [f32]| {
        assert!(frame != 2, "a panic on purpose");
        Ok(())
    };
    let networks = (0..2).map(|_| fake::networks(FACTOR, Watched(panics))).collect();
    let (mut lanes, _) = lanes_of(networks, &[("t-index", "45")]);
    let error = (0..20).find_map(|id| lanes.step(meta(id), PictureView::packed(SIZE, &grey(9))).err());
    assert!(matches!(error, Some(EngineError::Lane(_))), "{error:?}");
    // Every further frame for that lane is an error too, and none is waited for in vain.
    let errors = (20..30).filter(|id| lanes.step(meta(*id), PictureView::packed(SIZE, &grey(9))).is_err()).count();
    assert!(errors > 0);
    drop(lanes);

    let dropped = Arc::new(AtomicUsize::new(0));
    let networks = (0..3).map(|_| fake::networks(FACTOR, Counted(Arc::clone(&dropped)))).collect();
    let (mut lanes, _) = lanes_of(networks, &[("t-index", "45")]);
    for id in 0..5 {
        lanes.step(meta(id), PictureView::packed(SIZE, &grey(9))).unwrap();
    }
    drop(lanes);
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

#[test]
fn wrong_sizes_and_frame_buffers_are_refused() {
    let control = Control::new(settings(parameters(&[("frame-buffer", "2")])));
    let networks = || vec![fake::networks(FACTOR, PointwiseDenoiser(unet))];
    assert!(Lanes::new(networks(), facts(), SIZE, control, &StoppedClock).is_err());
    let control = Control::new(settings(parameters(&[])));
    assert!(Lanes::new(Vec::new(), facts(), SIZE, control.clone(), &StoppedClock).is_err());
    assert!(Lanes::new(networks(), facts(), Size::new(15, 8), control, &StoppedClock).is_err());
    let (mut lanes, _) = lanes(2, &[("t-index", "45")]);
    assert!(matches!(
        lanes.step(meta(0), PictureView::packed(Size::new(32, 8), &[0; 768])),
        Err(EngineError::Picture { .. })
    ));
}
