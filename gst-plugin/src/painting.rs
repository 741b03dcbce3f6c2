//! A model that was loaded for the element, and the stream on it.

use std::sync::Arc;

use livediffusion_onnx::ErrorKind;
use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, Emitted, EngineError, Settings, Sizes, Tuner, Tuning};
use livediffusion_remote::Servers;
use livediffusion_session::{Backend, ModelOptions, OpenPack, Outcome, Session, SessionError, Streams, preset_values};

use crate::in_flight::InFlight;
use crate::properties::{self, Wishes};

/// What is wanted of a stream.
struct Wanted {
    wishes: Wishes,
    parameters: Parameters,
    /// Size of the networks' pictures that the model or its preset says: what an automatic one is like.
    area: Size,
}

impl Wanted {
    /// Of a pack, if a stream of it can do that.
    fn of(open: &OpenPack, wishes: &Wishes) -> Outcome<Self> {
        let parameters = |layer| livediffusion_session::parameters(&open.pack, wishes.preset(), &[layer]);
        let area = open.size(&parameters(wishes.layer_without_size())?);
        let parameters = parameters(wishes.layer())?;
        open.facts.check(&parameters)?;
        Ok(Self { wishes: wishes.clone(), parameters, area })
    }

    /// Size of the networks' pictures for frames of `size`.
    fn network(&self, open: &OpenPack, size: Size) -> Size {
        if self.wishes.follows() { open.facts.size_like(size, self.area) } else { open.size(&self.parameters) }
    }
}

/// A model that was found and read, and what is wanted of it: what a wrong property or a missing model shows at.
pub(crate) struct Opened {
    open: OpenPack,
    options: ModelOptions,
    wanted: Wanted,
}

impl Opened {
    /// Who runs the U-Net, where that is not done here.
    pub(crate) fn servers(&self) -> Option<Arc<Servers>> {
        self.open.servers().cloned()
    }

    pub(crate) fn open(wishes: &Wishes) -> Outcome<Self> {
        let options = wishes.options()?;
        let open = OpenPack::open(&options)?;
        let wanted = Wanted::of(&open, wishes)?;
        if open.pack.vae_kind.is_none() {
            let what = format!("{} has no vae_encoder/: it cannot repaint pictures", open.folder.display());
            return Err(SessionError::invalid(what, "add the VAE encoder to the pack, or set another model"));
        }
        Ok(Self { open, options, wanted })
    }

    /// Loads the networks for frames of `size`. Takes a while: of a large model, or at its first start on a card, minutes.
    pub(crate) fn load(self, size: Size) -> Outcome<Loaded> {
        let Self { mut open, options, wanted } = self;
        let backend = Backend::find(&options, &open)?;
        // One, the least delay, unless they are asked for: nobody knows here whether somebody watches.
        let lanes = options.lanes_for(&open.pack, &wanted.parameters, backend.provider(), true);
        let network = wanted.network(&open, size);
        open.expect(&wanted.parameters, network);
        Ok(Loaded { session: Session::load_on(backend, &options, open, lanes)?, wanted })
    }
}

/// A model whose networks are in memory.
pub(crate) struct Loaded {
    session: Session,
    wanted: Wanted,
}

impl Loaded {
    /// Takes up what was wished for meanwhile, as far as a stream that runs could: the rest waits for the next start. What cannot be
    /// is no wish any more, and told.
    pub(crate) fn refresh(&mut self, wishes: &mut Wishes) -> Vec<SessionError> {
        let (mut refused, mut since) = (Vec::new(), wishes.set_since(&self.wanted.wishes));
        since.retain(|(name, _)| properties::is_hot_name(name));
        // Of some that belong together, the first alone may be wrong.
        let mut together = self.wanted.wishes.clone();
        for (name, text) in &since {
            together.set(name, text);
        }
        if let Ok(wanted) = Wanted::of(&self.session.open, &together) {
            self.wanted = wanted;
            return refused;
        }
        for (name, text) in since {
            let mut candidate = self.wanted.wishes.clone();
            candidate.set(&name, &text);
            match Wanted::of(&self.session.open, &candidate) {
                Ok(wanted) => self.wanted = wanted,
                Err(error) => {
                    wishes.restore(&name, &self.wanted.wishes);
                    refused.push(error);
                }
            }
        }
        refused
    }
}

/// What the networks run on, for those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) provider: String,
    pub(crate) precision: String,
    pub(crate) lanes: usize,
}

/// What changes the parameters of a stream that runs.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) tuning: Tuning,
    pub(crate) control: Control,
    facts: ModelFacts,
    /// What was asked for so far: the stream may be on its way there.
    target: Parameters,
}

impl Handles {
    /// Asks for values, by name, if all of them together are something that the model can do.
    pub(crate) fn set(&mut self, values: &[(&str, &str)]) -> Outcome<()> {
        let mut target = self.target.clone();
        for (name, text) in values {
            target.set(name, text)?;
        }
        self.facts.check(&target)?;
        for (name, text) in values {
            let set = self.tuning.set(name, text);
            set.map_err(|what| SessionError::new(ErrorKind::Invalid, what))?;
        }
        self.target = target;
        Ok(())
    }
}

