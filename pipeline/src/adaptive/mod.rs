//! Adaptive quality: a frame rate that is held on a machine that is too slow or busy.
//!
//! In this order: the network's picture becomes smaller, then steps of the t_index_list are left out, and when a picture is
//! late all the same, the last one is shown again. When the machine is free, it goes the same way back
//! (`controller.rs`). The engine has a thread of its own, so that the stream goes on without a late picture; engines for
//! other sizes are made and warmed up beside it.

mod controller;
mod ladder;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use self::controller::{Change, Controller};
pub use self::ladder::Level;
use self::ladder::{left, levels, sizes};
use self::worker::{Done, Job, Order, Worker};
use crate::emitted::{Emitted, Exit};
use crate::engine::{Engine, ModelFacts};
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView, Size};
use crate::model::Networks;
use crate::schedule::NoiseSchedule;
use crate::settings::{Control, Settings};
use crate::stats::{Clock, Stats};

/// Share of a frame's time that its picture is waited for: the rest is for whoever takes it.
const WAIT: f64 = 0.9;

/// Where networks for a further engine come from.
pub type Fork = Arc<dyn Fn() -> Networks + Send + Sync>;

/// What [`Adaptive`] does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Size of the network's picture.
    pub size: Size,
    /// Steps of each frame.
    pub steps: usize,
    /// Times that size or steps changed.
    pub changes: u64,
    /// Frames that were answered with the picture before, because theirs was late.
    pub repeated: u64,
}

/// An engine that holds a frame rate; the same calls as [`Engine`]'s, one picture for each frame.
pub struct Adaptive {
    facts: ModelFacts,
    schedule: NoiseSchedule,
    size: Size,
    fork: Fork,
    control: Control,
    /// In force.
    settings: Arc<Settings>,
    /// Last seen in `control`: those in force, or refused ones.
    seen: Arc<Settings>,
    /// What the engine runs under: those in force, with fewer steps.
    lowered: Control,
    levels: Vec<Level>,
    /// Of the engine that runs.
    level: Level,
    controller: Controller,
    budget: Duration,
    wait: Duration,
    worker: Worker,
    /// `None` while it is with the worker.
    job: Option<Job>,
    /// An engine that is being made, and its level.
    coming: Option<(usize, JoinHandle<Result<Engine, EngineError>>)>,
    /// Frames that have not left yet, oldest first: as many as the stream batch delays them.
    waiting: VecDeque<FrameMeta>,
    exits: Vec<Exit>,
    picture: Vec<u8>,
    has_picture: bool,
    /// Whether `picture` is newer than the last one that left.
    is_new: bool,
    clock: Arc<dyn Fn() -> Box<dyn Clock> + Send + Sync>,
    now: Box<dyn Clock>,
    changes: u64,
    repeated: u64,
    stats: Stats,
}

impl Adaptive {
    /// Makes a stream of pictures of `size` that shall leave `target_fps` times a second, under the settings of
    /// `control`. `fork` gives networks for every engine that it needs.
    ///
    /// # Errors
    /// As [`Engine::new`]; a frame buffer over 1, whose frames cannot leave one by one; a rate that is not over 0.
    pub fn new(
        fork: Fork,
        facts: ModelFacts,
        size: Size,
        control: Control,
        target_fps: f64,
        clock: impl Clock + Clone + Sync + 'static,
    ) -> Result<Self, EngineError> {
        let settings = control.load();
        let budget = Duration::try_from_secs_f64(1.0 / target_fps).unwrap_or_default();
        if settings.parameters.frame_buffer != 1 || budget.is_zero() {
            return Err(EngineError::Lane("a frame rate is held for frames one by one, at a rate over 0".into()));
        }
        let steps = settings.parameters.t_index.len();
        let levels = levels(&sizes(size, facts.granularity()), steps);
        let lowered = Control::new(Settings::clone(&settings));
        let engine = Engine::new(fork(), facts.clone(), size, lowered.clone(), Box::new(clock.clone()))?;
        let job = Job {
            meta: FrameMeta::default(),
            generate: false,
            rgb: Vec::new(),
            painted: false,
            repeated: false,
            took: Duration::ZERO,
            failed: None,
        };
        Ok(Self {
            schedule: NoiseSchedule::new(&facts.scheduler)?,
            facts,
            size,
            fork,
            control,
            seen: Arc::clone(&settings),
            settings,
            lowered,
            level: levels[0],
            controller: Controller::new(weights(&levels, steps), 0, budget),
            levels,
            budget,
            wait: budget.mul_f64(WAIT),
            worker: Worker::start(engine, size, Box::new(clock.clone()))?,
            job: Some(job),
            coming: None,
            waiting: VecDeque::new(),
            exits: Vec::new(),
            picture: vec![0; 3 * size.pixels()],
            has_picture: false,
            is_new: false,
            now: Box::new(clock.clone()),
            clock: Arc::new(move || Box::new(clock.clone())),
            changes: 0,
            repeated: 0,
            stats: Stats::default(),
        })
    }

