//! A config file that is read again when it changes: its hot parameters take effect while the stream runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use livediffusion_pipeline::{Tuning, find_preset};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::config::ConfigFile;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::lock;

/// Stands for several parameters.
const PRESET: &str = "preset";

/// Keeps the watch alive.
pub(crate) struct ConfigWatch {
    _watcher: RecommendedWatcher,
}

impl ConfigWatch {
    /// Watches the file at `path`, of which `file` is what the run began with: it may have changed since. What is among `flags` stays as
    /// the command line has it.
    pub(crate) fn start(path: &Path, file: &ConfigFile, flags: Vec<String>, tuning: Tuning) -> Outcome<Self> {
        let path = path.to_path_buf();
        // Editors replace a file rather than write into it: only its folder sees that.
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let known = Known::of(file);
        let (started, waiting) = (known.options.clone(), BTreeSet::new());
        let reader = Reader { known, started, waiting, path: path.clone(), flags, tuning };
        let reader = Arc::new(Mutex::new(reader));
        let theirs = Arc::clone(&reader);
        let name = path.file_name().map(std::ffi::OsStr::to_os_string);
        let seen = move |event: notify::Result<notify::Event>| {
            let about = |event: &notify::Event| event.paths.iter().any(|path| path.file_name() == name.as_deref());
            if event.is_ok_and(|event| !event.kind.is_access() && about(&event)) {
                lock(&theirs).read();
            }
        };
        let failed = |error: notify::Error| {
            Failure::new(RUNNING, format!("cannot watch {}: {error}", path.display()))
                .with_hint(Some("give the same settings as flags in place of --config".into()))
        };
        let mut watcher = notify::recommended_watcher(seen).map_err(failed)?;
        watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(failed)?;
        // What changed while networks were loaded. A pipe has nothing more to say.
        if path.is_file() {
            lock(&reader).read();
        }
        Ok(Self { _watcher: watcher })
    }
}

struct Reader {
    path: PathBuf,
    known: Known,
    /// The options that the run began with, and the names of those that the file now has otherwise.
    started: BTreeMap<String, String>,
    waiting: BTreeSet<String>,
    flags: Vec<String>,
    tuning: Tuning,
}

impl Reader {
    /// Hands on what is new. A file that cannot be read, perhaps because it is half written, changes nothing.
    fn read(&mut self) {
        let new = match ConfigFile::read(&self.path) {
            Ok(file) => Known::of(&file),
            Err(error) => return tracing::warn!("{}; the old settings stay", error.message()),
        };
        if new.is_empty() {
            // Nothing to take, and some editors empty a file before they write it.
            return;
        }
        let is_other_preset = new.preset() != self.known.preset() && !self.is_flag(PRESET);
        let mut values: Vec<(&str, &str)> = Vec::new();
        if let Some(name) = new.preset().filter(|_| is_other_preset) {
            if let Some(preset) = find_preset(self.tuning.presets(), |preset| &preset.name, name) {
                values.extend(preset.values.iter().map(|(name, text)| (name.as_str(), text.as_str())));
            } else {
                tracing::warn!("config file {}: there is no preset {name:?}", self.path.display());
            }
        }
        // What the file itself says wins over its preset, as at the start.
        let is_new = |(name, text): &(&String, &String)| is_other_preset || self.known.values.get(*name) != Some(*text);
        values.extend(new.values.iter().filter(is_new).map(|(name, text)| (name.as_str(), text.as_str())));
        for (name, text) in values {
            if self.is_flag(name) {
                continue;
            }
            if let Err(error) = self.tuning.set(name, text) {
                tracing::warn!("config file {}: {error}", self.path.display());
            }
        }
        self.tell_what_waits(&new.options);
        self.known = new;
    }

    fn is_flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    /// Tells of options that differ from those of the start, when other ones do than before.
    fn tell_what_waits(&mut self, options: &BTreeMap<String, String>) {
        let names = options.keys().chain(self.started.keys());
        let changed = |name: &str| options.get(name) != self.started.get(name);
        let waits = |name: &&String| *name != PRESET && !self.is_flag(name) && changed(name);
        let waiting: BTreeSet<String> = names.filter(waits).cloned().collect();
        if !waiting.is_subset(&self.waiting) {
            let names = waiting.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!("config file {}: {names}: taken at the next start", self.path.display());
        }
        self.waiting = waiting;
    }
}

/// What the file said when it was last read.
struct Known {
    values: BTreeMap<String, String>,
    /// What a running stream does not take, but for the preset.
    options: BTreeMap<String, String>,
}

impl Known {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.options.is_empty()
    }

    fn of(file: &ConfigFile) -> Self {
        Self { values: file.parameters().iter().cloned().collect(), options: file.options().clone() }
    }

    fn preset(&self) -> Option<&str> {
        self.options.get(PRESET).map(String::as_str)
    }
}
