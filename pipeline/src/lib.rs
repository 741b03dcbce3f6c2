//! The algorithm: solver plans, stream batch, R-CFG, similarity filter, conditioning, parameters, engine.

pub mod frame;
pub mod model;
