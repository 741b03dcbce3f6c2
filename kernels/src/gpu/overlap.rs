//! The schedule of frames on a device's queues.

use crate::gpu::error::GpuError;
use crate::gpu::queue::{Mark as _, Queue};
use crate::gpu::schedule::{Schedule, Stage, Streams};
use crate::gpu::tensor::{DType, Tensor};

/// The buffers of one frame on its way.
struct Set<Q: Queue> {
    frame: Tensor,
    on_card: Tensor,
    painted: Tensor,
    picture: Tensor,
    /// Becomes 1 where the picture has values that are no numbers.
    broken: Tensor,
    was_broken: Tensor,
    /// In the order of [`Stage`].
    done: [Q::Mark; 3],
}

/// What the work on a frame reads and writes, all in the device's memory.
#[derive(Debug)]
pub struct Work<'a, Q> {
    /// Where it is put.
    pub queue: &'a Q,
    /// The set of buffers, below their number: what is kept for each of them can be used again when it comes round.
    pub set: usize,
    /// The frame.
    pub frame: &'a Tensor,
    /// Receives the picture.
    pub picture: &'a mut Tensor,
    /// One number of type u32, 0 before; whatever is in it afterwards comes with the picture.
    pub broken: &'a mut Tensor,
}

/// Frames in, pictures out, with the copies of one frame under the work on another.
pub struct Overlap<Q: Queue> {
    schedule: Schedule,
    sets: Vec<Set<Q>>,
    /// In the order of [`Stage`].
    queues: [Q; 3],
}

/// What the schedule needs while the caller's work is put into its queue.
struct Running<'a, Q: Queue, W> {
    sets: &'a mut [Set<Q>],
    queues: &'a [Q; 3],
    work: W,
}

impl<Q: Queue> Overlap<Q> {
    /// Buffers for `sets` frames of `frame_bytes`, and pictures of `picture_bytes`. `work` is the queue that ONNX Runtime's work
    /// goes into too.
    pub fn new(work: &Q, sets: usize, (frame_bytes, picture_bytes): (usize, usize)) -> Result<Self, GpuError> {
        let queues = [work.beside()?, work.clone(), work.beside()?];
        let set = |_| {
            Ok(Set {
                frame: work.pinned(DType::U8, &[frame_bytes])?,
                on_card: work.zeros(DType::U8, &[frame_bytes])?,
                painted: work.zeros(DType::U8, &[picture_bytes])?,
                picture: work.pinned(DType::U8, &[picture_bytes])?,
                broken: work.zeros(DType::U32, &[1])?,
                was_broken: work.pinned(DType::U32, &[1])?,
                done: [work.mark()?, work.mark()?, work.mark()?],
            })
        };
        let sets: Vec<_> = (0..sets.max(1)).map(set).collect::<Result<_, GpuError>>()?;
        Ok(Self { schedule: Schedule::new(sets.len()), sets, queues })
    }

    /// Frames on their way.
    pub fn in_flight(&self) -> usize {
        self.schedule.in_flight()
    }

    /// The number of the set that [`submit`](Self::submit) uses next.
    pub fn next_in(&self) -> usize {
        self.schedule.next_in()
    }

    /// The number of the set that [`collect`](Self::collect) gives next.
    pub fn next_out(&self) -> usize {
        self.schedule.next_out()
    }

    /// Where to write the next frame before [`submit`](Self::submit); `None` while all buffers are on their way: then
    /// [`collect`](Self::collect) first.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, GpuError> {
        self.schedule.vacant().map(|set| self.sets[set].frame.as_mut_slice()).transpose()
    }

    /// Sends the frame on its way; false if all buffers are. `work` puts everything between the frame and the picture into the
    /// queue; it does not wait. If it fails, the frame is not on its way.
    pub fn submit<E: From<GpuError>>(&mut self, work: impl FnMut(Work<'_, Q>) -> Result<(), E>) -> Result<bool, E> {
        let mut running = Running { sets: &mut self.sets, queues: &self.queues, work };
        self.schedule.submit(&mut running)
    }

    /// Waits for the oldest picture on its way; `None` if there is none. With it comes whether it is broken.
    pub fn collect(&mut self) -> Result<Option<(&[u8], bool)>, GpuError> {
        let nothing = |_: Work<'_, Q>| Ok::<(), GpuError>(());
        let mut running = Running { sets: &mut self.sets, queues: &self.queues, work: nothing };
        let Some(set) = self.schedule.collect(&mut running)? else {
            return Ok(None);
        };
        let set = &self.sets[set];
        let broken = set.was_broken.as_slice::<u32>()?.iter().any(|flag| *flag != 0);
        Ok(Some((set.picture.as_slice()?, broken)))
    }
}

impl<Q: Queue, E: From<GpuError>, W: FnMut(Work<'_, Q>) -> Result<(), E>> Streams for Running<'_, Q, W> {
    type Error = E;

    fn wait(&mut self, stream: Stage, (stage, set): (Stage, usize)) -> Result<(), E> {
        Ok(self.queues[stream as usize].wait(&self.sets[set].done[stage as usize])?)
    }

    fn put(&mut self, stage: Stage, number: usize) -> Result<(), E> {
        let (queue, set) = (&self.queues[stage as usize], &mut self.sets[number]);
        match stage {
            Stage::Upload => queue.upload(&set.frame, set.on_card.view_mut())?,
            Stage::Work => {
                queue.clear(set.broken.view_mut())?;
                let (frame, picture, broken) = (&set.on_card, &mut set.painted, &mut set.broken);
                (self.work)(Work { queue, set: number, frame, picture, broken })?;
            }
            Stage::Download => {
                queue.download(set.painted.view(), &mut set.picture)?;
                queue.download(set.broken.view(), &mut set.was_broken)?;
            }
        }
        Ok(queue.record(&set.done[stage as usize])?)
    }

    fn finish(&mut self, stage: Stage, set: usize) -> Result<(), E> {
        Ok(self.sets[set].done[stage as usize].synchronize()?)
    }
}
