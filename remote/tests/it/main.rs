//! Streams whose U-Net runs on servers of these tests' own.
//!
//! What needs the ONNX Runtime library is skipped, with the reason printed, where there is none.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

mod calls;
mod failures;
mod serve;
mod server;
mod stream;
mod support;
