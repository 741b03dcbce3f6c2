//! How much room there is.

use std::path::{Path, PathBuf};

/// Bytes that this user may still write where `path` is or will be, and the folder that was asked about.
pub(crate) fn free_bytes(path: &Path) -> Option<(u64, PathBuf)> {
    let real = std::path::absolute(path).ok()?;
    let folder = real.ancestors().find(|folder| folder.is_dir())?;
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some((stat.f_bavail.saturating_mul(stat.f_frsize), folder.to_path_buf()))
}
