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

/// A decoder that fails in ways that the test chooses, by call.
struct FlakyDecoder(Vec<Flaw>, usize);

#[derive(Clone, Copy)]
enum Flaw {
    None,
    Error,
    /// NaN in the first picture of the batch.
    FirstBroken,
}

impl livediffusion_pipeline::model::Decoder for FlakyDecoder {
    fn decode(
        &mut self,
        _: &[f32],
        batch: usize,
        _: livediffusion_pipeline::frame::LatentShape,
        images: &mut [f32],
    ) -> Result<(), ModelError> {
        let flaw = self.0.get(self.1).copied().unwrap_or(Flaw::None);
        self.1 += 1;
        images.fill(0.5);
        match flaw {
            Flaw::None => {}
            Flaw::Error => return Err(ModelError::new("the decoder failed")),
            Flaw::FirstBroken => {
                let one = images.len() / batch;
                images[..one].fill(f32::NAN);
            }
        }
        Ok(())
    }
}

fn with_decoder(flaws: &[Flaw], pairs: &[(&str, &str)]) -> Engine {
    let mut networks = fake::networks(FACTOR, fake::PointwiseDenoiser(|x: f32, _, _, _: Branch, _| 0.3 * x));
    networks.decoder = Box::new(FlakyDecoder(flaws.to_vec(), 0));
    engine_of(networks, pairs).0
}

#[test]
fn a_first_picture_that_breaks_beside_a_good_one_is_not_shown_black() {
    let mut engine = with_decoder(&[Flaw::FirstBroken], &[("t-index", "45"), ("frame-buffer", "2")]);
    let out = crate::support::run(&mut engine, &vec![grey(9); 4]);
    assert_eq!(out.iter().map(|out| out.meta.id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((engine.stats().frames_out, engine.stats().frames_failed), (3, 1));
    assert!(out.iter().all(|out| out.rgb.iter().all(|byte| *byte > 100)));
}

#[test]
fn the_engine_goes_on_after_a_network_error_of_any_stage() {
    struct FailsOnce(bool);
    impl livediffusion_pipeline::model::Encoder for FailsOnce {
        fn encode(
            &mut self,
            _: &[f32],
            _: usize,
            _: Size,
            _: Option<&[f32]>,
            latents: &mut [f32],
        ) -> Result<(), ModelError> {
            latents.fill(0.2);
            if std::mem::replace(&mut self.0, false) { Err(ModelError::new("the encoder failed")) } else { Ok(()) }
        }
    }
    for frame_buffer in ["1", "2"] {
        let pairs = [("t-index", "30,45"), ("frame-buffer", frame_buffer)];
        let mut networks = fake::networks(FACTOR, fake::PointwiseDenoiser(|x: f32, _, _, _: Branch, _| 0.3 * x));
        networks.encoder = Some(Box::new(FailsOnce(true)));
        let failing_encoder = engine_of(networks, &pairs).0;
        for mut engine in [failing_encoder, with_decoder(&[Flaw::Error], &pairs)] {
            let (mut errors, mut pictures) = (0, 0);
            for id in 0..12 {
                match engine.step(meta(id), PictureView::packed(SIZE, &grey(9))) {
                    Ok(emitted) => pictures += emitted.len(),
                    Err(_) => errors += 1,
                }
            }
            pictures += engine.flush().unwrap().len();
            let lost: usize = frame_buffer.parse().unwrap();
            assert_eq!((errors, pictures), (1, 12 - lost), "frame buffer {frame_buffer}");
        }
    }
}

#[test]
fn a_new_prompt_or_a_pause_of_the_filter_is_never_answered_with_an_old_picture() {
    let unet = |_: f32, _: f32, _: usize, _: Branch, prompt: f32| prompt * 0.1;
    let start = [("t-index", "45"), ("cfg", "none"), ("similarity", "0.5"), ("max-skip", "1000")];
    let (mut engine, control) = engine(unet, &start);
    engine.replay_randomness(
        std::sync::Arc::new(livediffusion_pipeline::noise::SeededNoise::new(2, 1, 32)),
        Box::new(|| 0.0),
    );
    let step = |id, engine: &mut Engine| {
        collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(90))).unwrap()).remove(0).repeated
    };
    assert_eq!([0, 1, 2].map(|id| step(id, &mut engine)), [false, true, true]);
    let mut prompted = parameters(&start);
    prompted.set("prompt", "a fox").unwrap();
    control.store(settings(prompted.clone()));
    assert_eq!([3, 4].map(|id| step(id, &mut engine)), [false, true], "the new prompt must be seen at once");
    prompted.set("similarity", "off").unwrap();
    control.store(settings(prompted.clone()));
    assert!(!step(5, &mut engine));
    prompted.set("similarity", "0.5").unwrap();
    control.store(settings(prompted));
    assert_eq!([6, 7].map(|id| step(id, &mut engine)), [false, true]);
}
