//! Golden cases on the frame path of a device, on the host in its place.

#[allow(dead_code, reason = "of what stands for a card only the host is needed")]
#[path = "../../../kernels/tests/it/host/mod.rs"]
mod host;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use livediffusion_kernels::gpu::Queues;
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, serialize_to_file};

use self::host::Host;
use super::case::Case;
use super::*;

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    replay: ReplayArgs,
}

/// What was found of a case there, or why it cannot run there.
type Found = Result<(SharedLedger, Tolerance), String>;

/// Replays cases there; `None`, and a printed reason, without ONNX Runtime or a C++ compiler.
fn replayed(cases: Vec<Case>) -> Option<Vec<Found>> {
    let host = Host::new(2)?;
    if let Err(error) = livediffusion_onnx::Runtime::load(None) {
        println!("skipped: {error}");
        return None;
    }
    let models = goldens().join("models").display().to_string();
    let args = Arguments::parse_from(["replay", "several.json", "--models", &models]).replay;
    let cases: Vec<Arc<Case>> = cases.into_iter().map(Arc::new).collect();
    let mut packs = Packs::new(&args, cases.clone());
    let found = cases.iter().map(|case| {
        let ledger = SharedLedger::default();
        let replay = Replay::prepare(&args, case, &mut packs, &ledger).unwrap();
        let shared = &packs.loaded().unwrap().shared;
        let left_out = replay.on_device(&Queues::one(&host), shared, &ledger).unwrap();
        left_out.map_or_else(|| Ok((ledger, Tolerance::of(&args, case))), Err)
    });
    Some(found.collect())
}

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/goldens")
}

#[test]
fn golden_cases_pass_where_frames_stay_on_a_device() {
    let paths = std::fs::read_dir(goldens().join("cases")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    paths.sort();
    let cases: Vec<Case> = paths.iter().map(|path| open(path).unwrap()).collect();
    let of: Vec<(String, bool)> = cases.iter().map(|case| (case.name.clone(), case.bug.is_some())).collect();
    let Some(found) = replayed(cases) else { return };
    let mut left_out = Vec::new();
    for ((name, has_bug), found) in of.iter().zip(found) {
        match found {
            Err(why) => left_out.push((name, why)),
            Ok((ledger, tolerance)) => {
                let ledger = lock(&ledger);
                let (worst, tensor) = ledger.worst();
                println!("{name:<32} {worst:.1e} in {tensor}, {} tensors, {:?}", ledger.compared, ledger.bytes);
                assert!(tolerance.admits(&ledger, !has_bug), "{name}: {worst:.1e} in {tensor}, {:?}", ledger.bytes);
            }
        }
    }
    // Sequential denoising draws noise for every frame in the reference, and frame buffers pass through the host.
    assert_eq!(left_out.len(), 5, "{left_out:#?}");
}

/// A committed case whose data of one tensor were changed.
fn changed(folder: &Path, name: &str, tensor: &str, change: impl FnOnce(&mut [u8])) -> Case {
    let from = goldens().join(format!("cases/{name}"));
    let bytes = std::fs::read(from.with_extension("safetensors")).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let mut data: BTreeMap<String, Vec<u8>> =
        read.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect();
    change(data.get_mut(tensor).unwrap());
    let views = read
        .iter()
        .map(|(name, view)| (name, TensorView::new(view.dtype(), view.shape().to_vec(), &data[name]).unwrap()));
    let to = folder.join(name).with_extension("json");
    serialize_to_file(views, None, &to.with_extension("safetensors")).unwrap();
    std::fs::copy(from.with_extension("json"), &to).unwrap();
    open(&to).unwrap()
}

#[test]
fn a_changed_number_fails_where_frames_stay_on_a_device() {
    let folder = |name: &str| tempfile::Builder::new().prefix(name).tempdir().unwrap();
    let (latent, sample, noise, picture) = (folder("latent"), folder("sample"), folder("noise"), folder("picture"));
    let add = |by: f32| {
        move |data: &mut [u8]| {
            let first = f32::from_le_bytes(data[..4].try_into().unwrap()) + by;
            data[..4].copy_from_slice(&first.to_le_bytes());
        }
    };
    let name = "sd15_orig100_t2_none";
    let cases = vec![
        changed(latent.path(), name, "f02/latent_out", add(1e-2)),
        changed(sample.path(), name, "f01/unet0/sample", add(1e-2)),
        changed(noise.path(), name, "const/init_noise", add(1e-1)),
        changed(picture.path(), name, "f02/image_u8", |data| data[100] = data[100].wrapping_add(9)),
    ];
    let filtered = folder("filtered");
    let filtered = changed(filtered.path(), "sd15_t1_none_filter99_skip2", "f00/latent_out", |_| {});
    let Some(found) = replayed(cases.into_iter().chain([filtered]).collect()) else { return };
    let passes = found.into_iter().map(|found| {
        let (ledger, tolerance) = found.unwrap();
        let ledger = lock(&ledger);
        println!("{:?}, {:?}, {} decisions", ledger.worst(), ledger.bytes, ledger.decisions);
        tolerance.admits(&ledger, true)
    });
    assert_eq!(passes.collect::<Vec<_>>(), [false, false, false, false, true]);
}
