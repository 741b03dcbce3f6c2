//! Finding and loading the ONNX Runtime library.
//!
//! It is loaded at run time because its flavour (CPU, OpenVINO, CUDA) belongs to the user's machine. ONNX Runtime allows
//! one environment per process, so the first library that loads stays.

use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use livediffusion_kernels::cuda::{Driver, dotted};

use crate::error::OnnxError;
use crate::preload::{OF_CUDA, OF_TENSORRT, preload_or_warn};
use crate::provider::{Plugin, Provider, ProviderChoice};

/// Flavours of the library in the cache, the one to prefer first.
const FLAVOURS: [&str; 3] = ["openvino", "cuda", "cpu"];

/// Names tried with the system's loader. The second is a link that only development packages have.
const SYSTEM_NAMES: [&str; 2] = ["libonnxruntime.so.1", "libonnxruntime.so"];

const HINT: &str = "`make setup` fetches the library; or point --ort-lib or ORT_DYLIB_PATH at libonnxruntime.so";

static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The loaded library and its environment. Cheap to clone; it lives as long as the process.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
    version: String,
    /// Where the user said that CUDA's libraries lie.
    cuda: Option<PathBuf>,
    /// Whether the user said where this one lies.
    is_named: bool,
}

/// Which libraries are loaded. The first call of [`Runtime::load_with`] decides for the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Libraries<'a> {
    /// ONNX Runtime, a file or a folder; `None` looks for it.
    pub ort: Option<&'a Path>,
    /// A folder with CUDA's, cuDNN's and TensorRT's libraries, in place of those beside ONNX Runtime.
    pub cuda: Option<&'a Path>,
    /// What is to run on it: of several libraries that are found, one for this provider is taken.
    pub provider: ProviderChoice,
}

impl Runtime {
    /// Finds and loads the library, in this order:
    ///
    /// 1. `explicit`, a file or a folder;
    /// 2. `ORT_DYLIB_PATH`, likewise;
    /// 3. `$LIVEDIFFUSION_CACHE/ort/<flavour>-<version>/`, where `LIVEDIFFUSION_CACHE` is by default
    ///    `${XDG_CACHE_HOME:-~/.cache}/livediffusion`: the highest version of the first flavour among openvino, cuda and
    ///    cpu; cuda comes first where the NVIDIA driver sees a card and is new enough for it, but for the providers openvino and cpu; webgpu
    ///    and tensorrt-rtx come first for the providers of those names, and are taken for no other;
    /// 4. the system's loader.
    ///
    /// What was asked for by 1 or 2 is never passed over for a later one. A second call gives the same library; it
    /// fails if it asks for another one.
    pub fn load(explicit: Option<&Path>) -> Result<Self, OnnxError> {
        Self::load_with(&Libraries { ort: explicit, ..Libraries::default() })
    }

