//! The crate against golden numbers of the Python reference, damaged packs, and graphs made up for the purpose.
//!
//! What needs the ONNX Runtime library is skipped, with the reason printed, where there is none.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod allocation;
mod controlnet;
mod device;
mod errors;
mod int8;
mod made_up;
mod packs;
mod pads;
mod prompt_kv;
mod sides;
mod software;
mod support;
mod timestep;
mod tokens;
mod upsample;
