//! Model packs from a Hugging Face repository, in the cache that all its tools share.

mod cache;
mod client;
mod download;
mod environment;
mod known;
mod listing;
mod repo;

pub(crate) use self::cache::{RepoCache, cached_packs};
pub(crate) use self::client::{Client, no_pack};
pub(crate) use self::download::{Download, room};
pub(crate) use self::environment::{Environment, cache_folder};
pub(crate) use self::known::{Known, export_hint, known, table};
pub(crate) use self::listing::RemoteFile;
pub(crate) use self::repo::{RepoId, Wanted, checked_revision};
