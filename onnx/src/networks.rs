//! From a pack to the networks of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use livediffusion_pipeline::model::{Encoder, Networks, SharedText};
use tracing::subscriber::NoSubscriber;

use crate::cpu::physical_cores;
use crate::error::OnnxError;
use crate::memory;
use crate::pack::{Pack, PartName};
use crate::provider::{Chosen, Precision, Provider, ProviderChoice, SessionSettings, choose_provider};
use crate::runtime::Runtime;
use crate::text::OnnxText;
use crate::timestep::Timesteps;
use crate::unet::OnnxUnet;
use crate::vae::{OnnxDecoder, OnnxEncoder};

/// Up to this many bytes of weights in all, every lane gets sessions of its own: two sessions of one thread each gave 1.05 times
/// the frames of one session with two streams (OpenVINO 2025.4, default pack). Beyond it, memory is worth more.
const OWN_SESSIONS_BYTES: u64 = 256 << 20;

/// Weights and compiled code of VAE and U-Net.
struct Copy {
    encoder: Option<OnnxEncoder>,
    denoiser: OnnxUnet,
    decoder: OnnxDecoder,
}

/// VAE and U-Net of a pack in memory, of which every stream and lane takes its own view.
pub struct SharedNetworks {
    copies: Vec<Copy>,
    next: AtomicUsize,
}

impl SharedNetworks {
    /// Networks for one more stream or lane: the same weights, tensors of their own. Forks may run at once, on as many
    /// threads as [`SessionSettings::lanes`] says without waiting for each other.
    pub fn fork(&self) -> Networks {
        let Copy { encoder, denoiser, decoder } =
            &self.copies[self.next.fetch_add(1, Ordering::Relaxed) % self.copies.len()];
        Networks {
            encoder: encoder.as_ref().map(|encoder| Box::new(encoder.fork()) as Box<dyn Encoder>),
            denoiser: Box::new(denoiser.fork()),
            decoder: Box::new(decoder.fork()),
        }
    }
}

/// The networks of a pack, ready to run.
pub struct LoadedPack {
    /// VAE and U-Net.
    pub networks: Networks,
    /// Where further streams or lanes get theirs.
    pub shared: Arc<SharedNetworks>,
    /// Forks that run at once without waiting for each other: as asked for, within the threads; 1 on a GPU.
    pub lanes: usize,
    /// Tokenizers and text encoders.
    pub text: SharedText,
    /// What they run on.
    pub provider: Provider,
    /// Arithmetic of VAE and U-Net.
    pub precision: Precision,
    /// Why that provider and precision, for the user.
    pub why: String,
    /// How the U-Net gets its time steps.
    pub timesteps: Timesteps,
}

/// Loads the networks of `pack` on the provider that the settings ask for.
pub fn load_networks(runtime: &Runtime, pack: &Pack, settings: &SessionSettings) -> Result<LoadedPack, OnnxError> {
    load_networks_on(runtime, pack, choose_provider(runtime, settings)?, settings)
}