    /// One frame in; a picture out: its own (that of the frame so many frames ago as there are steps in flight), or the last
    /// one again when it is late.
    ///
    /// # Errors
    /// A picture of another size, a failing network, or three broken frames in a row.
    pub fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError> {
        if picture.size != self.size || !picture.is_consistent() {
            return Err(EngineError::Picture { expected: self.size, got: picture.size });
        }
        self.frame(meta, Some(picture))
    }

    /// txt2img: one frame out of noise. See [`Engine::generate`].
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError> {
        self.frame(meta, None)
    }

    /// Finishes the frames in flight, at the end of a stream; from here on [`stats`](Self::stats) has the stage times.
    ///
    /// # Errors
    /// A failing network.
    pub fn flush(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.clear();
        if self.job.is_none() {
            self.collect(None)?;
        }
        self.worker.order(Order::Flush)?;
        let Some(Done::Flushed(pictures, stats)) = self.worker.wait(None)? else {
            return Err(EngineError::Lane("it did not finish its frames".into()));
        };
        self.stats.frames_skipped += stats.frames_skipped;
        self.stats.frames_failed += stats.frames_failed;
        self.stats.absorb_stages(&stats);
        // Place 0 is the picture that waits; those of the frames in flight follow it.
        let bytes = 3 * self.size.pixels();
        let mut place = 0;
        let mut pictures = pictures?.into_iter().peekable();
        while let Some(meta) = self.waiting.pop_front() {
            while let Some((_, rgb)) = pictures.next_if(|(id, _)| *id <= meta.id) {
                self.picture.extend_from_slice(&rgb);
                place = self.picture.len() / bytes - 1;
                (self.has_picture, self.is_new) = (true, true);
            }
            self.leave(meta, place);
        }
        Ok(self.emitted())
    }

