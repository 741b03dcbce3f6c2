//! Where NVRTC lies.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::cuda::compile::Target;
use crate::cuda::nvrtc::Nvrtc;
use crate::gpu::GpuError;

/// Names tried with the system's loader. The last is a link that only development packages have.
const SYSTEM_NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Python's folders of packages, in that of a version.
const PACKAGES: [&str; 2] = ["site-packages", "dist-packages"];

/// NVRTC's folders among pip's packages, for CUDA 13 and 12.
const OF_PIP: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];

/// Where to look for NVRTC.
#[derive(Clone, Copy, Debug, Default)]
pub struct NvrtcSearch<'a> {
    /// A folder that the user named; nowhere else is looked then.
    pub explicit: Option<&'a Path>,
    /// The program's cache, in whose `cuda/` setup scripts put libraries.
    pub cache: Option<&'a Path>,
    /// The driver's CUDA version: a library of a newer major version makes code that it cannot load.
    pub driver: Option<i32>,
    /// The card's compute capability, major and minor: newer libraries make nothing for older cards.
    pub card: Option<(u32, u32)>,
}

impl NvrtcSearch<'_> {
    /// Loads the first that works, in this order: the named folder; the cache; pip's folders in the active virtual environment, or conda's,
    /// the user's and the system's; the toolkit that `CUDA_HOME` or `CUDA_PATH` names, or in /usr/local/cuda; the system's loader. Of
    /// several in the cache or in pip's folders, the newest that the driver can load and that knows the card.
    pub fn load(&self) -> Result<Nvrtc, GpuError> {
        let mut refused = Vec::new();
        for path in self.candidates(|name| std::env::var_os(name)) {
            match Nvrtc::load(&path).map(|nvrtc| (self.objection(&nvrtc), nvrtc)) {
                Ok((None, nvrtc)) => return Ok(nvrtc),
                Ok((Some(objection), nvrtc)) => refused.push(format!("{} {objection}", nvrtc.path().display())),
                Err(error) if self.explicit.is_some() => return Err(error),
                Err(error) if path.is_absolute() => refused.push(error.what),
                Err(_) => {}
            }
        }
        let place = self.explicit.map_or_else(
            || "the cache, pip's folders, CUDA_HOME and the system".to_owned(),
            |folder| folder.display().to_string(),
        );
        let why = if refused.is_empty() { String::new() } else { format!(" ({})", refused.join("; ")) };
        let hint = if self.explicit.is_some() && !refused.is_empty() {
            "name a folder with another NVRTC by --cuda-lib-dir, or none: tools/setup/nvrtc.sh fetches one into the cache"
        } else {
            "tools/setup/nvrtc.sh fetches it; or name its folder by --cuda-lib-dir"
        };
        Err(GpuError::missing(format!("there is no NVRTC of use in {place}{why}"), hint))
    }

    /// Why what this library makes would be of no use.
    fn objection(&self, nvrtc: &Nvrtc) -> Option<String> {
        if self.driver.is_some_and(|driver| nvrtc.version().0 as i32 > driver / 1000) {
            return Some("is newer than the driver".to_owned());
        }
        let (major, minor) = self.card?;
        let is_too_old = Target::for_card((major, minor), nvrtc).is_err();
        is_too_old.then(|| format!("makes nothing for a card as old as compute capability {major}.{minor}"))
    }

    fn candidates(&self, env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
        if let Some(folder) = self.explicit {
            return libraries_in(library_folders(folder));
        }
        let set = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut found = Vec::new();
        if let Some(cache) = self.cache {
            found.extend(libraries_in(children(&cache.join("cuda"))));
        }
        let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].map(set);
        // Where pip installs without such an environment: for the user, and for all (Debian has a name of its own for that).
        let others = [set("HOME").map(|home| home.join(".local")), Some(PathBuf::from("/usr/local"))];
        for prefix in environments.into_iter().chain(others).flatten() {
            let library = prefix.join("lib");
            let sites =
                children(&library).into_iter().flat_map(|python| PACKAGES.map(|packages| python.join(packages)));
            let folders = sites.flat_map(|site| OF_PIP.map(|folder| site.join(folder)));
            found.extend(libraries_in(folders.chain([library])));
        }
        let toolkits = [set("CUDA_HOME"), set("CUDA_PATH"), Some(PathBuf::from("/usr/local/cuda"))];
        found.extend(toolkits.into_iter().flatten().flat_map(|toolkit| libraries_in([toolkit.join("lib64")])));
        found.extend(SYSTEM_NAMES.map(PathBuf::from));
        found
    }
}

/// A folder of libraries, and those in it that pip's wheels for CUDA 12 have in nvidia/: one for each library, with its `lib`.
pub fn library_folders(folder: &Path) -> Vec<PathBuf> {
    let inner = children(folder).into_iter().map(|library| library.join("lib"));
    std::iter::once(folder.to_owned()).chain(inner).collect()
}

/// Files named as NVRTC, the newest first.
fn libraries_in(folders: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = folders
        .into_iter()
        .flat_map(|folder| children(&folder))
        .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libnvrtc.so")))
        .collect();
    files.sort_by_key(|file| std::cmp::Reverse(numbers(file)));
    files
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect()
}

/// Versions in the name, so that 13 comes after 9.
fn numbers(path: &Path) -> Vec<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::GpuErrorKind;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn the_cache_comes_before_pip_and_the_newest_first() {
        let root = tempfile::tempdir().unwrap();
        let (cache, venv) = (root.path().join("cache"), root.path().join("venv"));
        let in_cache = ["nvrtc-12.9/libnvrtc.so.12", "nvrtc-13.0/libnvrtc.so.13", "nvrtc-9/libnvrtc.so.9"];
        for name in in_cache {
            touch(&cache.join("cuda").join(name));
        }
        touch(&cache.join("cuda/nvrtc-12.9/libnvrtc-builtins.so.12.9"));
        let pip = venv.join("lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
        let home = root.path().join("home");
        let users = home.join(".local/lib/python3.13/site-packages/nvidia/cu13/lib/libnvrtc.so.13");
        touch(&pip);
        touch(&users);
        let search = NvrtcSearch { cache: Some(&cache), ..NvrtcSearch::default() };
        let found = search.candidates(|name| match name {
            "VIRTUAL_ENV" => Some(venv.clone().into()),
            "HOME" => Some(home.clone().into()),
            _ => None,
        });
        let in_cache = [in_cache[1], in_cache[0], in_cache[2]].map(|name| cache.join("cuda").join(name));
        assert_eq!(found[..3], in_cache);
        assert_eq!(found[3..5], [pip, users]);
        assert!(found.ends_with(&SYSTEM_NAMES.map(PathBuf::from)));
    }

    #[test]
    fn a_named_folder_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let search = NvrtcSearch { explicit: Some(folder.path()), ..NvrtcSearch::default() };
        assert!(search.candidates(|_| None).is_empty());
        let error = search.load().unwrap_err();
        assert_eq!(error.kind, GpuErrorKind::Missing);
        assert!(error.what.contains(&folder.path().display().to_string()) && error.hint.is_some());
        touch(&folder.path().join("cuda_nvrtc/lib/libnvrtc.so.11"));
        assert!(search.load().unwrap_err().what.contains("cuda_nvrtc/lib/libnvrtc.so.11"));
        touch(&folder.path().join("libnvrtc.so.12"));
        assert!(search.load().unwrap_err().what.contains("libnvrtc.so.12"));
    }
}
