//! From a pack to the networks of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use livediffusion_kernels::cuda::Stream;
use livediffusion_kernels::gpu::{Queue, Queues};
use livediffusion_pipeline::device::DeviceNetworks;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::{Denoiser, Encoder, ModelError, Networks, SharedText};
use tracing::subscriber::NoSubscriber;

use crate::cpu::physical_cores;
use crate::device;
use crate::error::OnnxError;
use crate::memory::{self, Room};
use crate::pack::{Pack, PartName};
use crate::provider::{
    Chosen, CudnnSearch, Extent, GpuSettings, Precision, Provider, ProviderChoice, SessionSettings, choose_provider,
};
use crate::runtime::Runtime;
use crate::session::Network;
use crate::text::OnnxText;
use crate::timestep::Timesteps;
use crate::unet::OnnxUnet;
use crate::vae::{OnnxDecoder, OnnxEncoder, stays_in_f32};

/// Up to this many bytes of weights in all, every lane gets sessions of its own: two sessions of one thread each gave 1.05 times
/// the frames of one session with two streams (OpenVINO 2025.4, default pack). Beyond it, memory is worth more.
const OWN_SESSIONS_BYTES: u64 = 256 << 20;

/// Weights and compiled code of VAE and U-Net.
struct Copy {
    encoder: Option<OnnxEncoder>,
    denoiser: Unet,
    decoder: OnnxDecoder,
}

enum Unet {
    Here(Box<OnnxUnet>),
    Elsewhere(Arc<Elsewhere>),
}

/// A U-Net that ONNX Runtime does not run here.
pub struct Elsewhere {
    /// Makes one for a stream or lane; they may run at once.
    pub make: Box<dyn Fn() -> Box<dyn Denoiser> + Send + Sync>,
    /// How it gets its time steps.
    pub timesteps: Timesteps,
}

impl Unet {
    fn fork(&self) -> Box<dyn Denoiser> {
        match self {
            Self::Here(unet) => Box::new(unet.fork()),
            Self::Elsewhere(elsewhere) => (elsewhere.make)(),
        }
    }

    fn timesteps(&self) -> Timesteps {
        match self {
            Self::Here(unet) => unet.timesteps(),
            Self::Elsewhere(elsewhere) => elsewhere.timesteps,
        }
    }

    fn here(&self) -> Option<&OnnxUnet> {
        match self {
            Self::Here(unet) => Some(unet),
            Self::Elsewhere(_) => None,
        }
    }
}

/// VAE and U-Net of a pack in memory, of which every stream and lane takes its own view.
pub struct SharedNetworks {
    copies: Vec<Copy>,
    next: AtomicUsize,
    /// The card's queues, where frames stay on a card.
    queues: Option<Queues<Stream>>,
    /// What the sessions were built for, where that is all that they take.
    profile: Option<Extent>,
    /// What they may grow to, where they take more memory as pictures grow.
    room: Option<Room>,
    /// Whether new streams have rows of their own.
    rows_apart: AtomicBool,
}

impl SharedNetworks {
    /// Whether a stream may have pictures of that size.
    ///
    /// # Errors
    /// A size that TensorRT's engines were not built for, or for which the card has not the memory, with what to do.
    pub fn admit(&self, size: Size) -> Result<(), ModelError> {
        self.profile.as_ref().map_or(Ok(()), |profile| profile.admit(size))?;
        self.room.as_ref().map_or(Ok(()), |room| room.admit(size))
    }

    /// Rows that a call of the U-Net may have, where it was compiled for so many; `None` for any number.
    pub fn most_rows(&self) -> Option<usize> {
        // Split, it has them one after the other.
        let is_whole = |unet: &OnnxUnet| unet.timesteps() != Timesteps::SlotBySlot;
        let profile = self.copies[0].denoiser.here().filter(|unet| is_whole(unet)).and(self.profile);
        profile.map(|extent| extent.most_rows)
    }

    /// Networks for one more stream or lane: the same weights, tensors of their own. Forks may run at once, on as many
    /// threads as [`SessionSettings::lanes`] says without waiting for each other.
    pub fn fork(&self) -> Networks {
        let Copy { encoder, denoiser, decoder } =
            &self.copies[self.next.fetch_add(1, Ordering::Relaxed) % self.copies.len()];
        Networks {
            encoder: encoder.as_ref().map(|encoder| Box::new(encoder.fork()) as Box<dyn Encoder>),
            denoiser: denoiser.fork(),
            decoder: Box::new(decoder.fork()),
        }
    }

