//! Where model packs are looked for.

use std::path::{Path, PathBuf};

use livediffusion_onnx::ErrorKind;

use crate::error::{Outcome, SessionError};
use crate::hub::{self, Known, PulledRepo, RepoId};

/// The pack that is used when none is named.
pub const DEFAULT: &str = "default";

/// Folders that hold packs, in order: `LIVEDIFFUSION_MODELS`, `models/` here and above the binary, the user's cache.
pub fn folders() -> Vec<PathBuf> {
    folders_beside(None)
}

/// The same, with those above another file.
fn folders_beside(file: Option<&Path>) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("LIVEDIFFUSION_MODELS") {
        folders.push(PathBuf::from(folder));
    }
    folders.push(PathBuf::from("models"));
    for file in std::env::current_exe().ok().as_deref().into_iter().chain(file) {
        // target/release/livediffusion lies three levels below the project.
        folders.extend(file.ancestors().skip(1).take(4).map(|folder| folder.join("models")));
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    folders.extend(cache.map(|cache| cache.join("livediffusion/models")));
    folders.retain(|folder| folder.is_dir());
    let mut seen = Vec::new();
    folders.retain(|folder| {
        let real = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let new = !seen.contains(&real);
        seen.push(real);
        new
    });
    folders
}

/// The packs in those folders and in the hub's cache, by the names that `--model` takes.
pub fn packs() -> Vec<(String, PathBuf)> {
    packs_beside(None)
}

/// The same, with those above another file.
fn packs_beside(file: Option<&Path>) -> Vec<(String, PathBuf)> {
    let mut packs: Vec<(String, PathBuf)> = folders_beside(file)
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .filter(|path| path.join("model_index.json").is_file())
        .map(|path| (path.file_name().unwrap_or_default().display().to_string(), path))
        .collect();
    packs.sort_by(|(_, a), (_, b)| a.cmp(b));
    packs.extend(hub::cache_folder().map(|cache| hub::cached_packs(&cache)).unwrap_or_default());
    packs
}

/// The folder of a pack that was named by its folder, by its name, or by the repository that it was pulled from.
///
/// # Errors
/// There is none of that name.
pub fn pack(model: Option<&Path>) -> Outcome<PathBuf> {
    pack_beside(model, None)
}

/// The same, looked for above that file too.
pub(crate) fn pack_beside(model: Option<&Path>, file: Option<&Path>) -> Outcome<PathBuf> {
    let model = model.unwrap_or(Path::new(DEFAULT));
    if model.is_dir() && (model.components().count() > 1 || model.join("model_index.json").is_file()) {
        return Ok(model.to_path_buf());
    }
    if model.components().count() == 1
        && let Some(pack) = folders_beside(file).into_iter().map(|folder| folder.join(model)).find(|pack| pack.is_dir())
    {
        return Ok(pack);
    }
    if model.is_dir() {
        return Ok(model.to_path_buf());
    }
    if let Some(name) = model.to_str()
        && let Some(pulled) = pulled(name)
    {
        return pulled;
    }
    let known: Vec<String> = packs_beside(file).into_iter().map(|(name, _)| name).collect();
    let hint = if known.is_empty() {
        "give --model a folder with model_index.json, unet/, vae_encoder/, vae_decoder/, text_encoder/".to_owned()
    } else {
        format!("give --model a folder, or one of: {}", known.join(", "))
    };
    Err(SessionError::new(ErrorKind::Invalid, format!("there is no model pack {}", model.display()))
        .with_hint(Some(hint)))
}

/// The pack that was pulled under that name; `None` if it is no name of a repository.
fn pulled(name: &str) -> Option<Outcome<PathBuf>> {
    let known = hub::known(name);
    let repo = match known {
        Some(Known { repo: None, original, .. }) => {
            let what = format!("there is no model pack {name}, and no repository with ONNX files of it is known");
            return Some(Err(SessionError::invalid(what, hub::export_hint(original))));
        }
        Some(Known { repo: Some(repo), .. }) => RepoId::parse(repo)?,
        None => RepoId::parse(name)?,
    };
    let found = hub::cache_folder().and_then(|cache| PulledRepo::new(&cache, &repo).find_any());
    Some(found.ok_or_else(|| {
        SessionError::new(
            ErrorKind::Missing,
            format!("there is no folder {name}, and no model of that name was downloaded"),
        )
        .with_hint(Some(format!("livediffusion models pull {name}")))
    }))
}
