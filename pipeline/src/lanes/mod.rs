//! One frame a core: several engines side by side, frames dealt to them in turn and collected in order.
//!
//! A network that has a core to itself wastes nothing on dividing its work and waiting for its slowest part, and the
//! cores never stand idle while a frame is read or written. Each lane runs its frame's steps one after the other, which
//! computes what the stream batch would (`stream_batch_equals_sequential_calls`), but for `feedback`: a lane's last picture
//! is its own. The price is delay: a frame takes as long as one core takes for all of it. So this is for files; a live
//! stream wants all cores on its newest frame.

mod lane;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use livediffusion_kernels::{Normalise, rgb8_to_chw};

use self::lane::{DEPTH, Job, Lane, Made, Work};
use crate::emit::MAX_FAILED_IN_A_ROW;
use crate::emitted::{Emitted, Exit};
use crate::engine::{Engine, ModelFacts};
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView, Size};
use crate::model::Networks;
use crate::noise::SeededUniform;
use crate::schedule::NoiseSchedule;
use crate::settings::{Control, Settings};
use crate::similarity::SimilarityFilter;
use crate::stats::{Clock, Stage, Stats};

/// A frame that has not left yet.
enum Waiting {
    /// In that lane.
    Lane(usize),
    /// It leaves as the picture before it.
    Repeat(FrameMeta),
}

/// Several engines as one stream; the same calls as [`Engine`]'s. Frames leave in order, up to twice as many later as
/// there are lanes, repeated ones between them not counted. A change takes effect with the next frame dealt: frames in the
/// lanes finish under the old settings, whatever the prompt policy says.
pub struct Lanes {
    facts: ModelFacts,
    schedule: NoiseSchedule,
    size: Size,
    control: Control,
    /// In force.
    settings: Arc<Settings>,
    /// Last seen in `control`: those in force, or refused ones.
    seen: Arc<Settings>,
    /// Those in force as the lanes need them.
    dealt: Arc<Settings>,
    filter: SimilarityFilter,
    uniform: SeededUniform,
    image: Vec<f32>,
    latent_len: usize,
    members: Vec<Lane>,
    next: usize,
    waiting: VecDeque<Waiting>,
    spare: Vec<Job>,
    exits: Vec<Exit>,
    /// Place 0 holds the last picture of the call before; the call's own follow.
    pictures: Vec<u8>,
    latents: Vec<f32>,
    painted: usize,
    has_last: bool,
    failed_in_a_row: u32,
    /// The first error of a frame that has not been handed out yet.
    failure: Option<EngineError>,
    /// Whether the call before handed out the pictures that go before it.
    is_due: bool,
    /// Whether the call before ended in an error, so that its pictures still wait.
    is_kept: bool,
    clock: Box<dyn Clock>,
    stats: Stats,
}

impl Lanes {
    /// Makes a stream with one lane for each of `networks`, of pictures of `size`, under the settings of `control`.
    ///
    /// # Errors
    /// As [`Engine::new`]; a frame buffer over 1, whose frames must stay together; no networks; no threads.
    pub fn new(
        networks: Vec<Networks>,
        facts: ModelFacts,
        size: Size,
        control: Control,
        clock: &(impl Clock + Clone + 'static),
    ) -> Result<Self, EngineError> {
        let shape = facts.latent_shape(size)?;
        let schedule = NoiseSchedule::new(&facts.scheduler)?;
        let settings = control.load();
        if settings.parameters.frame_buffer != 1 || networks.is_empty() {
            return Err(EngineError::Lane("lanes take frames one by one, and at least one set of networks".into()));
        }
        let dealt = lane_settings(&settings);
        let ending = Arc::new(AtomicBool::new(false));
        let start = |(index, networks): (usize, Networks)| {
            let control = Control::new(Settings::clone(&dealt));
            let engine = Engine::new(networks, facts.clone(), size, control.clone(), Box::new(clock.clone()))?;
            Lane::start(index, engine, control, Arc::clone(&ending))
        };
        let members = networks.into_iter().enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
        let (places, bytes) = (DEPTH * members.len(), 3 * size.pixels());
        let job = || Job {
            work: Work::Report,
            meta: FrameMeta::default(),
            settings: Arc::clone(&dealt),
            rgb: Vec::with_capacity(bytes),
            picture: vec![0; bytes],
            latent: vec![0.0; shape.len()],
            made: Made::Broken,
        };
        Ok(Self {
            facts,
            schedule,
            size,
            uniform: SeededUniform::new(settings.parameters.seed),
            control,
            seen: Arc::clone(&settings),
            settings,
            filter: SimilarityFilter::default(),
            image: Vec::new(),
            latent_len: shape.len(),
            next: 0,
            waiting: VecDeque::with_capacity(2 * places + 1),
            spare: (0..places).map(|_| job()).collect(),
            dealt,
            members,
            // One call may take out all that waited and the frame that it brought.
            exits: Vec::with_capacity(2 * places + 1),
            pictures: vec![0; (places + 2) * bytes],
            latents: Vec::with_capacity((places + 1) * shape.len()),
            painted: 0,
            has_last: false,
            failed_in_a_row: 0,
            failure: None,
            is_due: false,
            is_kept: false,
            clock: Box::new(clock.clone()),
            stats: Stats::default(),
        })
    }

    /// One frame in; the pictures that became ready out. See [`Engine::step`].
    ///
    /// # Errors
    /// A picture of another size, a failing network, or three broken frames in a row. The pictures before the frame that
    /// failed leave first, those behind it leave later: an error may be that of a frame some calls ago.
    pub fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError> {
        if picture.size != self.size || !picture.is_consistent() {
            return Err(EngineError::Picture { expected: self.size, got: picture.size });
        }
        self.begin();
        if self.is_skipped(picture) {
            self.stats.frames_skipped += 1;
            self.wait_for_room();
            self.waiting.push_back(Waiting::Repeat(meta));
        } else {
            self.deal(Work::Paint, meta, Some(picture))?;
        }
        self.hand_out_ready()
    }

    /// The pictures that became ready since the last call, without a new frame: for a source that pauses.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn ready(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.clear();
        self.hand_out_ready()
    }

