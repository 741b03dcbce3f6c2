//! The element in real pipelines.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails, in its helpers too")]

mod changes;
mod errors;
mod frames;
mod remote;
mod support;
