//! TensorRT's engines on disk, of either kind.
//!
//! An engine takes long to build and fits one card, one TensorRT and one set of shapes. Each combination has a folder of its
//! own, named by a hash of all of it. TensorRT writes into the folder by itself and not at once, so that a seal is written last:
//! the names, sizes and hashes of the files, which are read whole at every start: an engine has gigabytes, and is hashed as fast as it is
//! read. A folder whose seal is missing or does not fit is emptied and built anew.
//!
//! A file beside the folder is locked while somebody looks, builds or loads, so that two processes do not build the same at once, and none
//! takes away what another has just built. Its time is that of the last use.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use twox_hash::XxHash3_128;

use crate::provider::engine_key::{EngineKey, digits, hash_all};

/// Name of the seal.
const SEAL: &str = "sealed.txt";

/// Names of the locked files end with it.
const LOCK: &str = ".lock";

/// Engines that were not used for so long are removed when others are built: each has the size of its network.
const KEPT: Duration = Duration::from_hours(24 * 60);

/// The engines of one key.
#[derive(Debug)]
pub(crate) struct Engines {
    folder: PathBuf,
    /// What was sealed, where that is what there is.
    sealed: Option<String>,
    turn: Turn,
    label: String,
}

/// The locked file; nothing where a file system has no locks, or lets nothing be written.
#[derive(Debug)]
struct Turn {
    file: Option<File>,
    path: PathBuf,
}

impl Engines {
    /// Opens or makes the folder of a network of that name, once nobody else builds in it. What is not as it was sealed is removed, and
    /// what was not used for long of others, where something is to be built.
    pub(crate) fn open(root: &Path, key: &EngineKey, label: &str) -> io::Result<Self> {
        let name = key.name();
        let folder = root.join(&name);
        // Where it fails there may be what another user sealed.
        let _ = std::fs::create_dir_all(root);
        let turn = Turn::open(root.join(name + LOCK));
        let mut engines = Self { folder, sealed: None, turn, label: label.to_owned() };
        if engines.folder.join(SEAL).exists() {
            engines.turn.take(File::try_lock_shared, File::lock_shared, &engines.label);
            engines.sealed = engines.intact()?;
        }
        if engines.sealed.is_none() {
            engines.turn.take(File::try_lock, File::lock, &engines.label);
            // Somebody may have built it meanwhile.
            engines.sealed = engines.intact()?;
        }
        if engines.sealed.is_none() {
            if engines.folder.join(SEAL).exists() {
                tracing::warn!(folder = %engines.folder.display(), "TensorRT's engines are damaged, and built anew");
            }
            std::fs::create_dir_all(&engines.folder)?;
            engines.clear()?;
            forget_old(root, &engines.turn);
        }
        engines.turn.mark();
        Ok(engines)
    }

