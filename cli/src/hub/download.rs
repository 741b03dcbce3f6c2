//! One file into the cache: begun or resumed, checked against its hash, and only then named.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::Path;

use livediffusion_session::hub::RepoId;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache::RepoCache;
use super::client::{Client, Trouble};
use super::listing::{HashKind, RemoteFile};
use crate::disk;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::progress::Progress;

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 16;
/// Connections that brought this much before they broke count as good ones, and the file goes on at once; less would let a
/// server that drips keep us for ever.
const WORTHWHILE: u64 = 1 << 20;
/// Disk space that is left to others.
const RESERVE: u64 = 64 << 20;

/// Content that is being checked.
enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    fn new(file: &RemoteFile) -> Self {
        match file.kind {
            HashKind::Sha256 => Self::Sha256(Sha256::new()),
            HashKind::Git => Self::Git(Sha1::new_with_prefix(format!("blob {}\0", file.size))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
        }
    }

    fn digits(self) -> String {
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Git(hasher) => hex(&hasher.finalize()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// How an attempt ended before the file was whole.
enum Stopped {
    Trouble(Trouble),
    Failed(Failure),
}

/// Where files come from and go to.
pub(crate) struct Download<'a> {
    /// Who asks.
    pub(crate) client: &'a Client,
    /// Of which repository.
    pub(crate) repo: &'a RepoId,
    /// At which commit.
    pub(crate) commit: &'a str,
    /// Where the contents go.
    pub(crate) cache: &'a RepoCache,
    /// Who looks on.
    pub(crate) progress: &'a Progress,
}

impl Download<'_> {
    /// Brings one file's content into the cache; `before` are the bytes of the files before it.
    pub(crate) fn fetch(&self, file: &RemoteFile, before: u64) -> Outcome<()> {
        let path = self.cache.incomplete(file);
        let unwritable = |error: &io::Error| unwritable(&path, error);
        let lock = self.cache.lock(file).map_err(|error| unwritable(&error))?;
        let Some(_lock) = lock else {
            return Err(Failure::new(RUNNING, format!("{} is being downloaded by another program", file.path))
                .with_hint(Some("wait for it to finish, then run the command again".into())));
        };
        let mut into = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let into = into.as_mut().map_err(|error| unwritable(error))?;
        let mut patience = self.client.patience();
        let mut worth = 0;
        let digits = loop {
            let stood = into.metadata().map_err(|error| unwritable(&error))?.len();
            match self.attempt(file, before, into, &path) {
                Ok(digits) => break digits,
                Err(Stopped::Failed(failure)) => return Err(failure),
                Err(Stopped::Trouble(Trouble::Passing { what, pause })) => {
                    let now = into.metadata().map_err(|error| unwritable(&error))?.len();
                    tracing::info!("{}: {what}; {now} of {} bytes are here", file.path, file.size);
                    worth += now.saturating_sub(stood);
                    if worth >= WORTHWHILE {
                        worth = 0;
                        patience.renew();
                        continue;
                    }
                    if !patience.again(pause) {
                        return Err(self.cut(file, &what));
                    }
                }
                Err(Stopped::Trouble(trouble)) => return Err(self.client.failure(trouble, self.repo, self.commit)),
            }
        };
        if digits != file.hash {
            // Whatever is wrong with it, going on from it would not mend it.
            let _ = std::fs::remove_file(&path);
            return Err(Failure::new(
                RUNNING,
                format!("{} of {} came damaged: its hash is wrong", file.path, self.repo),
            )
            .with_hint(Some("what came was removed; run the command again".into())));
        }
        into.sync_all().and_then(|()| std::fs::rename(&path, self.cache.blob(file))).map_err(|error| unwritable(&error))
    }

    /// One request for what is missing; gives the hash of the whole.
    fn attempt(&self, file: &RemoteFile, before: u64, into: &mut File, path: &Path) -> Result<String, Stopped> {
        let write = |result: io::Result<()>| result.map_err(|error| Stopped::Failed(unwritable(path, &error)));
        let (mut hasher, mut have) = (Hasher::new(file), 0);
        let mut chunk = vec![0; CHUNK];
        write(into.rewind())?;
        while have <= file.size {
            match into.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&chunk[..count]);
                    have += count as u64;
                }
                Err(error) => write(Err(error))?,
            }
        }
        if have == file.size {
            return Ok(hasher.digits());
        }
        let restart = |into: &mut File, hasher: &mut Hasher, have: &mut u64| {
            (*hasher, *have) = (Hasher::new(file), 0);
            write(into.set_len(0).and_then(|()| into.rewind()))
        };
        if have > file.size {
            restart(into, &mut hasher, &mut have)?;
        }
        let from = have;
        room(path, file.size - from).map_err(Stopped::Failed)?;
        let address = self.client.address(self.repo, self.commit, &file.path);
        let mut answer = match self.client.get(&address, from) {
            Err(Trouble::Refused { status: 416, .. }) => {
                restart(into, &mut hasher, &mut have)?;
                return Err(Stopped::Trouble(passing("the server does not go on from there")));
            }
            answer => answer.map_err(Stopped::Trouble)?,
        };
        let range = answer.headers().get("content-range").and_then(|value| value.to_str().ok()).unwrap_or_default();
        // A server may send the whole file instead; anything else than what was asked for is of no use.
        if from > 0 && !(answer.status() == 206 && range.starts_with(&format!("bytes {from}-"))) {
            let whole = answer.status() == 200;
            restart(into, &mut hasher, &mut have)?;
            if !whole {
                return Err(Stopped::Trouble(passing("the server sends another part than was asked for")));
            }
        }
        self.progress.set(before + have);
        let mut body = answer.body_mut().with_config().limit(u64::MAX).reader();
        while have < file.size {
            let count = match body.read(&mut chunk) {
                Ok(0) => return Err(Stopped::Trouble(passing("the connection was cut"))),
                Ok(count) => count.min((file.size - have) as usize),
                Err(error) => return Err(Stopped::Trouble(passing(&format!("the connection was cut ({error})")))),
            };
            write(into.write_all(&chunk[..count]))?;
            hasher.update(&chunk[..count]);
            have += count as u64;
            self.progress.set(before + have);
        }
        Ok(hasher.digits())
    }

    fn cut(&self, file: &RemoteFile, what: &str) -> Failure {
        Failure::new(RUNNING, format!("{} of {} did not come whole: {what}", file.path, self.repo))
            .with_hint(Some("run the command again: it goes on where it stopped".into()))
    }
}

