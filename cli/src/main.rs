//! The livediffusion binary.
fn main() {}
