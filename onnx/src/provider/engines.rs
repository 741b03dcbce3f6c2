//! TensorRT's engines on disk, of either kind.
//!
//! An engine takes long to build and fits one card, one TensorRT and one set of shapes. Each combination has a folder of its
//! own, named by a hash of all of it. TensorRT writes into the folder by itself and not at once, so that a seal is written last:
//! the names, sizes and hashes of the files. A folder whose seal is missing or does not fit is emptied and built anew.
//!
//! A file beside the folder is locked while somebody looks or builds, so that two processes do not build the same at once, or one takes
//! away what the other has just built. Its time is that of the last use.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::provider::engine_key::{EngineKey, hash_all, hex};

/// Name of the seal.
const SEAL: &str = "sealed.txt";

/// Engines that were not used for so long are removed when others are built: each has the size of its network.
const KEPT: Duration = Duration::from_hours(24 * 60);

/// The engines of one key.
#[derive(Debug)]
pub(crate) struct Engines {
    folder: PathBuf,
    built: bool,
    /// Locked as long as it is open.
    turn: File,
}

impl Engines {
    /// Opens or makes the folder, once nobody else builds in it. What is not as it was sealed is removed, and what was not used for
    /// long of others, where something is to be built.
    pub(crate) fn open(root: &Path, key: &EngineKey) -> io::Result<Self> {
        let name = key.name();
        let folder = root.join(&name);
        std::fs::create_dir_all(&folder)?;
        let turn = take_turn(&root.join(name + LOCK))?;
        let built = match std::fs::read_to_string(folder.join(SEAL)) {
            Ok(sealed) if sealed == contents(&folder)? => true,
            Ok(_) => {
                tracing::warn!(folder = %folder.display(), "TensorRT's engines are damaged, and built anew");
                false
            }
            Err(_) => false,
        };
        let mut engines = Self { folder, built, turn };
        if !built {
            engines.discard()?;
            forget_old(root, &engines.turn);
        }
        Ok(engines)
    }

    /// Removes what is in the folder, for it to be built anew.
    pub(crate) fn discard(&mut self) -> io::Result<()> {
        self.built = false;
        std::fs::remove_dir_all(&self.folder)?;
        std::fs::create_dir(&self.folder)
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
        let mut file = File::create(&unfinished)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(unfinished, self.folder.join(SEAL))?;
        self.built = true;
        Ok(())
    }
}

/// Names of the locked files end with it.
const LOCK: &str = ".lock";

/// Waits until nobody else has the file, and gives it the time of now.
fn take_turn(path: &Path) -> io::Result<File> {
    let mut file = File::options().create(true).append(true).open(path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            tracing::warn!("waiting for another process, which builds the same");
            file.lock()?;
        }
        // A file system without locks: as if nobody else was there.
        Err(TryLockError::Error(error)) => tracing::debug!(%error, path = %path.display(), "cannot be locked"),
        Ok(()) => {}
    }
    file.set_len(0)?;
    file.write_all(b".")?;
    Ok(file)
}

/// Removes engines that nobody has used for long. What cannot be removed stays.
fn forget_old(root: &Path, now: &File) {
    let time = |about: io::Result<std::fs::Metadata>| about.and_then(|about| about.modified()).ok();
    let Some(now) = time(now.metadata()) else { return };
    let locks = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    for lock in locks.filter(|path| path.extension().is_some_and(|extension| extension == &LOCK[1..])) {
        let age = time(std::fs::metadata(&lock)).and_then(|then| now.duration_since(then).ok());
        // In use it has just got another time; what was opened in this moment is built anew.
        if age.is_some_and(|age| age > KEPT) && std::fs::remove_dir_all(lock.with_extension("")).is_ok() {
            let _ = std::fs::remove_file(lock);
        }
    }
}

/// A line for each file.
fn contents(folder: &Path) -> io::Result<String> {
    let mut text = String::new();
    for path in files(folder)? {
        let mut hash = Sha256::new();
        let size = hash_all(&mut File::open(&path)?, &mut hash)?;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::provider::engine_key::tests::some_key;

    #[test]
    fn only_what_was_sealed_and_is_unchanged_is_used() {
        let root = tempfile::tempdir().unwrap();
        let open = || Engines::open(root.path(), &some_key()).unwrap();
        let is_built = || open().are_built();
        let file = {
            let mut engines = open();
            assert!(!engines.are_built());
            engines.seal().unwrap();
            assert!(!engines.are_built(), "nothing was built yet");
            engines.folder().join("livediffusion_1.engine")
        };
        let build = || {
            let mut engines = open();
            std::fs::write(&file, b"machine code").unwrap();
            engines.seal().unwrap();
            assert!(engines.are_built());
        };
        std::fs::write(&file, b"machine code").unwrap();
        // A build that was broken off: no seal.
        assert!(!is_built() && !file.exists());

        build();
        assert!(is_built() && file.exists());
        // Changed, grown, gone, or one too many.
        for damage in [&b"machine c0de"[..], b"machine code.", b""] {
            std::fs::write(&file, damage).unwrap();
            assert!(!is_built() && !file.exists());
            build();
            assert!(is_built());
        }
        let second = file.with_file_name("livediffusion_2.engine");
        std::fs::write(&second, b"x").unwrap();
        assert!(!is_built() && !second.exists());
        // Another key has another folder.
        build();
        assert!(!Engines::open(root.path(), &EngineKey { driver: 1, ..some_key() }).unwrap().are_built());
        // What does not load is built anew.
        open().discard().unwrap();
        assert!(!is_built());
    }

    #[test]
    fn who_comes_while_another_builds_waits_and_finds_it_built() {
        let root = tempfile::tempdir().unwrap();
        let mut first = Engines::open(root.path(), &some_key()).unwrap();
        let (say, hear) = sync_channel(1);
        let path = root.path().to_owned();
        let second = std::thread::spawn(move || {
            let engines = Engines::open(&path, &some_key()).unwrap();
            say.send(engines.are_built()).unwrap();
        });
        // Who does not wait would be here by now, mostly.
        assert!(hear.recv_timeout(Duration::from_millis(50)).is_err());
        std::fs::write(first.folder().join("livediffusion_1.engine"), b"machine code").unwrap();
        first.seal().unwrap();
        drop(first);
        assert!(hear.recv().unwrap());
        second.join().unwrap();
    }

    #[test]
    fn what_nobody_used_for_long_goes_when_something_is_built() {
        let root = tempfile::tempdir().unwrap();
        let build = |driver: i32| {
            let mut engines = Engines::open(root.path(), &EngineKey { driver, ..some_key() }).unwrap();
            std::fs::write(engines.folder().join("livediffusion_1.engine"), b"machine code").unwrap();
            engines.seal().unwrap();
            let lock = engines.folder().with_extension("lock");
            let age = move |days: u64| {
                let file = File::options().append(true).open(&lock).unwrap();
                let now = file.metadata().unwrap().modified().unwrap();
                file.set_modified(now - Duration::from_hours(24 * days)).unwrap();
            };
            (engines.folder().to_owned(), age)
        };
        let ((old, age_old), (used, age_used)) = (build(1), build(2));
        age_old(61);
        age_used(61);
        // Used again: it has the time of now.
        assert!(Engines::open(root.path(), &EngineKey { driver: 2, ..some_key() }).unwrap().are_built());
        assert!(old.exists());
        let (new, _) = build(3);
        assert_eq!([old, used, new].map(|folder| folder.exists()), [false, true, true]);
    }
}
