//! The schedule of frames on a device's queues.

use crate::gpu::error::GpuError;
use crate::gpu::queue::{Mark as _, Queue};
use crate::gpu::schedule::{STAGES, Schedule, Stage, Streams};
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
    done: [Q::Mark; STAGES],
    /// Before the two copies.
    begun: [Q::Mark; 2],
}

/// Where encoder, work and decoder are put: into one queue, or into three that work at once.
#[derive(Clone, Debug)]
pub struct Queues<Q> {
    /// What makes a latent of a frame.
    pub encode: Q,
    /// What makes another latent of it.
    pub work: Q,
    /// What makes a picture of that.
    pub decode: Q,
    is_apart: bool,
}

impl<Q: Queue> Queues<Q> {
    /// One for all.
    pub fn one(queue: &Q) -> Self {
        Self { encode: queue.clone(), work: queue.clone(), decode: queue.clone(), is_apart: false }
    }

    /// One for each, of which none waits for another but by marks.
    pub fn apart(encode: Q, work: Q, decode: Q) -> Self {
        Self { encode, work, decode, is_apart: true }
    }

    /// Whether there are three, so that what one puts into memory for another has to be waited for.
    pub fn is_apart(&self) -> bool {
        self.is_apart
    }
}

/// What the work on a frame reads and writes, all in the device's memory.
#[derive(Debug)]
pub struct Work<'a, Q> {
    /// What is to be done: encode, work or decode.
    pub stage: Stage,
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

/// A picture that has come back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Collected<'a> {
    /// Its bytes.
    pub picture: &'a [u8],
    /// Whether it has values that are no numbers.
    pub is_broken: bool,
    /// Milliseconds that the copies took, to the device and back.
    pub copies: [f32; 2],
}

/// Frames in, pictures out, with the copies of one frame under the work on another.
pub struct Overlap<Q: Queue> {
    schedule: Schedule,
    sets: Vec<Set<Q>>,
    /// In the order of [`Stage`].
    queues: [Q; STAGES],
    is_apart: bool,
}

/// What the schedule needs while the caller's work is put into its queue.
struct Running<'a, Q: Queue, W> {
    sets: &'a mut [Set<Q>],
    queues: &'a [Q; STAGES],
    is_apart: bool,
    work: W,
}

impl<Q: Queue> Overlap<Q> {
    /// Buffers for `sets` frames of `frame_bytes`, and pictures of `picture_bytes`. The networks' work goes into `queues` too.
    pub fn new(
        queues: &Queues<Q>,
        sets: usize,
        (frame_bytes, picture_bytes): (usize, usize),
    ) -> Result<Self, GpuError> {
        let Queues { encode, work, decode, is_apart } = queues.clone();
        let queues = [work.beside()?, encode, work.clone(), decode, work.beside()?];
        let set = |_| {
            Ok(Set {
                frame: work.pinned(DType::U8, &[frame_bytes])?,
                on_card: work.zeros(DType::U8, &[frame_bytes])?,
                painted: work.zeros(DType::U8, &[picture_bytes])?,
                picture: work.pinned(DType::U8, &[picture_bytes])?,
                broken: work.zeros(DType::U32, &[1])?,
                was_broken: work.pinned(DType::U32, &[1])?,
                done: [work.mark()?, work.mark()?, work.mark()?, work.mark()?, work.mark()?],
                begun: [work.mark()?, work.mark()?],
            })
        };
        let sets: Vec<_> = (0..sets.max(1)).map(set).collect::<Result<_, GpuError>>()?;
        Ok(Self { schedule: Schedule::new(sets.len()), sets, queues, is_apart })
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
    /// queues, called for encoding, work and decoding, in this order; it does not wait. If it fails, the frame is not on its way.
    pub fn submit<E: From<GpuError>>(&mut self, work: impl FnMut(Work<'_, Q>) -> Result<(), E>) -> Result<bool, E> {
        let mut running = Running { sets: &mut self.sets, queues: &self.queues, is_apart: self.is_apart, work };
        self.schedule.submit(&mut running)
    }

    /// Waits for the oldest picture on its way; `None` if there is none.
    pub fn collect(&mut self) -> Result<Option<Collected<'_>>, GpuError> {
        let nothing = |_: Work<'_, Q>| Ok::<(), GpuError>(());
        let mut running =
            Running { sets: &mut self.sets, queues: &self.queues, is_apart: self.is_apart, work: nothing };
        let Some(set) = self.schedule.collect(&mut running)? else {
            return Ok(None);
        };
        let set = &self.sets[set];
        let is_broken = set.was_broken.as_slice::<u32>()?.iter().any(|flag| *flag != 0);
        let ([up, down], done) = (&set.begun, |stage| &set.done[stage as usize]);
        let copies = [up.ms_until(done(Stage::Upload))?, down.ms_until(done(Stage::Download))?];
        Ok(Some(Collected { picture: set.picture.as_slice()?, is_broken, copies }))
    }
}

impl<Q: Queue, E: From<GpuError>, W: FnMut(Work<'_, Q>) -> Result<(), E>> Streams for Running<'_, Q, W> {
    type Error = E;

    fn wait(&mut self, stream: Stage, (stage, set): (Stage, usize)) -> Result<(), E> {
        // What is in one queue is in order.
        if !self.is_apart && is_work(stream) && is_work(stage) {
            return Ok(());
        }
        Ok(self.queues[stream as usize].wait(&self.sets[set].done[stage as usize])?)
    }

    fn put(&mut self, stage: Stage, number: usize) -> Result<(), E> {
        let (queue, set) = (&self.queues[stage as usize], &mut self.sets[number]);
        match stage {
            Stage::Upload => {
                queue.record(&set.begun[0])?;
                queue.upload(&set.frame, set.on_card.view_mut())?;
            }
            Stage::Encode | Stage::Work | Stage::Decode => {
                if stage == Stage::Decode {
                    queue.clear(set.broken.view_mut())?;
                }
                let (frame, picture, broken) = (&set.on_card, &mut set.painted, &mut set.broken);
                (self.work)(Work { stage, queue, set: number, frame, picture, broken })?;
            }
            Stage::Download => {
                queue.record(&set.begun[1])?;
                queue.download(set.painted.view(), &mut set.picture)?;
                queue.download(set.broken.view(), &mut set.was_broken)?;
            }
        }
        if !self.is_apart && matches!(stage, Stage::Encode | Stage::Work) {
            return Ok(());
        }
        Ok(queue.record(&set.done[stage as usize])?)
    }

    fn finish(&mut self, stage: Stage, set: usize) -> Result<(), E> {
        Ok(self.sets[set].done[stage as usize].synchronize()?)
    }
}

/// Whether a stage is between the two copies.
fn is_work(stage: Stage) -> bool {
    matches!(stage, Stage::Encode | Stage::Work | Stage::Decode)
}
