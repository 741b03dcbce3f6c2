//! Libraries that a provider needs and would not find by itself: pip's wheels of ONNX Runtime for GPUs say nothing of where CUDA
//! and cuDNN lie, but a library that is loaded already is found by its name.

use std::path::{Path, PathBuf};

use livediffusion_kernels::cuda::library_folders;

/// What ONNX Runtime's own providers for NVIDIA cards load by name. A folder of the system's may hold much else.
pub(crate) const OF_CUDA: [&str; 7] =
    ["libcudart.", "libcublas", "libcufft.", "libcurand.", "libcudnn", "libnvrtc", "libnvJitLink."];

/// And what that of TensorRT does beside, 2 GB: only for who uses it.
pub(crate) const OF_TENSORRT: [&str; 2] = ["libnvinfer", "libnvonnxparser."];

/// What lies in a folder of libraries, and in those that pip has for each of them ([`library_folders`]).
pub fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let entries = library_folders(folder).into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).collect()
}

/// Loads libraries of a folder, as [`libraries_in`] finds them, for good: those whose names begin with one of `names`. Gives those that
/// would not load, with the loader's reason. They depend on each other in an order that nobody tells: whatever fails is tried again as
/// long as another one succeeded.
fn preload(folder: &Path, names: &[&str]) -> Vec<(PathBuf, String)> {
    let mut waiting: Vec<PathBuf> = libraries_in(folder).into_iter().filter(|path| is_library(path, names)).collect();
    waiting.sort();
    loop {
        let before = waiting.len();
        let mut refused = Vec::new();
        for path in waiting {
            if let Err(reason) = load(&path) {
                refused.push((path, reason));
            }
        }
        if refused.len() == before || refused.is_empty() {
            return refused;
        }
        waiting = refused.into_iter().map(|(path, _)| path).collect();
    }
}

/// As [`preload`], with a warning of each that would not load.
pub(crate) fn preload_or_warn(folder: &Path, names: &[&str]) {
    for (file, reason) in preload(folder, names) {
        tracing::warn!("{} cannot be loaded: {reason}", file.display());
    }
}

fn is_library(path: &Path, names: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.is_file() && names.iter().any(|known| name.starts_with(known)) && name.contains(".so")
}

#[cfg(unix)]
#[allow(unsafe_code, reason = "loading a library runs its initialisers")]
fn load(path: &Path) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: these are the libraries that a setup script or the user put there for ONNX Runtime to load.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    let library =
        library.map_err(|e| std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string))?;
    // It stays loaded.
    let _ = library.into_raw();
    Ok(())
}

#[cfg(not(unix))]
fn load(_: &Path) -> Result<(), String> {
    Err("libraries are preloaded on Unix alone".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_load_is_named_and_nothing_else_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        assert!(preload(folder.path(), &OF_CUDA).is_empty());
        assert!(preload(Path::new("/nowhere"), &OF_CUDA).is_empty());
        for name in ["libcudart.so.13", "libother.so.1", "readme.txt", "libcublas_static.a"] {
            std::fs::write(folder.path().join(name), b"no library").unwrap();
        }
        std::fs::create_dir_all(folder.path().join("cudnn/lib")).unwrap();
        std::fs::write(folder.path().join("cudnn/lib/libcudnn.so.9"), "no library").unwrap();
        let refused = preload(folder.path(), &OF_CUDA);
        let names: Vec<_> = refused.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["libcudnn.so.9", "libcudart.so.13"]);
        assert!(!refused[0].1.is_empty());
    }
}
