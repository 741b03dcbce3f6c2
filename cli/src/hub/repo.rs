//! Which repository is meant: `org/name`, its address, or a short name.

use livediffusion_session::hub::{Known, RepoId, export_hint, known};

use crate::failure::{Failure, Outcome};

/// Addresses whose paths are repositories, whatever server is asked in the end.
const HUBS: [&str; 2] = ["https://huggingface.co", "https://hf.co"];

/// What is to be pulled.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The repository.
    pub(crate) repo: RepoId,
    /// Branch, tag or commit, where an address names one.
    pub(crate) revision: Option<String>,
    /// The short name that was given.
    pub(crate) known: Option<&'static Known>,
}

impl Wanted {
    /// Understands `org/name`, `https://…/org/name[/tree/REVISION]` and the short names.
    pub(crate) fn parse(text: &str, endpoint: &str) -> Outcome<Self> {
        if let Some(known) = known(text) {
            let repo = known.repo.and_then(RepoId::parse).ok_or_else(|| {
                Failure::usage(
                    format!("no repository with ONNX files of {} is known", known.name),
                    export_hint(known.original),
                )
            })?;
            return Ok(Self { repo, revision: None, known: Some(known) });
        }
        let bad = |hint: String| Failure::usage(format!("{text:?} is no repository of models"), hint);
        if !text.contains("://") {
            let general = "give org/name, its address, or a name that livediffusion models pull --help lists";
            let repo = RepoId::parse(text).ok_or_else(|| bad(general.to_owned()))?;
            return Ok(Self { repo, revision: None, known: None });
        }
        let path = [endpoint, HUBS[0], HUBS[1]]
            .iter()
            .find_map(|hub| text.strip_prefix(hub)?.strip_prefix('/'))
            .ok_or_else(|| bad(format!("only {endpoint} is asked; set HF_ENDPOINT for another server")))?;
        let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let mut parts = path.splitn(4, '/');
        let id = [parts.next(), parts.next()].map(Option::unwrap_or_default).join("/");
        let repo = RepoId::parse(&id)
            .filter(|_| !["datasets", "spaces"].iter().any(|kind| path.split('/').next() == Some(*kind)));
        let repo = repo.ok_or_else(|| bad("the address of a model is https://huggingface.co/org/name".into()))?;
        let revision = match (parts.next(), parts.next()) {
            // Of a path behind the revision nothing is known: revisions have slashes too. The first word is usual.
            (Some("tree"), Some(rest)) => Some(rest.to_owned()),
            (Some("blob" | "resolve"), Some(rest)) => rest.split('/').next().map(str::to_owned),
            _ => None,
        };
        Ok(Self { repo, revision, known: None })
    }
}

/// A revision whose characters are harmless in paths: each of its words becomes a folder of the cache.
pub(crate) fn checked_revision(revision: &str) -> Outcome<&str> {
    let fine = |part: &str| {
        let characters = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte));
        !part.is_empty() && characters && !part.starts_with('.')
    };
    if revision.len() <= 255 && revision.split('/').all(fine) {
        return Ok(revision);
    }
    Err(Failure::usage(format!("{revision:?} is no revision"), "give a branch, a tag or a commit, such as main"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_repository_and_revision() {
        let mirror = "http://127.0.0.1:1";
        for (text, repo, revision) in [
            ("https://huggingface.co/a/b", "a/b", None),
            ("https://hf.co/a/b/", "a/b", None),
            ("http://127.0.0.1:1/a/b?x=1#y", "a/b", None),
            ("https://huggingface.co/a/b/tree/refs/pr/1", "a/b", Some("refs/pr/1")),
            ("https://huggingface.co/a/b/blob/main/unet/model.onnx", "a/b", Some("main")),
        ] {
            let wanted = Wanted::parse(text, mirror).unwrap();
            assert_eq!((wanted.repo.to_string().as_str(), wanted.revision.as_deref()), (repo, revision), "{text}");
        }
        for text in [
            "https://example.org/a/b",
            "https://huggingface.co.example.org/a/b",
            "https://huggingface.co/a",
            "https://huggingface.co/datasets/a/b",
            "sdxs",
            "file:///etc/passwd",
        ] {
            assert!(Wanted::parse(text, mirror).is_err(), "{text}");
        }
    }

    #[test]
    fn revisions_cannot_leave_their_folder() {
        assert!(["main", "refs/pr/1", "v1.0", "fp16"].iter().all(|revision| checked_revision(revision).is_ok()));
        assert!(["", "../x", "a/../b", "/a", "a//b", "a b", ".hidden"].iter().all(|r| checked_revision(r).is_err()));
    }
}
