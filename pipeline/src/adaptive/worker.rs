//! The thread that the engine runs on, so that the stream can go on without its picture when it is late.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView, Size};
use crate::scaler::Scaler;
use crate::stats::{Clock, Stats};

/// What the worker is asked for. There is one order at a time.
pub(super) enum Order {
    Frame(Job),
    /// Use that engine from now on.
    Replace(Box<Engine>),
    /// Finish the frames in flight and hand over the statistics.
    Flush,
}

/// What became of an order, where there is something to say.
pub(super) enum Done {
    Frame(Job),
    Flushed(Result<Vec<(u64, Vec<u8>)>, EngineError>, Box<Stats>),
}

/// A frame on its way through the worker. Its buffers are used again and again.
pub(super) struct Job {
    pub(super) meta: FrameMeta,
    /// Whether it starts from noise (txt2img) rather than from `rgb`.
    pub(super) generate: bool,
    /// The frame, of the stream's size; in place of it the newest picture, if `painted`.
    pub(super) rgb: Vec<u8>,
    pub(super) painted: bool,
    /// Whether the similarity filter answered with the picture before: its time says nothing about the next.
    pub(super) repeated: bool,
    pub(super) took: Duration,
    pub(super) failed: Option<EngineError>,
}

pub(super) struct Worker {
    /// `None` once the thread is told to end.
    orders: Option<SyncSender<Order>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(super) fn start(engine: Engine, size: Size, clock: Box<dyn Clock>) -> Result<Self, EngineError> {
        let (orders, inbox) = sync_channel(2);
        let (outbox, done) = sync_channel(2);
        let mut state =
            State { engine: Box::new(engine), size, clock, scaler: Scaler::default(), stats: Stats::default() };
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                while let Ok(order) = inbox.recv() {
                    if let Some(done) = state.follow(order)
                        && outbox.send(done).is_err()
                    {
                        break;
                    }
                }
            })
            .map_err(|error| EngineError::Thread { name: "engine", what: error.to_string() })?;
        Ok(Self { orders: Some(orders), done, thread: Some(thread) })
    }

    pub(super) fn order(&self, order: Order) -> Result<(), EngineError> {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send(order).is_ok());
        if sent { Ok(()) } else { Err(gone()) }
    }

    /// Waits for what was ordered, at most so long; for ever without a bound.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> Result<Option<Done>, EngineError> {
        let Some(at_most) = at_most else {
            return self.done.recv().map(Some).map_err(|_| gone());
        };
        match self.done.recv_timeout(at_most) {
            Ok(done) => Ok(Some(done)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the engine's thread panicked");
        }
    }
}

fn gone() -> EngineError {
    EngineError::Lane("its thread panicked".into())
}

/// What the worker's thread owns.
struct State {
    engine: Box<Engine>,
    /// Of the stream's pictures.
    size: Size,
    clock: Box<dyn Clock>,
    scaler: Scaler,
    /// Of engines that were replaced.
    stats: Stats,
}

impl State {
    fn follow(&mut self, order: Order) -> Option<Done> {
        match order {
            Order::Frame(mut job) => {
                let started = self.clock.now();
                job.failed = self.paint(&mut job).err();
                if job.failed.is_some() {
                    // The next frame must not meet it again.
                    self.engine.abandon();
                }
                job.took = self.clock.now().saturating_sub(started);
                Some(Done::Frame(job))
            }
            Order::Replace(engine) => {
                self.collect_stats();
                self.engine = engine;
                None
            }
            Order::Flush => {
                let pictures = self.flush();
                self.collect_stats();
                Some(Done::Flushed(pictures, Box::new(std::mem::take(&mut self.stats))))
            }
        }
    }

    fn collect_stats(&mut self) {
        let stats = self.engine.take_stats();
        self.stats.frames_skipped += stats.frames_skipped;
        self.stats.frames_failed += stats.frames_failed;
        self.stats.absorb_stages(&stats);
    }

    fn paint(&mut self, job: &mut Job) -> Result<(), EngineError> {
        let small = self.engine.size();
        let emitted = if job.generate {
            self.engine.generate(job.meta)?
        } else {
            let rgb = self.scaler.scale(&job.rgb, self.size, small);
            self.engine.step(job.meta, PictureView::packed(small, rgb))?
        };
        // Where several became ready at once, the newest is what there is time to show.
        let newest = emitted.iter().last();
        job.painted = newest.is_some();
        job.repeated = newest.is_some_and(|picture| picture.repeated);
        if let Some(picture) = newest {
            self.scaler.enlarge(picture.rgb, small, self.size, &mut job.rgb);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<(u64, Vec<u8>)>, EngineError> {
        let small = self.engine.size();
        let emitted = self.engine.flush()?;
        let mut pictures = Vec::new();
        for picture in emitted.iter() {
            let mut rgb = Vec::new();
            self.scaler.enlarge(picture.rgb, small, self.size, &mut rgb);
            pictures.push((picture.meta.id, rgb));
        }
        Ok(pictures)
    }
}
