//! Latent feedback: a frame is made of its own latent and of the last picture's.

use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::fake::{BlockVae, PointwiseDenoiser};
use livediffusion_pipeline::frame::{LatentShape, PictureView};
use livediffusion_pipeline::model::{Branch, Decoder, ModelError, Networks};

use crate::support::{FACTOR, SIZE, collect, engine_of, grey, meta, parameters, scripted, settings};

const INPUTS: [f32; 8] = [0.5, -0.2, 0.1, 0.9, -0.6, 0.3, 0.8, -0.4];

fn unet(x: f32, t: f32, step: usize, _: Branch, _: f32) -> f32 {
    (0.6 * x + 0.0002 * t).sin() + 0.05 * step as f32
}

/// The latent of each frame that leaves.
fn latents(engine: &mut Engine, frames: usize, mut before: impl FnMut(usize)) -> Vec<f32> {
    let mut all = Vec::new();
    for id in 0..frames {
        before(id);
        all.extend(collect(engine.step(meta(id as u64), PictureView::packed(SIZE, &grey(7))).unwrap()));
    }
    all.extend(collect(engine.flush().unwrap()));
    all.iter().filter_map(|out| Some(out.latent.as_ref()?[0])).collect()
}

/// As [`latents`], of a stream whose encoder gives these.
fn of(inputs: &[f32], pairs: &[(&str, &str)]) -> Vec<f32> {
    let (mut engine, _) = engine_of(scripted(inputs, PointwiseDenoiser(unet)), pairs);
    latents(&mut engine, inputs.len(), |_| ())
}

/// With a delay of that many frames, a frame's last picture is that of the frame so many and one before it.
#[test]
fn a_frame_has_its_share_of_the_last_picture() {
    for (t_index, delay) in [("40", 0), ("20,40", 1), ("10,20,40", 2)] {
        let pairs = [("t-index", t_index), ("cfg", "self"), ("guidance", "1.3")];
        let have = of(&INPUTS, &[&pairs[..], &[("feedback", "0.3")]].concat());
        // The same by inputs that are blended by hand.
        let mut inputs = INPUTS;
        for frame in delay + 1..inputs.len() {
            let last = of(&inputs, &pairs)[frame - delay - 1];
            inputs[frame] += 0.3 * (last - inputs[frame]);
        }
        let want = of(&inputs, &pairs);
        assert_eq!(have.len(), INPUTS.len());
        for (have, want) in have.iter().zip(&want) {
            assert!((have - want).abs() < 1e-6, "{t_index}: {have} and not {want}");
        }
        assert!((have[7] - of(&INPUTS, &pairs)[7]).abs() > 1e-3, "it does nothing");
    }
}

/// What was last when it was turned off is long gone when it is turned on again.
#[test]
fn it_begins_anew_each_time() {
    let pairs = [("t-index", "40"), ("cfg", "none")];
    let with = |share: &'static str| settings(parameters(&[&pairs[..], &[("feedback", share)]].concat()));
    let (mut engine, control) = engine_of(scripted(&INPUTS, PointwiseDenoiser(unet)), &pairs);
    let have = latents(&mut engine, INPUTS.len(), |id| control.store(with(["0.5", "0.5", "0", "0.5"][id.min(3)])));
    let plain = of(&INPUTS, &pairs);
    assert_eq!((have[0], have[2], have[3]), (plain[0], plain[2], plain[3]));
    assert!(have[1] != plain[1] && have[4] != plain[4]);
}

/// A frame that breaks in the U-Net is no last picture, and those after it begin anew.
#[test]
fn broken_frames_are_left_out() {
    let breaks =
        |x: f32, t: f32, step, branch, prompt| if x > 50.0 { f32::NAN } else { unet(x, t, step, branch, prompt) };
    let mut inputs = INPUTS;
    inputs[2] = 1e4;
    let pairs = [("t-index", "40"), ("cfg", "none"), ("feedback", "0.3")];
    let (mut engine, _) = engine_of(scripted(&inputs, PointwiseDenoiser(breaks)), &pairs);
    let have = latents(&mut engine, inputs.len(), |_| ());
    assert_eq!((have.len(), engine.stats().frames_failed), (7, 1));
    let anew = [of(&inputs[..2], &pairs), of(&inputs[3..], &pairs)].concat();
    assert_eq!(have, anew);
}

/// Gives no numbers for latents over 50.
struct BreakingDecoder(BlockVae);

impl Decoder for BreakingDecoder {
    fn decode(
        &mut self,
        latents: &[f32],
        batch: usize,
        shape: LatentShape,
        images: &mut [f32],
    ) -> Result<(), ModelError> {
        self.0.decode(latents, batch, shape, images)?;
        if latents[0] > 50.0 {
            images.fill(f32::NAN);
        }
        Ok(())
    }
}

/// Its latent is a number, and would break the frames after it one by one.
#[test]
fn frames_that_break_in_the_decoder_are_left_out_too() {
    let mut inputs = INPUTS;
    inputs[2] = 1e4;
    let pairs = [("t-index", "40"), ("cfg", "none"), ("feedback", "0.3")];
    let networks = Networks {
        decoder: Box::new(BreakingDecoder(BlockVae { factor: FACTOR })),
        ..scripted(&inputs, PointwiseDenoiser(unet))
    };
    let (mut engine, _) = engine_of(networks, &pairs);
    let have = latents(&mut engine, inputs.len(), |_| ());
    assert_eq!((have.len(), engine.stats().frames_failed), (7, 1));
    assert_eq!(have, [of(&inputs[..2], &pairs), of(&inputs[3..], &pairs)].concat());
}

/// What was painted before a flush, or of noise, is not what is seen before the next frame.
#[test]
fn a_stream_that_goes_on_after_a_pause_begins_anew() {
    let pairs = [("t-index", "40"), ("cfg", "none"), ("feedback", "0.5")];
    let first = of(&INPUTS[2..3], &pairs);
    for generates in [false, true] {
        let inputs = if generates { &INPUTS[2..] } else { &INPUTS[..] };
        let (mut engine, _) = engine_of(scripted(inputs, PointwiseDenoiser(unet)), &pairs);
        if generates {
            engine.generate(meta(0)).unwrap();
            engine.generate(meta(1)).unwrap();
        } else {
            latents(&mut engine, 2, |_| ());
        }
        let out = collect(engine.step(meta(2), PictureView::packed(SIZE, &grey(7))).unwrap());
        assert_eq!(out[0].latent.as_ref().unwrap()[0], first[0], "{generates}");
    }
}
