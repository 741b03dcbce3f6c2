//! Whether a card has room for a session, asked before minutes are spent on it.
//!
//! What is reckoned is what a session cannot do without: the weights, and of each network the input and output of one
//! convolution at full size. The rest (the library's own memory, working space, how much a provider holds on to) differs from
//! version to version, so that a session that passes may still run out; one that does not pass cannot run.

use std::sync::atomic::{AtomicU64, Ordering};

use livediffusion_kernels::cuda::Card;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::ModelError;

use crate::error::OnnxError;
use crate::pack::{Pack, PartName, of_part};
use crate::provider::{Extent, Precision, Provider, SessionSettings};

/// What to do when a card's memory is full.
pub(crate) const LESS_MEMORY: &str = "try a smaller --size, fewer steps, --precision f16 if the model is in f32, one \
                                      with TAESD in place of a KL VAE, or close what else uses the card";

/// What a session needs at least, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Weights of all networks, text encoders among them.
    pub weights: u64,
    /// Values between their layers, at the widest.
    pub activations: u64,
}

impl MemoryNeed {
    /// Of a pack's session on a provider. TensorRT takes what the largest call of its profile needs, whatever calls come.
    pub fn of(pack: &Pack, extent: &Extent, (provider, precision): (Provider, Precision)) -> Self {
        let rows = if provider == Provider::TensorRt { extent.most_rows.max(extent.rows) } else { extent.rows };
        Sizes::of(pack).need(&Extent { rows, ..*extent }, precision)
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.activations
    }

    /// An error with a hint if `free` bytes are not enough.
    pub fn check(&self, free: u64) -> Result<(), OnnxError> {
        if self.total() <= free {
            return Ok(());
        }
        let what = format!(
            "the card has {} MB free, and this session needs at least {}: {} for weights, {} between the layers",
            megabytes(free),
            megabytes(self.total()),
            megabytes(self.weights),
            megabytes(self.activations)
        );
        Err(OnnxError::missing(what).hint(LESS_MEMORY))
    }
}

/// What of a pack decides it.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Of VAE and U-Net.
    weights: u64,
    /// Of what makes prompts, in the types that it has.
    text_weights: u64,
    /// Channels of the U-Net at the latent's size.
    unet_channels: u64,
    /// Channels of the VAE's halves at the picture's size.
    vae_channels: [u64; 2],
    /// Whether the graphs are in 16 bits.
    narrow: bool,
}

impl Sizes {
    fn of(pack: &Pack) -> Self {
        let channels = |name| {
            let config = pack.part(name).and_then(|part| of_part(part).ok()).unwrap_or_default();
            config["block_out_channels"][0].as_u64().unwrap_or(0)
        };
        Self {
            weights: pack.frame_bytes(),
            text_weights: pack.bytes().saturating_sub(pack.frame_bytes()),
            unet_channels: channels(PartName::Unet),
            vae_channels: [channels(PartName::VaeEncoder), channels(PartName::VaeDecoder)],
            narrow: !pack.is_in_f32(),
        }
    }

    fn need(&self, extent: &Extent, precision: Precision) -> MemoryNeed {
        // A provider that converts holds converted weights.
        let halves = precision == Precision::F16 && !self.narrow;
        let bytes = if self.narrow || precision == Precision::F16 { 2 } else { 4 };
        let pixels = (extent.width * extent.height) as u64;
        let latent = pixels / (extent.factor * extent.factor).max(1) as u64;
        let unet = self.unet_channels * latent * extent.rows as u64;
        let vae: u64 = self.vae_channels.iter().map(|channels| channels * pixels).sum();
        MemoryNeed {
            weights: self.text_weights + if halves { self.weights / 2 } else { self.weights },
            activations: 2 * bytes * (unet + vae),
        }
    }
}

/// What the streams of one session may grow to, as their pictures do. Streams take turns in the networks, so that it is the
/// largest of them that counts, and not how many there are. What a provider holds beyond that is not known: where it would do,
/// a card is so full that something else would soon fail.
#[derive(Debug)]
pub(crate) struct Room {
    sizes: Sizes,
    extent: Extent,
    precision: Precision,
    /// The card, by the number that CUDA has for it.
    device: usize,
    /// Bytes between the layers at the largest size so far: the provider keeps what it once had.
    held: AtomicU64,
}

impl Room {
    /// Of a session that was checked and loaded. `None` where the provider takes memory for its largest call at once, or uses no
    /// card of ours.
    pub(crate) fn of(pack: &Pack, chosen: (Provider, Precision), settings: &SessionSettings) -> Option<Self> {
        let (provider, precision) = chosen;
        let extent = settings.extent.filter(|_| provider.is_on_cuda() && provider != Provider::TensorRt)?;
        let sizes = Sizes::of(pack);
        let held = AtomicU64::new(sizes.need(&extent, precision).activations);
        Some(Self { sizes, extent, precision, device: settings.gpu.device as usize, held })
    }

    /// Whether a stream may have pictures of that size.
    ///
    /// # Errors
    /// Less memory than it takes beyond what is held, with what to do.
    pub(crate) fn admit(&self, size: Size) -> Result<(), ModelError> {
        self.admit_to(size, || free(self.device))
    }