    /// Networks for one more stream of pictures of `size`, with inputs and outputs in the memory of `queue`'s device: that which
    /// the sessions run on. All streams take turns in the same queues.
    ///
    /// # Errors
    /// Networks whose inputs a device cannot be given, with the reason; a U-Net that runs elsewhere; a size that they were not exported
    /// for.
    pub fn on_device<Q: Queue>(&self, queue: &Q, size: Size) -> Result<DeviceNetworks<Q>, ModelError> {
        let Copy { encoder, denoiser, decoder } = &self.copies[0];
        let denoiser = denoiser.here().ok_or_else(|| ModelError::new("its U-Net runs elsewhere"))?;
        let shares_rows = !self.rows_apart.load(Ordering::Relaxed);
        device::networks((encoder.as_ref(), denoiser, decoder), queue, (size, shares_rows))
    }

    /// Has streams that are made from here on a card call with their own rows, and not with those of the widest of all streams of their size:
    /// for measurements, which run one after the other what would run beside each other elsewhere.
    pub fn keep_rows_apart(&self) {
        self.rows_apart.store(true, Ordering::Relaxed);
    }

    /// Whether all networks are captured as CUDA graphs.
    pub fn captures(&self) -> bool {
        let Copy { encoder, denoiser, decoder } = &self.copies[0];
        let vae = [encoder.as_ref().map(|encoder| encoder.parts().0), Some(decoder.parts().0)];
        let unet = denoiser.here().map(|unet| unet.parts().0);
        vae.into_iter().chain([unet]).flatten().all(Network::captures)
    }

    /// The queues of the card that the sessions put their work into; `None` where they run on no card, or frames pass through the
    /// host there.
    pub fn queues(&self) -> Option<&Queues<Stream>> {
        self.queues.as_ref()
    }
}

/// Frames on their way through a card at once, at most: one comes, one is worked on, one goes.
const ON_CARD: usize = 3;

/// The queues of the card that a provider uses; `None` where it uses none that has them, or where the reason why not was said.
pub(crate) fn queues(runtime: &Runtime, provider: Provider, settings: &SessionSettings) -> Option<Queues<Stream>> {
    let GpuSettings { device, frames_on_host, vae_streams, .. } = settings.gpu;
    if !provider.is_on_cuda() || frames_on_host {
        return None;
    }
    let found = device::cuda::queues(device, runtime.cuda_libraries(), vae_streams);
    found
        .inspect_err(|error| {
            let hint = error.hint.as_deref().unwrap_or_default();
            tracing::warn!(hint, "frames pass through the host between the networks: {error}");
        })
        .ok()
}

/// Warns of switches that do nothing here.
fn say_what_has_no_effect(runtime: &Runtime, queues: Option<&Queues<Stream>>, provider: Provider, gpu: &GpuSettings) {
    if gpu.vae_streams && queues.is_none() {
        tracing::warn!("--vae-streams has no effect: frames do not stay on a card");
    }
    let is_on_cuda = matches!(provider, Provider::Cuda | Provider::TensorRt);
    for (flag, is_given) in
        [("--channels-last", gpu.channels_last), ("--cudnn-search", gpu.cudnn_search != CudnnSearch::default())]
    {
        if is_given && !is_on_cuda {
            tracing::warn!("{flag} has no effect on {provider}");
        }
    }
    if gpu.graphs && provider != Provider::Cuda {
        tracing::warn!("--cuda-graph has no effect on {provider}");
    } else if gpu.graphs && runtime.is_before(1, 27) {
        let version = runtime.version();
        tracing::warn!(
            "ONNX Runtime {version} waits for every CUDA graph, so that frames do not overlap: `make setup-cuda CUDA=13` has one that does not"
        );
    }
}

/// The networks of a pack, ready to run.
pub struct LoadedPack {
    /// VAE and U-Net.
    pub networks: Networks,
    /// Where further streams or lanes get theirs.
    pub shared: Arc<SharedNetworks>,
    /// Forks that run at once without waiting for each other: as asked for, within the threads; 1 on a GPU. Where frames stay on a
    /// card, how many may be on their way.
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
    load_networks_with(runtime, pack, chosen, settings, None)
}

