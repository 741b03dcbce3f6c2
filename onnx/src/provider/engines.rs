//! TensorRT's engines on disk, of either kind.
//!
//! An engine takes long to build and fits one card, one TensorRT and one set of shapes. Each combination has a folder of its
//! own, named by a hash of all of it. TensorRT writes into the folder by itself and not at once, so that a seal is written last:
//! the names, sizes and hashes of the files. A folder whose seal is missing or does not fit is emptied and built anew.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use livediffusion_kernels::cuda::Card;
use sha2::{Digest as _, Sha256};

use crate::provider::{Chosen, SessionSettings};
use crate::runtime::Runtime;

/// Name of the seal.
const SEAL: &str = "sealed.txt";

/// Whatever decides what an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineKey {
    /// Hash of the graph and of the weights beside it.
    pub(crate) model: String,
    /// The profile's shapes, or none.
    pub(crate) profile: Option<[String; 3]>,
    /// Arithmetic.
    pub(crate) precision: String,
    /// The card: name and compute capability.
    pub(crate) gpu: String,
    /// The driver's CUDA version.
    pub(crate) driver: i32,
    /// TensorRT's version.
    pub(crate) tensorrt: String,
    /// ONNX Runtime's version, which divides the graph among providers.
    pub(crate) onnxruntime: String,
}

impl EngineKey {
    /// The folder's name.
    pub(crate) fn name(&self) -> String {
        let Self { model, profile, precision, gpu, driver, tensorrt, onnxruntime } = self;
        let mut text = String::new();
        let shapes = profile.as_ref().map_or_else(String::new, |shapes| shapes.join("|"));
        for part in [model, &shapes, precision, gpu, &driver.to_string(), tensorrt, onnxruntime] {
            // With its length, so that no two keys run into one another.
            let _ = write!(text, "{}:{part};", part.len());
        }
        hex(&Sha256::digest(text.as_bytes())[..16])
    }
}

/// The key of a network's engines on the card that the settings name: of a graph's bytes and the folder of its weights.
pub(crate) fn key(
    runtime: &Runtime,
    (graph, folder): (&[u8], &Path),
    profile: Option<&[String; 3]>,
    (chosen, settings): (&Chosen, &SessionSettings),
    tensorrt: String,
) -> Result<EngineKey, String> {
    let card = Card::open(settings.gpu.device as usize).map_err(|e| e.to_string())?;
    let (major, minor) = card.capability().map_err(|e| e.to_string())?;
    let name = card.name().map_err(|e| e.to_string())?;
    Ok(EngineKey {
        model: model_hash(graph, folder).map_err(|e| format!("{}: {e}", folder.display()))?,
        profile: profile.cloned(),
        precision: chosen.precision.to_string(),
        gpu: format!("{name} ({major}.{minor})"),
        driver: card.driver().version(),
        tensorrt,
        onnxruntime: runtime.version().to_owned(),
    })
}

/// The card that the settings name, as TensorRT for RTX names those that it compiles for; `None` for others, for which it asks the card
/// itself.
pub(crate) fn target(settings: &SessionSettings) -> Result<Option<String>, String> {
    let card = Card::open(settings.gpu.device as usize).map_err(|e| e.to_string())?;
    let (major, minor) = card.capability().map_err(|e| e.to_string())?;
    Ok(matches!((major, minor), (8, 6 | 9) | (12, 0 | 1)).then(|| format!("sm{major}{minor}")))
}

/// The version of a TensorRT library: 10000 · major + 100 · minor + patch, or the larger number that TensorRT for RTX has.
#[allow(unsafe_code, reason = "TensorRT's C interface")]
pub(crate) fn version_of(library: &str) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers; ONNX Runtime is about to load the same one, or has.
    let library = unsafe { libloading::Library::new(library) }.map_err(|e| e.to_string())?;
    // SAFETY: `getInferLibVersion` has had this signature in every release.
    let ask = unsafe { library.get::<unsafe extern "C" fn() -> i32>(b"getInferLibVersion\0") };
    let ask = ask.map_err(|e| e.to_string())?;
    // SAFETY: it takes nothing and returns a number.
    Ok(unsafe { ask() }.to_string())
}

