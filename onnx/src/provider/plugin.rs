//! Providers in libraries of their own, which ONNX Runtime loads beside itself.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::environment::Environment;
use ort::session::builder::SessionBuilder;

use crate::provider::options::Options;
use crate::runtime::user_cache;

/// The plug-in's own name for itself.
const WEBGPU: &str = "WebGpuExecutionProvider";

/// Names of its library on each system.
const WEBGPU_FILES: [&str; 3] =
    ["libonnxruntime_providers_webgpu.so", "libonnxruntime_providers_webgpu.dylib", "onnxruntime_providers_webgpu.dll"];

/// The WebGPU plug-in: where `LIVEDIFFUSION_WEBGPU_LIB` says, beside the ONNX Runtime at `ort`, or in `ep/` of the user's cache, in it or
/// in a folder of it.
pub(crate) fn webgpu_library(ort: &Path) -> Option<PathBuf> {
    let named = std::env::var_os("LIVEDIFFUSION_WEBGPU_LIB").filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| inside(ort.parent()?)).or_else(|| find(&user_cache()?.join("ep")))
}

fn inside(folder: &Path) -> Option<PathBuf> {
    WEBGPU_FILES.iter().map(|name| folder.join(name)).find(|file| file.is_file())
}

fn find(folder: &Path) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect();
    folders.sort();
    // The last name is the newest version.
    inside(folder).or_else(|| folders.iter().rev().find_map(|folder| inside(folder)))
}

/// Has the plug-in's devices run the session.
pub(crate) fn register_webgpu(
    environment: &Environment,
    builder: SessionBuilder,
    library: &Path,
    options: &Options,
) -> ort::Result<SessionBuilder> {
    // A library is registered once in a process.
    static REGISTERED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !registered.iter().any(|known| known == library) {
        environment.register_ep_library(WEBGPU, library)?;
        registered.push(library.to_owned());
    }
    let devices: Vec<_> = environment.devices().filter(|device| device.ep().is_ok_and(|ep| ep == WEBGPU)).collect();
    if devices.is_empty() {
        let library = library.display();
        return Err(ort::Error::new(format!(
            "{library} finds no GPU (it needs a driver for Vulkan, Metal or Direct3D 12)"
        )));
    }
    let options: Vec<(String, String)> =
        options.iter().map(|(name, value)| (format!("{WEBGPU}.{name}"), value.clone())).collect();
    Ok(builder.with_devices(devices, Some(&options))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plug_in_of_the_cache_is_found() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(find(cache.path()), None);
        for version in ["webgpu-0.3.0", "webgpu-0.4.0"] {
            std::fs::create_dir(cache.path().join(version)).unwrap();
            std::fs::write(cache.path().join(version).join(WEBGPU_FILES[0]), b"").unwrap();
        }
        assert_eq!(find(cache.path()), Some(cache.path().join("webgpu-0.4.0").join(WEBGPU_FILES[0])));
        let direct = cache.path().join(WEBGPU_FILES[0]);
        std::fs::write(&direct, b"").unwrap();
        assert_eq!(find(cache.path()), Some(direct));
    }
}
