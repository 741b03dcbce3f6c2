//! Golden packs, the library, comparisons, and small graphs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use livediffusion_onnx::graph::proto::NodeProto;
use livediffusion_onnx::{LoadedPack, Pack, Provider, ProviderChoice, Runtime, SessionSettings, load_networks};
use livediffusion_pipeline::model::{Branch, Conditioning, Row};

/// The golden packs.
pub(crate) const PACKS: [&str; 4] = ["tiny-sd15", "tiny-sd15-kl", "tiny-sdturbo", "tiny-sdxlturbo"];

/// What networks of the reference and of ONNX Runtime may differ by, relative to the larger of peak and 1.
pub(crate) const TOLERANCE: f32 = 1e-4;

/// Folder of a golden pack.
pub(crate) fn pack_dir(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/goldens/models").join(name)
}

/// A file of this crate's tests.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// The library, or `None` and a printed reason.
pub(crate) fn runtime() -> Option<Runtime> {
    match Runtime::load(None) {
        Ok(runtime) => Some(runtime),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// The library, if it has the OpenVINO provider.
pub(crate) fn openvino() -> Option<Runtime> {
    let runtime = runtime()?;
    if runtime.compiled_providers().contains(&Provider::OpenVino) {
        return Some(runtime);
    }
    eprintln!("skipped: this library has no OpenVINO provider");
    None
}

/// Settings of that provider.
pub(crate) fn on(provider: Provider) -> SessionSettings {
    SessionSettings { provider: ProviderChoice::Fixed(provider), threads: Some(1), ..SessionSettings::default() }
}

/// A pack on the CPU provider.
pub(crate) fn load(runtime: &Runtime, dir: &Path) -> (Pack, LoadedPack) {
    let pack = Pack::open(dir).unwrap();
    let loaded = load_networks(runtime, &pack, &on(Provider::Cpu)).unwrap();
    (pack, loaded)
}

/// The pack of SD 1.5's kind with another U-Net, which has a ControlNet (`tools/goldens/control.py`).
pub(crate) fn control_pack() -> PathBuf {
    data("control")
}

/// Copies a golden pack so that a test can damage it.
pub(crate) fn copy_of(name: &str) -> tempfile::TempDir {
    copy_of_folder(&pack_dir(name))
}

/// Copies a folder.
pub(crate) fn copy_of_folder(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(folder, copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            std::fs::write(target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

/// Largest difference, relative to the larger of the expected peak and 1.
pub(crate) fn error(have: &[f32], want: &[f32]) -> f32 {
    assert_eq!(have.len(), want.len());
    let peak = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    have.iter().zip(want).map(|(a, b)| (a - b).abs() / peak).fold(0.0, |m, e| if e.is_nan() { e } else { m.max(e) })
}

/// Fails with the error in the message.
#[track_caller]
pub(crate) fn assert_close(what: &str, have: &[f32], want: &[f32], tolerance: f32) {
    let error = error(have, want);
    assert!(error <= tolerance, "{what}: off by {error}");
    eprintln!("{what}: off by {error:e}");
}

/// A row of a U-Net call.
pub(crate) fn row(timestep: f32, conditioning: &Arc<Conditioning>) -> Row {
    let conditioning = Arc::clone(conditioning);
    Row { frame: 0, step: 0, timestep, branch: Branch::Prompt, conditioning, control: None, control_scale: 0.0 }
}

/// Numbers without a pattern, in about [-1.5, 1.5].
pub(crate) fn noise(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| 1.5 * ((i as f32 + seed) * 12.9898).sin()).collect()
}

/// A constant vector of integers.
pub(crate) fn constant(name: &str, values: &[i64]) -> NodeProto {
    NodeProto::new("Constant", &[], &[name]).with_ints("value_ints", values)
}
