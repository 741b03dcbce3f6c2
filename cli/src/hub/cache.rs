//! A repository's folder in the hub's cache, in the layout that all Hugging Face tools share:
//! `blobs/` has contents by hash, `snapshots/COMMIT/` the files by name, `refs/REVISION` the commit of a branch.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::listing::RemoteFile;
use super::repo::RepoId;

/// Where a repository's files lie.
#[derive(Clone, Debug)]
pub(crate) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// That of `repo` in the cache at `cache`; nothing is made.
    pub(crate) fn new(cache: &Path, repo: &RepoId) -> Self {
        Self { folder: cache.join(repo.folder()), locks: cache.join(".locks").join(repo.folder()) }
    }

    /// The content of a file.
    pub(super) fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.folder.join("blobs").join(&file.hash)
    }

    /// What was downloaded of it so far.
    pub(super) fn incomplete(&self, file: &RemoteFile) -> PathBuf {
        self.folder.join("blobs").join(format!("{}.incomplete", file.hash))
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

    /// The folder with the files of a commit.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The snapshot of a branch, tag or commit, if one was downloaded.
    pub(crate) fn find(&self, revision: &str) -> Option<PathBuf> {
        let named = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let commit = named.map_or_else(|| revision.to_owned(), |commit| commit.trim().to_owned());
        let is_name = commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(self.snapshot(&commit)).filter(|folder| is_name && folder.join("model_index.json").is_file())
    }

    /// The snapshot to use where no revision is asked for: that of `main`, or the only one.
    pub(crate) fn find_any(&self) -> Option<PathBuf> {
        let only = || {
            let mut all = std::fs::read_dir(self.folder.join("snapshots")).ok()?.filter_map(|e| Some(e.ok()?.path()));
            all.next().filter(|folder| all.next().is_none() && folder.join("model_index.json").is_file())
        };
        self.find("main").or_else(only)
    }

    /// Keeps other downloads of the same content out, those of other tools too; `None` where one is under way.
    pub(super) fn lock(&self, file: &RemoteFile) -> io::Result<Option<File>> {
        std::fs::create_dir_all(&self.locks)?;
        std::fs::create_dir_all(self.folder.join("blobs"))?;
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
        let snapshot = self.snapshot(commit);
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
        let path = self.folder.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.folder).to_path_buf();
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

/// The repositories in the cache that hold a pack, with the folder that would be used.
pub(crate) fn cached_packs(cache: &Path) -> Vec<(String, PathBuf)> {
    let folders = std::fs::read_dir(cache).into_iter().flatten().filter_map(Result::ok);
    let mut packs: Vec<(String, PathBuf)> = folders
        .filter_map(|entry| RepoId::of_folder(entry.file_name().to_str()?))
        .filter_map(|repo| Some((repo.to_string(), RepoCache::new(cache, &repo).find_any()?)))
        // Of most repositories people have the PyTorch weights.
        .filter(|(_, folder)| has_graph(&folder.join("unet")))
        .collect();
    packs.sort();
    packs
}

fn has_graph(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.any(|entry| entry.path().extension().is_some_and(|end| end == "onnx"))
}
