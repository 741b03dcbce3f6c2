//! The name of a repository.

use std::fmt;

/// Longest name of a repository that the hub accepts.
const LONGEST: usize = 96;

/// `org/name` of a model repository. Its characters are harmless in paths and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoId(String);

impl RepoId {
    /// `org/name` by the hub's own rules.
    pub fn parse(text: &str) -> Option<Self> {
        let (org, name) = text.split_once('/')?;
        let fine = |part: &str| {
            let characters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            let edges = part.starts_with(['.', '-']) || part.ends_with(['.', '-']);
            !part.is_empty() && characters && !edges && !part.contains("--") && !part.contains("..")
        };
        (fine(org) && fine(name) && text.len() <= LONGEST).then(|| Self(text.to_owned()))
    }

    /// Its folder in the cache.
    pub fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    /// The repository of a folder in the cache.
    pub fn of_folder(folder: &str) -> Option<Self> {
        Self::parse(&folder.strip_prefix("models--")?.replacen("--", "/", 1))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_told_from_paths() {
        for text in ["stabilityai/sd-turbo", "a/b", "SimianLuo/LCM_Dreamshaper_v7", "o/sdxs-512-0.9"] {
            let repo = RepoId::parse(text).unwrap();
            assert_eq!(RepoId::of_folder(&repo.folder()), Some(repo));
        }
        for text in ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a b/c", "-a/b", "a/b.", "ä/b"] {
            assert_eq!(RepoId::parse(text), None, "{text}");
        }
    }
}
