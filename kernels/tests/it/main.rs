//! The CUDA kernels without a GPU: compiled for the host and compared with their CPU twins, and compiled by NVRTC.
//!
//! What needs a C++ compiler or NVRTC is skipped, with the reason printed, where there is none.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod card;
mod device;
mod host;
mod latents;
mod nvrtc;
mod pictures;
mod similarity;
mod software;