    /// Has what does not load made anew, unless somebody else did so meanwhile: then [`are_built`](Self::are_built) stays true. What there
    /// is stays until [`clear`](Self::clear).
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.turn.take(File::try_lock, File::lock, &self.label);
        let now = self.intact()?;
        self.sealed = now.filter(|now| self.sealed.as_ref() != Some(now));
        Ok(())
    }

    /// What was sealed, if it is as it was then.
    fn intact(&self) -> io::Result<Option<String>> {
        match std::fs::read_to_string(self.folder.join(SEAL)) {
            Ok(sealed) => Ok((sealed == contents(&self.folder)?).then_some(sealed)),
            Err(_) => Ok(None),
        }
    }

    /// Removes what is in the folder, the seal first. Of folders those alone in which nobody can be at work: without a lock, none.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.sealed = None;
        match std::fs::remove_file(self.folder.join(SEAL)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        for entry in std::fs::read_dir(&self.folder)?.filter_map(Result::ok) {
            if !entry.file_type()?.is_dir() {
                std::fs::remove_file(entry.path())?;
            } else if self.turn.file.is_some() && !entry.file_name().to_string_lossy().starts_with('.') {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes what was begun by somebody who was stopped in it: folders that begin with a dot.
    pub(crate) fn clear_unfinished(&self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')) {
            if self.turn.file.is_some() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Where TensorRT reads and writes.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether they are there, and a session does not have to build them.
    pub(crate) fn are_built(&self) -> bool {
        self.sealed.is_some()
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
        self.sealed = Some(contents);
        Ok(())
    }
}

impl Turn {
    fn open(path: PathBuf) -> Self {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.inspect_err(|error| tracing::debug!(%error, path = %path.display(), "cannot be locked")).ok();
        Self { file, path }
    }

    /// Waits until it is granted, in place of what was granted before.
    fn take(&mut self, try_it: fn(&File) -> Result<(), TryLockError>, wait: fn(&File) -> io::Result<()>, label: &str) {
        let Some(file) = &self.file else { return };
        let taken = file.unlock().and_then(|()| match try_it(file) {
            Err(TryLockError::WouldBlock) => {
                tracing::warn!("waiting for another start that builds or loads the {label}: {}", self.path.display());
                wait(file)
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        });
        if let Err(error) = taken {
            tracing::warn!("{} cannot be locked, start one at a time: {error}", self.path.display());
            self.file = None;
        }
    }

    /// Gives it the time of now.
    fn mark(&mut self) {
        if let Some(file) = &mut self.file {
            let _ = file.set_len(0).and_then(|()| file.write_all(b"."));
        }
    }
}

/// Removes engines that nobody has used for long, and that nobody is at. What cannot be removed stays, and so do the files that are
/// locked: somebody may be waiting for one.
fn forget_old(root: &Path, now: &Turn) {
    let time = |file: &File| file.metadata().and_then(|about| about.modified()).ok();
    let Some(now) = now.file.as_ref().and_then(time) else { return };
    let locks = std::fs::read_dir(root).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    for path in locks.filter(|path| path.extension().is_some_and(|extension| extension == &LOCK[1..])) {
        let Ok(lock) = File::options().read(true).write(true).open(&path) else { continue };
        let is_old = || {
            let age = time(&lock).and_then(|then| now.duration_since(then).ok());
            age.is_some_and(|age| age > KEPT)
        };
        if is_old() && lock.try_lock().is_ok() && is_old() {
            let _ = std::fs::remove_dir_all(path.with_extension(""));
        }
    }
}

/// A line for each file.
fn contents(folder: &Path) -> io::Result<String> {
    let mut text = String::new();
    for path in files(folder)? {
        let mut hash = XxHash3_128::new();
        let size = hash_all(&mut File::open(&path)?, &mut hash)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(text, "{} {size} {name}", digits(&hash));
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
        let open = || Engines::open(root.path(), &some_key(), "U-Net").unwrap();
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
        assert!(!Engines::open(root.path(), &EngineKey { driver: 1, ..some_key() }, "U-Net").unwrap().are_built());
        // What does not load is made anew, once: what somebody else made anew meanwhile is tried first.
        let mut engines = open();
        engines.reopen().unwrap();
        assert!(!engines.are_built() && file.exists(), "it stays until there is another");
        engines.clear().unwrap();
        assert!(!file.exists());
        std::fs::write(&file, b"other machine code").unwrap();
        engines.seal().unwrap();
        drop(engines);
        let mut engines = Engines { sealed: Some("as it was before".into()), ..open() };
        engines.reopen().unwrap();
        assert!(engines.are_built() && file.exists());
    }

    #[test]
    fn who_comes_while_another_builds_waits_and_finds_it_built() {
        let root = tempfile::tempdir().unwrap();
        let mut first = Engines::open(root.path(), &some_key(), "U-Net").unwrap();
        let (say, hear) = sync_channel(1);
        let path = root.path().to_owned();
        let second = std::thread::spawn(move || {
            let engines = Engines::open(&path, &some_key(), "U-Net").unwrap();
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
    fn two_that_find_it_built_need_not_wait_for_each_other() {
        let root = tempfile::tempdir().unwrap();
        let mut engines = Engines::open(root.path(), &some_key(), "U-Net").unwrap();
        std::fs::write(engines.folder().join("livediffusion_1.engine"), b"machine code").unwrap();
        engines.seal().unwrap();
        drop(engines);
        let open = || Engines::open(root.path(), &some_key(), "U-Net").unwrap();
        let (first, second) = (open(), open());
        assert!(first.are_built() && second.are_built());
    }

    #[test]
    #[cfg(unix)]
    fn what_was_sealed_is_used_where_nothing_can_be_written() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let mut engines = Engines::open(root.path(), &some_key(), "U-Net").unwrap();
        std::fs::write(engines.folder().join("livediffusion_1.engine"), b"machine code").unwrap();
        engines.seal().unwrap();
        let lock = engines.turn.path.clone();
        drop(engines);
        // For whoever may write everything: a folder is no file to be locked.
        std::fs::remove_file(&lock).unwrap();
        std::fs::create_dir(&lock).unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
        let built = Engines::open(root.path(), &some_key(), "U-Net").map(|engines| engines.are_built());
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(built.unwrap());
    }

    #[test]
    fn what_nobody_used_for_long_goes_when_something_is_built() {
        let root = tempfile::tempdir().unwrap();
        let build = |driver: i32| {
            let mut engines = Engines::open(root.path(), &EngineKey { driver, ..some_key() }, "U-Net").unwrap();
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
        assert!(Engines::open(root.path(), &EngineKey { driver: 2, ..some_key() }, "U-Net").unwrap().are_built());
        assert!(old.exists());
        let (new, _) = build(3);
        assert_eq!([old, used, new].map(|folder| folder.exists()), [false, true, true]);
    }
}
