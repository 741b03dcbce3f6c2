//! Providers in libraries of their own, which ONNX Runtime loads beside itself.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use livediffusion_kernels::cuda::Card;
use ort::device::Device;
use ort::environment::Environment;
use ort::session::builder::SessionBuilder;

use crate::preload::preload_or_warn;
use crate::provider::Provider;
use crate::provider::options::Options;
use crate::runtime::user_cache;

/// What a plug-in is called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// Its own name for itself, under which it has to be registered: its options begin with it, and what it compiles names it.
    name: &'static str,
    /// Names of its library on each system.
    files: &'static [&'static str],
    /// Variable of the environment that says where it lies.
    variable: &'static str,
    /// Libraries beside it that it needs, by how their names begin.
    needs: &'static [&'static str],
    /// Folders of the user's cache that hold an ONNX Runtime and the plug-in begin with it.
    pub(crate) flavour: &'static str,
}

static WEBGPU: Plugin = Plugin {
    name: "WebGpuExecutionProvider",
    files: &[
        "libonnxruntime_providers_webgpu.so",
        "libonnxruntime_providers_webgpu.dylib",
        "onnxruntime_providers_webgpu.dll",
    ],
    variable: "LIVEDIFFUSION_WEBGPU_LIB",
    needs: &[],
    flavour: "webgpu",
};

static TENSORRT_RTX: Plugin = Plugin {
    name: "NvTensorRTRTXExecutionProvider",
    files: &["libonnxruntime_providers_nv_tensorrt_rtx.so", "onnxruntime_providers_nv_tensorrt_rtx.dll"],
    variable: "LIVEDIFFUSION_TENSORRT_RTX_LIB",
    needs: &["libcudart.", "libtensorrt_rtx.", "libtensorrt_onnxparser_rtx."],
    flavour: "tensorrt-rtx",
};

/// Which of a plug-in's devices run a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Devices {
    /// All that it finds.
    All,
    /// The card with that number of CUDA's.
    Card(u32),
}

impl Plugin {
    /// That of a provider, where there is one.
    pub(crate) fn of(provider: Provider) -> Option<&'static Self> {
        match provider {
            Provider::WebGpu => Some(&WEBGPU),
            Provider::TensorRtRtx => Some(&TENSORRT_RTX),
            _ => None,
        }
    }

    /// Its library: where its variable says, beside the ONNX Runtime at `ort`, or in `ep/` of the user's cache, in it or in a folder
    /// of it.
    pub(crate) fn library(&self, ort: &Path) -> Option<PathBuf> {
        let named = std::env::var_os(self.variable).filter(|path| !path.is_empty());
        named
            .map(|path| std::fs::canonicalize(&path).unwrap_or_else(|_| path.into()))
            .or_else(|| self.inside(ort.parent()?))
            .or_else(|| self.find(&user_cache()?.join("ep")))
    }

    fn inside(&self, folder: &Path) -> Option<PathBuf> {
        self.files.iter().map(|name| folder.join(name)).find(|file| file.is_file())
    }

    fn find(&self, folder: &Path) -> Option<PathBuf> {
        let mut folders: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect();
        folders.sort();
        // The last name is the newest version.
        self.inside(folder).or_else(|| folders.iter().rev().find_map(|folder| self.inside(folder)))
    }

    /// Has the plug-in's devices run the session.
    pub(crate) fn register(
        &self,
        environment: &Environment,
        builder: SessionBuilder,
        library: &Path,
        (wanted, options): (Devices, &Options),
    ) -> ort::Result<SessionBuilder> {
        self.load(environment, library)?;
        let is_wanted = |device: &Device<'_>| match wanted {
            Devices::All => true,
            Devices::Card(number) => u32::try_from(device.memory_info(false).device_id()) == Ok(number),
        };
        let own = |device: &Device<'_>| device.ep().is_ok_and(|ep| ep == self.name);
        let mut devices: Vec<_> = environment.devices().filter(|device| own(device) && is_wanted(device)).collect();
        if wanted != Devices::All {
            // It takes no more than one, should a card be listed twice.
            devices.truncate(1);
        }
        if devices.is_empty() {
            return Err(ort::Error::new(format!("{} {}", library.display(), wanted.why_none())));
        }
        let options: Vec<(String, String)> =
            options.iter().map(|(name, value)| (format!("{}.{name}", self.name), value.clone())).collect();
        Ok(builder.with_devices(devices, Some(&options))?)
    }

    /// Loads the library, once in a process.
    pub(crate) fn load(&self, environment: &Environment, library: &Path) -> ort::Result<()> {
        static REGISTERED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
        let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
        if !registered.iter().any(|known| known == library) {
            // What it needs lies beside it, and it does not say so itself.
            if let Some(folder) = library.parent() {
                preload_or_warn(folder, self.needs);
            }
            environment.register_ep_library(self.name, library)?;
            registered.push(library.to_owned());
        }
        Ok(())
    }
}

impl Devices {
    /// What is to be said of a plug-in that has none of them.
    fn why_none(self) -> String {
        let number = match self {
            Self::All => return "finds no GPU (it needs a driver for Vulkan, Metal or Direct3D 12)".to_owned(),
            Self::Card(number) => number,
        };
        // As version 0.5.0 has it.
        let takes = |(major, minor): (u32, u32)| matches!((major, minor), (8, 6 | 9) | (12.., _));
        match Card::open(number as usize).and_then(|card| card.capability()) {
            Ok(capability) if takes(capability) => format!(
                "does not see card {number}, though it takes its kind: its driver may be too old, or ONNX Runtime finds no NVIDIA card under \
                 /sys/bus/pci/devices"
            ),
            Ok((major, minor)) => format!(
                "does not take card {number}, of compute capability {major}.{minor} (it takes 8.6, 8.9, and 12.0 or more)"
            ),
            Err(error) => format!("does not see card {number}: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plug_in_of_the_cache_is_found() {
        for plugin in [&WEBGPU, &TENSORRT_RTX] {
            let cache = tempfile::tempdir().unwrap();
            assert_eq!(plugin.find(cache.path()), None);
            for version in ["plugin-0.3.0", "plugin-0.4.0"] {
                std::fs::create_dir(cache.path().join(version)).unwrap();
                std::fs::write(cache.path().join(version).join(plugin.files[0]), b"").unwrap();
            }
            assert_eq!(plugin.find(cache.path()), Some(cache.path().join("plugin-0.4.0").join(plugin.files[0])));
            let direct = cache.path().join(plugin.files[0]);
            std::fs::write(&direct, b"").unwrap();
            assert_eq!(plugin.find(cache.path()), Some(direct));
        }
    }
}