    /// Asks for what is `free` only where it matters.
    fn admit_to(&self, size: Size, free: impl FnOnce() -> Option<u64>) -> Result<(), ModelError> {
        let extent = Extent { width: size.width, height: size.height, ..self.extent };
        let need = self.sizes.need(&extent, self.precision).activations;
        let more = need.saturating_sub(self.held.load(Ordering::Relaxed));
        let Some(free) = (more > 0).then(free).flatten().filter(|free| more > *free) else {
            self.held.fetch_max(need, Ordering::Relaxed);
            return Ok(());
        };
        let what = format!(
            "the card has {} MB free, and pictures of {size} need at least {} more",
            megabytes(free),
            megabytes(more)
        );
        // Nothing else that helps can be changed while the networks are loaded.
        Err(ModelError::new(what).with_hint("try a smaller --size"))
    }
}

/// Bytes of a card that are free. A card that cannot be asked is left to the session, whose error says more.
fn free(device: usize) -> Option<u64> {
    let asked = Card::open(device).and_then(|card| card.memory());
    asked.inspect_err(|error| tracing::debug!(%error, "the card's free memory is not known")).ok().map(|(free, _)| free)
}

fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}

/// Asks the card, where the provider uses one and the extent is known.
pub(crate) fn check(
    pack: &Pack,
    (provider, precision): (Provider, Precision),
    settings: &SessionSettings,
) -> Result<(), OnnxError> {
    let (true, Some(extent)) = (provider.is_on_cuda(), &settings.extent) else {
        return Ok(());
    };
    let need = MemoryNeed::of(pack, extent, (provider, precision));
    free(settings.gpu.device as usize).map_or(Ok(()), |free| need.check(free))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// The sizes of SD-Turbo's parts.
    const TURBO: Sizes =
        Sizes { weights: 3_600_000_000, text_weights: 0, unet_channels: 320, vae_channels: [128, 128], narrow: false };
    const EXTENT: Extent =
        Extent { width: 512, height: 512, most_side: 0, frames: 1, rows: 1, most_rows: 8, tokens: 77, factor: 8 };

    #[test]
    fn the_need_grows_with_size_and_rows_and_shrinks_in_16_bits() {
        let need = TURBO.need(&EXTENT, Precision::F32);
        // Two f32 tensors of 320 × 64² and twice 128 × 512².
        assert_eq!(need.activations, 8 * (320 * 64 * 64 + 256 * 512 * 512));
        assert_eq!(need.total(), need.weights + need.activations);
        let rows = TURBO.need(&Extent { rows: 4, ..EXTENT }, Precision::F32);
        assert_eq!(rows.activations - need.activations, 8 * 3 * 320 * 64 * 64);
        let large = TURBO.need(&Extent { width: 1024, height: 1024, ..EXTENT }, Precision::F32);
        assert_eq!(large.activations, 4 * need.activations);
        let half = TURBO.need(&EXTENT, Precision::F16);
        assert_eq!((half.weights, half.activations), (need.weights / 2, need.activations / 2));
        // What makes prompts is on the card too, and stays as it is.
        let with_text = Sizes { text_weights: 1_400_000_000, ..TURBO };
        assert_eq!(with_text.need(&EXTENT, Precision::F16).weights, half.weights + 1_400_000_000);
        // What is exported in f16 already is not halved again.
        let narrow = Sizes { narrow: true, ..TURBO };
        assert_eq!(narrow.need(&EXTENT, Precision::F16), narrow.need(&EXTENT, Precision::F32));
    }

    #[test]
    fn too_little_is_an_error_that_says_what_helps() {
        let need = TURBO.need(&EXTENT, Precision::F32);
        assert!(need.check(need.total()).is_ok());
        let error = need.check(4_000_000_000).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Missing);
        assert!(error.what.contains("4000 MB free") && error.what.contains("3600 for weights"), "{error}");
        let hint = error.hint.unwrap();
        assert!(hint.contains("--size") && hint.contains("f16") && hint.contains("TAESD"), "{hint}");
    }

    #[test]
    fn a_stream_may_grow_into_what_is_free() {
        let held = TURBO.need(&EXTENT, Precision::F32).activations;
        let room = Room { sizes: TURBO, extent: EXTENT, precision: Precision::F32, device: 0, held: held.into() };
        // What is held serves any number of streams of up to that size.
        let none = || Some(0);
        room.admit_to(Size::new(512, 512), none).unwrap();
        room.admit_to(Size::new(256, 256), none).unwrap();
        let error = room.admit_to(Size::new(1024, 1024), || Some(3 * held - 1)).unwrap_err();
        assert!(error.what.contains("pictures of 1024x1024 need at least"), "{error}");
        assert!(error.hint.unwrap().contains("--size"));
        // What was refused is not held, and what was admitted is.
        room.admit_to(Size::new(1024, 1024), || Some(3 * held)).unwrap();
        room.admit_to(Size::new(1024, 1024), none).unwrap();
    }
}
