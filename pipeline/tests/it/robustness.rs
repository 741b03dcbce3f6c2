//! Broken networks and wrong inputs: a clear error or a counted loss, never a panic and never a broken picture.

use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::fake;
use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::model::{Branch, DenoiseBatch, Denoiser, ModelError};
use livediffusion_pipeline::stats::StoppedClock;
use livediffusion_pipeline::{Control, EngineError};

use crate::support::{FACTOR, SIZE, collect, engine, engine_of, facts, grey, meta, parameters, settings};

/// Gives NaN for the rows of some frames.
struct Breaks(fn(u64) -> bool);

impl Denoiser for Breaks {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        let len = batch.shape.len();
        for (row, out) in batch.rows.iter().zip(out.chunks_mut(len)) {
            out.fill(0.1);
            if (self.0)(row.frame) {
                out[len / 2] = f32::NAN;
            }
        }
        Ok(())
    }
}

#[test]
fn a_broken_frame_is_counted_and_the_picture_before_is_shown() {
    for t_index in ["45", "16,32,45"] {
        let (mut engine, _) =
            engine_of(fake::networks(FACTOR, Breaks(|id| id == 4 || id == 6)), &[("t-index", t_index)]);
        let out = crate::support::run(&mut engine, &(0..9).map(|id| grey(id * 25)).collect::<Vec<_>>());
        assert_eq!(out.iter().map(|out| out.meta.id).collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
        assert_eq!(engine.stats().frames_failed, 2);
        assert_eq!((&out[4].rgb, out[4].repeated), (&out[3].rgb, true));
        assert_eq!((&out[6].rgb, out[6].repeated), (&out[5].rgb, true));
        assert_ne!(out[7].rgb, out[6].rgb);
    }
}

#[test]
fn three_broken_frames_in_a_row_stop_the_stream_with_a_hint() {
    let (mut engine, _) = engine_of(fake::networks(FACTOR, Breaks(|id| id >= 3)), &[("t-index", "45")]);
    let mut failed = None;
    for id in 0..9 {
        if let Err(error) = engine.step(meta(id), PictureView::packed(SIZE, &grey(9))) {
            failed = Some((id, error));
            break;
        }
    }
    let (id, error) = failed.unwrap();
    assert_eq!(id, 5);
    assert!(matches!(error, EngineError::NotFinite { frames: 3 }), "{error}");
    assert!(error.hint().unwrap().contains("f16"));
}

#[test]
fn a_first_frame_that_breaks_is_dropped_rather_than_shown_black() {
    let (mut engine, _) = engine_of(fake::networks(FACTOR, Breaks(|id| id == 0)), &[("t-index", "45")]);
    assert!(engine.step(meta(0), PictureView::packed(SIZE, &grey(9))).unwrap().is_empty());
    assert_eq!(collect(engine.step(meta(1), PictureView::packed(SIZE, &grey(9))).unwrap()).len(), 1);
}

#[test]
fn a_network_error_names_itself_and_leaves_the_engine_usable() {
    struct FailsOnce(bool);
    impl Denoiser for FailsOnce {
        fn denoise(&mut self, _: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
            out.fill(0.0);
            if std::mem::replace(&mut self.0, false) {
                return Err(ModelError::new("the U-Net ran out of memory").with_hint("use a smaller --size"));
            }
            Ok(())
        }
    }
    let (mut engine, _) = engine_of(fake::networks(FACTOR, FailsOnce(true)), &[("t-index", "45")]);
    let error = engine.step(meta(0), PictureView::packed(SIZE, &grey(9))).unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("use a smaller --size"));
    assert!(!engine.step(meta(1), PictureView::packed(SIZE, &grey(9))).unwrap().is_empty());
}

#[test]
fn sizes_are_checked_and_the_nearest_is_offered() {
    for (size, nearest) in [(Size::new(15, 8), "16x8"), (Size::new(16, 9), "16x8"), (Size::new(1, 1), "4x4")] {
        let control = Control::new(settings(parameters(&[])));
        let networks = fake::networks(FACTOR, Breaks(|_| false));
        let error = Engine::new(networks, facts(), size, control, Box::new(StoppedClock)).err().unwrap();
        assert!(error.hint().unwrap().contains(nearest), "{size}: {:?}", error.hint());
    }
    let (mut engine, _) = engine(|x, _, _, _, _| x, &[]);
    let wrong = vec![0; 3 * 32 * 8];
    assert!(engine.step(meta(0), PictureView::packed(Size::new(32, 8), &wrong)).is_err());
    assert!(engine.step(meta(0), PictureView::packed(SIZE, &wrong[..40])).is_err(), "a buffer that is too short");
}

#[test]
fn a_pack_without_an_encoder_can_only_do_txt2img() {
    let mut networks = fake::networks(FACTOR, fake::PointwiseDenoiser(|x: f32, _, _, _: Branch, _| x));
    networks.encoder = None;
    let (mut engine, _) = engine_of(networks, &[("t-index", "45")]);
    assert!(matches!(engine.step(meta(0), PictureView::packed(SIZE, &grey(9))), Err(EngineError::NoEncoder)));
    let control = Control::new(settings(parameters(&[("t-index", "45")])));
    let mut networks = fake::networks(FACTOR, fake::PointwiseDenoiser(|x: f32, _, _, _: Branch, _| x));
    networks.encoder = None;
    let mut engine = Engine::new(networks, facts(), SIZE, control, Box::new(StoppedClock)).unwrap();
    assert_eq!(engine.generate(meta(0)).unwrap().len(), 1);
}
