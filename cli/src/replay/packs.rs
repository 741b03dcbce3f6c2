//! The networks that cases run on: loaded once for neighbours with the same model and size.

use std::path::PathBuf;
use std::sync::Arc;

use livediffusion_onnx::{Extent, GpuSettings, Libraries, LoadedPack, Pack, Runtime, SessionSettings, load_networks};
use livediffusion_pipeline::frame::Size;
use livediffusion_session::extent;

use super::case::Case;
use super::networks::RecordedNoise;
use super::setup;
use crate::args::{Level, ReplayArgs};
use crate::failure::{Failure, Outcome};

/// The pack of the last case, and what the next one may need of it.
pub(super) struct Packs<'a> {
    args: &'a ReplayArgs,
    /// All cases that are to come: a provider that compiles for its calls is told of them at once.
    cases: Vec<Arc<Case>>,
    runtime: Option<Runtime>,
    last: Option<Last>,
}

struct Last {
    folder: PathBuf,
    size: Size,
    has_encoder: bool,
    loaded: LoadedPack,
}

impl<'a> Packs<'a> {
    pub(super) fn new(args: &'a ReplayArgs, cases: Vec<Arc<Case>>) -> Self {
        Self { args, cases, runtime: None, last: None }
    }

    /// What [`load`](Self::load) gave last.
    pub(super) fn loaded(&self) -> Option<&LoadedPack> {
        self.last.as_ref().map(|last| &last.loaded)
    }

    /// The networks of a case, as the arguments say: on the CPU in f32 unless they ask for something else.
    pub(super) fn load(&mut self, case: &Case) -> Outcome<&mut LoadedPack> {
        let args = self.args;
        let (folder, size) = (args.models.join(&case.config.model), case.size());
        let last = match self.last.take() {
            Some(last) if last.folder == folder && last.size == size => last,
            other => {
                // The memory of one is given back before the other's is taken.
                drop(other);
                self.open(folder, size)?
            }
        };
        let last = self.last.insert(last);
        if args.level == Level::EndToEnd && case.is_img2img() && !last.has_encoder {
            let what = format!("{} has no vae_encoder/, which an img2img case needs", last.folder.display());
            return Err(Failure::usage(what, "replay at --level networks, or add the VAE encoder to the pack"));
        }
        Ok(&mut last.loaded)
    }

    fn open(&mut self, folder: PathBuf, size: Size) -> Outcome<Last> {
        let args = self.args;
        let pack = Pack::open(&folder)?;
        let extent = self.extent(&pack, &folder, size);
        let runtime = if let Some(runtime) = &self.runtime {
            runtime
        } else {
            let (ort, cuda) = (args.ort_lib.as_deref(), args.cuda_lib_dir.as_deref());
            self.runtime.insert(Runtime::load_with(&Libraries { ort, cuda, provider: args.provider })?)
        };
        let settings = SessionSettings {
            provider: args.provider,
            precision: args.precision,
            gpu: GpuSettings { device: args.gpu, ..GpuSettings::default() },
            // The networks of cases are tiny, and many cases are replayed at once: more threads only wait for one another.
            threads: Some(1),
            extent,
            ..SessionSettings::default()
        };
        let loaded = load_networks(runtime, &pack, &settings)?;
        Ok(Last { has_encoder: pack.vae_kind.is_some(), folder, size, loaded })
    }

    /// What the calls of all cases with that model and size are like; `None` if no case says.
    fn extent(&self, pack: &Pack, folder: &PathBuf, size: Size) -> Option<Extent> {
        let alike = |case: &&Arc<Case>| self.args.models.join(&case.config.model) == *folder && case.size() == size;
        let extents = self.cases.iter().filter(alike).filter_map(|case| {
            let parameters = setup::parameters(case, &RecordedNoise::of(case).ok()?, size).ok()?;
            // The size does not change.
            Some(Extent { most_side: 0, ..extent(pack, &parameters, size) })
        });
        extents.reduce(|one, other| Extent {
            frames: one.frames.max(other.frames),
            rows: one.rows.max(other.rows),
            most_rows: one.most_rows.max(other.most_rows),
            ..one
        })
    }
}
