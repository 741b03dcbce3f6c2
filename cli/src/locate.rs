//! Where model packs are looked for.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, USAGE};

/// The pack that is used when none is named.
pub(crate) const DEFAULT: &str = "default";

/// Folders that hold packs, in order: `LIVEDIFFUSION_MODELS`, `models/` here and above the binary, the user's cache.
pub(crate) fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(folder) = std::env::var_os("LIVEDIFFUSION_MODELS") {
        folders.push(PathBuf::from(folder));
    }
    folders.push(PathBuf::from("models"));
    if let Ok(binary) = std::env::current_exe() {
        // target/release/livediffusion lies three levels below the project.
        folders.extend(binary.ancestors().skip(1).take(4).map(|folder| folder.join("models")));
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

/// The packs in those folders.
pub(crate) fn packs() -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> = folders()
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())))
        .filter(|path| path.join("model_index.json").is_file())
        .collect();
    packs.sort();
    packs
}

/// The folder of a pack that was named by its folder or by its name.
pub(crate) fn pack(model: Option<&Path>) -> Outcome<PathBuf> {
    let model = model.unwrap_or(Path::new(DEFAULT));
    if model.is_dir() && (model.components().count() > 1 || model.join("model_index.json").is_file()) {
        return Ok(model.to_path_buf());
    }
    if model.components().count() == 1
        && let Some(pack) = folders().into_iter().map(|folder| folder.join(model)).find(|pack| pack.is_dir())
    {
        return Ok(pack);
    }
    if model.is_dir() {
        return Ok(model.to_path_buf());
    }
    let known: Vec<String> = packs().iter().filter_map(|pack| Some(pack.file_name()?.display().to_string())).collect();
    let hint = if known.is_empty() {
        "give --model a folder with model_index.json, unet/, vae_encoder/, vae_decoder/, text_encoder/".to_owned()
    } else {
        format!("give --model a folder, or one of: {}", known.join(", "))
    };
    Err(Failure::new(USAGE, format!("there is no model pack {}", model.display())).with_hint(Some(hint)))
}
