//! Room on the disk: for what is recorded, and for what is kept.

use std::path::Path;

use livediffusion_onnx::user_cache;

use super::{Check, Verdict};
use crate::disk;

/// Disk space under which a recording would soon fail.
const LEAST_FREE_MB: u64 = 500;

/// Folders of the cache with an engine for each network, card and size.
const ENGINES: [&str; 2] = ["tensorrt", "tensorrt-rtx"];

pub(super) fn checks(checks: &mut Vec<Check>) {
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    checks.push(free("disk space here", &here, Verdict::Bad));
    let Some(cache) = user_cache() else { return };
    // Whoever fetches no libraries and compiles for no card keeps next to nothing there.
    checks.push(free("disk space, cache", &cache, Verdict::Absent));
    for name in ENGINES {
        let folder = cache.join(name);
        let bytes = bytes_in(&folder);
        if bytes > 0 {
            let found = format!("{} MB in {}, which may be removed", bytes.div_ceil(1_000_000), folder.display());
            checks.push(Check::new(format!("engines of {name}"), Verdict::Good, found));
        }
    }
}

fn free(name: &str, path: &Path, too_little: Verdict) -> Check {
    match disk::free_bytes(path).map(|(free, _)| free / 1_000_000) {
        Some(free) if free < LEAST_FREE_MB => {
            Check::new(name, too_little, format!("{free} MB free in {}", path.display()))
                .fix(Some("free some disk space".into()))
        }
        Some(free) => Check::new(name, Verdict::Good, format!("{free} MB free in {}", path.display())),
        None => Check::new(name, Verdict::Absent, "unknown"),
    }
}

/// Bytes of all files in a folder and below.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let size = |entry: std::fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_in(&entry.path()),
        _ => entry.metadata().map_or(0, |about| about.len()),
    };
    entries.map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_folders_of_folders_counts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("one"), [0; 3]).unwrap();
        std::fs::write(folder.path().join("a/b/two"), [0; 4]).unwrap();
        assert_eq!((bytes_in(folder.path()), bytes_in(&folder.path().join("none"))), (7, 0));
    }
}
