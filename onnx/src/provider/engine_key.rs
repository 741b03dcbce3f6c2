//! Which engine of TensorRT's is which: all that decides what it is.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use livediffusion_kernels::cuda::Card;
use twox_hash::XxHash3_128;

use crate::provider::{Chosen, SessionSettings};
use crate::runtime::Runtime;
use crate::session::Model;

/// Whatever decides what an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EngineKey {
    /// Hash of the graph and of the weights beside it.
    pub(crate) model: String,
    /// The profile's shapes, or none.
    pub(crate) profile: Option<[String; 3]>,
    /// Sides that the graph leaves open and the session does not.
    pub(crate) sides: String,
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
        let Self { model, profile, sides, precision, gpu, driver, tensorrt, onnxruntime } = self;
        let shapes = profile.as_ref().map_or_else(String::new, |shapes| shapes.join("|"));
        name_of(&[model, &shapes, sides, precision, gpu, &driver.to_string(), tensorrt, onnxruntime])
    }

    /// The name of what is the same for all networks on the card.
    pub(crate) fn name_of_card(&self) -> String {
        name_of(&[&self.gpu, &self.driver.to_string(), &self.tensorrt])
    }
}

fn name_of(parts: &[&str]) -> String {
    let mut text = String::new();
    for part in parts {
        // With its length, so that no two keys run into one another.
        let _ = write!(text, "{}:{part};", part.len());
    }
    hash_of(text.as_bytes())
}

/// A network, and what its calls are like.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) model: &'a Model<'a>,
    pub(crate) profile: Option<&'a [String; 3]>,
    pub(crate) sides: &'a [(String, i64)],
}