/// The same, but for the U-Net, if it runs elsewhere: frames pass through the host then.
pub fn load_networks_with(
    runtime: &Runtime,
    pack: &Pack,
    chosen: Chosen,
    settings: &SessionSettings,
    elsewhere: Option<Elsewhere>,
) -> Result<LoadedPack, OnnxError> {
    let chosen = able(pack, chosen, settings)?;
    let int8 = if chosen.precision == Precision::Int8 { Some(pack.int8()?) } else { None };
    let pack = int8.as_ref().unwrap_or(pack);
    memory::check(pack, (chosen.provider, chosen.precision), settings)?;
    let threads = settings.threads.unwrap_or_else(physical_cores).max(1);
    let on_device = chosen.provider.is_on_device(settings.openvino);
    let elsewhere = elsewhere.map(Arc::new);
    let queues = if elsewhere.is_none() { queues(runtime, chosen.provider, settings) } else { None };
    say_what_has_no_effect(runtime, queues.as_ref(), chosen.provider, &settings.gpu);
    // Nobody asked for f16 where it is only measured.
    if settings.precision == Precision::F16 && stays_in_f32(pack, &chosen, settings) {
        tracing::warn!(
            "the VAE stays in f32, since SDXL's own overflows in f16: a pack with TAESD in its place is faster"
        );
    }
    let lanes = match (&queues, on_device) {
        (Some(_), _) => settings.lanes.clamp(1, ON_CARD),
        (None, true) => 1,
        (None, false) => settings.lanes.clamp(1, threads),
    };
    let bytes = pack.frame_bytes();
    // One prompt is encoded at a time, on all threads.
    let alone = SessionSettings { threads: Some(threads), lanes: 1, ..*settings };
    let each: Vec<SessionSettings> = if queues.is_some() {
        vec![alone]
    } else if bytes.saturating_mul(lanes as u64) <= OWN_SESSIONS_BYTES {
        let share = |lane| threads / lanes + usize::from(lane < threads % lanes);
        (0..lanes).map(|lane| SessionSettings { threads: Some(share(lane)), ..alone }).collect()
    } else {
        vec![SessionSettings { lanes, ..alone }]
    };
    let (copies, text) = std::thread::scope(|scope| {
        let (chosen, queues, elsewhere) = (&chosen, queues.as_ref(), elsewhere.as_ref());
        let load = |(index, each): (usize, _)| {
            scope.spawn(move || {
                let load = || Copy::load(runtime, (pack, elsewhere), chosen, (each, queues));
                // What there is to warn of is said by the first.
                if index == 0 { load() } else { tracing::subscriber::with_default(NoSubscriber::new(), load) }
            })
        };
        let copies: Vec<_> = each.iter().enumerate().map(load).collect();
        // Off the frame path: its work waits for no frame, and its shapes are no graph's.
        let gpu = GpuSettings { graphs: false, ..alone.gpu };
        let text = OnnxText::load(runtime, pack, chosen, &SessionSettings { gpu, ..alone });
        let copies: Result<Vec<_>, _> = copies.into_iter().map(joined).collect();
        (copies, text)
    });
    let (copies, text) = (copies?, SharedText::new(Box::new(text?)));
    let timesteps = copies[0].denoiser.timesteps();
    let profile = chosen.provider.profile(settings);
    let room = Room::of(pack, (chosen.provider, chosen.precision), settings);
    let rows_apart = AtomicBool::new(false);
    let shared = Arc::new(SharedNetworks { copies, next: AtomicUsize::new(0), queues, profile, room, rows_apart });
    let networks = shared.fork();
    let Chosen { provider, precision, why } = chosen;
    Ok(LoadedPack { networks, shared, lanes, text, provider, precision, why, timesteps })
}

/// A U-Net alone, for others than the streams of this process.
pub struct LoadedUnet {
    /// The network.
    pub unet: Box<dyn Denoiser>,
    /// What it runs on.
    pub provider: Provider,
    /// What it reckons in.
    pub precision: Precision,
    /// What it was compiled for, where that is all that it takes.
    pub profile: Option<Extent>,
}

