//! Which provider and precision are fastest here, found once by a few frames on each.
//!
//! What is measured: every candidate that the flags, the library and the processor leave open loads the pack's networks
//! on all threads and repaints the same few pictures under the pack's own parameters. Arithmetic other than f32 counts
//! only where its pictures are as good as those of f32. Which of them is used follows from the figures alone (`choice`);
//! the figures are kept in `$LIVEDIFFUSION_CACHE/calibration` (`cache`), so that later starts read one small file.
//!
//! Nothing is measured where there is nothing to choose: one candidate, or flags that fix both. On an NVIDIA card the arithmetic alone
//! is open.

mod cache;
mod choice;
mod measure;

use std::sync::Once;

use livediffusion_kernels::cuda::Card;
use livediffusion_onnx::{
    Chosen, GpuSettings, Pack, Provider, Runtime, SessionSettings, has_bf16, physical_cores, user_cache,
};

use self::cache::{Entry, Machine};
use self::choice::{Candidate, Offer};
pub use self::choice::{Finding, Measured, choose, table};
use crate::pack::OpenPack;

/// VAE and U-Net above which nothing is measured without being asked: each candidate reads, compiles and holds the
/// weights, which takes most of a minute for the 3.5 GB of a full Stable Diffusion in f32.
const MOST_BYTES: u64 = 1 << 30;

/// What to say of a model on an NVIDIA card whose arithmetic nobody chose.
pub const IN_F32: &str = "the model runs in f32, as it is: --precision f16 halves its memory";

/// The card, its driver, and what else its speed depends on; `None` where there is none.
fn card(gpu: &GpuSettings) -> Option<String> {
    let card = Card::open(gpu.device as usize).ok()?;
    let GpuSettings { tf32, cudnn_search, channels_last, .. } = gpu;
    let how = format!("tf32 {tf32} {cudnn_search} {channels_last}");
    Some(format!("{} {} {how}", card.name().ok()?, card.driver().version()))
}

/// A choice between candidates for a pack on this machine.
pub struct Calibration {
    candidates: Vec<Candidate>,
    settings: SessionSettings,
    /// Where its figures are kept; `None` without a home.
    entry: Option<Entry>,
}

impl Calibration {
    /// What is to be chosen; `None` where nothing is. Takes microseconds, but on a card, whose context is made.
    pub fn of(runtime: &Runtime, pack: &Pack, settings: &SessionSettings) -> Option<Self> {
        let offer = Offer { bf16: has_bf16(), int8: pack.has_int8(), in_f32: pack.is_in_f32() };
        let candidates = choice::candidates(settings, &runtime.compiled_providers(), offer);
        if candidates.len() < 2 {
            return None;
        }
        // To ask a card takes a context on it, which nobody wants who uses none.
        let card = match candidates[0].provider {
            provider if provider.is_on_cuda() => Some(card(&settings.gpu)?),
            _ => None,
        };
        let threads = settings.threads.unwrap_or_else(physical_cores).max(1);
        let machine = Machine::here(runtime, threads, card);
        let folder = user_cache().map(|folder| folder.join("calibration"));
        let entry = folder.map(|folder| Entry::new(&folder, &cache::key(&machine, pack, &candidates)));
        Some(Self { candidates, settings: *settings, entry })
    }

    /// Whether it is between what that provider can do.
    pub fn is_of(&self, provider: Provider) -> bool {
        self.candidates.iter().any(|candidate| candidate.provider == provider)
    }

    /// What an earlier start measured.
    pub fn cached(&self) -> Option<Vec<Measured>> {
        self.entry.as_ref()?.read(&self.candidates)
    }

    /// Whether the pack is so large that it is measured only when that is asked for.
    pub fn too_large(pack: &Pack) -> bool {
        pack.frame_bytes() > MOST_BYTES
    }

    /// Measures all candidates and keeps the figures. It says so, as it takes seconds.
    pub fn measure(&self, runtime: &Runtime, open: &OpenPack) -> Vec<Measured> {
        // A warning, as those are shown without being asked for: nobody should wonder what takes so long.
        tracing::warn!("measuring providers once for this model, takes a few seconds");
        let measured = measure::all(runtime, open, &self.candidates, &self.settings);
        // Where nothing ran, the cause may be gone at the next start.
        if let Some(entry) = &self.entry
            && choose(&measured).is_some()
            && let Err(error) = entry.write(&measured)
        {
            static SAID: Once = Once::new();
            let file = entry.path().display();
            SAID.call_once(|| {
                tracing::warn!("what was measured cannot be kept, the next start repeats it: {file}: {error}");
            });
        }
        measured
    }

    /// Measures, unless the pack is too large for that, and chooses; `rule` is what is used else.
    pub fn decide(&self, runtime: &Runtime, open: &OpenPack, mut rule: Chosen) -> Chosen {
        if Self::too_large(&open.pack) {
            if rule.provider.is_on_cuda() {
                tracing::warn!("{IN_F32}, `livediffusion doctor --calibrate` measures it");
            }
            rule.why += "; not measured, as its networks have over 1 GB: `livediffusion doctor --calibrate` does";
            return rule;
        }
        choose(&self.measure(runtime, open)).unwrap_or_else(|| {
            rule.why += "; measured, but nothing ran";
            rule
        })
    }
}