fn passing(what: &str) -> Trouble {
    Trouble::Passing { what: what.to_owned(), pause: None }
}

/// Refuses what would fill the disk.
pub(crate) fn room(path: &Path, bytes: u64) -> Outcome<()> {
    let Some((free, folder)) = disk::free_bytes(path) else { return Ok(()) };
    if bytes.saturating_add(RESERVE) <= free {
        return Ok(());
    }
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let what = format!(
        "the disk is too full: {:.2} GB are needed, {:.2} GB are free at {}",
        gigabytes(bytes),
        gigabytes(free),
        folder.display()
    );
    Err(Failure::new(RUNNING, what).with_hint(Some(MORE_ROOM.into())))
}

/// What to do about a full disk.
const MORE_ROOM: &str = "make room, or set HF_HOME to a folder on another disk; what came is kept";

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    let hint = if full { MORE_ROOM } else { "set HF_HOME to a folder that you may write to" };
    Failure::new(RUNNING, format!("{}: {error}", path.display())).with_hint(Some(hint.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_fills_while_we_write_asks_for_room() {
        let of = |kind: ErrorKind| unwritable(Path::new("x"), &kind.into()).hint().unwrap_or_default().to_owned();
        assert_eq!(of(ErrorKind::StorageFull), MORE_ROOM);
        assert_eq!(of(ErrorKind::QuotaExceeded), MORE_ROOM);
        assert_ne!(of(ErrorKind::PermissionDenied), MORE_ROOM);
    }

    #[test]
    fn more_than_the_disk_is_refused() {
        let here = tempfile::tempdir().unwrap();
        assert!(room(&here.path().join("not/yet/there"), 0).is_ok());
        assert!(room(here.path(), u64::MAX).is_err());
    }

    #[test]
    fn hashes_are_those_of_sha256sum_and_git() {
        let of = |kind| {
            let file = RemoteFile { path: String::new(), size: 6, hash: String::new(), kind };
            let mut hasher = Hasher::new(&file);
            hasher.update(b"hel");
            hasher.update(b"lo\n");
            hasher.digits()
        };
        assert_eq!(of(HashKind::Sha256), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
        assert_eq!(of(HashKind::Git), "ce013625030ba8dba906f756967f9e9ca394464a");
    }
}
