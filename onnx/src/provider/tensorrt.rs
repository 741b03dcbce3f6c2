//! What TensorRT is told beside its options: where its engines are kept, for which shapes they are built, and that they are.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::graph::TensorInfo;
use crate::provider::engine_key::{Subject, key, version_of};
use crate::provider::engines::Engines;
use crate::provider::options::EngineOptions;
use crate::provider::profile::{is_open, profile};
use crate::provider::{Chosen, SessionSettings};
use crate::runtime::{Runtime, user_cache};
use crate::session::Model;

/// Its library: ONNX Runtime 1.24 to 1.31 are built with this major version.
const LIBRARY: &str = "libnvinfer.so.10";

/// Weights of that many bytes do not go into one message with the graph, which ends at 2 GiB.
const LARGE: u64 = 2_000_000_000;

/// The engines of one network.
pub(crate) struct Prepared {
    pub(crate) options: EngineOptions,
    label: String,
    engines: Option<Engines>,
    /// Where what was learned on the card is kept, and that of what is being built.
    shared: Option<PathBuf>,
    timings: Option<Timings>,
}

/// What was learned about a card's kernels while engines were built, which makes the next one's building shorter. ONNX Runtime writes its
/// file in place, so that a build works on a copy, which takes the other's place when it is whole.
struct Timings {
    shared: PathBuf,
    own: TempDir,
}

impl Timings {
    fn open(shared: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(shared)?;
        let own = tempfile::tempdir()?;
        for file in files_in(shared) {
            std::fs::copy(&file, own.path().join(file.file_name().unwrap_or_default()))?;
        }
        Ok(Self { shared: shared.to_owned(), own })
    }

    /// What was learned is there for others from now on.
    fn keep(&self) -> io::Result<()> {
        for file in files_in(self.own.path()) {
            let mut whole = NamedTempFile::new_in(&self.shared)?;
            io::copy(&mut File::open(&file)?, &mut whole)?;
            whole.persist(self.shared.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }

    fn forget(&self) {
        for file in files_in(&self.shared).into_iter().chain(files_in(self.own.path())) {
            let _ = std::fs::remove_file(file);
        }
    }
}

/// But for those that are being written.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let whole = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    whole.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

impl Prepared {
    /// For a network on this provider. Without a cache, a card or TensorRT's library nothing is kept, and
    /// making the session says what is wrong.
    pub(crate) fn new(
        runtime: &Runtime,
        label: &str,
        (model, inputs, sides): (&Model<'_>, &[&TensorInfo], &[(String, i64)]),
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Self {
        // Its version is in the key.
        runtime.preload_tensorrt();
        let path = model.path();
        let profile = chosen.provider.profile(settings).and_then(|extent| profile(inputs, sides, &extent));
        let large = bytes_in(path.parent().unwrap_or(path)) >= LARGE;
        let mut options = EngineOptions { profile, large, ..EngineOptions::default() };
        let subject = Subject { model, profile: options.profile.as_ref(), sides };
        // Without a profile it builds at the load for inputs of which every side is known, and else in the calls.
        let is_built_at_load = options.profile.is_some() || !inputs.iter().any(|input| is_open(input, sides));
        let opened = is_built_at_load.then(|| engines(runtime, label, subject, chosen, settings)).transpose();
        let (engines, shared) = match opened {
            Ok(opened) => opened.unzip(),
            Err(reason) => {
                tracing::warn!("TensorRT's engines are not kept: {reason}");
                (None, None)
            }
        };
        options.engines = engines.as_ref().and_then(|engines| engines.folder().to_str()).map(str::to_owned);
        let mut prepared = Self { options, label: label.to_owned(), engines, shared, timings: None };
        if prepared.engines.as_ref().is_none_or(|engines| !engines.are_built()) {
            // As a warning, since those are shown without being asked for.
            let how_often = if prepared.engines.is_some() { "once" } else { "at every start" };
            tracing::warn!("building the TensorRT engine of the {label}, takes minutes {how_often}");
            prepared.learn();
        }
        prepared
    }

    /// Something is to be built: with what was learned before, without which it takes longer.
    fn learn(&mut self) {
        let opened = self.shared.as_deref().map(Timings::open).transpose();
        self.timings = opened.inspect_err(|error| tracing::debug!(%error, "TensorRT learns anew")).unwrap_or_default();
        let own = self.timings.as_ref().and_then(|timings| timings.own.path().to_str());
        self.options.timings = own.map(str::to_owned);
    }

    /// The session could not be made. Whether there is something to be tried again: engines that were found are built anew.
    pub(crate) fn again(&mut self, why: &str) -> bool {
        let Some(engines) = self.engines.as_mut().filter(|engines| engines.are_built()) else {
            return false;
        };
        tracing::warn!("the {}'s TensorRT engine that was built before does not load: {why}", self.label);
        let reopened = engines.reopen().and_then(|()| if engines.are_built() { Ok(()) } else { engines.clear() });
        if let Err(error) = &reopened {
            tracing::warn!(%error, "TensorRT's engines cannot be built anew");
        } else if !engines.are_built() {
            tracing::warn!("building the TensorRT engine of the {}, takes minutes once", self.label);
            self.learn();
        }
        reopened.is_ok()
    }

    /// The session could not be made. Whether it was for what was learned before, which is forgotten then.
    pub(crate) fn without_timings(&self, why: &str) -> bool {
        let is_theirs = why.to_lowercase().contains("timing cache");
        let Some(timings) = self.timings.as_ref().filter(|_| is_theirs) else { return false };
        tracing::warn!("what TensorRT learned before is of no use, and is forgotten: {why}");
        timings.forget();
        true
    }

    /// The session was made. Its engines are whole now, but where TensorRT builds in the first calls, for their shapes, and nothing is
    /// kept.
    pub(crate) fn done(&mut self) {
        let Some(unfinished) = self.engines.as_mut().filter(|engines| !engines.are_built()) else { return };
        if let Err(error) = unfinished.seal() {
            tracing::warn!(%error, "TensorRT's engines cannot be kept");
        }
        if let Some(Err(error)) = self.timings.as_ref().map(Timings::keep) {
            tracing::debug!(%error, "what TensorRT learned is not kept");
        }
    }
}

/// Bytes of a graph and of the weights beside it.
fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    files.filter_map(|file| std::fs::metadata(file.path()).ok()).map(|about| about.len()).sum()
}

fn engines(
    runtime: &Runtime,
    label: &str,
    subject: Subject<'_>,
    chosen: &Chosen,
    settings: &SessionSettings,
) -> Result<(Engines, PathBuf), String> {
    let root = user_cache().ok_or("there is no cache folder")?.join("tensorrt");
    let key = key(runtime, subject, (chosen, settings), version_of(LIBRARY)?)?;
    let engines = Engines::open(&root, &key, label).map_err(|e| e.to_string())?;
    Ok((engines, root.join("timings").join(key.name_of_card())))
}
