//! What there is for NVIDIA cards: the driver, the cards, and the compiler of the kernels.

use std::path::Path;

use livediffusion_kernels::cuda::{Card, Driver, Image, ImageCache, Nvrtc, NvrtcSearch, Target, dotted};
use livediffusion_kernels::gpu::GpuError;
use livediffusion_onnx::user_cache;

use super::{Check, Verdict};

pub(super) fn checks(cuda_lib_dir: Option<&Path>, checks: &mut Vec<Check>) {
    let driver = Driver::find();
    checks.push(kernel_module(driver.is_ok()));
    let devices = driver.as_ref().map_or(0, |driver| driver.devices());
    if let Err(error) = &driver {
        checks.push(absent("CUDA", error));
    }
    let cache = user_cache();
    let version = driver.as_ref().ok().map(|driver| driver.version());
    let search = NvrtcSearch { explicit: cuda_lib_dir, cache: cache.as_deref(), driver: version, card: None };
    let nvrtc = search.load();
    checks.push(match &nvrtc {
        Ok(nvrtc) => Check::new("NVRTC", Verdict::Good, about(nvrtc)),
        Err(error) => absent("NVRTC", error),
    });
    for number in 0..devices {
        checks.push(card(number).unwrap_or_else(|error| absent(&format!("CUDA card {number}"), &error)));
        if nvrtc.is_ok() {
            let loaded = kernels(number, search);
            checks.push(loaded.unwrap_or_else(|error| absent("CUDA kernels", &error)));
        }
    }
}

/// What ONNX Runtime's providers for NVIDIA cards load beside them, by the beginnings of names.
const OF_CUDA: [&str; 6] = ["libcudart.", "libcublas.", "libcublasLt.", "libcufft.", "libcurand.", "libcudnn."];
const OF_TENSORRT: [&str; 4] = ["libnvinfer.", "libnvinfer_plugin.", "libnvinfer_builder_resource", "libnvonnxparser."];

/// The libraries that are preloaded for a library with these providers. What is not there may still be the system's.
pub(super) fn libraries(folder: &Path, has_tensorrt: bool, checks: &mut Vec<Check>) {
    let there = livediffusion_onnx::libraries_in(folder);
    let names: Vec<String> =
        there.iter().filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned())).collect();
    let mut check = |name: &str, wanted: &[&str], fix: &str| {
        let missing = |start: &&&str| !names.iter().any(|name| name.starts_with(**start) && name.contains(".so"));
        let missing: Vec<&str> = wanted.iter().filter(missing).map(|start| start.trim_end_matches('.')).collect();
        checks.push(if missing.is_empty() {
            Check::new(name, Verdict::Good, folder.display().to_string())
        } else {
            let found = format!("{} not in {}, if not the system's", missing.join(", "), folder.display());
            Check::new(name, Verdict::Absent, found).fix(Some(fix.to_owned()))
        });
    };
    check("CUDA libraries", &OF_CUDA, "make setup-cuda CUDA=12 or CUDA=13 fetches them; --cuda-lib-dir names a folder");
    if has_tensorrt {
        check("TensorRT libraries", &OF_TENSORRT, "make setup-tensorrt CUDA=12 or CUDA=13 fetches them");
    }
}

/// The driver as the kernel tells it: no library is needed to ask. Where the driver is another system's, as under WSL, only its library
/// tells.
fn kernel_module(has_library: bool) -> Check {
    let version = std::fs::read_to_string("/proc/driver/nvidia/version");
    let gpus = std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, Iterator::count);
    match version {
        Ok(version) => {
            let line = version.lines().next().unwrap_or_default().trim().to_owned();
            Check::new("NVIDIA driver", Verdict::Good, format!("{gpus} GPU: {line}"))
        }
        Err(_) if has_library => Check::new("NVIDIA driver", Verdict::Good, "told of by its library alone"),
        Err(_) => Check::new("NVIDIA driver", Verdict::Absent, "not loaded; the CPU is used"),
    }
}

fn card(number: usize) -> Result<Check, GpuError> {
    let card = Card::open(number)?;
    let ((major, minor), (free, all)) = (card.capability()?, card.memory()?);
    let found = format!(
        "{}, compute capability {major}.{minor}, {} of {} MB free, CUDA {}",
        card.name()?,
        free / 1_000_000,
        all / 1_000_000,
        dotted(card.driver().version())
    );
    Ok(Check::new(format!("CUDA card {number}"), Verdict::Good, found))
}

fn about(nvrtc: &Nvrtc) -> String {
    let (major, minor) = nvrtc.version();
    let known = nvrtc.architectures();
    let range = match (known.first(), known.last()) {
        (Some(first), Some(last)) => format!(", for sm_{first} to sm_{last}"),
        _ => String::new(),
    };
    format!("{major}.{minor}{range} {}", nvrtc.path().display())
}

/// Compiles the kernels, or takes them from the cache, and loads them, all as a session does.
fn kernels(number: usize, search: NvrtcSearch<'_>) -> Result<Check, GpuError> {
    let card = Card::open(number)?;
    let capability = card.capability()?;
    let nvrtc = NvrtcSearch { card: Some(capability), ..search }.load()?;
    let target = Target::for_card(capability, &nvrtc)?;
    let folder = user_cache().map(|cache| cache.join("kernels"));
    let cache = folder.as_ref().map(ImageCache::new);
    let version = card.driver().version();
    card.with_kernels(Image::cached(cache.as_ref(), &nvrtc, target, version)?)?;
    let kept = folder.map_or_else(|| "kept nowhere".to_owned(), |folder| format!("kept in {}", folder.display()));
    let (major, minor) = nvrtc.version();
    let found = format!("{target} by NVRTC {major}.{minor}, loaded on card {number}, {kept}");
    Ok(Check::new("CUDA kernels", Verdict::Good, found))
}

fn absent(name: &str, error: &GpuError) -> Check {
    Check::new(name, Verdict::Absent, error.to_string()).fix(error.hint.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_are_missing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in OF_CUDA.iter().chain(&OF_TENSORRT[..2]) {
            std::fs::write(folder.path().join(format!("{}.so.12", name.trim_end_matches('.'))), "").unwrap();
        }
        let mut checks = Vec::new();
        libraries(folder.path(), true, &mut checks);
        assert!(matches!(checks[0].verdict, Verdict::Good), "{}", checks[0].found);
        let found = &checks[1].found;
        assert!(found.starts_with("libnvinfer_builder_resource, libnvonnxparser not in "), "{found}");
        libraries(&folder.path().join("none"), false, &mut checks);
        assert!(
            checks.len() == 3 && checks[2].found.starts_with("libcudart, libcublas, libcublasLt"),
            "{}",
            checks[2].found
        );
    }
}
