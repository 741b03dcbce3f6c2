//! Who may ask the card for something while a CUDA graph is captured: nobody else.
//!
//! ONNX Runtime captures in the mode in which CUDA refuses, to every thread of the process, what could wait for the card (allocating,
//! freeing, synchronising) and ends the capture for it; and whatever another thread puts into the stream becomes part of the graph.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static CAPTURE: RwLock<()> = RwLock::new(());

/// Held by whoever captures.
#[derive(Debug)]
pub struct Capturing(#[allow(dead_code, reason = "held, not read")] RwLockWriteGuard<'static, ()>);

/// Held while the driver is asked to allocate, free, copy, launch, record or wait, and during each call of ONNX Runtime's providers for
/// NVIDIA cards. It must not be taken twice by one thread: the second would wait for whoever waits to be alone.
#[derive(Debug)]
pub struct NotCapturing(#[allow(dead_code, reason = "held, not read")] RwLockReadGuard<'static, ()>);

impl Capturing {
    /// Waits until no call is under way, and keeps others from beginning.
    pub fn alone() -> Self {
        Self(CAPTURE.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl NotCapturing {
    /// Waits until no graph is being captured.
    pub fn wait() -> Self {
        Self(CAPTURE.read().unwrap_or_else(PoisonError::into_inner))
    }
}
