//! Models that were pulled from a Hugging Face repository, in the cache that all its tools share. It is only read here.

mod cache;
mod environment;
mod known;
mod repo;

pub use self::cache::{PulledRepo, cached_packs};
pub use self::environment::{cache_folder, expanded, home_folder, variable};
pub use self::known::{Known, export_hint, known, table};
pub use self::repo::RepoId;
