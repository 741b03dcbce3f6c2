//! Files that carry their name only once they are whole.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::IoError;

/// Temporary files that exist now: a program that must end without unwinding removes them through this list.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes the temporary files of all open outputs, for a program that is about to end at once.
pub fn abandon_outputs() {
    for part in crate::lock(&UNFINISHED).drain(..) {
        let _ = std::fs::remove_file(part);
    }
}

/// A file under a temporary name beside the final one; removed on drop unless it was finished.
#[derive(Debug)]
pub(super) struct PartFile {
    path: PathBuf,
    part: PathBuf,
    finished: bool,
}

impl PartFile {
    /// Creates the temporary file, so that a folder that cannot be written is noticed before any work is done.
    pub(super) fn create(path: &Path) -> Result<Self, IoError> {
        let unwritable = |detail: String| IoError::Unwritable { path: path.to_path_buf(), detail };
        let name = path.file_name().ok_or_else(|| unwritable("it names no file".into()))?.to_string_lossy();
        if path.is_dir() {
            return Err(unwritable("it is a folder".into()));
        }
        let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
        let stem = name.strip_suffix(&extension).unwrap_or(&name);
        let part = path.with_file_name(format!(".{stem}.part-{}{extension}", std::process::id()));
        File::create(&part).map_err(|e| unwritable(e.to_string()))?;
        crate::lock(&UNFINISHED).push(part.clone());
        Ok(Self { path: path.to_path_buf(), part, finished: false })
    }

    /// Where to write.
    pub(super) fn part(&self) -> &Path {
        &self.part
    }

    /// Bytes written so far.
    pub(super) fn len(&self) -> u64 {
        std::fs::metadata(&self.part).map_or(0, |data| data.len())
    }

    /// Gives the file its name, once its contents are on the disk.
    pub(super) fn finish(mut self) -> Result<PathBuf, IoError> {
        let done = File::open(&self.part)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.part, &self.path));
        done.map_err(|e| write_error(&self.path, &e))?;
        self.finished = true;
        Ok(std::mem::take(&mut self.path))
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        crate::lock(&UNFINISHED).retain(|part| *part != self.part);
        if self.finished {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.part) {
            tracing::debug!("removing {}: {error}", self.part.display());
        }
    }
}

/// What a failed write means.
pub(super) fn write_error(path: &Path, error: &std::io::Error) -> IoError {
    let path = path.to_path_buf();
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => IoError::DiskFull { path },
        _ => IoError::Write { path, detail: error.to_string() },
    }
}