    /// As [`load`](Self::load), for a provider, and with CUDA's libraries from where they are said to lie.
    pub fn load_with(libraries: &Libraries<'_>) -> Result<Self, OnnxError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let Libraries { ort: explicit, cuda, provider } = *libraries;
        if let Some(runtime) = &*loaded {
            return runtime.again(explicit);
        }
        let cuda = cuda.map(cuda_folder).transpose()?;
        let candidate = find((explicit, provider), |name| std::env::var_os(name), &nvidia_driver)?;
        let runtime = if let Some(path) = candidate {
            if let Some(folder) = cuda.clone().or_else(|| beside(&path)) {
                preload_or_warn(&folder, &OF_CUDA);
            }
            Self::open(&path)?
        } else {
            if let Some(folder) = &cuda {
                preload_or_warn(folder, &OF_CUDA);
            }
            Self::open_system(&|name| std::env::var_os(name))?
        };
        let is_named = explicit.is_some() || std::env::var_os("ORT_DYLIB_PATH").is_some_and(|path| !path.is_empty());
        let runtime = Self { cuda, is_named, ..runtime };
        tracing::debug!(path = %runtime.path.display(), version = runtime.version, "ONNX Runtime loaded");
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// Where the library lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of CUDA's libraries that the first call named.
    pub fn cuda_libraries(&self) -> Option<&Path> {
        self.cuda.as_deref()
    }

    /// Loads TensorRT's libraries, once, from where CUDA's are.
    pub(crate) fn preload_tensorrt(&self) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            if let Some(folder) = self.cuda.clone().or_else(|| beside(&self.path)) {
                preload_or_warn(&folder, &OF_TENSORRT);
            }
        });
    }

    /// Whether the user named the library, so that no other one is looked for.
    pub(crate) fn is_named(&self) -> bool {
        self.is_named
    }

    /// The library's version, as it says itself.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether the library is older than that version.
    pub(crate) fn is_before(&self, major: u64, minor: u64) -> bool {
        version_key(Path::new(&self.version)) < vec![major, minor]
    }

    /// What the library is for: `openvino`, `cuda`, `tensorrt-rtx`, `webgpu` or `cpu`.
    pub fn flavour(&self) -> &'static str {
        let compiled = self.compiled_providers();
        if compiled.contains(&Provider::OpenVino) {
            "openvino"
        } else if compiled.contains(&Provider::Cuda) {
            "cuda"
        } else if compiled.contains(&Provider::TensorRtRtx) {
            "tensorrt-rtx"
        } else if compiled.contains(&Provider::WebGpu) {
            "webgpu"
        } else {
            "cpu"
        }
    }

    /// Providers that the library was compiled with, or that lie beside it as plug-ins. That does not mean that they work here: a CUDA library lists CUDA
    /// on a machine without a GPU. [`probe_provider`](crate::probe_provider) tells.
    pub fn compiled_providers(&self) -> Vec<Provider> {
        let has = |provider: &Provider| {
            provider.is_compiled() || Plugin::of(*provider).is_some_and(|plugin| plugin.library(&self.path).is_some())
        };
        Provider::ALL.into_iter().filter(has).collect()
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    fn again(&self, explicit: Option<&Path>) -> Result<Self, OnnxError> {
        let Some(asked) = explicit else {
            return Ok(self.clone());
        };
        let asked = resolve(asked)?;
        if asked.canonicalize().ok() == self.path.canonicalize().ok() {
            return Ok(self.clone());
        }
        let (here, there) = (self.path.display(), asked.display());
        Err(OnnxError::invalid(format!("{here} is loaded already; {there} cannot be loaded beside it"))
            .hint("one process can hold one ONNX Runtime: start another process for the other"))
    }

    fn open(path: &Path) -> Result<Self, OnnxError> {
        let version = ask_version(path).map_err(|reason| {
            OnnxError::missing(format!("{} cannot be loaded: {reason}", path.display())).hint(HINT)
        })?;
        let failed = |e: &dyn std::fmt::Display| {
            OnnxError::missing(format!("ONNX Runtime {version} from {}: {e}", path.display()))
                .hint(format!("it has to be 1.{} or newer: {HINT}", ort::MINOR_VERSION))
        };
        let environment = ort::init_from(path)
            .map_err(|e| failed(&e))?
            .with_name("livediffusion")
            .with_telemetry(false)
            .build()
            .map_err(|e| failed(&e))?;
        // At its own default the library formats thousands of messages a frame, only for them to be filtered out here.
        environment.set_log_level(LogLevel::Warning);
        Ok(Self { environment, path: mapped_path(path), version, cuda: None, is_named: false })
    }

    fn open_system(env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, OnnxError> {
        for name in SYSTEM_NAMES {
            if ask_version(Path::new(name)).is_ok() {
                return Self::open(Path::new(name));
            }
        }
        let cache = cache_folder(env).map_or_else(|| "no cache folder".into(), |c| c.display().to_string());
        Err(OnnxError::missing(format!(
            "no ONNX Runtime library: looked at --ort-lib and ORT_DYLIB_PATH (not given), in {cache} for {}, and asked \
             the system for {}",
            FLAVOURS.join("-*, ") + "-*",
            SYSTEM_NAMES.join(" and "),
        ))
        .hint(HINT))
    }
}

/// What `make setup-cuda` puts beside a library for GPUs.
fn beside(library: &Path) -> Option<PathBuf> {
    library.parent().map(|folder| folder.join("cuda"))
}

/// The folder that the user says CUDA's libraries lie in.
fn cuda_folder(folder: &Path) -> Result<PathBuf, OnnxError> {
    let hint = "give --cuda-lib-dir the folder with libcudart.so, libcublas.so, libcudnn.so and libnvrtc.so";
    match folder.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(path) => Err(OnnxError::invalid(format!("{} is no folder", path.display())).hint(hint)),
        Err(error) => Err(OnnxError::missing(format!("{}: {error}", folder.display())).hint(hint)),
    }
}

