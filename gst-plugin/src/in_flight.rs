//! What is known of the frames that are in the stream batch.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use livediffusion_pipeline::frame::FrameMeta;

/// Frames that are remembered: as many as there can be steps times frames in a buffer, and lanes. Networks that swallow more are
/// broken, and the oldest are forgotten.
const MOST: usize = 4096;

/// Time stamps, flags and metadata of frames whose pictures have not left yet, oldest first. The frames' memory is not held: a camera
/// has few buffers.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    frames: VecDeque<(u64, gst::Buffer)>,
    next: u64,
}

impl InFlight {
    /// Takes a frame up, under a number of its own.
    pub(crate) fn enter(&mut self, frame: &gst::BufferRef) -> Result<FrameMeta, gst::glib::BoolError> {
        let what = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS | gst::BufferCopyFlags::META;
        let mut copy = frame.copy_region(what, ..)?;
        // Some metadata holds the buffer that a frame is a part of.
        copy.make_mut().foreach_meta_mut(|meta| {
            ControlFlow::Continue(if meta.has_tag::<gst::meta::tags::MemoryReference>() {
                gst::buffer::BufferMetaForeachAction::Remove
            } else {
                gst::buffer::BufferMetaForeachAction::Keep
            })
        });
        let meta = FrameMeta {
            id: self.next,
            pts_ns: copy.pts().map(gst::ClockTime::nseconds),
            duration_ns: copy.duration().map(gst::ClockTime::nseconds),
        };
        self.next += 1;
        if self.frames.len() == MOST {
            self.frames.pop_front();
        }
        self.frames.push_back((meta.id, copy));
        Ok(meta)
    }

    /// What was kept of the frame whose picture leaves. Those before it have none and are forgotten: pictures leave in order.
    pub(crate) fn leave(&mut self, id: u64) -> Option<gst::Buffer> {
        while let Some((first, frame)) = self.frames.pop_front_if(|(first, _)| *first <= id) {
            if first == id {
                return Some(frame);
            }
        }
        None
    }

    /// Forgets all frames.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_frame_is_a_part_of_is_not_held() {
        gst::init().unwrap();
        let whole = gst::Buffer::with_size(16).unwrap();
        let mut frame = gst::Buffer::with_size(8).unwrap();
        gst::ParentBufferMeta::add(frame.get_mut().unwrap(), &whole);
        let mut in_flight = InFlight::default();
        in_flight.enter(&frame).unwrap();
        assert!(in_flight.leave(0).unwrap().meta::<gst::ParentBufferMeta>().is_none());
        assert!(frame.meta::<gst::ParentBufferMeta>().is_some());
    }

    #[test]
    fn frames_leave_in_order_and_those_without_a_picture_are_forgotten() {
        gst::init().unwrap();
        let mut in_flight = InFlight::default();
        for index in 0..4 {
            let mut frame = gst::Buffer::with_size(16).unwrap();
            let of = frame.get_mut().unwrap();
            of.set_pts(gst::ClockTime::from_mseconds(index));
            of.set_flags(gst::BufferFlags::MARKER);
            let meta = in_flight.enter(&frame).unwrap();
            assert_eq!((meta.id, meta.pts_ns), (index, Some(index * 1_000_000)));
        }
        let left = in_flight.leave(1).unwrap();
        assert_eq!((left.pts(), left.size()), (Some(gst::ClockTime::from_mseconds(1)), 0));
        assert!(left.flags().contains(gst::BufferFlags::MARKER));
        assert!(in_flight.leave(0).is_none() && in_flight.leave(1).is_none());
        assert!(in_flight.leave(3).is_some() && in_flight.is_empty());
    }
}
