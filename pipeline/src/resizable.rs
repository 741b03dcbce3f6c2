//! A stream whose network size changes while it runs.
//!
//! The size of frames and pictures stays, as a file or a camera has them; what changes is the size at which the networks
//! work. Another size needs other engines: they are made and warmed up beside the stream, which goes on, and take over
//! between two frames. Frames in flight leave before that.

use std::sync::Arc;
use std::thread::JoinHandle;

use crate::adaptive::Quality;
use crate::emitted::{Emitted, Exit};
use crate::engine::ModelFacts;
use crate::error::EngineError;
use crate::frame::{FrameMeta, PictureView, Size};
use crate::painter::Painter;
use crate::scaler::Scaler;
use crate::settings::{Control, Settings};
use crate::stats::Stats;

/// Makes a stream whose networks work at a size, under the settings of a control.
pub type Make = Arc<dyn Fn(Size, Control) -> Result<Painter, EngineError> + Send + Sync>;

/// A stream that follows [`Parameters::size`](crate::params::Parameters::size); the same calls as
/// [`Painter`]'s.
pub struct Resizable {
    make: Make,
    facts: ModelFacts,
    /// Of frames and pictures.
    size: Size,
    /// What others change.
    control: Control,
    /// Last seen there.
    seen: Arc<Settings>,
    inner: Stream,
    /// A stream of another size that is being made.
    coming: Option<(Size, JoinHandle<Result<Stream, EngineError>>)>,
    /// A size that cannot be had: it is not tried again until another is asked for.
    refused: Option<Size>,
    /// Streams that were replaced, while they are taken down.
    going: Option<JoinHandle<()>>,
    is_generating: bool,
    /// Frames on their way to a smaller or larger network.
    scaler: Scaler,
    /// A frame whose rows had gaps.
    packed: Vec<u8>,
    output: Output,
    /// Sums, once there was more than one stream.
    sums: Option<Box<Sums>>,
}

/// What all streams did together.
struct Sums {
    /// Stage times, skips and failures of those that were replaced; frames of all.
    past: Stats,
    /// The same with the one that runs, as of the last flush.
    total: Stats,
}

/// Networks at one size.
struct Stream {
    painter: Painter,
    size: Size,
    control: Control,
    /// Frames that were skipped and that failed when it took over: those of its warm-up.
    before: (u64, u64),
}

impl Resizable {
    /// Makes a stream of frames of `size` under the settings of `control`, with networks at the size that these say.
    ///
    /// # Errors
    /// As `make`.
    pub fn new(make: Make, facts: ModelFacts, size: Size, control: Control) -> Result<Self, EngineError> {
        let seen = control.load();
        let network = seen.parameters.size.unwrap_or(size);
        let inner = Stream::new(&make, network, &seen)?;
        Ok(Self {
            make,
            facts,
            size,
            control,
            seen,
            inner,
            coming: None,
            refused: None,
            going: None,
            is_generating: false,
            scaler: Scaler::default(),
            packed: Vec::new(),
            output: Output::new(size),
            sums: None,
        })
    }

    /// See [`Painter::step`].
    ///
    /// # Errors
    /// As there.
    pub fn step(&mut self, meta: FrameMeta, picture: PictureView<'_>) -> Result<Emitted<'_>, EngineError> {
        if picture.size != self.size || !picture.is_consistent() {
            return Err(EngineError::Picture { expected: self.size, got: picture.size });
        }
        self.begin(false)?;
        if self.is_plain() {
            return self.inner.painter.step(meta, picture);
        }
        let row = 3 * self.size.width;
        let rgb = if picture.stride == row {
            &picture.rgb[..row * self.size.height]
        } else {
            self.packed.clear();
            picture.rows().for_each(|row| self.packed.extend_from_slice(row));
            &self.packed
        };
        let rgb = self.scaler.scale(rgb, self.size, self.inner.size);
        let emitted = self.inner.painter.step(meta, PictureView::packed(self.inner.size, rgb))?;
        let leaving = self.output.take(emitted, self.inner.size);
        self.count(1, leaving);
        Ok(self.output.emitted())
    }

    /// See [`Painter::generate`].
    ///
    /// # Errors
    /// As there.
    pub fn generate(&mut self, meta: FrameMeta) -> Result<Emitted<'_>, EngineError> {
        self.begin(true)?;
        if self.is_plain() {
            return self.inner.painter.generate(meta);
        }
        let emitted = self.inner.painter.generate(meta)?;
        let leaving = self.output.take(emitted, self.inner.size);
        self.count(1, leaving);
        Ok(self.output.emitted())
    }

