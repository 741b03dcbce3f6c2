//! The algorithm: solver plans, stream batch, R-CFG, similarity filter, conditioning, parameters, engine.
//!
//! [`engine::Engine::step`] shows the data flow on one screen. Nothing here knows ONNX Runtime, GStreamer or a network.

pub mod adaptive;
pub mod batching;
pub mod blend;
pub mod controlnet;
pub mod device;
mod emit;
mod emitted;
pub mod engine;
mod error;
mod facts;
pub mod fake;
pub mod frame;
mod guidance_embedding;
pub mod lanes;
mod layout;
pub mod model;
pub mod noise;
pub mod painter;
pub mod params;
pub mod plan;
mod prompts;
pub mod resizable;
mod scaler;
pub mod schedule;
mod settings;
pub mod similarity;
mod slot;
pub mod solver;
pub mod stats;
mod stream_batch;
pub mod timesteps;
mod tuner;

pub use emitted::{Emitted, Picture};
pub use error::EngineError;
pub use guidance_embedding::guidance_embedding;
pub use prompts::Prompts;
pub use settings::{Control, Settings};
pub use slot::PromptPair;
pub use stream_batch::GuidanceSettings;
pub use tuner::{PresetValues, Sizes, Tuner, Tuning, find_preset};
