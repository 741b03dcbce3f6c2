//! Cross-stream batching: several streams share one U-Net, and those that wait at the same time share one call.
//!
//! There is no timer and no thread: whoever finds the U-Net free takes along all who wait, runs it for them, and wakes
//! them. Under load the calls fill by themselves; a stream alone is never held up; one that is slow is simply not in the
//! queue. Whether a call with rows of several streams is faster than their calls one by one is a matter of the machine:
//! a GPU that a single row does not fill may gain, on a CPU one frame a core is faster ([`crate::lanes`]).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::frame::LatentShape;
use crate::model::{DenoiseBatch, Denoiser, ModelError, Row};

/// A U-Net that several streams share. Cheap to clone.
#[derive(Clone)]
pub struct SharedDenoiser(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Held by the stream that runs a call, for all in it.
    work: Mutex<Work>,
    most_rows: usize,
    timestep_cond_width: Option<usize>,
    takes_control: bool,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    waiting: VecDeque<Request>,
    done: Vec<Request>,
    spare: Vec<Request>,
    /// Whether a call is running.
    is_running: bool,
    tickets: u64,
    counts: BatchCounts,
}

struct Work {
    denoiser: Box<dyn Denoiser>,
    requests: Vec<Request>,
    sample: Vec<f32>,
    rows: Vec<Row>,
    out: Vec<f32>,
}

/// One stream's call.
struct Request {
    ticket: u64,
    shape: LatentShape,
    /// Noisy latents before the call, predictions after it.
    values: Vec<f32>,
    rows: Vec<Row>,
    failed: Option<ModelError>,
}

/// How full the calls were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Calls that streams made.
    pub requests: u64,
    /// Calls of the U-Net.
    pub calls: u64,
    /// Rows that these had.
    pub rows: u64,
}

impl SharedDenoiser {
    /// Shares `denoiser`. No call gets more than `most_rows` rows, unless one stream alone has more: what the network was
    /// built for (a TensorRT profile), or fits into memory. Every number of rows is a shape of its own, of which a network
    /// on ONNX Runtime keeps eight ready: more than 8 rows make it prepare tensors again and again.
    pub fn new(denoiser: Box<dyn Denoiser>, most_rows: usize) -> Self {
        let (timestep_cond_width, takes_control) = (denoiser.timestep_cond_width(), denoiser.takes_control());
        let work = Work { denoiser, requests: Vec::new(), sample: Vec::new(), rows: Vec::new(), out: Vec::new() };
        Self(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            work: Mutex::new(work),
            most_rows: most_rows.max(1),
            timestep_cond_width,
            takes_control,
        }))
    }

    /// A U-Net for one stream.
    pub fn handle(&self) -> Box<dyn Denoiser> {
        Box::new(Handle(Arc::clone(&self.0)))
    }

    /// How full the calls were so far.
    pub fn counts(&self) -> BatchCounts {
        lock(&self.0.state).counts
    }
}

/// A stream's end of a shared U-Net.
struct Handle(Arc<Shared>);

impl Denoiser for Handle {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        if batch.sample.len() != out.len() || batch.sample.len() != batch.rows.len() * batch.shape.len() {
            return Err(ModelError::new("U-Net: sample, prediction and rows have different lengths"));
        }
        let mut state = lock(&self.0.state);
        let ticket = state.enqueue(batch);
        loop {
            if let Some(at) = state.done.iter().position(|request| request.ticket == ticket) {
                let mut request = state.done.swap_remove(at);
                let result = if let Some(error) = request.failed.take() {
                    Err(error)
                } else {
                    out.copy_from_slice(&request.values);
                    Ok(())
                };
                request.rows.clear();
                state.spare.push(request);
                return result;
            }
            if state.is_running {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_running = true;
            let mut work = lock(&self.0.work);
            state.take_batch(self.0.most_rows, &mut work.requests);
            drop(state);
            Finish { shared: &self.0, work: Some(work), ticket }.run();
            state = lock(&self.0.state);
        }
    }

    fn timestep_cond_width(&self) -> Option<usize> {
        self.0.timestep_cond_width
    }

