//! Measurements of speed as ratios. Links no GStreamer, so that it runs on a bare GPU server.
//!
//! What is compared is measured in turn in one process and reported as ratios of neighbours: machines are shared and
//! noisy, and a ratio of two figures taken a second apart survives that where the figures do not.

pub mod bare;
pub mod frames;
pub mod machine;
pub mod nvml;
pub mod overhead;
pub mod paper;
pub mod plot;
pub mod readme;
pub mod record;
pub mod rounds;
pub mod summary;
