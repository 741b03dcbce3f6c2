//! Model packs and their networks on ONNX Runtime: CPU, OpenVINO, CUDA, TensorRT.
//!
//! [`Runtime`] finds and loads the library, [`Pack`] reads and checks a model folder, [`load_networks`] turns the two
//! into the networks that `livediffusion-pipeline` runs. What a pack holds (precisions, ranks, tensor names, which VAE,
//! one or two text encoders) is read from its graphs, never configured.

mod assignment;
mod clock;
mod commit;
mod cpu;
mod device;
mod edits;
mod error;
mod exclusive;
mod flops;
pub mod graph;
mod matmul;
mod memory;
mod names;
mod networks;
pub mod pack;
mod preload;
mod provider;
mod rows;
mod runtime;
mod session;
mod text;
mod timestep;
mod tokenizer;
mod unet;
mod vae;
mod values;

pub use self::cpu::{has_bf16, physical_cores};
pub use self::error::{ErrorKind, OnnxError};
pub use self::flops::{CallShape, Flops, count_flops};
pub use self::matmul::Matmul;
pub use self::memory::MemoryNeed;
pub use self::networks::{
    Elsewhere, LoadedPack, LoadedUnet, SharedNetworks, load_networks, load_networks_on, load_networks_with, load_unet,
};
pub use self::pack::{Pack, PartName, Preset, UnetElsewhere};
pub use self::preload::libraries_in;
pub use self::provider::{
    Chosen, CudnnSearch, Extent, GpuSettings, OpenVinoDevice, Precision, Provider, ProviderChoice, SessionSettings,
    UserStream, choose_provider, idle_card, probe_provider,
};
pub use self::rows::{check_prompts, control_scale, rows_are_apart, show_control};
pub use self::runtime::{Libraries, Runtime, user_cache};
pub use self::timestep::{Timesteps, has_time_of_each_row};
pub use self::tokenizer::PromptTokenizer;
