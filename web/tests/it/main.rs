//! The server from outside, on closed-form networks.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do: by a panic")]

mod api;
#[path = "../../../io/tests/it/caller.rs"]
mod caller;
mod hostile;
mod stream;
mod support;
mod webrtc;
