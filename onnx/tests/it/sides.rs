//! Networks in which what follows from known sides was made constant against those that reckon with it in every call.

use std::sync::Arc;

use livediffusion_onnx::graph::{Graph, fold_known_sides};
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::{DenoiseBatch, TextEncoder as _};

use crate::support::{PACKS, assert_close, copy_of, load, noise, pack_dir, row, runtime};

/// Casts to f32 of a shape's sides.
fn casts_of_sides(graph: &Graph) -> usize {
    let made_by = |name: &String| graph.nodes.iter().find(|node| node.output.contains(name));
    let casts = graph.nodes.iter().filter(|node| node.op_type == "Cast");
    casts.filter(|cast| made_by(&cast.input[0]).is_some_and(|node| node.op_type == "Slice")).count()
}

#[test]
fn the_folded_networks_compute_the_same_at_any_size() {
    let Some(runtime) = runtime() else { return };
    for name in PACKS {
        let copy = copy_of(name);
        let mut folded = 0;
        for part in ["unet", "vae_encoder", "vae_decoder"] {
            let file = copy.path().join(part).join("model.onnx");
            let model = std::fs::read(&file).unwrap();
            let before = casts_of_sides(&Graph::from_bytes(&model).unwrap());
            if let Some(changed) = fold_known_sides(&model).unwrap() {
                // Only if none is left can the network be captured as a CUDA graph.
                assert_eq!(casts_of_sides(&Graph::from_bytes(&changed).unwrap()), 0, "{name} {part}");
                std::fs::write(&file, changed).unwrap();
                folded += before;
            }
        }
        println!("{name}: {folded} made constant");
        assert!(folded > 0, "{name} has no attention as PyTorch exports it");
        // Not bit by bit: ONNX Runtime folds what has become constant further, into the products beside it.
        let ((_, mut one), (_, mut other)) = (load(&runtime, &pack_dir(name)), load(&runtime, copy.path()));
        let conditioning = Arc::new(one.text.encode("oil painting", Size::new(64, 64)).unwrap());
        for (rows, (width, height)) in [(1, (8, 8)), (3, (16, 8))] {
            let shape = LatentShape { channels: 4, height, width };
            let sample = noise(rows * shape.len(), 0.3);
            let rows: Vec<_> = (0..rows).map(|at| row(19.0 + 100.0 * at as f32, &conditioning)).collect();
            let (mut want, mut have) = (vec![0.0; sample.len()], vec![0.0; sample.len()]);
            let batch = DenoiseBatch { sample: &sample, shape, rows: &rows };
            one.networks.denoiser.denoise(&batch, &mut want).unwrap();
            other.networks.denoiser.denoise(&batch, &mut have).unwrap();
            assert_close(&format!("{name} U-Net"), &have, &want, 1e-5);
            let latent = &sample[..shape.len()];
            let (mut want, mut have) = (vec![0.0; 3 * 64 * width * height], vec![0.0; 3 * 64 * width * height]);
            one.networks.decoder.decode(latent, 1, shape, &mut want).unwrap();
            other.networks.decoder.decode(latent, 1, shape, &mut have).unwrap();
            assert_close(&format!("{name} decoder"), &have, &want, 1e-5);
        }
    }
}
