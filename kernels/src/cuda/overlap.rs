//! The schedule of frames on a card's streams.

use std::sync::Arc;

use crate::cuda::device::Cuda;
use crate::cuda::stream::{Event, Stream};
use crate::gpu::schedule::{Schedule, Stage, Streams};
use crate::gpu::{DType, GpuError, Tensor};

/// The buffers of one frame on its way.
#[derive(Debug)]
struct Set {
    frame: Tensor,
    on_card: Tensor,
    painted: Tensor,
    picture: Tensor,
    /// In the order of [`Stage`].
    done: [Event; 3],
}

/// Frames in, pictures out, with the copies of one frame under the work on another.
#[derive(Debug)]
pub struct Overlap {
    schedule: Schedule,
    sets: Vec<Set>,
    /// In the order of [`Stage`].
    streams: [Stream; 3],
}

/// What the schedule needs while the caller's work is put into its stream.
struct Running<'a, W> {
    sets: &'a mut [Set],
    streams: &'a [Stream; 3],
    work: W,
}

impl Overlap {
    /// Buffers for `sets` frames of `frame_bytes`, and pictures of `picture_bytes`. `work` is the stream that ONNX Runtime's work
    /// goes into too.
    pub fn new(work: &Stream, sets: usize, (frame_bytes, picture_bytes): (usize, usize)) -> Result<Self, GpuError> {
        let cuda: &Arc<Cuda> = work.cuda();
        let streams = [cuda.stream()?, work.clone(), cuda.stream()?];
        let set = |_| {
            Ok(Set {
                frame: cuda.pinned(DType::U8, &[frame_bytes])?,
                on_card: cuda.zeros(DType::U8, &[frame_bytes])?,
                painted: cuda.zeros(DType::U8, &[picture_bytes])?,
                picture: cuda.pinned(DType::U8, &[picture_bytes])?,
                done: [work.event()?, work.event()?, work.event()?],
            })
        };
        let sets: Vec<_> = (0..sets.max(1)).map(set).collect::<Result<_, GpuError>>()?;
        Ok(Self { schedule: Schedule::new(sets.len()), sets, streams })
    }

    /// Frames on their way.
    pub fn in_flight(&self) -> usize {
        self.schedule.in_flight()
    }

    /// Where to write the next frame before [`submit`](Self::submit); `None` while all buffers are on their way: then
    /// [`collect`](Self::collect) first.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, GpuError> {
        self.schedule.vacant().map(|set| self.sets[set].frame.as_mut_slice()).transpose()
    }

    /// Sends the frame on its way. `work` puts everything between the frame and the picture, both in the card's memory, into the
    /// stream; it does not wait.
    pub fn submit(
        &mut self,
        work: impl FnMut(&Stream, &Tensor, &mut Tensor) -> Result<(), GpuError>,
    ) -> Result<bool, GpuError> {
        let mut running = Running { sets: &mut self.sets, streams: &self.streams, work };
        self.schedule.submit(&mut running)
    }

    /// Waits for the oldest picture on its way; `None` if there is none.
    pub fn collect(&mut self) -> Result<Option<&[u8]>, GpuError> {
        let nothing = |_: &Stream, _: &Tensor, _: &mut Tensor| Ok(());
        let mut running = Running { sets: &mut self.sets, streams: &self.streams, work: nothing };
        let set = self.schedule.collect(&mut running)?;
        set.map(|set| self.sets[set].picture.as_slice()).transpose()
    }
}

impl<W: FnMut(&Stream, &Tensor, &mut Tensor) -> Result<(), GpuError>> Streams for Running<'_, W> {
    type Error = GpuError;

    fn wait(&mut self, stream: Stage, (stage, set): (Stage, usize)) -> Result<(), GpuError> {
        self.streams[stream as usize].wait(&self.sets[set].done[stage as usize])
    }

    fn put(&mut self, stage: Stage, set: usize) -> Result<(), GpuError> {
        let (stream, set) = (&self.streams[stage as usize], &mut self.sets[set]);
        match stage {
            Stage::Upload => stream.upload(&set.frame, set.on_card.view_mut())?,
            Stage::Work => (self.work)(stream, &set.on_card, &mut set.painted)?,
            Stage::Download => stream.download(set.painted.view(), &mut set.picture)?,
        }
        stream.record(&set.done[stage as usize])
    }

    fn finish(&mut self, stage: Stage, set: usize) -> Result<(), GpuError> {
        self.sets[set].done[stage as usize].synchronize()
    }
}