/// Hash of a graph's bytes, and of name, size and time of the weights beside it: those have gigabytes.
pub(crate) fn model_hash(graph: &[u8], folder: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    hash.update(graph);
    let mut beside: Vec<_> = std::fs::read_dir(folder)?.filter_map(Result::ok).collect();
    beside.sort_by_key(std::fs::DirEntry::file_name);
    for file in beside {
        let name = file.file_name();
        // Follows links, as Hugging Face's cache has them.
        let about = std::fs::metadata(file.path())?;
        if !about.is_file() || Path::new(&name).extension().is_some_and(|e| e == "json" || e == "txt" || e == "md") {
            continue;
        }
        hash.update(name.as_encoded_bytes());
        hash.update(about.len().to_le_bytes());
        if let Ok(time) = about.modified().map(|t| t.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()) {
            hash.update(time.as_nanos().to_le_bytes());
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The engines of one key.
#[derive(Debug)]
pub(crate) struct Engines {
    folder: PathBuf,
    built: bool,
}

impl Engines {
    /// Opens or makes the folder. What is not as it was sealed is removed.
    pub(crate) fn open(root: &Path, key: &EngineKey) -> io::Result<Self> {
        let folder = root.join(key.name());
        std::fs::create_dir_all(&folder)?;
        let built = match std::fs::read_to_string(folder.join(SEAL)) {
            Ok(sealed) if sealed == contents(&folder)? => true,
            Ok(_) => {
                tracing::warn!(folder = %folder.display(), "TensorRT's engines are damaged, and built anew");
                false
            }
            Err(_) => false,
        };
        if !built {
            for file in files(&folder)? {
                std::fs::remove_file(file)?;
            }
            let _ = std::fs::remove_file(folder.join(SEAL));
        }
        Ok(Self { folder, built })
    }

    /// Where TensorRT reads and writes.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether they are there, and a session does not have to build them.
    pub(crate) fn are_built(&self) -> bool {
        self.built
    }

    /// Whether TensorRT has written an engine into the folder.
    pub(crate) fn has_any(&self) -> bool {
        let all = files(&self.folder).unwrap_or_default();
        all.iter().any(|file| file.extension().is_some_and(|extension| extension == "engine"))
    }

    /// Says that what lies in the folder now is whole. The seal appears at once.
    pub(crate) fn seal(&mut self) -> io::Result<()> {
        let contents = contents(&self.folder)?;
        if contents.is_empty() {
            return Ok(());
        }
        let unfinished = self.folder.join(format!(".{SEAL}-{}", std::process::id()));
        let mut file = std::fs::File::create(&unfinished)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(unfinished, self.folder.join(SEAL))?;
        self.built = true;
        Ok(())
    }
}

/// A line for each file.
fn contents(folder: &Path) -> io::Result<String> {
    let mut text = String::new();
    for path in files(folder)? {
        let mut file = std::fs::File::open(&path)?;
        let (mut hash, mut size, mut part) = (Sha256::new(), 0, vec![0; 1 << 20]);
        loop {
            let read = file.read(&mut part)?;
            if read == 0 {
                break;
            }
            hash.update(&part[..read]);
            size += read;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(text, "{} {size} {name}", hex(&hash.finalize()));
    }
    Ok(text)
}

/// All but the seal and what begins with a dot, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let is_engine = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && name != SEAL && !name.starts_with('.')
    };
    let mut files: Vec<_> = entries.filter(is_engine).collect();
    files.sort();
    Ok(files)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> EngineKey {
        EngineKey {
            model: "abc".into(),
            profile: Some(["x:1".into(), "x:2".into(), "x:4".into()]),
            precision: "f16".into(),
            gpu: "NVIDIA X (8.9)".into(),
            driver: 12_080,
            tensorrt: "10.16.1".into(),
            onnxruntime: "1.26.0".into(),
        }
    }

    #[test]
    fn everything_that_decides_counts_for_the_key() {
        let name = key().name();
        assert_eq!(name, key().name());
        let others = [
            EngineKey { model: "abd".into(), ..key() },
            EngineKey { profile: None, ..key() },
            EngineKey { profile: Some(["x:1".into(), "x:2".into(), "x:8".into()]), ..key() },
            EngineKey { precision: "f32".into(), ..key() },
            EngineKey { gpu: "NVIDIA X (9.0)".into(), ..key() },
            EngineKey { driver: 13_000, ..key() },
            EngineKey { tensorrt: "10.16.2".into(), ..key() },
            EngineKey { onnxruntime: "1.27.0".into(), ..key() },
            // Nothing may slip from one part into its neighbour.
            EngineKey { precision: "f1".into(), gpu: "6NVIDIA X (8.9)".into(), ..key() },
        ];
        let mut names: Vec<_> = others.iter().map(EngineKey::name).chain([name]).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len() + 1);
    }

    #[test]
    fn only_what_was_sealed_and_is_unchanged_is_used() {
        let root = tempfile::tempdir().unwrap();
        let open = || Engines::open(root.path(), &key()).unwrap();
        let mut engines = open();
        assert!(!engines.are_built());
        engines.seal().unwrap();
        assert!(!engines.are_built(), "nothing was built yet");
        let file = engines.folder().join("livediffusion_1.engine");
        std::fs::write(&file, b"machine code").unwrap();
        // A build that was broken off: no seal.
        assert!(!open().are_built() && !file.exists());

        std::fs::write(&file, b"machine code").unwrap();
        engines.seal().unwrap();
        assert!(engines.are_built() && open().are_built() && file.exists());
        // Changed, grown, gone, or one too many.
        for damage in [&b"machine c0de"[..], b"machine code.", b""] {
            std::fs::write(&file, damage).unwrap();
            assert!(!open().are_built() && !file.exists());
            std::fs::write(&file, b"machine code").unwrap();
            engines.seal().unwrap();
            assert!(open().are_built());
        }
        let second = engines.folder().join("livediffusion_2.engine");
        std::fs::write(&second, b"x").unwrap();
        assert!(!open().are_built() && !second.exists());
        // Another key has another folder.
        assert!(!Engines::open(root.path(), &EngineKey { driver: 1, ..key() }).unwrap().are_built());
    }

    #[test]
    fn the_weights_beside_a_graph_count_too() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("model.onnx_data");
        std::fs::write(&weights, b"1234").unwrap();
        let hash = |graph: &[u8]| model_hash(graph, folder.path()).unwrap();
        let first = hash(b"graph");
        assert_eq!(first, hash(b"graph"));
        assert_ne!(first, hash(b"grapf"));
        std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
        assert_eq!(first, hash(b"graph"));
        std::fs::write(&weights, b"12345").unwrap();
        assert_ne!(first, hash(b"graph"));
    }
}
