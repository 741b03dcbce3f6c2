//! One picture that a source hands out.

use gst_video::prelude::*;
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};

use crate::error::IoError;
use crate::launch;

/// A picture and its place in the stream. Holds `GStreamer`'s own memory: nothing was copied.
///
/// Keep few of these at a time: memory comes from a pool, and what is held cannot be used again.
#[derive(Clone, Debug)]
pub struct SourceFrame {
    meta: FrameMeta,
    sample: gst::Sample,
    info: gst_video::VideoInfo,
}

impl SourceFrame {
    pub(crate) fn new(meta: FrameMeta, sample: gst::Sample, info: gst_video::VideoInfo) -> Self {
        Self { meta, sample, info }
    }

    /// Its number among the frames handed out, and when and how long it is shown.
    pub fn meta(&self) -> FrameMeta {
        self.meta
    }

    /// Gives it another place in the stream.
    pub(super) const fn set_meta(&mut self, meta: FrameMeta) {
        self.meta = meta;
    }

    /// Lends the picture to `look`: RGB of the size that its source was opened for. Rows may have gaps between them.
    pub fn with_picture<R>(&self, look: impl FnOnce(PictureView<'_>) -> R) -> Result<R, IoError> {
        let what = "a picture";
        let buffer = self.sample.buffer().ok_or_else(|| launch::failed(what, &"no memory"))?;
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &self.info)
            .map_err(|e| launch::failed(what, &e))?;
        let stride = frame.plane_stride().first().copied().unwrap_or_default() as usize;
        let rgb = frame.plane_data(0).map_err(|e| launch::failed(what, &e))?;
        Ok(look(PictureView { size: Size::new(frame.width() as usize, frame.height() as usize), stride, rgb }))
    }
}
