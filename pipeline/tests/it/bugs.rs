//! One test for each defect of the Python reference that concerns the algorithm: the number is the defect's in the
//! project's list (ARCHITECTURE.md), the test shows ours right.

use livediffusion_pipeline::fake;
use livediffusion_pipeline::frame::{FrameMeta, PictureView};
use livediffusion_pipeline::model::Branch;
use livediffusion_pipeline::schedule::{NoiseSchedule, SchedulerConfig};

use crate::support::{FACTOR, SIZE, collect, engine, engine_of, grey, meta, parameters, run, settings};

fn unet(x: f32, t: f32, step: usize, branch: Branch, prompt: f32) -> f32 {
    let branch = if branch == Branch::Negative { 0.6 } else { 0.8 };
    branch * x + 0.0002 * t + 0.05 * step as f32 + 0.1 * prompt
}

#[test]
fn bug_01_constant_input_under_self_with_one_step_is_stationary() {
    let (mut engine, _) = engine(unet, &[("t-index", "45"), ("cfg", "self"), ("guidance", "1.4"), ("delta", "0.5")]);
    let out = run(&mut engine, &vec![grey(60); 8]);
    assert!(out.windows(2).all(|pair| pair[0].latent == pair[1].latent));
}

#[test]
fn bug_02_without_re_noising_the_residual_has_no_noise_in_it() {
    // The prediction equals the virtual residual noise exactly, so guidance must change nothing, whatever γ.
    let exact = |x: f32, t: f32, _: usize, _: Branch, _: f32| {
        let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        let (alpha, sigma) = schedule.alpha_sigma(f64::from(t));
        (x - alpha as f32 * (60.0 / 127.5 - 1.0)) / sigma as f32
    };
    for guidance in ["1.0", "3.0"] {
        let pairs = [("t-index", "32,45"), ("cfg", "self"), ("guidance", guidance), ("add-noise", "false")];
        let (mut engine, _) = engine(exact, &pairs);
        for out in run(&mut engine, &vec![grey(60); 4]) {
            assert!(out.rgb.iter().all(|byte| *byte == 60), "γ {guidance}: {}", out.rgb[0]);
        }
    }
}

#[test]
fn bug_03_sequential_self_has_a_residual() {
    let latents = |stream_batch, cfg| {
        let (mut engine, _) =
            engine(unet, &[("t-index", "16,45"), ("cfg", cfg), ("guidance", "1.4"), ("stream-batch", stream_batch)]);
        run(&mut engine, &vec![grey(60); 3])
    };
    let sequential = latents("false", "self");
    for (a, b) in sequential.iter().zip(&latents("true", "self")) {
        assert_eq!(a.latent, b.latent);
    }
    // With a residual of zero, e would only be multiplied by γ; with the real one it is not.
    assert_ne!(sequential[0].latent, latents("false", "none")[0].latent);
}

#[test]
fn bug_04_sequential_initialize_asks_for_the_negative_once() {
    let (mut engine, _) = engine(
        unet,
        &[("t-index", "10,20,30,40"), ("cfg", "initialize"), ("guidance", "1.4"), ("stream-batch", "false")],
    );
    run(&mut engine, &vec![grey(60); 5]);
    assert_eq!(engine.stats().unet_rows, 5 * (4 + 1));
}

#[test]
fn bug_05_sequential_full_works() {
    let (mut engine, _) =
        engine(unet, &[("t-index", "10,40"), ("cfg", "full"), ("guidance", "1.4"), ("stream-batch", "false")]);
    assert_eq!(run(&mut engine, &vec![grey(60); 3]).len(), 3);
    assert_eq!(engine.stats().unet_rows, 3 * 2 * 2);
}

#[test]
fn bug_06_full_and_initialize_work_at_guidance_one_and_below() {
    for cfg in ["full", "initialize"] {
        for guidance in ["0", "0.7", "1"] {
            let latents = |cfg| {
                let (mut engine, _) = engine(unet, &[("t-index", "10,40"), ("cfg", cfg), ("guidance", guidance)]);
                run(&mut engine, &vec![grey(60); 4])
            };
            assert_eq!(latents(cfg), latents("none"), "{cfg} {guidance}");
        }
    }
}

#[test]
fn bug_07_prompt_updates_keep_the_negative_prompt() {
    for cfg in ["none", "self", "initialize", "full"] {
        let start =
            [("t-index", "10,40"), ("cfg", cfg), ("guidance", "1.4"), ("prompt", "a"), ("negative-prompt", "bc")];
        // Tells which number of characters each branch was asked under.
        let unet = |_: f32, _: f32, _: usize, branch: Branch, prompt: f32| {
            assert_eq!(branch == Branch::Negative, prompt == 2.0 || prompt == 4.0, "{branch:?} under {prompt}");
            0.1 * prompt
        };
        let (mut engine, control) = engine(unet, &start);
        let mut out = Vec::new();
        for id in 0..8 {
            let mut new = parameters(&start);
            if id >= 3 {
                new.set("prompt", "abc").unwrap();
            }
            if id >= 5 {
                new.set("negative-prompt", "abcd").unwrap();
            }
            control.store(settings(new));
            out.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(60))).unwrap()));
        }
        assert_eq!(out.len(), 7, "{cfg}");
    }
}