/// Loads the networks of `pack` on a provider that was chosen before, by [`choose_provider`]: that takes as long as a
/// small network, and can be done while something else is got ready. The parts are loaded side by side.
pub fn load_networks_on(
    runtime: &Runtime,
    pack: &Pack,
    chosen: Chosen,
    settings: &SessionSettings,
) -> Result<LoadedPack, OnnxError> {
    let chosen = able(pack, chosen, settings)?;
    let int8 = if chosen.precision == Precision::Int8 { Some(pack.int8()?) } else { None };
    let pack = int8.as_ref().unwrap_or(pack);
    memory::check(pack, (chosen.provider, chosen.precision), settings)?;
    let threads = settings.threads.unwrap_or_else(physical_cores).max(1);
    let on_device = chosen.provider.is_on_device(settings.openvino);
    let lanes = if on_device { 1 } else { settings.lanes.clamp(1, threads) };
    let bytes = pack.frame_bytes();
    // One prompt is encoded at a time, on all threads.
    let alone = SessionSettings { threads: Some(threads), lanes: 1, ..*settings };
    let each: Vec<SessionSettings> = if bytes.saturating_mul(lanes as u64) <= OWN_SESSIONS_BYTES {
        let share = |lane| threads / lanes + usize::from(lane < threads % lanes);
        (0..lanes).map(|lane| SessionSettings { threads: Some(share(lane)), ..alone }).collect()
    } else {
        vec![SessionSettings { lanes, ..alone }]
    };
    let (copies, text) = std::thread::scope(|scope| {
        let chosen = &chosen;
        let load = |(index, each): (usize, _)| {
            scope.spawn(move || {
                let load = || Copy::load(runtime, pack, chosen, each);
                // What there is to warn of is said by the first.
                if index == 0 { load() } else { tracing::subscriber::with_default(NoSubscriber::new(), load) }
            })
        };
        let copies: Vec<_> = each.iter().enumerate().map(load).collect();
        let text = OnnxText::load(runtime, pack, chosen, &alone);
        let copies: Result<Vec<_>, _> = copies.into_iter().map(joined).collect();
        (copies, text)
    });
    let (copies, text) = (copies?, SharedText::new(Box::new(text?)));
    let timesteps = copies[0].denoiser.timesteps();
    let shared = Arc::new(SharedNetworks { copies, next: AtomicUsize::new(0) });
    let networks = shared.fork();
    let Chosen { provider, precision, why } = chosen;
    Ok(LoadedPack { networks, shared, lanes, text, provider, precision, why, timesteps })
}

/// What was chosen, or the CPU provider where that was open and OpenVINO lacks an operator of the pack.
fn able(pack: &Pack, chosen: Chosen, settings: &SessionSettings) -> Result<Chosen, OnnxError> {
    let part = pack.parts.iter().find(|part| part.fused_attention);
    let Some(part) = part.filter(|_| chosen.provider == Provider::OpenVino) else {
        return Ok(chosen);
    };
    if settings.provider == ProviderChoice::Auto && settings.precision != Precision::Bf16 {
        let precision = if chosen.precision == Precision::Int8 { Precision::Int8 } else { Precision::F32 };
        let why = "auto: OpenVINO has not the fused attention of this pack".to_owned();
        return Ok(Chosen { provider: Provider::Cpu, precision, why });
    }
    let what = format!("{}: OpenVINO has not the fused attention of this graph", part.file.display());
    Err(OnnxError::invalid(what).hint("--provider cpu, or export it with --attention plain"))
}

/// The result of a thread that loads something.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, OnnxError>>) -> Result<T, OnnxError> {
    thread.join().unwrap_or_else(|_| Err(OnnxError::failed("loading a network panicked")))
}

impl Copy {
    fn load(runtime: &Runtime, pack: &Pack, chosen: &Chosen, settings: &SessionSettings) -> Result<Self, OnnxError> {
        let vae = || {
            let encoder = match (pack.part(PartName::VaeEncoder), pack.vae_kind) {
                (Some(part), Some(kind)) => Some(OnnxEncoder::load(runtime, pack, (part, kind), chosen, settings)?),
                _ => None,
            };
            let decoder =
                pack.part(PartName::VaeDecoder).ok_or_else(|| OnnxError::invalid("the pack has no vae_decoder"))?;
            Ok((encoder, OnnxDecoder::load(runtime, pack, decoder, chosen, settings)?))
        };
        let (vae, denoiser) = std::thread::scope(|scope| {
            let vae = scope.spawn(vae);
            let denoiser = OnnxUnet::load(runtime, pack, chosen, settings);
            (joined(vae), denoiser)
        });
        let (encoder, decoder) = vae?;
        Ok(Self { encoder, denoiser: denoiser?, decoder })
    }
}
