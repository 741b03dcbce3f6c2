//! Frames of a clip, through GStreamer.

use std::time::Duration;

use livediffusion_io::{Input, Next};
use livediffusion_pipeline::frame::Size;

use crate::failure::{Failure, Outcome};
use crate::run::{open_file, packed};

/// Up to `most` frames of a clip, as packed RGB of `size`.
pub(crate) fn frames(input: &str, size: Size, most: usize) -> Outcome<Vec<Vec<u8>>> {
    let mut source = open_file(&Input::parse(input)?, size)?;
    let mut frames = Vec::new();
    while frames.len() < most {
        match source.next(Duration::from_secs(1))? {
            Next::Frame(frame) => frames.push(frame.with_picture(packed)?),
            Next::TimedOut => {}
            Next::End => break,
        }
    }
    if frames.is_empty() {
        return Err(Failure::usage(format!("{input} has no frames"), "give a video file"));
    }
    Ok(frames)
}