/// The key of a network's engines on the card that the settings name, of a TensorRT.
pub(crate) fn key(
    runtime: &Runtime,
    Subject { model, profile, sides }: Subject<'_>,
    (chosen, settings): (&Chosen, &SessionSettings),
    tensorrt: String,
) -> Result<EngineKey, String> {
    let card = Card::open(settings.gpu.device as usize).map_err(|e| e.to_string())?;
    let (major, minor) = card.capability().map_err(|e| e.to_string())?;
    let name = card.name().map_err(|e| e.to_string())?;
    Ok(EngineKey {
        model: model_hash(model)?,
        profile: profile.cloned(),
        sides: sides.iter().fold(String::new(), |text, (name, side)| text + &format!("{name}={side},")),
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

/// Hash of a model's name, of its bytes where they were changed in memory, and of it and the weights beside it: their names, sizes and
/// contents, and the times of what is not read whole. Other models of the folder, and settings, are not part of it.
fn model_hash(model: &Model<'_>) -> Result<String, String> {
    let path = model.path();
    let mut hash = XxHash3_128::new();
    hash.write(path.file_name().unwrap_or_default().as_encoded_bytes());
    if let Model::Edited(_, bytes) = *model {
        hash.write(bytes);
    }
    let folder = path.parent().unwrap_or(path);
    hash_folder(folder, path, &mut hash).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(digits(&hash))
}

fn hash_folder(folder: &Path, model: &Path, hash: &mut XxHash3_128) -> io::Result<()> {
    let is_int8 = |name: &OsStr| name.to_string_lossy().starts_with("model_int8");
    let own = model.file_name().unwrap_or_default();
    let is_part = |name: &OsStr| {
        let text = name.to_string_lossy();
        let is_other =
            [".onnx", ".json", ".txt", ".md"].iter().any(|end| text.ends_with(end)) || is_int8(name) != is_int8(own);
        name == own || !is_other
    };
    let mut files: Vec<_> = std::fs::read_dir(folder)?.filter_map(Result::ok).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    for file in files {
        let name = file.file_name();
        // Follows links, as Hugging Face's cache has them; one that leads nowhere is nothing.
        let Ok(about) = std::fs::metadata(file.path()) else { continue };
        if !about.is_file() || !is_part(&name) {
            continue;
        }
        hash.write(name.as_encoded_bytes());
        hash.write(&about.len().to_le_bytes());
        let time = about.modified().map(|time| time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default());
        if let (true, Ok(time)) = (about.len() > WHOLE, time) {
            hash.write(&time.as_nanos().to_le_bytes());
        }
        hash_contents(&mut File::open(file.path())?, about.len(), hash)?;
    }
    Ok(())
}

/// Files up to this many bytes are read whole. Weights have gigabytes, which would take as long as to load them.
const WHOLE: u64 = 64 << 20;

/// Of larger ones so many places are read. Weights that were trained further differ in all of them; what was changed elsewhere alone has
/// another time.
const PLACES: u64 = 64;

/// Bytes of a place.
const PLACE: u64 = 64 << 10;

fn hash_contents(file: &mut File, len: u64, hash: &mut XxHash3_128) -> io::Result<()> {
    if len <= WHOLE {
        return hash_all(file, hash).map(drop);
    }
    for place in 0..PLACES {
        file.seek(SeekFrom::Start((len - PLACE) / (PLACES - 1) * place))?;
        hash_all(&mut file.take(PLACE), hash)?;
    }
    Ok(())
}

/// Hashes what is left to be read, and counts it.
pub(super) fn hash_all(from: &mut impl io::Read, hash: &mut XxHash3_128) -> io::Result<u64> {
    let (mut count, mut part) = (0, vec![0; 1 << 20]);
    loop {
        let read = from.read(&mut part)?;
        if read == 0 {
            return Ok(count);
        }
        hash.write(&part[..read]);
        count += read as u64;
    }
}

/// The hash of bytes, as a name.
pub(super) fn hash_of(bytes: &[u8]) -> String {
    format!("{:032x}", XxHash3_128::oneshot(bytes))
}

/// What a hash came to, as a name.
pub(super) fn digits(hash: &XxHash3_128) -> String {
    format!("{:032x}", hash.finish_128())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn some_key() -> EngineKey {
        EngineKey {
            model: "abc".into(),
            profile: Some(["x:1".into(), "x:2".into(), "x:4".into()]),
            sides: String::new(),
            precision: "f16".into(),
            gpu: "NVIDIA X (8.9)".into(),
            driver: 12_080,
            tensorrt: "10.16.1".into(),
            onnxruntime: "1.26.0".into(),
        }
    }

    #[test]
    fn everything_that_decides_counts_for_the_some_key() {
        let name = some_key().name();
        assert_eq!(name, some_key().name());
        let others = [
            EngineKey { model: "abd".into(), ..some_key() },
            EngineKey { profile: None, ..some_key() },
            EngineKey { profile: Some(["x:1".into(), "x:2".into(), "x:8".into()]), ..some_key() },
            EngineKey { sides: "batch=1,".into(), ..some_key() },
            EngineKey { precision: "f32".into(), ..some_key() },
            EngineKey { gpu: "NVIDIA X (9.0)".into(), ..some_key() },
            EngineKey { driver: 13_000, ..some_key() },
            EngineKey { tensorrt: "10.16.2".into(), ..some_key() },
            EngineKey { onnxruntime: "1.27.0".into(), ..some_key() },
            // Nothing may slip from one part into its neighbour.
            EngineKey { precision: "f1".into(), gpu: "6NVIDIA X (8.9)".into(), ..some_key() },
        ];
        let mut names: Vec<_> = others.iter().map(EngineKey::name).chain([name]).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), others.len() + 1);
    }

    #[test]
    fn models_are_told_apart_by_what_is_in_their_files() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let paths = folders.each_ref().map(|folder| folder.path().join("model.onnx"));
        let write = |at: usize, name: &str, bytes: &[u8]| {
            let path = folders[at].path().join(name);
            std::fs::write(&path, bytes).unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        };
        // As an archive has them that knows no times.
        write(0, "model.onnx", b"graph");
        write(1, "model.onnx", b"grapf");
        let of = |at: usize| model_hash(&Model::File(&paths[at])).unwrap();
        assert_ne!(of(0), of(1));
        write(1, "model.onnx", b"graph");
        assert_eq!(of(0), of(1));
        let edited = |bytes| model_hash(&Model::Edited(&paths[0], bytes)).unwrap();
        assert_ne!(edited(b"a"), edited(b"b"));
        assert_ne!(edited(b""), model_hash(&Model::File(&folders[0].path().join("other.onnx"))).unwrap());
        // Weights beside it count, settings and other models do not.
        for other in ["config.json", "model_int8.onnx", "model_int8.onnx_data", "other.onnx"] {
            write(0, other, b"{}");
        }
        assert_eq!(of(0), of(1));
        #[cfg(unix)]
        std::os::unix::fs::symlink("/nowhere", folders[0].path().join("weights")).unwrap();
        assert_eq!(of(0), of(1));
        write(0, "model.onnx_data", b"1234");
        assert_ne!(of(0), of(1));
        write(1, "model.onnx_data", b"1235");
        assert_ne!(of(0), of(1));
        write(1, "model.onnx_data", b"1234");
        assert_eq!(of(0), of(1));
    }

    #[test]
    fn of_large_files_places_from_begin_to_end_are_read() {
        let len = WHOLE + 12_345;
        let hash = |file: &File| {
            let mut hash = XxHash3_128::new();
            hash_contents(&mut file.try_clone().unwrap(), len, &mut hash).unwrap();
            hash.finish_128()
        };
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        let zeros = hash(&file);
        for at in [0, (len - PLACE) / (PLACES - 1) * (PLACES - 1), (len - PLACE) / (PLACES - 1) * 7 + PLACE - 1] {
            file.seek(SeekFrom::Start(at)).unwrap();
            io::copy(&mut &b"1"[..], &mut file).unwrap();
            assert_ne!(hash(&file), zeros, "{at}");
            file.seek(SeekFrom::Start(at)).unwrap();
            io::copy(&mut &b"\0"[..], &mut file).unwrap();
            assert_eq!(hash(&file), zeros);
        }
    }
}