/// The CUDA that the NVIDIA driver speaks (1000 · major + 10 · minor), where it sees a card.
fn nvidia_driver() -> Option<i32> {
    Driver::find().ok().map(Driver::version)
}

/// Whether a folder that begins with `flavour` holds a library that works with that driver. ONNX Runtime is built for CUDA 13 since 1.27;
/// TensorRT for RTX says in its folder's name what it is built for.
fn works_with(driver: i32, flavour: &str, folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let is_older = if flavour == "cuda-" { version_key(folder) < vec![1, 27] } else { name.ends_with("cuda12") };
    name.starts_with(flavour) && driver >= if is_older { 12_000 } else { 13_000 }
}

/// The library that the settings name or the cache holds; `None` leaves it to the system.
fn find(
    (explicit, provider): (Option<&Path>, ProviderChoice),
    env: impl Fn(&str) -> Option<OsString>,
    driver: &dyn Fn() -> Option<i32>,
) -> Result<Option<PathBuf>, OnnxError> {
    if let Some(path) = explicit {
        return resolve(path).map(Some);
    }
    if let Some(path) = env("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        return resolve(Path::new(&path))
            .map(Some)
            .map_err(|e| OnnxError { what: format!("ORT_DYLIB_PATH: {e}"), ..e });
    }
    let Some(cache) = cache_folder(&env) else {
        return Ok(None);
    };
    let newest = |mut folders: Vec<PathBuf>| {
        folders.sort_by_key(|p| version_key(p));
        folders.iter().rev().find_map(|folder| library_in(folder))
    };
    let plugin = if let ProviderChoice::Fixed(provider) = provider { Plugin::of(provider) } else { None };
    // A card is faster than any CPU; without one its library's CPU provider is slower than OpenVINO. The driver is asked only
    // where there is something to choose.
    let for_cards = match provider {
        // They are in the others' libraries, and OpenVINO in its own alone.
        ProviderChoice::Fixed(Provider::WebGpu | Provider::OpenVino | Provider::Cpu) => None,
        ProviderChoice::Fixed(Provider::TensorRtRtx) => plugin.map(|plugin| format!("{}-", plugin.flavour)),
        _ => Some("cuda-".to_owned()),
    };
    if let Some(flavour) = for_cards
        && entries(&cache).any(|p| begins_with(&flavour)(&p))
        && let Some(driver) = driver()
    {
        if let Some(file) = newest(entries(&cache).filter(|p| works_with(driver, &flavour, p)).collect()) {
            return Ok(Some(file));
        }
        if plugin.is_some() {
            let what = format!("{}: none of {flavour}* is for a driver of CUDA {}", cache.display(), dotted(driver));
            return Err(OnnxError::missing(what).hint("`make setup-tensorrt-rtx CUDA=12`, or a newer driver"));
        }
    }
    // A plug-in asks for a newer library than any other provider.
    let first = plugin.map(|plugin| plugin.flavour);
    Ok(first
        .into_iter()
        .chain(FLAVOURS)
        .find_map(|flavour| newest(entries(&cache).filter(begins_with(&format!("{flavour}-"))).collect())))
}