#[test]
fn bug_08_any_frame_buffer_with_any_number_of_steps() {
    for cfg in ["none", "self", "initialize", "full"] {
        let (mut engine, _) =
            engine(unet, &[("t-index", "10,25,40"), ("cfg", cfg), ("guidance", "1.4"), ("frame-buffer", "2")]);
        let out = run(&mut engine, &(0..7).map(|id| grey(id * 30)).collect::<Vec<_>>());
        assert_eq!(out.iter().map(|out| out.meta.id).collect::<Vec<_>>(), (0..7).collect::<Vec<_>>(), "{cfg}");
    }
}

#[test]
fn bug_09_the_seed_is_the_users() {
    let latent = |seed| {
        let (mut engine, _) = engine(unet, &[("seed", seed), ("t-index", "10")]);
        run(&mut engine, &[grey(60)])[0].latent.clone()
    };
    assert_ne!(latent("1"), latent("2"));
    assert_eq!(latent("1"), latent("1"));
}

#[test]
fn bug_10_no_picture_before_the_first_frame_is_done() {
    // A denoiser that paints white exactly: any slot of zeros would come out grey or brown.
    let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
    let (mut engine, _) = engine_of(
        fake::networks(FACTOR, fake::exact_denoiser(schedule, 1.0)),
        &[("t-index", "0,16,32,45"), ("cfg", "none")],
    );
    let out = run(&mut engine, &vec![grey(0); 6]);
    assert_eq!(out.len(), 6);
    assert!(out.iter().all(|out| out.rgb.iter().all(|byte| *byte == 255)));
}

#[test]
fn bug_11_every_frame_leaves_with_its_own_time_stamp() {
    let (mut engine, _) = engine(unet, &[("t-index", "0,16,32,45")]);
    let pictures: Vec<_> = (0..6).map(|id| grey(id * 40)).collect();
    let out = run(&mut engine, &pictures);
    let metas: Vec<FrameMeta> = out.iter().map(|out| out.meta).collect();
    assert_eq!(metas, (0..6).map(meta).collect::<Vec<_>>());
}

#[test]
fn bug_12_frames_in_flight_finish_while_the_filter_skips() {
    let (mut engine, _) = engine(unet, &[("t-index", "0,16,32,45"), ("similarity", "0.5"), ("max-skip", "1000")]);
    engine.replay_randomness(
        std::sync::Arc::new(livediffusion_pipeline::noise::SeededNoise::new(2, 4, 32)),
        Box::new(|| 0.0),
    );
    let mut last = None;
    for id in 0..12 {
        // Motion in the first three frames, then stillness.
        let picture = grey([0, 120, 250][usize::min(id as usize, 2)]);
        if let Some(out) = collect(engine.step(meta(id), PictureView::packed(SIZE, &picture)).unwrap()).pop() {
            assert_eq!(out.meta.id + 3, id, "the delay stays what it is");
            last = Some((id, out));
        }
        if id == 5 {
            let (_, out) = last.clone().unwrap();
            assert!(!out.repeated, "frame 2, the last that moved, must leave three calls after it came");
            assert_eq!(out.meta.id, 2);
        }
    }
    assert_eq!(engine.stats().frames_skipped, 9);
    assert!(last.unwrap().1.repeated);
}

#[test]
fn bug_13_the_filter_does_not_break_the_start() {
    // Still frames from the very first: the first picture to leave is frame 0's own, finished, not a half-done one.
    let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
    let networks = fake::networks(FACTOR, fake::exact_denoiser(schedule, 1.0));
    let (mut engine, _) = engine_of(networks, &[("t-index", "0,16,32,45"), ("similarity", "0.5"), ("cfg", "none")]);
    let out = run(&mut engine, &vec![grey(60); 8]);
    assert_eq!(out.len(), 8);
    assert!(!out[0].repeated && out[1].repeated);
    assert!(out.iter().all(|out| out.rgb.iter().all(|byte| *byte == 255)));
}

#[test]
fn bug_16_a_bright_frame_is_not_normalised_twice() {
    // An identity stream: what comes in goes out, also when no pixel is darker than mid-grey.
    let keep = |level: u8| {
        let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
        let target = f32::from(level) / 127.5 - 1.0;
        let networks = fake::networks(FACTOR, fake::exact_denoiser(schedule, target));
        let (mut engine, _) = engine_of(networks, &[("t-index", "45"), ("cfg", "self"), ("guidance", "1.5")]);
        run(&mut engine, &[grey(level)])[0].rgb[0]
    };
    for level in [0, 100, 127, 128, 129, 200, 255] {
        assert_eq!(keep(level), level);
    }
}

#[test]
fn bug_21_txt2img_noise_comes_from_the_streams_own_seed() {
    let stream = |seed| {
        let (mut engine, _) = engine(unet, &[("seed", seed), ("t-index", "0,16")]);
        let mut out = Vec::new();
        for id in 0..4 {
            out.extend(collect(engine.generate(meta(id)).unwrap()));
        }
        out
    };
    assert_eq!(stream("3"), stream("3"));
    assert_ne!(stream("3"), stream("4"));
    let out = stream("3");
    assert_ne!(out[0].latent, out[1].latent, "each frame has noise of its own");
}