/// A stream of frames of one size after another.
pub(crate) struct Painting {
    streams: Streams,
    painter: Painter,
    control: Control,
    /// Ends the thread that encodes prompts when it is dropped.
    tuner: Tuner,
    pub(crate) running: Running,
    pub(crate) in_flight: InFlight,
    /// Of the frames.
    size: Size,
    /// What the networks' size is like.
    area: Size,
    /// Counts of the streams of frames of other sizes before.
    past: [u64; 4],
}

impl Painting {
    /// Begins a stream of frames of `size`.
    pub(crate) fn begin(loaded: Loaded, size: Size) -> Outcome<Self> {
        let Loaded { mut session, wanted } = loaded;
        let network = wanted.network(&session.open, size);
        let Wanted { parameters, area, .. } = wanted;
        let parameters = Parameters { size: Some(network), ..parameters };
        let settings = session.settings(parameters, network)?;
        let (provider, precision) = (session.runs_on(), session.reckons_in().to_string());
        let presets = session.open.pack.presets.iter().map(preset_values).collect();
        let control = Control::new(settings);
        let (streams, prompts) = session.into_streams();
        let painter = streams.painter(size, control.clone())?;
        let running = Running { provider, precision, lanes: painter.lanes() };
        let clock = MonotonicClock::start();
        let facts = streams.facts().clone();
        let tuner = Tuner::start(prompts, facts, Sizes::Free(network), control.clone(), clock)?.with_presets(presets);
        let in_flight = InFlight::default();
        let past = [0; 4];
        Ok(Self { streams, painter, control, tuner, running, in_flight, size, area, past })
    }

    /// Frames of another size from here on. None may be in flight. The networks keep theirs.
    pub(crate) fn resize(&mut self, size: Size) -> Outcome<()> {
        if size == self.size {
            return Ok(());
        }
        let painter = self.streams.painter(size, self.control.clone()).or_else(|_| {
            // The size that was asked for last may be one that cannot be had, and the stream still at the one before.
            let mut settings = Settings::clone(&self.control.load());
            settings.parameters.size = Some(self.network());
            self.control.store(settings);
            self.streams.painter(size, self.control.clone())
        })?;
        self.past = self.counts();
        (self.painter, self.size) = (painter, size);
        Ok(())
    }

    /// Size of the networks' pictures where nobody asked for one: the frames' shape, with as many pixels as the model's own.
    pub(crate) fn fitting(&self) -> Size {
        self.streams.facts().size_like(self.size, self.area)
    }

    /// What changes parameters while it runs.
    pub(crate) fn handles(&self) -> Handles {
        let target = self.control.load().parameters.clone();
        Handles {
            tuning: self.tuner.handle(),
            control: self.control.clone(),
            facts: self.streams.facts().clone(),
            target,
        }
    }

    /// Size at which the networks work.
    pub(crate) fn network(&self) -> Size {
        match &self.painter {
            Painter::Resizable(stream) => stream.network_size(),
            _ => self.size,
        }
    }

    /// Frames that a picture comes after its own at a steady rate, one of them for the work itself: who keeps up needs no longer than
    /// that.
    pub(crate) fn delay(&self) -> usize {
        let settings = self.control.load();
        let Parameters { t_index, frame_buffer, stream_batch, .. } = &settings.parameters;
        let steps = if *stream_batch { t_index.len() } else { 1 };
        // A frame waits for its lane, and its picture for the frame that takes the lane after it.
        if self.running.lanes > 1 { 2 * self.running.lanes } else { (steps * frame_buffer).max(1) }
    }

    /// Frames that belong together, or that are worked on at once.
    pub(crate) fn group(&self) -> usize {
        self.control.load().parameters.frame_buffer.max(self.running.lanes)
    }

    /// Paints a frame. What leaves may be pictures of frames before it.
    pub(crate) fn step(
        &mut self,
        frame: &gst::BufferRef,
        picture: PictureView<'_>,
    ) -> Outcome<(Emitted<'_>, &mut InFlight)> {
        let meta = self.in_flight.enter(frame);
        let meta = meta.map_err(|error| SessionError::new(ErrorKind::Failed, error))?;
        Ok((self.painter.step(meta, picture)?, &mut self.in_flight))
    }

    /// The pictures of the frames in flight.
    pub(crate) fn flush(&mut self) -> Result<(Emitted<'_>, &mut InFlight), EngineError> {
        Ok((self.painter.flush()?, &mut self.in_flight))
    }

    /// Frames that entered, pictures that left, frames that were like the one before, and frames that a network failed on.
    pub(crate) fn counts(&self) -> [u64; 4] {
        let stats = self.painter.stats();
        let counts = [stats.frames_in, stats.frames_out, stats.frames_skipped, stats.frames_failed];
        std::array::from_fn(|index| self.past[index] + counts[index])
    }
}
