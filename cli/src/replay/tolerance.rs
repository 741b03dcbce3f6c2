//! How far a replay may be from its recording.

use livediffusion_onnx::{Precision, Provider, ProviderChoice};

use super::case::Case;
use super::ledger::Ledger;
use crate::args::{Level, ReplayArgs};

/// What passes.
pub(super) struct Tolerance {
    /// Largest error over the tensor's peak.
    pub(super) error: f64,
    /// Share of picture bytes that may differ.
    bytes: f64,
    /// By how much.
    byte: u8,
    /// By how much all of them may differ on average.
    mean: f64,
}

impl Level {
    /// Largest error over the tensor's peak that passes where the networks run on the CPU in f32, as the recording did.
    pub(super) fn tolerance(self) -> f64 {
        match self {
            Self::Arithmetic => 5e-6,
            Self::Networks => 1e-4,
            Self::EndToEnd => 2e-4,
        }
    }
}

impl Tolerance {
    pub(super) fn of(args: &ReplayArgs, case: &Case) -> Self {
        let own = Self { error: args.level.tolerance(), bytes: 2e-3, byte: 1, mean: 1.0 };
        let same_sums = args.provider == ProviderChoice::Fixed(Provider::Cpu) && args.precision == Precision::F32;
        if same_sums || args.level == Level::Arithmetic {
            return own;
        }
        // A picture's peak is 127.5 levels from its middle.
        let levels = |error: f64| 127.5 * error;
        if args.precision == Precision::F32 {
            let error = 1e-3;
            // A value moves over the border between two levels as often as its error is a part of their distance, on either side;
            // then it is off by one.
            let share = (2.0 * levels(error) + own.bytes).min(1.0);
            return Self { error, bytes: share, byte: levels(error).ceil() as u8, mean: share };
        }
        // Guidance takes predictions apart: u + g·(c − u) = g·c − (g − 1)·u has the errors of both, so often.
        let guidance = f64::from(case.config.guidance_scale).max(1.0);
        let grown = match case.config.cfg_type.as_str() {
            "full" | "initialize" => 2.0 * guidance - 1.0,
            "self" => guidance,
            _ => 1.0,
        };
        // A latent that is off by a part of its peak, which with guidance is far above what a decoder has room for, is off by more than
        // that part where the decoder looks: single bytes by some times as much (14 levels are the most of the committed cases, where
        // 31 pass), while of errors spread evenly up to the largest the mean is half.
        let error = 2e-2 * grown;
        Self { error, bytes: 1.0, byte: (4.0 * levels(error)).ceil() as u8, mean: levels(error) / 2.0 }
    }

    /// Whether everything that was compared is near enough; nothing compared is not.
    pub(super) fn admits(&self, ledger: &Ledger, expects_pictures: bool) -> bool {
        let bytes = ledger.byte_share() <= self.bytes
            && ledger.bytes.largest <= self.byte
            && ledger.byte_mean() <= self.mean
            && (ledger.bytes.compared > 0 || !expects_pictures);
        ledger.compared > 0 && ledger.worst().0 <= self.error && bytes && ledger.decisions_differ == 0
    }
}