fn begins_with(prefix: &str) -> impl Fn(&PathBuf) -> bool {
    move |path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// Whether a library that has this provider lies in the cache, under its name.
pub(crate) fn is_in_cache(provider: Provider) -> bool {
    let Some(cache) = cache_folder(&|name| std::env::var_os(name)) else { return false };
    let flavour = format!("{provider}-");
    entries(&cache).filter(begins_with(&flavour)).any(|folder| library_in(&folder).is_some())
}

/// The folder of what can be fetched or measured again: `LIVEDIFFUSION_CACHE`, else `livediffusion` in `XDG_CACHE_HOME`,
/// else in `~/.cache`; `None` where none of these variables is set. It need not exist.
pub fn user_cache() -> Option<PathBuf> {
    user_cache_in(&|name| std::env::var_os(name))
}

fn user_cache_in(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| env(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    set("LIVEDIFFUSION_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|p| p.join("livediffusion")))
        .or_else(|| set("HOME").map(|p| p.join(".cache/livediffusion")))
}

/// Where libraries lie in it.
fn cache_folder(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    Some(user_cache_in(env)?.join("ort"))
}

/// An absolute path of the library that a file or folder names.
fn resolve(path: &Path) -> Result<PathBuf, OnnxError> {
    let none = |what: String| OnnxError::missing(what).hint(HINT);
    // A relative path would be taken from the executable's folder first.
    let path = path.canonicalize().map_err(|e| none(format!("{}: {e}", path.display())))?;
    if path.is_dir() {
        library_in(&path).ok_or_else(|| none(format!("{} holds no libonnxruntime.so", path.display())))
    } else {
        Ok(path)
    }
}

/// The library of the highest version in a folder.
fn library_in(folder: &Path) -> Option<PathBuf> {
    entries(folder)
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("libonnxruntime.so")))
        .max_by_key(|p| version_key(p))
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|e| e.path())
}

/// Orders names by the numbers in them, so that 1.24 comes after 1.9.
fn version_key(path: &Path) -> Vec<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Loads the library far enough to ask its version, or tells the loader's reason for refusing it.
#[allow(unsafe_code, reason = "the C API's entry point; ort keeps its own handle of the library private")]
fn ask_version(path: &Path) -> Result<String, String> {
    let reason = |e: libloading::Error| match std::error::Error::source(&e) {
        Some(source) => source.to_string(),
        None => e.to_string(),
    };
    // SAFETY: loading runs the library's initialisers; it is the one that the user or the system names as ONNX Runtime.
    let library = unsafe { libloading::Library::new(path) }.map_err(reason)?;
    // SAFETY: `OrtGetApiBase` has had this signature in every release of the C API.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase") }
        .map_err(|_| "it is not ONNX Runtime (no OrtGetApiBase)".to_owned())?;
    // SAFETY: the entry point takes no arguments and returns a pointer to a static table, or null.
    let table = unsafe { base().as_ref() }.ok_or("OrtGetApiBase returned nothing")?;
    // SAFETY: the table's second entry returns a static string that ends in a zero.
    let version = unsafe { CStr::from_ptr((table.GetVersionString)()) };
    Ok(version.to_string_lossy().into_owned())
}

