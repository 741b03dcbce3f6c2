//! Carrying the sound past the engine: from the input's pipeline to the outputs', packet by packet, unchanged.

mod hub;
mod pump;

pub use hub::AudioTrack;
pub(crate) use hub::{Hub, Spring};
pub(crate) use pump::Pump;

use std::time::Duration;

/// How often a wait looks up to see whether it still has a point.
const LOOK_UP: Duration = Duration::from_millis(50);
