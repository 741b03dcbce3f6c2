//! A repository's folder in the hub's cache, in the layout that all Hugging Face tools share:
//! `blobs/` has contents by hash, `snapshots/COMMIT/` the files by name, `refs/REVISION` the commit of a branch.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use livediffusion_session::hub::{PulledRepo, RepoId};

use super::listing::RemoteFile;

/// Where a repository's files lie, to be written.
#[derive(Clone, Debug)]
pub(crate) struct RepoCache {
    repo: PulledRepo,
    locks: PathBuf,
}

impl RepoCache {
    /// That of `repo` in the cache at `cache`; nothing is made.
    pub(crate) fn new(cache: &Path, repo: &RepoId) -> Self {
        Self { repo: PulledRepo::new(cache, repo), locks: cache.join(".locks").join(repo.folder()) }
    }

    /// What is read of it.
    pub(crate) const fn pulled(&self) -> &PulledRepo {
        &self.repo
    }

    /// The content of a file.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.repo.folder().join("blobs").join(&file.hash)
    }

    /// What was downloaded of it so far.
    pub(super) fn incomplete(&self, file: &RemoteFile) -> PathBuf {
        self.repo.folder().join("blobs").join(format!("{}.incomplete", file.hash))
    }

    /// Whether the content is there. Its name was given to it after its hash was checked; a wrong size is damage.
    pub(crate) fn has(&self, file: &RemoteFile) -> bool {
        self.blob(file).metadata().is_ok_and(|found| found.is_file() && found.len() == file.size)
    }

    /// Whether two files have one content.
    pub(crate) fn same(&self, one: &RemoteFile, other: &RemoteFile) -> bool {
        self.blob(one) == self.blob(other)
    }

    /// Bytes that are still to be downloaded.
    pub(crate) fn left(&self, file: &RemoteFile) -> u64 {
        let begun = self.incomplete(file).metadata().map_or(0, |found| found.len());
        file.size.saturating_sub(begun)
    }

    /// Keeps other downloads of the same content out, those of other tools too; `None` where one is under way.
    pub(super) fn lock(&self, file: &RemoteFile) -> io::Result<Option<File>> {
        std::fs::create_dir_all(&self.locks)?;
        std::fs::create_dir_all(self.repo.folder().join("blobs"))?;
        let path = self.locks.join(format!("{}.lock", file.hash));
        let lock = File::options().create(true).append(true).open(path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Gives the files of a commit their names, when all contents are there.
    ///
    /// Small files become links into `blobs/`, as every tool makes them. Networks and their weights become hard links:
    /// ONNX Runtime 1.24 refuses weights that a symbolic link puts outside of the network's folder.
    pub(crate) fn link(&self, commit: &str, files: &[RemoteFile]) -> io::Result<PathBuf> {
        let snapshot = self.repo.snapshot(commit);
        for file in files {
            let (name, blob) = (snapshot.join(&file.path), self.blob(file));
            if let Some(folder) = name.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let temporary = name.with_file_name(format!(".{}.{}", file.hash, std::process::id()));
            let _ = std::fs::remove_file(&temporary);
            let small = [".json", ".txt", ".md", ".toml"].iter().any(|end| file.path.ends_with(end));
            if small || std::fs::hard_link(&blob, &temporary).is_err() {
                let up = "../".repeat(2 + file.path.matches('/').count());
                link_or_copy(Path::new(&up), &blob, &temporary)?;
            }
            std::fs::rename(&temporary, &name)?;
            // Renaming a file to another name of itself does nothing: the temporary name is still there then.
            let _ = std::fs::remove_file(&temporary);
        }
        Ok(snapshot)
    }

    /// Notes which commit a branch or tag stands for. It is the last thing written: a snapshot with a name is whole.
    pub(crate) fn set_ref(&self, revision: &str, commit: &str) -> io::Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.repo.folder().join("refs").join(revision);
        let folder = path.parent().unwrap_or(self.repo.folder()).to_path_buf();
        std::fs::create_dir_all(&folder)?;
        let temporary = folder.join(format!(".{commit}.{}", std::process::id()));
        std::fs::write(&temporary, commit)?;
        std::fs::rename(temporary, path)
    }
}

#[cfg(unix)]
fn link_or_copy(up: &Path, blob: &Path, name: &Path) -> io::Result<()> {
    let hash = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(up.join("blobs").join(hash), name)
}

#[cfg(not(unix))]
fn link_or_copy(_up: &Path, blob: &Path, name: &Path) -> io::Result<()> {
    std::fs::copy(blob, name).map(|_| ())
}