    /// No pictures: those of the call before are gone.
    pub(crate) fn nothing(&mut self) -> Emitted<'_> {
        self.clear();
        self.emitted()
    }

    /// What happened so far. The times of the stages arrive with [`flush`](Self::flush).
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// What is done to hold the rate.
    pub fn quality(&self) -> Quality {
        let steps = left(self.settings.parameters.t_index.len(), self.level);
        Quality { size: self.level.size, steps, changes: self.changes, repeated: self.repeated }
    }

    fn frame(&mut self, meta: FrameMeta, picture: Option<PictureView<'_>>) -> Result<Emitted<'_>, EngineError> {
        let deadline = self.now.now() + self.wait;
        self.clear();
        self.stats.frames_in += 1;
        self.adopt_settings();
        self.waiting.push_back(meta);
        // A picture that was late for its frame is shown with this one.
        let late = self.job.is_none();
        if late {
            self.collect(Some(self.until(deadline)))?;
        }
        self.take_engine()?;
        if let Some(mut job) = self.job.take() {
            (job.meta, job.generate) = (meta, picture.is_none());
            job.rgb.clear();
            if let Some(picture) = picture {
                picture.rows().for_each(|row| job.rgb.extend_from_slice(row));
            }
            self.worker.order(Order::Frame(job))?;
            // Before the first picture there is nothing to show instead.
            if !late {
                self.collect(self.has_picture.then(|| self.until(deadline)))?;
            }
        }
        while self.waiting.len() > self.delay()
            && let Some(meta) = self.waiting.pop_front()
        {
            self.leave(meta, 0);
        }
        Ok(self.emitted())
    }

    /// Starts a call: the pictures of the call before are gone, but for the newest, which may be shown again.
    fn clear(&mut self) {
        let bytes = 3 * self.size.pixels();
        let newest = self.picture.len() - bytes;
        self.picture.copy_within(newest.., 0);
        self.picture.truncate(bytes);
        self.exits.clear();
    }

    fn until(&self, deadline: Duration) -> Duration {
        deadline.saturating_sub(self.now.now())
    }

    /// Frames that the stream batch holds.
    fn delay(&self) -> usize {
        let parameters = &self.settings.parameters;
        if parameters.stream_batch { left(parameters.t_index.len(), self.level) - 1 } else { 0 }
    }

    /// Takes what the worker made of its frame, if it is ready in time.
    fn collect(&mut self, at_most: Option<Duration>) -> Result<(), EngineError> {
        let Some(Done::Frame(mut job)) = self.worker.wait(at_most)? else { return Ok(()) };
        let (failed, took, repeated) = (job.failed.take(), job.took, job.repeated);
        if job.painted && failed.is_none() {
            self.picture.copy_from_slice(&job.rgb);
            (self.has_picture, self.is_new) = (true, true);
        }
        self.job = Some(job);
        if let Some(error) = failed {
            return Err(error);
        }
        // While another engine is made, both compete for the machine: that says nothing about either.
        if self.coming.is_none()
            && !repeated
            && let Some(change) = self.controller.observe(self.now.now(), took)
        {
            self.change(change);
        }
        Ok(())
    }

    fn leave(&mut self, meta: FrameMeta, place: usize) {
        if !self.has_picture {
            return;
        }
        // The latent only says whether the picture is a repeated one.
        let latent = std::mem::take(&mut self.is_new).then_some(0);
        self.repeated += u64::from(latent.is_none());
        self.exits.push(Exit { meta, place, latent });
        self.stats.frames_out += 1;
    }

    fn emitted(&self) -> Emitted<'_> {
        Emitted { exits: &self.exits, pictures: &self.picture, bytes: 3 * self.size.pixels(), latents: &[], len: 0 }
    }

    fn adopt_settings(&mut self) {
        let old = &self.settings;
        if let Some((new, _)) = self.facts.new_settings(&self.control, &mut self.seen, old, &self.schedule) {
            self.settings = new;
            self.lowered.store(lower(&self.settings, self.level));
        }
    }

    /// Goes to another level: at once where only steps change, else when an engine for that size is ready.
    fn change(&mut self, change: Change) {
        let (old, new) = (self.level, self.levels[change.level]);
        let is_lower = self.levels[..change.level].contains(&old);
        let what = if is_lower { "lowered" } else { "raised" };
        tracing::info!(
            size = %new.size,
            steps = left(self.settings.parameters.t_index.len(), new),
            took_ms = change.took.as_secs_f64() * 1e3,
            "quality is {what}"
        );
        if new.size == old.size {
            self.level = new;
            self.changes += 1;
            self.lowered.store(lower(&self.settings, new));
            return;
        }
        let (fork, facts, clock) = (Arc::clone(&self.fork), self.facts.clone(), Arc::clone(&self.clock));
        let settings = lower(&self.settings, new);
        let is_generating = self.job.as_ref().is_some_and(|job| job.generate);
        let build = move || warm_engine(fork(), facts, new.size, &settings, is_generating, &*clock);
        match std::thread::Builder::new().name("next engine".into()).spawn(build) {
            Ok(thread) => self.coming = Some((change.level, thread)),
            Err(error) => tracing::warn!(%error, "no thread for another engine: the quality stays"),
        }
    }

    /// Hands the worker an engine that became ready, if it has no frame.
    fn take_engine(&mut self) -> Result<(), EngineError> {
        if self.job.is_none() || !self.coming.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            return Ok(());
        }
        let Some((level, thread)) = self.coming.take() else { return Ok(()) };
        match thread.join() {
            Ok(Ok(engine)) => {
                self.level = self.levels[level];
                self.changes += 1;
                self.lowered = engine.control().clone();
                // What changed while it was made.
                self.lowered.store(lower(&self.settings, self.level));
                self.worker.order(Order::Replace(Box::new(engine)))
            }
            made => {
                let size = self.levels[level].size;
                let error = made.map_or_else(
                    |_| "making it panicked".to_owned(),
                    |made| match made {
                        Ok(_) => String::new(),
                        Err(error) => error.to_string(),
                    },
                );
                tracing::warn!(error, "this model does not run at {size}: it keeps to the sizes at which it ran");
                self.keep_sizes();
                Ok(())
            }
        }
    }

    /// Leaves out all sizes but the stream's own and that of the engine that runs. What does not take one size most likely
    /// takes no other.
    fn keep_sizes(&mut self) {
        let mut sizes = vec![self.size, self.level.size];
        sizes.dedup();
        let steps = self.settings.parameters.t_index.len();
        self.levels = levels(&sizes, steps);
        let level = self.levels.iter().position(|level| *level == self.level).unwrap_or(0);
        self.controller = Controller::new(weights(&self.levels, steps), level, self.budget);
    }
}

fn weights(levels: &[Level], steps: usize) -> Vec<f64> {
    levels.iter().map(|level| level.weight(steps)).collect()
}

impl Drop for Adaptive {
    fn drop(&mut self) {
        if let Some((_, thread)) = self.coming.take() {
            // It ends by itself; its networks must not outlive the library that runs them.
            let _ = thread.join();
        }
    }
}

/// The settings of an engine at `level`: fewer steps, from the front.
fn lower(settings: &Settings, level: Level) -> Settings {
    let mut settings = settings.clone();
    let list = &mut settings.parameters.t_index;
    let dropped = list.len() - left(list.len(), level).min(list.len());
    list.drain(..dropped);
    settings
}

/// An engine whose networks have seen its shapes: the first call prepares them, which takes many frames' time.
fn warm_engine(
    networks: Networks,
    facts: ModelFacts,
    size: Size,
    settings: &Settings,
    is_generating: bool,
    clock: &dyn Fn() -> Box<dyn Clock>,
) -> Result<Engine, EngineError> {
    let control = Control::new(settings.clone());
    let mut engine = Engine::new(networks, facts.clone(), size, control.clone(), clock())?;
    let grey = vec![128; 3 * size.pixels()];
    for id in 0..settings.parameters.t_index.len() as u64 {
        let meta = FrameMeta { id, ..FrameMeta::default() };
        if is_generating {
            engine.generate(meta)?;
        } else {
            engine.step(meta, PictureView::packed(size, &grey))?;
        }
    }
    Engine::new(engine.into_networks(), facts, size, control, clock())
}
