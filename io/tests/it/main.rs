//! Real pipelines from end to end: clips are generated, read, written and read again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails, in its helpers too")]

mod caller;
mod errors;
mod fit;
mod in_step;
mod live;
mod looped;
mod losses;
mod network;
mod peers;
mod pictures;
mod reconnect;
mod round_trip;
mod stills;
mod support;
mod webrtc;