/// Loads the U-Net of `pack`, and nothing else of it.
pub fn load_unet(
    runtime: &Runtime,
    pack: &Pack,
    chosen: Chosen,
    settings: &SessionSettings,
) -> Result<LoadedUnet, OnnxError> {
    let parts = pack.parts.iter().filter(|part| part.name == PartName::Unet).cloned().collect();
    let pack = Pack { parts, ..pack.clone() };
    let chosen = able(&pack, chosen, settings)?;
    let pack = if chosen.precision == Precision::Int8 { pack.int8()? } else { pack };
    memory::check(&pack, (chosen.provider, chosen.precision), settings)?;
    say_what_has_no_effect(runtime, None, chosen.provider, &settings.gpu);
    let unet = Box::new(OnnxUnet::load(runtime, &pack, &chosen, settings)?);
    let (provider, precision) = (chosen.provider, pack.reckons_in(chosen.precision));
    Ok(LoadedUnet { unet, provider, precision, profile: provider.profile(settings) })
}

/// What was chosen, or the CPU provider where that was open and OpenVINO lacks an operator of the pack.
fn able(pack: &Pack, chosen: Chosen, settings: &SessionSettings) -> Result<Chosen, OnnxError> {
    // TensorRT for RTX has it.
    let lacks = matches!(chosen.provider, Provider::OpenVino | Provider::TensorRt);
    let Some(part) = pack.parts.iter().find(|part| part.fused_attention).filter(|_| lacks) else {
        return Ok(chosen);
    };
    if settings.provider == ProviderChoice::Auto && !matches!(settings.precision, Precision::Bf16 | Precision::F16) {
        let precision = if chosen.precision == Precision::Int8 { Precision::Int8 } else { Precision::F32 };
        let why = "auto: OpenVINO has not the fused attention of this pack".to_owned();
        return Ok(Chosen { provider: Provider::Cpu, precision, why });
    }
    // TensorRT would be given what lies between the attentions, in pieces whose inputs no profile names.
    let (name, other) = if chosen.provider == Provider::OpenVino { ("OpenVINO", "cpu") } else { ("TensorRT", "cuda") };
    let what = format!("{}: {name} has not the fused attention of this graph", part.file.display());
    Err(OnnxError::invalid(what).hint(format!("--provider {other}, or export it with --attention plain")))
}

/// The result of a thread that loads something.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, OnnxError>>) -> Result<T, OnnxError> {
    thread.join().unwrap_or_else(|_| Err(OnnxError::failed("loading a network panicked")))
}

impl Copy {
    /// On a card each network's work goes into its queue.
    fn load(
        runtime: &Runtime,
        (pack, elsewhere): (&Pack, Option<&Arc<Elsewhere>>),
        chosen: &Chosen,
        (settings, queues): (&SessionSettings, Option<&Queues<Stream>>),
    ) -> Result<Self, OnnxError> {
        let on = |pick: fn(&Queues<Stream>) -> &Stream| {
            let stream = queues.map(|queues| device::cuda::user_stream(pick(queues)));
            SessionSettings { gpu: GpuSettings { stream, ..settings.gpu }, ..*settings }
        };
        let vae = || {
            let (encodes, decodes) = (on(|queues| &queues.encode), on(|queues| &queues.decode));
            let encoder = match (pack.part(PartName::VaeEncoder), pack.vae_kind) {
                (Some(part), Some(kind)) => Some(OnnxEncoder::load(runtime, pack, (part, kind), chosen, &encodes)?),
                _ => None,
            };
            let decoder =
                pack.part(PartName::VaeDecoder).ok_or_else(|| OnnxError::invalid("the pack has no vae_decoder"))?;
            Ok((encoder, OnnxDecoder::load(runtime, pack, decoder, chosen, &decodes)?))
        };
        let (vae, denoiser) = std::thread::scope(|scope| {
            // What is listened to is a thread's own.
            let listens = tracing::dispatcher::get_default(Clone::clone);
            let vae = scope.spawn(move || tracing::dispatcher::with_default(&listens, vae));
            let denoiser = match elsewhere {
                Some(elsewhere) => Ok(Unet::Elsewhere(Arc::clone(elsewhere))),
                None => OnnxUnet::load(runtime, pack, chosen, &on(|queues| &queues.work))
                    .map(|unet| Unet::Here(Box::new(unet))),
            };
            (joined(vae), denoiser)
        });
        let (encoder, decoder) = vae?;
        Ok(Self { encoder, denoiser: denoiser?, decoder })
    }
}
