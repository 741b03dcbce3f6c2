//! A model that was loaded for the element, and the stream on it.

use livediffusion_pipeline::frame::{PictureView, Size};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, Emitted, EngineError, Sizes, Tuner, Tuning};
use livediffusion_session::{Backend, ModelOptions, OpenPack, Outcome, Session, SessionError, Streams, preset_values};

use crate::in_flight::InFlight;
use crate::properties::Wishes;

/// What is wanted of a stream.
struct Wanted {
    parameters: Parameters,
    /// Whether nobody asks for a size of the networks: what the model or its preset says is the one to be like.
    follows: bool,
}

impl Wanted {
    /// Of a pack, if a stream of it can do that.
    fn of(open: &OpenPack, wishes: &Wishes) -> Outcome<Self> {
        let parameters = livediffusion_session::parameters(&open.pack, wishes.preset(), &[wishes.layer()])?;
        open.facts.check(&parameters)?;
        Ok(Self { parameters, follows: wishes.follows() })
    }
}

/// A model that was found and read, and what is wanted of it: what a wrong property or a missing model shows at.
pub(crate) struct Opened {
    open: OpenPack,
    options: ModelOptions,
    wanted: Wanted,
}

impl Opened {
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
    pub(crate) fn load(self, size: Size, live: bool) -> Outcome<Loaded> {
        let Self { mut open, options, wanted } = self;
        let backend = Backend::find(&options, &open)?;
        let lanes = options.lanes_for(&open.pack, &wanted.parameters, backend.provider(), live);
        let area = open.size(&wanted.parameters);
        open.expect(&wanted.parameters, if wanted.follows { open.facts.size_like(size, area) } else { area });
        Ok(Loaded { session: Session::load_on(backend, &options, open, lanes)?, wanted })
    }
}

/// A model whose networks are in memory.
pub(crate) struct Loaded {
    session: Session,
    wanted: Wanted,
}

impl Loaded {
    /// Takes up what was wished for meanwhile. What cannot be changes nothing.
    pub(crate) fn refresh(&mut self, wishes: &Wishes) -> Outcome<()> {
        self.wanted = Wanted::of(&self.session.open, wishes)?;
        Ok(())
    }
}

/// What the networks run on, for those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) provider: String,
    pub(crate) precision: String,
    pub(crate) lanes: usize,
}

/// A stream of frames of one size after another.
pub(crate) struct Painting {
    streams: Streams,
    painter: Painter,
    control: Control,
    /// Ends the thread that encodes prompts when it is dropped.
    _tuner: Tuner,
    tuning: Tuning,
    pub(crate) running: Running,
    pub(crate) in_flight: InFlight,
    /// Of the frames.
    size: Size,
    /// What the networks' size is like.
    area: Size,
}

impl Painting {
    /// Begins a stream of frames of `size`.
    pub(crate) fn begin(loaded: Loaded, size: Size) -> Outcome<Self> {
        let Loaded { mut session, wanted: Wanted { parameters, follows } } = loaded;
        let area = session.open.size(&parameters);
        let network = if follows { session.open.facts.size_like(size, area) } else { area };
        let parameters = Parameters { size: Some(network), ..parameters };
        let settings = session.settings(parameters, network)?;
        let (provider, precision) = (session.loaded.provider.to_string(), session.reckons_in().to_string());
        let presets = session.open.pack.presets.iter().map(preset_values).collect();
        let control = Control::new(settings);
        let (streams, prompts) = session.into_streams();
        let painter = streams.painter(size, control.clone())?;
        let running = Running { provider, precision, lanes: painter.lanes() };
        let clock = MonotonicClock::start();
        let tuner = Tuner::start(prompts, Sizes::Free(network), control.clone(), clock)?.with_presets(presets);
        let tuning = tuner.handle();
        let in_flight = InFlight::default();
        Ok(Self { streams, painter, control, _tuner: tuner, tuning, running, in_flight, size, area })
    }

    /// Frames of another size from here on; `fits` says whether the networks' size follows. None may be in flight.
    pub(crate) fn resize(&mut self, size: Size, fits: bool) -> Outcome<()> {
        if size == self.size {
            return Ok(());
        }
        self.painter = self.streams.painter(size, self.control.clone())?;
        self.size = size;
        if fits {
            // The stream begins at the size of before and follows when the networks are ready for the new one.
            let set = self.tuning.set(crate::properties::SIZE, &self.fitting().to_string());
            set.map_err(|what| SessionError::new(livediffusion_onnx::ErrorKind::Failed, what))?;
        }
        Ok(())
    }

    /// Size of the networks' pictures where nobody asked for one: the frames' shape, with as many pixels as the model's own.
    pub(crate) fn fitting(&self) -> Size {
        self.streams.facts().size_like(self.size, self.area)
    }

    /// What changes parameters while it runs.
    pub(crate) fn handles(&self) -> (Tuning, Control) {
        (self.tuning.clone(), self.control.clone())
    }

    /// Frames that a picture comes after its own at a steady rate, one of them for the work itself: who keeps up needs no longer than
    /// that.
    pub(crate) fn delay(&self) -> usize {
        let settings = self.control.load();
        let Parameters { t_index, frame_buffer, stream_batch, .. } = &settings.parameters;
        let steps = if *stream_batch { t_index.len() } else { 1 };
        if self.running.lanes > 1 { self.running.lanes + 1 } else { (steps * frame_buffer).max(1) }
    }

    /// Paints a frame. What leaves may be pictures of frames before it.
    pub(crate) fn step(
        &mut self,
        frame: &gst::BufferRef,
        picture: PictureView<'_>,
    ) -> Outcome<(Emitted<'_>, &mut InFlight)> {
        let meta = self.in_flight.enter(frame);
        let meta = meta.map_err(|error| SessionError::new(livediffusion_onnx::ErrorKind::Failed, error))?;
        Ok((self.painter.step(meta, picture)?, &mut self.in_flight))
    }

    /// The pictures of the frames in flight.
    pub(crate) fn flush(&mut self) -> Result<(Emitted<'_>, &mut InFlight), EngineError> {
        Ok((self.painter.flush()?, &mut self.in_flight))
    }

    /// Frames that entered, pictures that left, frames that were like the one before, and frames that a network failed on.
    pub(crate) fn counts(&self) -> [u64; 4] {
        let stats = self.painter.stats();
        [stats.frames_in, stats.frames_out, stats.frames_skipped, stats.frames_failed]
    }
}
