//! The algorithm: solver plans, stream batch, R-CFG, similarity filter, conditioning, parameters, engine.

pub mod frame;
pub mod model;
pub mod plan;
pub mod schedule;
pub mod solver;
pub mod timesteps;
