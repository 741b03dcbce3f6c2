//! The engine from outside, on closed-form networks.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do: by a panic")]

mod adaptive;
mod batching;
mod bugs;
mod controlnet;
mod equivalence;
mod feedback;
mod hot;
mod lanes;
mod resizable;
mod robustness;
mod round_trip;
mod solvers;
mod support;
mod vectors;
