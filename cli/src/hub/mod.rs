//! Model packs from a Hugging Face repository, into the cache that all its tools share.

mod cache;
mod client;
mod download;
mod environment;
mod listing;
mod repo;

pub(crate) use self::cache::RepoCache;
pub(crate) use self::client::{Client, no_pack};
pub(crate) use self::download::{Download, room};
pub(crate) use self::environment::Environment;
pub(crate) use self::listing::RemoteFile;
pub(crate) use self::repo::{Wanted, checked_revision};