    /// See [`Painter::ready`].
    ///
    /// # Errors
    /// As there.
    pub fn ready(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.output.clear();
        if self.is_plain() {
            return self.inner.painter.ready();
        }
        let emitted = self.inner.painter.ready()?;
        let leaving = self.output.take(emitted, self.inner.size);
        self.count(0, leaving);
        Ok(self.output.emitted())
    }

    /// See [`Painter::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&mut self) -> Result<Emitted<'_>, EngineError> {
        self.output.clear();
        if self.is_plain() {
            return self.inner.painter.flush();
        }
        self.finish_frames()?;
        Ok(self.output.emitted())
    }

    /// What happened so far. Where the size changed, the times of the stages are complete after [`flush`](Self::flush).
    pub fn stats(&self) -> &Stats {
        self.sums.as_ref().map_or_else(|| self.inner.painter.stats(), |sums| &sums.total)
    }

    /// See [`Painter::lanes`].
    pub fn lanes(&self) -> usize {
        self.inner.painter.lanes()
    }

    /// See [`Painter::quality`].
    pub fn quality(&self) -> Option<Quality> {
        self.inner.painter.quality()
    }

    /// Size at which the networks work.
    pub fn network_size(&self) -> Size {
        self.inner.size
    }

    /// Whether frames and pictures pass as they are.
    fn is_plain(&self) -> bool {
        self.inner.size == self.size && self.sums.is_none()
    }

    /// Starts a call: settings are passed on, a stream of another size takes over or begins to be made.
    fn begin(&mut self, is_generating: bool) -> Result<(), EngineError> {
        self.output.clear();
        self.is_generating = is_generating;
        let new = self.control.load();
        if !Arc::ptr_eq(&new, &self.seen) {
            self.seen = new;
            self.inner.control.store(at(&self.seen, self.inner.size));
        }
        self.take_over()?;
        let wanted = self.seen.parameters.size.unwrap_or(self.size);
        if self.refused.is_some_and(|refused| refused != wanted) {
            self.refused = None;
        }
        if wanted != self.inner.size && self.coming.is_none() && self.refused.is_none() {
            self.make(wanted);
        }
        Ok(())
    }

    /// Begins to make a stream with networks at `size`.
    fn make(&mut self, size: Size) {
        if let Err(error) = self.facts.latent_shape(size) {
            self.refuse(size, &error);
            return;
        }
        let (make, settings, is_generating) = (Arc::clone(&self.make), Arc::clone(&self.seen), self.is_generating);
        let build = move || {
            let mut stream = Stream::new(&make, size, &settings)?;
            stream.painter.warm_up(size, &settings.parameters, is_generating)?;
            let stats = stream.painter.stats();
            stream.before = (stats.frames_skipped, stats.frames_failed);
            Ok(stream)
        };
        match std::thread::Builder::new().name("next painter".into()).spawn(build) {
            Ok(thread) => self.coming = Some((size, thread)),
            Err(error) => self.refuse(size, &EngineError::Thread { name: "next painter", what: error.to_string() }),
        }
    }

    fn refuse(&mut self, size: Size, error: &EngineError) {
        tracing::warn!(%error, hint = error.hint(), "the networks stay at {}", self.inner.size);
        self.refused = Some(size);
    }

    /// Lets a stream that is ready take the place of the one that runs. Frames in flight leave first.
    fn take_over(&mut self) -> Result<(), EngineError> {
        if !self.coming.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            return Ok(());
        }
        let Some((size, thread)) = self.coming.take() else { return Ok(()) };
        let panicked = || Err(EngineError::Thread { name: "next painter", what: "it panicked".into() });
        match thread.join().unwrap_or_else(|_| panicked()) {
            Err(error) => self.refuse(size, &error),
            Ok(stream) => {
                // From here on there are sums to keep.
                if self.sums.is_none() {
                    let stats = self.inner.painter.stats();
                    let mut past = Stats::default();
                    (past.frames_in, past.frames_out) = (stats.frames_in, stats.frames_out);
                    self.sums = Some(Box::new(Sums { total: past.clone(), past }));
                }
                self.finish_frames()?;
                if let Some(sums) = &mut self.sums {
                    sums.past = sums.total.clone();
                }
                tracing::info!("the networks work at {size}");
                let old = std::mem::replace(&mut self.inner, stream);
                self.inner.control.store(at(&self.seen, size));
                self.take_down(old);
            }
        }
        Ok(())
    }

    /// Finishes the frames in flight and adds up what the stream counted.
    fn finish_frames(&mut self) -> Result<(), EngineError> {
        let emitted = self.inner.painter.flush()?;
        let leaving = self.output.take(emitted, self.inner.size);
        self.count(0, leaving);
        if let Some(sums) = &mut self.sums {
            let stats = self.inner.painter.stats();
            let (skipped, failed) = self.inner.before;
            sums.total = sums.past.clone();
            sums.total.frames_skipped += stats.frames_skipped - skipped;
            sums.total.frames_failed += stats.frames_failed - failed;
            sums.total.absorb_stages(stats);
        }
        Ok(())
    }

    /// Freeing networks takes a while: not on the frame path.
    fn take_down(&mut self, old: Stream) {
        if let Some(before) = self.going.take() {
            let _ = before.join();
        }
        self.going = std::thread::Builder::new().name("old painter".into()).spawn(move || drop(old)).ok();
    }

    fn count(&mut self, entered: u64, left: usize) {
        if let Some(sums) = &mut self.sums {
            for stats in [&mut sums.past, &mut sums.total] {
                stats.frames_in += entered;
                stats.frames_out += left as u64;
            }
        }
    }
}

