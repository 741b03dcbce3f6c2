//! One lane: a thread with an engine, and the frames that go to it and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView};
use crate::model::Networks;
use crate::settings::{Control, Settings};
use crate::stats::Stats;

/// Frames that a lane holds: the one it works on, and one that waits so that the lane need not. More would only be more
/// delay.
pub(super) const DEPTH: usize = 2;

/// What a lane is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Paint,
    Generate,
    /// Hand over the statistics.
    Report,
}

/// What a lane made of a frame.
pub(super) enum Made {
    Painted,
    /// A network gave NaN or infinity.
    Broken,
    Failed(EngineError),
    Reported(Box<Stats>),
}

/// A frame on its way through a lane. Its buffers are used again and again.
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) meta: FrameMeta,
    pub(super) settings: Arc<Settings>,
    pub(super) rgb: Vec<u8>,
    pub(super) picture: Vec<u8>,
    pub(super) latent: Vec<f32>,
    pub(super) made: Made,
}

pub(super) struct Lane {
    /// `None` once the lane is told to end.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Job>,
    pub(super) held: usize,
    /// Raised when the first lane of the stream is told to end: frames that wait are not worked on any more.
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<Networks>>,
}

impl Lane {
    pub(super) fn start(
        index: usize,
        engine: Engine,
        control: Control,
        ending: Arc<AtomicBool>,
    ) -> Result<Self, EngineError> {
        let (jobs, inbox) = sync_channel::<Job>(DEPTH);
        let (outbox, done) = sync_channel::<Job>(DEPTH);
        let flag = Arc::clone(&ending);
        let thread = std::thread::Builder::new()
            .name(format!("lane-{index}"))
            .spawn(move || work(engine, &control, &flag, &inbox, &outbox))
            .map_err(|error| EngineError::Lane(error.to_string()))?;
        Ok(Self { jobs: Some(jobs), done, held: 0, ending, thread: Some(thread) })
    }

    pub(super) fn send(&mut self, job: Job) -> Result<(), EngineError> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        self.held += usize::from(sent);
        if sent { Ok(()) } else { Err(gone()) }
    }

    pub(super) fn receive(&mut self) -> Result<Job, EngineError> {
        // Also where the thread is gone: nobody waits for that frame again.
        self.held = self.held.saturating_sub(1);
        self.done.recv().map_err(|_| gone())
    }

    pub(super) fn try_receive(&mut self) -> Result<Option<Job>, EngineError> {
        match self.done.try_recv() {
            Ok(job) => {
                self.held -= 1;
                Ok(Some(job))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                self.held = self.held.saturating_sub(1);
                Err(gone())
            }
        }
    }

    /// Lets the thread finish the frame it works on and waits for it.
    pub(super) fn end(&mut self) -> Option<Networks> {
        self.ending.store(true, Ordering::Relaxed);
        self.jobs = None;
        self.thread.take()?.join().ok()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
    }
}

fn gone() -> EngineError {
    EngineError::Lane("its thread panicked".into())
}

/// A lane's thread.
fn work(
    mut engine: Engine,
    control: &Control,
    ending: &AtomicBool,
    inbox: &Receiver<Job>,
    outbox: &SyncSender<Job>,
) -> Networks {
    while let Ok(mut job) = inbox.recv() {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        if !Arc::ptr_eq(&control.load(), &job.settings) {
            control.store_shared(Arc::clone(&job.settings));
        }
        job.made = job.run(&mut engine);
        if outbox.send(job).is_err() {
            break;
        }
    }
    engine.into_networks()
}

impl Job {
    fn run(&mut self, engine: &mut Engine) -> Made {
        let size = engine.size();
        let emitted = match self.work {
            // At the end of a stream, or of a part of it.
            Work::Report => {
                engine.forget_last();
                return Made::Reported(Box::new(engine.take_stats()));
            }
            Work::Paint => engine.step(self.meta, PictureView::packed(size, &self.rgb)),
            Work::Generate => engine.generate(self.meta),
        };
        match emitted {
            Ok(emitted) => match emitted.iter().find_map(|picture| Some((picture.rgb, picture.latent?))) {
                Some((rgb, latent)) => {
                    self.picture.copy_from_slice(rgb);
                    self.latent.copy_from_slice(latent);
                    Made::Painted
                }
                None => Made::Broken,
            },
            // Three in a row of this lane are not three in a row of the stream: that is counted where frames are in order.
            Err(EngineError::NotFinite { .. }) => Made::Broken,
            Err(error) => {
                // The next frame of this lane must not meet it again.
                engine.abandon();
                Made::Failed(error)
            }
        }
    }
}
