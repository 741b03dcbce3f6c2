//! Hand-computable streams: a scalar "U-Net", scalar noise, six inputs, outputs to six decimals.

use std::sync::Arc;

use livediffusion_pipeline::fake::PointwiseDenoiser;
use livediffusion_pipeline::frame::PictureView;
use livediffusion_pipeline::model::Branch;

use crate::support::{FlatNoise, SIZE, collect, engine_of, grey, meta, scripted};

const INPUTS: [f32; 6] = [0.5, -0.2, 0.1, 0.9, 0.9, 0.9];
const NOISE: [f32; 4] = [0.3, -0.7, 1.1, -0.2];

fn toy(x: f32, _t: f32, step: usize, branch: Branch, _prompt: f32) -> f32 {
    match branch {
        Branch::Prompt => 0.8 * x + 0.05 * step as f32,
        Branch::Negative => 0.7 * x - 0.02 * step as f32,
    }
}

/// Outputs of the six calls; those before the first frame has left are not ours (reference bug 10).
fn stream(t_index: &str, cfg: &str, add_noise: bool) -> Vec<f32> {
    let (mut engine, _) = engine_of(
        scripted(&INPUTS, PointwiseDenoiser(toy)),
        &[
            ("t-index", t_index),
            ("cfg", cfg),
            ("guidance", "1.4"),
            ("delta", "0.5"),
            ("add-noise", if add_noise { "true" } else { "false" }),
        ],
    );
    engine.replay_randomness(Arc::new(FlatNoise::new(&NOISE)), Box::new(|| 0.0));
    let mut out = Vec::new();
    for id in 0..INPUTS.len() as u64 {
        let pictures = collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(9))).unwrap());
        out.extend(pictures.into_iter().map(|picture| picture.latent.unwrap()[0]));
    }
    out
}

#[test]
fn outputs_of_the_scalar_streams() {
    // Double-precision values of the reference algorithm; for self at one step, of the corrected one (bug 1).
    let table: [(&str, &str, bool, &[f64]); 14] = [
        ("45", "none", true, &[0.446660, -0.072279, 0.150123, 0.743197, 0.743197, 0.743197]),
        ("45", "full", true, &[0.438868, -0.071018, 0.147504, 0.730232, 0.730232, 0.730232]),
        ("45", "self", true, &[0.404824, -0.041691, 0.149672, 0.659976, 0.659976, 0.659976]),
        ("45", "initialize", true, &[0.411596, -0.066605, 0.138338, 0.684854, 0.684854, 0.684854]),
        ("32,45", "none", true, &[0.061987, -0.160911, -0.065383, 0.189358, 0.189358]),
        ("32,45", "full", true, &[0.034313, -0.170154, -0.082525, 0.151150, 0.151150]),
        ("32,45", "self", true, &[-0.137354, -0.115442, -0.124833, -0.149876, -0.149876]),
        ("32,45", "initialize", true, &[-0.101790, -0.208314, -0.162661, -0.040919, -0.040919]),
        ("22,32,45", "none", true, &[0.079630, 0.015858, 0.043189, 0.116071]),
        ("22,32,45", "self", true, &[-0.175701, 0.081474, -0.028744, -0.322659]),
        ("22,32,45", "initialize", true, &[-0.136706, -0.069666, -0.098398, -0.175015]),
        ("0,16,32,45", "none", true, &[0.041510, 0.030740, 0.035356]),
        ("0,16,32,45", "self", true, &[-0.245547, 0.062567, -0.069482]),
        ("32,45", "self", false, &[0.063043, 0.084955, 0.075564, 0.050521, 0.050521]),
    ];
    for (t_index, cfg, add_noise, expected) in table {
        let got = stream(t_index, cfg, add_noise);
        assert_eq!(got.len(), expected.len(), "{t_index} {cfg}: {got:?}");
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 4e-6, "{t_index} {cfg} {add_noise}: {got} not {expected}");
        }
    }
}
