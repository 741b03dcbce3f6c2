//! A repository's folder in the hub's cache, in the layout that all Hugging Face tools share:
//! `blobs/` has contents by hash, `snapshots/COMMIT/` the files by name, `refs/REVISION` the commit of a branch.

use std::path::{Path, PathBuf};

use super::repo::RepoId;

/// Where a repository's files lie.
#[derive(Clone, Debug)]
pub struct PulledRepo {
    folder: PathBuf,
}

impl PulledRepo {
    /// That of `repo` in the cache at `cache`; nothing is made.
    pub fn new(cache: &Path, repo: &RepoId) -> Self {
        Self { folder: cache.join(repo.folder()) }
    }

    /// The folder of all that belongs to it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder with the files of a commit.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The snapshot of a branch, tag or commit, if one was downloaded.
    pub fn find(&self, revision: &str) -> Option<PathBuf> {
        let named = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let commit = named.map_or_else(|| revision.to_owned(), |commit| commit.trim().to_owned());
        let is_name = commit.bytes().all(|byte| byte.is_ascii_alphanumeric());
        Some(self.snapshot(&commit)).filter(|folder| is_name && folder.join("model_index.json").is_file())
    }

    /// The snapshot to use where no revision is asked for: that of `main`, or the only one.
    pub fn find_any(&self) -> Option<PathBuf> {
        let only = || {
            let mut all = std::fs::read_dir(self.folder.join("snapshots")).ok()?.filter_map(|e| Some(e.ok()?.path()));
            all.next().filter(|folder| all.next().is_none() && folder.join("model_index.json").is_file())
        };
        self.find("main").or_else(only)
    }
}

/// The repositories in the cache that hold a pack, with the folder that would be used.
pub fn cached_packs(cache: &Path) -> Vec<(String, PathBuf)> {
    let folders = std::fs::read_dir(cache).into_iter().flatten().filter_map(Result::ok);
    let mut packs: Vec<(String, PathBuf)> = folders
        .filter_map(|entry| RepoId::of_folder(entry.file_name().to_str()?))
        .filter_map(|repo| Some((repo.to_string(), PulledRepo::new(cache, &repo).find_any()?)))
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