impl Drop for Resizable {
    fn drop(&mut self) {
        // They end by themselves; their networks must not outlive the library that runs them.
        if let Some((_, thread)) = self.coming.take() {
            let _ = thread.join();
        }
        if let Some(thread) = self.going.take() {
            let _ = thread.join();
        }
    }
}

impl Stream {
    fn new(make: &Make, size: Size, settings: &Settings) -> Result<Self, EngineError> {
        let control = Control::new(at(settings, size));
        Ok(Self { painter: make(size, control.clone())?, size, control, before: (0, 0) })
    }
}

/// The settings of networks at `size`.
fn at(settings: &Settings, size: Size) -> Settings {
    let mut settings = settings.clone();
    settings.parameters.size = Some(size);
    settings
}

/// Pictures at the stream's size, in buffers that are kept.
struct Output {
    size: Size,
    scaler: Scaler,
    /// The picture that is being taken over.
    large: Vec<u8>,
    exits: Vec<Exit>,
    pictures: Vec<u8>,
}

impl Output {
    fn new(size: Size) -> Self {
        Self { size, scaler: Scaler::default(), large: Vec::new(), exits: Vec::new(), pictures: Vec::new() }
    }

    fn clear(&mut self) {
        self.exits.clear();
        self.pictures.clear();
    }

    /// Takes pictures of `from` over, scaled; gives how many.
    fn take(&mut self, emitted: Emitted<'_>, from: Size) -> usize {
        for picture in emitted.iter() {
            self.scaler.enlarge(picture.rgb, from, self.size, &mut self.large);
            self.pictures.extend_from_slice(&self.large);
            // The latent only says whether the picture is a repeated one.
            let latent = (!picture.repeated).then_some(0);
            self.exits.push(Exit { meta: picture.meta, place: self.exits.len(), latent });
        }
        emitted.len()
    }

    fn emitted(&self) -> Emitted<'_> {
        let bytes = 3 * self.size.pixels();
        Emitted { exits: &self.exits, pictures: &self.pictures, bytes, latents: &[], len: 0 }
    }
}