/// Where a library that was loaded by name alone really lies.
fn mapped_path(path: &Path) -> PathBuf {
    if path.is_absolute() {
        return path.to_owned();
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]))
        .find(|file| file.contains("/libonnxruntime.so"))
        .map_or_else(|| path.to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any crate that turned on a higher rung of ort's ladder would make it refuse the OpenVINO library (1.24.1).
    #[test]
    fn every_flavour_of_the_library_is_new_enough() {
        assert_eq!(ort::MINOR_VERSION, 24);
    }

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    #[test]
    fn the_cache_prefers_the_flavour_and_then_the_version() {
        let cache = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "LIVEDIFFUSION_CACHE").then(|| cache.path().into());
        let driver = |version: i32| move || Some(version);
        assert_eq!(find((None, ProviderChoice::Auto), env, &driver(13_000)).unwrap(), None);
        touch(&cache.path().join("ort/cpu-1.32.0/libonnxruntime.so.1.32.0"));
        touch(&cache.path().join("ort/openvino-1.9.0/libonnxruntime.so.1.9.0"));
        let newest = cache.path().join("ort/openvino-1.24.1/libonnxruntime.so.1.24.1");
        touch(&newest);
        touch(&newest.with_file_name("libonnxruntime_providers_openvino.so"));
        assert_eq!(find((None, ProviderChoice::Auto), env, &driver(13_000)).unwrap().as_ref(), Some(&newest));
        let cuda = |version| cache.path().join(format!("ort/cuda-{version}/libonnxruntime.so.{version}"));
        touch(&cuda("1.26.0"));
        touch(&cuda("1.31.1"));
        assert_eq!(find((None, ProviderChoice::Auto), env, &|| None).unwrap().as_ref(), Some(&newest));
        assert_eq!(find((None, ProviderChoice::Auto), env, &driver(13_000)).unwrap(), Some(cuda("1.31.1")));
        assert_eq!(find((None, ProviderChoice::Auto), env, &driver(12_080)).unwrap(), Some(cuda("1.26.0")));
        assert_eq!(find((None, ProviderChoice::Auto), env, &driver(11_080)).unwrap().as_ref(), Some(&newest));
        // Whoever asks for the processor is not given a card's library, which has no OpenVINO.
        for on_cpu in [Provider::OpenVino, Provider::Cpu].map(ProviderChoice::Fixed) {
            assert_eq!(find((None, on_cpu), env, &driver(13_000)).unwrap().as_ref(), Some(&newest));
        }
        // A plug-in takes what is there until it has a library of its own, which nothing else takes.
        let (webgpu, rtx) = (ProviderChoice::Fixed(Provider::WebGpu), ProviderChoice::Fixed(Provider::TensorRtRtx));
        for plugin in [webgpu, rtx] {
            assert_eq!(find((None, plugin), env, &driver(13_000)).unwrap().as_ref(), Some(&newest));
        }
        let own = |name: &str| cache.path().join(format!("ort/{name}/libonnxruntime.so.1.32.0"));
        let names = ["webgpu-1.32.0-0.4.0", "tensorrt-rtx-1.32.0-0.5.0-cuda12", "tensorrt-rtx-1.32.0-0.5.0-cuda13"];
        for name in names {
            touch(&own(name));
        }
        assert_eq!(find((None, webgpu), env, &driver(13_000)).unwrap(), Some(own(names[0])));
        assert_eq!(find((None, rtx), env, &driver(12_080)).unwrap(), Some(own(names[1])));
        assert_eq!(find((None, rtx), env, &driver(13_000)).unwrap(), Some(own(names[2])));
        let error = find((None, rtx), env, &driver(11_080)).unwrap_err();
        assert!(error.what.contains("CUDA 11.8") && error.hint.is_some(), "{error}");
        // Without a driver the library says what is missing.
        assert_eq!(find((None, rtx), env, &|| None).unwrap(), Some(own(names[2])));
        assert_eq!(find((None, ProviderChoice::Auto), env, &driver(13_000)).unwrap(), Some(cuda("1.31.1")));
        assert_eq!(find((None, ProviderChoice::Auto), env, &|| None).unwrap(), Some(newest));
    }

    #[test]
    fn what_was_asked_for_comes_first_and_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().canonicalize().unwrap().join("libonnxruntime.so.1.24.1");
        touch(&file);
        let absent = |name: &str| (name == "ORT_DYLIB_PATH").then(|| OsString::from("/nowhere/libonnxruntime.so"));
        assert_eq!(find((Some(folder.path()), ProviderChoice::Auto), absent, &|| None).unwrap(), Some(file));
        let error = find((None, ProviderChoice::Auto), absent, &|| None).unwrap_err();
        assert!(error.what.contains("ORT_DYLIB_PATH") && error.hint.is_some(), "{error:?}");
    }
}