    fn takes_control(&self) -> bool {
        self.0.takes_control
    }
}

impl State {
    fn enqueue(&mut self, batch: &DenoiseBatch<'_>) -> u64 {
        self.tickets += 1;
        self.counts.requests += 1;
        let mut request = self.spare.pop().unwrap_or_else(|| Request {
            ticket: 0,
            shape: batch.shape,
            values: Vec::new(),
            rows: Vec::new(),
            failed: None,
        });
        (request.ticket, request.shape) = (self.tickets, batch.shape);
        request.values.clear();
        request.values.extend_from_slice(batch.sample);
        request.rows.clear();
        request.rows.extend_from_slice(batch.rows);
        self.waiting.push_back(request);
        self.tickets
    }

    /// The oldest request and those behind it that fit into one call with it. What does not fit keeps its place.
    fn take_batch(&mut self, most_rows: usize, batch: &mut Vec<Request>) {
        let Some(first) = self.waiting.pop_front() else { return };
        let (kind, mut rows) = (first.kind(), first.rows.len());
        batch.push(first);
        let mut at = 0;
        while let Some(next) = self.waiting.get(at) {
            if next.kind() != kind || rows + next.rows.len() > most_rows {
                at += 1;
                continue;
            }
            rows += next.rows.len();
            batch.extend(self.waiting.remove(at));
        }
        self.counts.calls += 1;
        self.counts.rows += rows as u64;
    }
}

/// The parts of a prompt that a network takes, and their sizes.
#[derive(PartialEq, Eq)]
struct PromptKind {
    length: usize,
    width: usize,
    pooled: Option<usize>,
    has_time_ids: bool,
    timestep_cond: Option<usize>,
}

impl Request {
    /// What all rows of a call must have in common.
    fn kind(&self) -> (LatentShape, Option<PromptKind>) {
        let kind = |row: &Row| {
            let c = &*row.conditioning;
            PromptKind {
                length: c.length,
                width: c.width,
                pooled: c.pooled.as_ref().map(Vec::len),
                has_time_ids: c.time_ids.is_some(),
                timestep_cond: c.timestep_cond.as_ref().map(Vec::len),
            }
        };
        (self.shape, self.rows.first().map(kind))
    }
}

/// A call under way. However it ends, those in it are woken and the U-Net is free again: a panic of the network in one
/// stream's thread is an error in the others'.
struct Finish<'a> {
    shared: &'a Shared,
    work: Option<MutexGuard<'a, Work>>,
    /// Of the stream that runs the call.
    ticket: u64,
}

impl Finish<'_> {
    fn run(mut self) {
        if let Some(work) = self.work.as_deref_mut() {
            work.call();
        }
    }
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        if let Some(mut work) = self.work.take() {
            if std::thread::panicking() {
                // Its own: nobody comes back for it, be it in this call or still waiting.
                work.requests.retain(|request| request.ticket != self.ticket);
                state.waiting.retain(|request| request.ticket != self.ticket);
                for request in &mut work.requests {
                    request.failed = Some(ModelError::new("the U-Net panicked in a call with another stream's frames"));
                }
            }
            state.done.append(&mut work.requests);
        }
        state.is_running = false;
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Work {
    fn call(&mut self) {
        let Self { denoiser, requests, sample, rows, out } = self;
        let Some(shape) = requests.first().map(|request| request.shape) else { return };
        sample.clear();
        rows.clear();
        for request in &mut *requests {
            sample.extend_from_slice(&request.values);
            rows.append(&mut request.rows);
        }
        out.resize(sample.len(), 0.0);
        let batch = DenoiseBatch { sample, shape, rows };
        let denoised = denoiser.denoise(&batch, out);
        // Control images are written again once their frames have left.
        rows.clear();
        match denoised {
            Ok(()) => {
                let mut rest = &out[..];
                for request in requests {
                    let (mine, others) = rest.split_at(request.values.len());
                    request.values.copy_from_slice(mine);
                    rest = others;
                }
            }
            Err(ModelError { what, hint }) => {
                for request in requests {
                    request.failed = Some(ModelError { what: what.clone(), hint: hint.clone() });
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic can leave behind is put right by `Finish`.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
