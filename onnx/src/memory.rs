//! Whether a card has room for a session, asked before minutes are spent on it.
//!
//! What is reckoned is what a session cannot do without: the weights, and of each network the input and output of one
//! convolution at full size. The rest (the library's own memory, working space, how much a provider holds on to) differs from
//! version to version, so that a session that passes may still run out; one that does not pass cannot run.

use livediffusion_kernels::cuda::Card;

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
        let channels = |name| {
            let config = pack.part(name).and_then(|part| of_part(part).ok()).unwrap_or_default();
            config["block_out_channels"][0].as_u64().unwrap_or(0)
        };
        let narrow = !pack.is_in_f32();
        let sizes = Sizes {
            weights: pack.frame_bytes(),
            text_weights: pack.bytes().saturating_sub(pack.frame_bytes()),
            unet_channels: channels(PartName::Unet),
            vae_channels: [channels(PartName::VaeEncoder), channels(PartName::VaeDecoder)],
            narrow,
        };
        let rows = if provider == Provider::TensorRt { extent.most_rows.max(extent.rows) } else { extent.rows };
        sizes.need(&Extent { rows, ..*extent }, precision)
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
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        let what = format!(
            "the card has {} MB free, and this session needs at least {}: {} for weights, {} between the layers",
            mb(free),
            mb(self.total()),
            mb(self.weights),
            mb(self.activations)
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

/// Asks the card, where the provider uses one and the extent is known. A card that cannot be asked is left to the session, whose
/// error says more.
pub(crate) fn check(
    pack: &Pack,
    (provider, precision): (Provider, Precision),
    settings: &SessionSettings,
) -> Result<(), OnnxError> {
    let (true, Some(extent)) = (provider.is_on_cuda(), &settings.extent) else {
        return Ok(());
    };
    match Card::open(settings.gpu.device as usize).and_then(|card| card.memory()) {
        Ok((free, _)) => MemoryNeed::of(pack, extent, (provider, precision)).check(free),
        Err(error) => {
            tracing::debug!(%error, "the card's free memory is not known");
            Ok(())
        }
    }
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
}
