//! Real pipelines from end to end: clips are generated, read, written and read again.

mod errors;
mod fit;
mod live;
mod pictures;
mod round_trip;
mod support;
