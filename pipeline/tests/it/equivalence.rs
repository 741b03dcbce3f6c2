//! The stream batch computes what one frame after the other would compute.

use proptest::prelude::*;

use livediffusion_pipeline::frame::PictureView;
use livediffusion_pipeline::model::Branch;
use livediffusion_pipeline::solver::SOLVERS;

use crate::support::{Out, SIZE, collect, engine, grey, meta, run};

/// Depends on everything that a U-Net row carries.
fn unet(x: f32, t: f32, step: usize, branch: Branch, prompt: f32) -> f32 {
    let branch = if branch == Branch::Negative { -0.2 } else { 0.1 };
    (0.7 * x + 0.0003 * t + branch).sin() + 0.01 * step as f32 + 0.02 * prompt
}

fn textured(id: u8) -> Vec<u8> {
    (0..3 * SIZE.pixels()).map(|i| (i * 7 + usize::from(id) * 53) as u8).collect()
}

fn latents(out: &[Out]) -> Vec<f32> {
    out.iter().flat_map(|out| out.latent.clone().unwrap()).collect()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f32::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn stream_batch_equals_sequential_calls(
        solver in 0..SOLVERS.len(),
        cfg in 0..4_usize,
        indices in prop::collection::btree_set(0..50_usize, 1..6),
        guidance in 0.5_f32..3.0,
        delta in 0.0_f32..1.5,
        frame_buffer in 1..4_usize,
        add_noise in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let indices: Vec<_> = indices.iter().map(usize::to_string).collect();
        let cfg = ["none", "self", "initialize", "full"][cfg];
        let run_with = |stream_batch: &str, frame_buffer: usize| {
            let (mut engine, _) = engine(unet, &[
                ("scheduler", SOLVERS[solver].0), ("cfg", cfg), ("t-index", &indices.join(",")),
                ("guidance", &guidance.to_string()), ("delta", &delta.to_string()),
                ("add-noise", &add_noise.to_string()), ("seed", &seed.to_string()),
                ("stream-batch", stream_batch), ("frame-buffer", &frame_buffer.to_string()), ("prompt", "a fox"),
            ]);
            latents(&run(&mut engine, &(0..7).map(textured).collect::<Vec<_>>()))
        };
        let sequential = run_with("false", 1);
        prop_assert!(worst(&sequential, &run_with("true", 1)) < 1e-5);
        // Any frame buffer with any number of steps and any guidance: what the reference cannot do (bug 8).
        prop_assert!(worst(&sequential, &run_with("true", frame_buffer)) < 1e-5);
    }

    #[test]
    fn txt2img_stream_batch_equals_sequential(
        indices in prop::collection::btree_set(0..50_usize, 1..5), cfg in 0..4_usize, frame_buffer in 1..4_usize,
    ) {
        let indices: Vec<_> = indices.iter().map(usize::to_string).collect();
        let cfg = ["none", "self", "initialize", "full"][cfg];
        let run_with = |stream_batch: &str, frame_buffer: usize| {
            let (mut engine, _) = engine(unet, &[
                ("cfg", cfg), ("t-index", &indices.join(",")), ("guidance", "1.4"), ("delta", "0.7"),
                ("stream-batch", stream_batch), ("frame-buffer", &frame_buffer.to_string()),
            ]);
            let mut out = Vec::new();
            for id in 0..6 {
                out.extend(collect(engine.generate(meta(id)).unwrap()));
            }
            out.extend(collect(engine.flush().unwrap()));
            latents(&out)
        };
        let sequential = run_with("false", 1);
        prop_assert!(worst(&sequential, &run_with("true", 1)) < 1e-4);
        prop_assert!(worst(&sequential, &run_with("true", frame_buffer)) < 1e-4);
    }
}

/// Paper Eq. 5 against the reference's recursion: n_{k+1} = z_{k+1} + A_{k+1}·(S_k/A_k)(n_k - m_k)/S_{k+1}, n_0 = z_0.
#[test]
fn eq_5_residual_equals_the_stock_noise_recursion() {
    let (gamma, delta) = (1.4_f64, 0.7_f64);
    let (mut engine, _) = engine(
        unet,
        &[("t-index", "0,16,32,45"), ("cfg", "self"), ("guidance", "1.4"), ("delta", "0.7"), ("scheduler", "turbo")],
    );
    let plan = engine.plan().clone();
    let noise = livediffusion_pipeline::noise::SeededNoise::new(2, 4, 32);
    let out = run(&mut engine, &[grey(40), grey(200)]);
    for (frame, level) in [(0, 40.0), (1, 200.0)] {
        let x0: f64 = level / 127.5 - 1.0;
        let z = |k: usize| f64::from(livediffusion_pipeline::noise::NoiseSource::step(&noise, k, 0)[0]);
        let (a, s) = (|k: usize| f64::from(plan.steps[k].alpha), |k: usize| f64::from(plan.steps[k].sigma));
        let mut x = a(0) * x0 + s(0) * z(0);
        let mut n = z(0);
        for k in 0..4 {
            let e = f64::from(unet(x as f32, plan.timesteps[k], k, Branch::Prompt, 0.0));
            let u = delta * n;
            let m = u + gamma * (e - u);
            let clean = (x - s(k) * m) / a(k);
            if k == 3 {
                let got = f64::from(out[frame].latent.as_ref().unwrap()[0]);
                assert!((got - clean).abs() < 1e-4 * clean.abs().max(1.0), "frame {frame}: {got} and {clean}");
            } else {
                n = z(k + 1) + a(k + 1) * (s(k) / a(k)) * (n - m) / s(k + 1);
                x = a(k + 1) * clean + s(k + 1) * z(k + 1);
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_stream_and_another_seed_another() {
    let once = |seed: &str| {
        let (mut engine, _) = engine(unet, &[("seed", seed), ("t-index", "16,32"), ("similarity", "0.7")]);
        run(&mut engine, &(0..9).map(|id| textured(id / 3)).collect::<Vec<_>>())
    };
    assert_eq!(once("5"), once("5"));
    assert_ne!(once("5"), once("6"));
}

#[test]
fn guidance_at_or_below_one_costs_no_rows() {
    for (cfg, guidance, rows) in [
        ("full", "1.0", 10),
        ("initialize", "0.3", 10),
        ("full", "1.2", 20),
        ("initialize", "1.2", 15),
        ("self", "1.2", 10),
    ] {
        let (mut engine, _) = engine(unet, &[("cfg", cfg), ("guidance", guidance), ("t-index", "16,32")]);
        for id in 0..5 {
            engine.step(meta(id), PictureView::packed(SIZE, &textured(id as u8))).unwrap();
        }
        engine.flush().unwrap();
        assert_eq!(engine.stats().unet_rows, rows, "{cfg} {guidance}");
    }
}
