//! Compiled kernels on disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What every file starts with; another layout gets another number.
const MAGIC: &[u8] = b"livediffusion kernels 1\n";

/// Bytes of a hash.
const HASH: usize = 32;

/// A folder of compiled kernels. A file appears whole or not at all, and is believed only if its hash fits.
#[derive(Clone, Debug)]
pub struct ImageCache {
    folder: PathBuf,
}

impl ImageCache {
    /// In that folder, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of what these parts decide.
    pub(crate) fn key(parts: &[&str]) -> String {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that no two lists run into one another.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }

    /// What was written under that key; `None` too for what was damaged.
    pub(crate) fn read(&self, key: &str) -> Option<Vec<u8>> {
        let path = self.path(key);
        let file = std::fs::read(&path).ok()?;
        let image = file.strip_prefix(MAGIC).and_then(|rest| rest.split_at_checked(HASH));
        match image {
            Some((hash, image)) if Sha256::digest(image).as_slice() == hash => Some(image.to_vec()),
            _ => {
                tracing::warn!(file = %path.display(), "damaged, and made anew");
                None
            }
        }
    }

    /// Keeps an image.
    pub(crate) fn write(&self, key: &str, image: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(image))?;
        file.write_all(image)?;
        file.as_file().sync_all()?;
        file.persist(self.path(key))?;
        Ok(())
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(key).with_extension("kernels")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_counts_as_absent() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ImageCache::new(folder.path().join("new"));
        let key = ImageCache::key(&["source", "sm_80"]);
        assert_eq!(cache.read(&key), None);
        cache.write(&key, b"machine code").unwrap();
        assert_eq!(cache.read(&key).unwrap(), b"machine code");
        let path = cache.path(&key);
        let whole = std::fs::read(&path).unwrap();
        for damage in [&whole[..whole.len() - 1], &whole[..10], &[][..]] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(cache.read(&key), None);
        }
        let mut flipped = whole;
        *flipped.last_mut().unwrap() ^= 1;
        std::fs::write(&path, flipped).unwrap();
        assert_eq!(cache.read(&key), None);
        cache.write(&key, b"again").unwrap();
        assert_eq!(cache.read(&key).unwrap(), b"again");
    }

    #[test]
    fn every_part_counts_for_the_key() {
        let key = ImageCache::key(&["a", "b"]);
        assert_eq!(key, ImageCache::key(&["a", "b"]));
        for other in [&["a", "c"][..], &["ab", ""], &["a"], &["b", "a"]] {
            assert_ne!(key, ImageCache::key(other));
        }
    }
}