    /// txt2img: one frame out of noise. See [`Engine::generate`].
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError> {
        self.begin();
        self.deal(Work::Generate, meta, None)?;
        self.hand_out_ready()
    }

    /// Finishes the frames in flight, at the end of a stream; from here on [`stats`](Self::stats) has the stage times.
    ///
    /// # Errors
    /// A failing network: the pictures of this call are lost with it.
    pub fn flush(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.clear();
        while !self.waiting.is_empty() {
            self.collect_front();
        }
        for index in 0..self.members.len() {
            self.next = index;
            self.send(Work::Report, FrameMeta::default(), None)?;
            let job = self.members[index].receive()?;
            if let Made::Reported(stats) = &job.made {
                self.stats.absorb_stages(stats);
            }
            self.spare.push(job);
        }
        self.failure.take().map_or_else(|| Ok(self.emitted()), Err)
    }

    /// What happened so far. The times of the stages arrive with [`flush`](Self::flush).
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Size of the pictures.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Number of lanes.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Ends the stream and gives its networks back, one set a lane. A lane whose thread panicked has none to give.
    pub fn into_networks(mut self) -> Vec<Networks> {
        self.members.iter_mut().filter_map(Lane::end).collect()
    }

    /// Starts a call: the pictures of the call before are gone, new settings are in force.
    fn begin(&mut self) {
        self.clear();
        self.stats.frames_in += 1;
        let old = &self.settings;
        if let Some((new, _)) = self.facts.new_settings(&self.control, &mut self.seen, old, &self.schedule) {
            self.filter.reset();
            self.dealt = lane_settings(&new);
            self.settings = new;
        }
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.is_kept) {
            return;
        }
        let bytes = 3 * self.size.pixels();
        if self.painted > 0 {
            self.pictures.copy_within(self.painted * bytes..(self.painted + 1) * bytes, 0);
            self.has_last = true;
        }
        self.painted = 0;
        self.exits.clear();
        self.latents.clear();
    }

    /// Asks the similarity filter, here where the frames are in order.
    fn is_skipped(&mut self, picture: PictureView<'_>) -> bool {
        let parameters = &self.settings.parameters;
        let Some(threshold) = parameters.similarity else {
            self.filter.reset();
            return false;
        };
        let started = self.clock.now();
        self.image.resize(3 * self.size.pixels(), 0.0);
        let sides = (self.size.width, self.size.height);
        rgb8_to_chw(picture.rgb, picture.stride, sides, Normalise::SIGNED, &mut self.image);
        let uniform = &mut self.uniform;
        let (metric, most) = (parameters.similarity_metric, parameters.max_skip);
        let decision = self.filter.decide(&self.image, metric, threshold, most, &mut || uniform.next_uniform());
        self.stats.record(Stage::Similarity, self.clock.now().saturating_sub(started));
        decision.skip
    }

    /// Gives a frame to the lane whose turn it is.
    fn deal(&mut self, work: Work, meta: FrameMeta, picture: Option<PictureView<'_>>) -> Result<(), EngineError> {
        self.wait_for_room();
        while self.members[self.next].held == DEPTH && !self.waiting.is_empty() {
            self.collect_front();
        }
        let lane = self.next;
        self.send(work, meta, picture)?;
        self.waiting.push_back(Waiting::Lane(lane));
        self.next = (lane + 1) % self.members.len();
        Ok(())
    }

    /// Skipped frames cost nothing and may come fast: they must not pile up behind a frame that takes its time.
    fn wait_for_room(&mut self) {
        while self.waiting.len() >= 2 * DEPTH * self.members.len() {
            self.collect_front();
        }
    }

    fn send(&mut self, work: Work, meta: FrameMeta, picture: Option<PictureView<'_>>) -> Result<(), EngineError> {
        let Some(mut job) = self.spare.pop() else {
            return Err(EngineError::Lane("a frame was lost in it".into()));
        };
        (job.work, job.meta) = (work, meta);
        job.settings = Arc::clone(&self.dealt);
        job.rgb.clear();
        if let Some(picture) = picture {
            picture.rows().for_each(|row| job.rgb.extend_from_slice(row));
        }
        self.members[self.next].send(job)
    }

    /// Takes what is ready at the front, without waiting, up to a frame that failed.
    fn hand_out_ready(&mut self) -> Result<Emitted<'_>, EngineError> {
        // Whoever took the pictures before a failed frame gets the error now; pictures that came since wait a call.
        if let Some(error) = self.failure.take_if(|_| self.is_due) {
            (self.is_due, self.is_kept) = (false, true);
            return Err(error);
        }
        while self.failure.is_none()
            && let Some(front) = self.waiting.front()
        {
            if let Waiting::Lane(lane) = *front {
                match self.members[lane].try_receive() {
                    Ok(None) => break,
                    Ok(Some(job)) => self.take_out(job),
                    Err(error) => self.keep(error),
                }
                self.waiting.pop_front();
            } else {
                self.collect_front();
            }
        }
        self.is_due = self.failure.is_some();
        if self.exits.is_empty()
            && let Some(error) = self.failure.take()
        {
            self.is_due = false;
            return Err(error);
        }
        Ok(self.emitted())
    }

    /// Waits for the oldest frame and takes it out.
    fn collect_front(&mut self) {
        match self.waiting.pop_front() {
            None => {}
            Some(Waiting::Repeat(meta)) => self.repeat(meta),
            Some(Waiting::Lane(lane)) => match self.members[lane].receive() {
                Ok(job) => self.take_out(job),
                Err(error) => self.keep(error),
            },
        }
    }

    /// Remembers an error for the caller: of several at once, the first.
    fn keep(&mut self, error: EngineError) {
        if self.failure.is_none() {
            self.failure = Some(error);
        } else {
            tracing::error!(%error, "another frame failed");
        }
    }

    fn take_out(&mut self, mut job: Job) {
        let made = std::mem::replace(&mut job.made, Made::Broken);
        if matches!(made, Made::Painted) {
            self.failed_in_a_row = 0;
            self.painted += 1;
            let bytes = job.picture.len();
            if self.pictures.len() < (self.painted + 1) * bytes {
                self.pictures.resize((self.painted + 1) * bytes, 0);
            }
            self.pictures[self.painted * bytes..(self.painted + 1) * bytes].copy_from_slice(&job.picture);
            let latent = Some(self.latents.len() / job.latent.len());
            self.latents.extend_from_slice(&job.latent);
            self.exits.push(Exit { meta: job.meta, place: self.painted, latent });
            self.stats.frames_out += 1;
        }
        let meta = job.meta;
        self.spare.push(job);
        match made {
            Made::Broken => {
                // Look-alikes of a broken frame must not repeat the picture before it.
                self.filter.reset();
                self.stats.frames_failed += 1;
                self.failed_in_a_row += 1;
                self.repeat(meta);
                if self.failed_in_a_row >= MAX_FAILED_IN_A_ROW {
                    self.keep(EngineError::NotFinite { frames: self.failed_in_a_row });
                }
            }
            Made::Failed(error) => self.keep(error),
            Made::Painted | Made::Reported(_) => {}
        }
    }

    /// Lines up the last picture again; before the first picture there is nothing to show and the frame is dropped.
    fn repeat(&mut self, meta: FrameMeta) {
        if self.painted > 0 || self.has_last {
            self.exits.push(Exit { meta, place: self.painted, latent: None });
            self.stats.frames_out += 1;
        }
    }

    fn emitted(&self) -> Emitted<'_> {
        let bytes = 3 * self.size.pixels();
        Emitted { exits: &self.exits, pictures: &self.pictures, bytes, latents: &self.latents, len: self.latent_len }
    }
}

/// The settings of a lane: each of its frames by itself, and the filter is asked before frames are dealt out.
fn lane_settings(settings: &Settings) -> Arc<Settings> {
    let mut settings = settings.clone();
    settings.parameters.stream_batch = false;
    settings.parameters.similarity = None;
    Arc::new(settings)
}
