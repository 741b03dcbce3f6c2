//! How many frames are worked on at once.

use livediffusion_onnx::{Pack, ProviderChoice, physical_cores};
use livediffusion_pipeline::params::Parameters;

use crate::options::ModelOptions;

/// Most lanes without being asked: each holds its own activations, and each is one more frame of delay.
const MOST_LANES: usize = 4;

/// Frames on their way through a card, one of them copied there, one worked on and one copied back.
const ON_CARD: usize = 3;

/// Weights of a pack that still gets lanes without being asked. The activations of a larger one, a gigabyte or more at
/// 512×512, would be needed once for each lane.
const LANES_BYTES: u64 = 256 << 20;

impl ModelOptions {
    /// Frames on their way at once where a device does the work: there, one costs a few megabytes, and copies then take no time of
    /// their own.
    pub fn lanes_on(&self, provider: ProviderChoice) -> usize {
        if self.stays_on_card(provider) { self.lanes.map_or(ON_CARD, usize::from) } else { 1 }
    }

    /// Frames to work on at once. All cores on one frame are the least delay, which live input wants; one frame a core is the
    /// most frames, which files want. Frames of a frame buffer belong together.
    pub fn lanes_for(&self, pack: &Pack, parameters: &Parameters, provider: ProviderChoice, live: bool) -> usize {
        if parameters.frame_buffer > 1 {
            if self.lanes.is_some_and(|lanes| lanes > 1) {
                tracing::warn!("frames of a frame buffer belong together: --lanes is 1");
            }
            return 1;
        }
        if parameters.target_fps.is_some() {
            if self.lanes.is_some_and(|lanes| lanes > 1) {
                tracing::warn!("with --target-fps all cores work on one frame: --lanes is 1");
            }
            return 1;
        }
        if self.stays_on_card(provider) {
            return if live && self.lanes.is_none() { 1 } else { self.lanes_on(provider) };
        }
        if parameters.feedback > 0.0 {
            if self.lanes.is_some_and(|lanes| lanes > 1) {
                tracing::warn!("with --feedback each frame waits for the picture before it: --lanes is 1");
            }
            return 1;
        }
        let cores = self.threads.map_or_else(physical_cores, usize::from);
        let bytes: u64 = pack.parts.iter().map(|part| part.bytes).sum();
        let alone = live || bytes > LANES_BYTES;
        // Equal shares, as frames are dealt in turn: three lanes of two threads on six cores.
        let shares = (1..=MOST_LANES).rev().find(|lanes| cores.is_multiple_of(*lanes)).unwrap_or(1);
        self.lanes.map_or(if alone { 1 } else { shares }, usize::from)
    }
}
