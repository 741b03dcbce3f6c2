//! What the environment says about the hub's cache: the variables that every Hugging Face tool knows.

use std::path::{Path, PathBuf};

/// The cache's folder: `HF_HUB_CACHE`, `HF_HOME/hub`, or `huggingface/hub` in the user's cache.
pub fn cache_folder() -> Option<PathBuf> {
    let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE"));
    named.map(|folder| expanded(&folder)).or_else(|| Some(home_folder()?.join("hub")))
}

/// The folder of those tools: `HF_HOME`, or `huggingface` in the user's cache.
pub fn home_folder() -> Option<PathBuf> {
    let of_user = || {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        Some(cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))?.join("huggingface"))
    };
    variable("HF_HOME").map(|folder| expanded(&folder)).or_else(of_user)
}

/// A variable that is set to something.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// `~/` stands for the home folder, as in the hub's own tools.
pub fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), variable("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}
