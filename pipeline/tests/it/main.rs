//! The engine from outside, on closed-form networks.

mod bugs;
mod equivalence;
mod hot;
mod robustness;
mod round_trip;
mod solvers;
mod support;
mod vectors;
