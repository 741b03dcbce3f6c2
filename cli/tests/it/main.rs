//! The binary from outside: what it prints, writes and refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

mod bad_input;
mod bad_settings;
mod bench;
mod calibration;
mod control;
mod controlnet;
mod goldens;
mod help;
mod hub;
mod keyboard;
mod looped;
mod presets;
mod pull;
mod remote;
mod sound;
mod stills;
mod streams;
mod support;
mod survival;
mod webcam;
mod webgpu;
mod whip;
