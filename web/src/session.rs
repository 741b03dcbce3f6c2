//! One visitor's stream: parameters of its own, an engine on a thread of its own, weights shared with the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use livediffusion_io::{Audience, SourceFrame};
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::{Parameters, spec};
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_pipeline::{Control, EngineError, Sizes, Tuner};
use tokio::sync::Notify;

use crate::mailbox::Mailbox;
use crate::message::{Header, Numbers, Reply, Values};
use crate::metrics::Metrics;
use crate::outbox::{Note, Outbox};
use crate::refusal::Refusal;
use crate::studio::{SIZE, STRENGTH, Studio, shown};

/// Who brings a session's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// A page, over its WebSocket; it gets the pictures, too.
    Page,
    /// A peer over WebRTC.
    Whip,
}

/// A frame's pixels as they came.
pub(crate) enum Pixels {
    /// JPEG or WebP.
    Encoded(Bytes),
    /// Decoded, of about the session's size.
    Decoded(SourceFrame),
}

/// A frame as it came.
pub(crate) struct Frame {
    pub(crate) header: Header,
    pub(crate) pixels: Pixels,
    /// On the session's clock.
    pub(crate) arrived: Duration,
}

/// What turns parameters into settings for one engine.
pub(crate) struct Hot {
    pub(crate) tuner: Tuner,
    /// What the tuner made and the engine takes.
    pub(crate) control: Control,
    pub(crate) size: Size,
}

/// The newest picture, for snapshots and thumbnails.
#[derive(Clone, Default)]
pub(crate) struct Newest {
    pub(crate) picture: Vec<u8>,
    pub(crate) input: Vec<u8>,
    pub(crate) size: Option<Size>,
}

struct State {
    /// As asked for; the engine may be some frames behind.
    parameters: Parameters,
    hot: Hot,
    /// Changes that came while another engine was made, for that one too.
    meanwhile: Option<Values>,
    /// Counts changes.
    version: u64,
}

/// Counts since the session began. Written by the engine's thread, read by all.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) frames_in: AtomicU64,
    pub(crate) frames_out: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) engine_ns: AtomicU64,
    pub(crate) wait_ns: AtomicU64,
    pub(crate) steps: AtomicU64,
}

pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) source: Source,
    /// Who watches over WebRTC.
    pub(crate) audience: Audience,
    /// Somebody asked for the session's end.
    pub(crate) ending: Notify,
    pub(crate) studio: Arc<Studio>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: MonotonicClock,
    pub(crate) inbox: Mailbox<Frame>,
    pub(crate) outbox: Outbox,
    pub(crate) counts: Counts,
    pub(crate) newest: Mutex<Newest>,
    /// An engine for another size that is ready to take over.
    pub(crate) next: Mailbox<(Painter, Hot)>,
    pub(crate) is_making_thumbnails: AtomicBool,
    pub(crate) is_closed: AtomicBool,
    state: Mutex<State>,
}

impl Session {
    /// Makes a session and the thread of its engine.
    pub(crate) fn start(
        id: String,
        source: Source,
        parameters: Parameters,
        studio: &Arc<Studio>,
        metrics: &Arc<Metrics>,
    ) -> Result<(Arc<Self>, JoinHandle<()>), EngineError> {
        let (painter, hot) = make(studio, &parameters)?;
        let session = Arc::new(Self {
            id,
            source,
            audience: Audience::default(),
            ending: Notify::new(),
            studio: Arc::clone(studio),
            metrics: Arc::clone(metrics),
            clock: MonotonicClock::start(),
            inbox: Mailbox::new(),
            outbox: if source == Source::Page { Outbox::default() } else { Outbox::unread() },
            counts: Counts::default(),
            newest: Mutex::default(),
            next: Mailbox::new(),
            is_making_thumbnails: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            state: Mutex::new(State { parameters, hot, meanwhile: None, version: 0 }),
        });
        let theirs = Arc::clone(&session);
        let thread = spawn("painter", move || crate::painting::paint(&theirs, painter))?;
        Ok((session, thread))
    }

    /// Ends the engine's thread after the frame that it works on.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.inbox.close();
        self.next.close();
    }

    /// Takes a frame, in place of one that still waits.
    pub(crate) fn frame(&self, header: Header, pixels: Pixels) {
        self.counts.frames_in.fetch_add(1, Ordering::Relaxed);
        self.metrics.frames_in.inc();
        let frame = Frame { header, pixels, arrived: self.clock.now() };
        if let Some(old) = self.inbox.put(frame) {
            self.drop_frame(old.header);
        }
    }

    /// Says that a frame leaves without a picture.
    pub(crate) fn drop_frame(&self, header: Header) {
        self.count_drop();
        let header = Header { kind: crate::message::Kind::Dropped, ..header };
        self.outbox.note(Note::Binary(header.message(&[])));
    }

    pub(crate) fn count_drop(&self) {
        self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        self.metrics.frames_dropped.inc();
    }

    /// All parameters as text.
    pub(crate) fn values(&self) -> Values {
        shown(&self.lock().parameters)
    }

    /// The ends of the prompt and of the negative prompt that the model has no room for.
    pub(crate) fn unused(&self) -> [String; 2] {
        let settings = self.lock().hot.control.load();
        [&settings.prompts.prompt, &settings.prompts.negative].map(|prompt| prompt.unused.clone())
    }

    /// Rises with every change of parameters or size.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Size of the pictures that leave now.
    pub(crate) fn size(&self) -> Size {
        self.lock().hot.size
    }

    /// Changes parameters, all of them or, if one may not be, none. They take effect at a frame boundary; another size
    /// when its engine is ready, while the stream goes on.
    pub(crate) fn set(self: &Arc<Self>, values: &Values) -> Result<(), Refusal> {
        let mut state = self.lock();
        let parameters = self.studio.changed(&state.parameters, values)?;
        let is_resized = self.studio.size_of(&parameters) != self.studio.size_of(&state.parameters);
        for (name, text) in values.iter().filter(|(name, _)| *name != SIZE) {
            state.hot.tuner.handle().set(name, text).map_err(Refusal::bare)?;
        }
        if let Some(meanwhile) = &mut state.meanwhile {
            meanwhile.extend(values.iter().map(|(name, text)| (name.clone(), text.clone())));
        }
        state.parameters = parameters;
        state.version += 1;
        if is_resized && state.meanwhile.is_none() {
            state.meanwhile = Some(Values::new());
            let parameters = state.parameters.clone();
            drop(state);
            self.resize(parameters);
        }
        Ok(())
    }

    /// Does what a visitor asks for and tells him what is refused, with what stays in force: all, or with `each` only
    /// what may not be.
    pub(crate) fn change(self: &Arc<Self>, values: &Values, each: bool) {
        let Err(refusal) = self.set(values) else { return };
        let (names, refusals): (Vec<&String>, Vec<Refusal>) =
            if each { self.set_each(values).into_iter().unzip() } else { (values.keys().collect(), vec![refusal]) };
        if names.is_empty() {
            return;
        }
        let now = self.values();
        let refused = names.into_iter().map(|name| (name.clone(), now.get(&name.replace('_', "-")).cloned()));
        self.refuse(Refusal::joined(&refusals), refused.collect());
    }

    /// Changes each of them by itself, and gives those that may not be.
    fn set_each<'a>(self: &Arc<Self>, values: &'a Values) -> Vec<(&'a String, Refusal)> {
        // Whoever invents a thousand names is not heard a thousand times.
        let is_known = |name: &str| spec(name).is_some() || name == STRENGTH;
        let (mut rest, unknown): (Vec<_>, Vec<_>) = values.iter().partition(|(name, _)| is_known(name));
        let mut refused = Vec::new();
        // Again while that helps: one may be refused only until another is set, as a short table is until its step is lower.
        loop {
            let before = rest.len();
            refused.clear();
            rest.retain(|&(name, text)| match self.set(&Values::from([(name.clone(), text.clone())])) {
                Ok(()) => false,
                Err(refusal) => {
                    refused.push((name, refusal));
                    true
                }
            });
            if rest.is_empty() || rest.len() == before {
                break;
            }
        }
        let what = |name: &String| Refusal::bare(format!("there is no parameter {name:?}"));
        refused.extend(unknown.into_iter().map(|(name, _)| (name, what(name))));
        refused
    }

    /// Takes a preset.
    pub(crate) fn take_preset(self: &Arc<Self>, name: &str) -> Result<(), Refusal> {
        self.set(&self.studio.preset_values(name)?)
    }

    /// Makes an engine for the parameters' size beside the one that runs.
    fn resize(self: &Arc<Self>, parameters: Parameters) {
        let session = Arc::clone(self);
        let build = move || match make(&session.studio, &parameters).and_then(|(mut painter, hot)| {
            painter.warm_up(hot.size, &parameters, false)?;
            Ok((painter, hot))
        }) {
            Ok(made) => drop(session.next.put(made)),
            Err(error) => session.keep_size(error),
        };
        if let Err(error) = spawn("next painter", build) {
            self.keep_size(error);
        }
    }

    /// The size stays what it was.
    fn keep_size(&self, error: EngineError) {
        let Refusal { what, hint } = error.into();
        let mut state = self.lock();
        state.parameters.size = Some(state.hot.size);
        state.meanwhile = None;
        state.version += 1;
        let size = state.hot.size.to_string();
        drop(state);
        let refusal = Refusal { what: format!("the size stays: {what}"), hint };
        self.refuse(refusal, BTreeMap::from([(SIZE.to_owned(), Some(size))]));
    }

    /// The engine's thread took over an engine for another size.
    pub(crate) fn resized(self: &Arc<Self>, hot: Hot) {
        let mut state = self.lock();
        let old = std::mem::replace(&mut state.hot, hot);
        state.version += 1;
        let meanwhile = state.meanwhile.take().unwrap_or_default();
        for (name, text) in meanwhile.iter().filter(|(name, _)| *name != SIZE) {
            // It was accepted before.
            let _ = state.hot.tuner.handle().set(name, text);
        }
        let wanted = state.parameters.clone();
        let again = self.studio.size_of(&wanted) != state.hot.size;
        if again {
            state.meanwhile = Some(Values::new());
        }
        drop(state);
        // Ending the old tuner may wait for a prompt that it encodes: not under the lock.
        drop(old);
        if again {
            self.resize(wanted);
        }
    }

    /// Tells the visitor.
    pub(crate) fn complain(&self, refusal: Refusal) {
        self.refuse(refusal, BTreeMap::new());
    }

    /// The same, with the parameters that it is about and what is in force of them.
    fn refuse(&self, Refusal { what: message, hint }: Refusal, refused: BTreeMap<String, Option<String>>) {
        tracing::warn!(session = self.id, message, "told a visitor");
        self.say(&Reply::Error { message, hint, refused });
    }

    pub(crate) fn say(&self, reply: &Reply<'_>) {
        // Our own types: this cannot fail.
        if let Ok(text) = serde_json::to_string(reply) {
            self.outbox.note(Note::Text(text));
        }
    }

    /// How it does, with rates since the counts `before`, `seconds` ago.
    pub(crate) fn numbers(&self, before: &mut Marks, seconds: f64) -> Numbers {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        let now = Marks {
            frames_out: read(&counts.frames_out),
            engine_ns: read(&counts.engine_ns),
            wait_ns: read(&counts.wait_ns),
            steps: read(&counts.steps),
        };
        let steps = (now.steps - before.steps).max(1) as f64;
        let numbers = Numbers {
            fps: (now.frames_out - before.frames_out) as f64 / seconds.max(1e-3),
            engine_ms: (now.engine_ns - before.engine_ns) as f64 / steps / 1e6,
            wait_ms: (now.wait_ns - before.wait_ns) as f64 / steps / 1e6,
            frames_in: read(&counts.frames_in),
            frames_out: now.frames_out,
            frames_dropped: read(&counts.dropped),
            frames_skipped: read(&counts.skipped),
        };
        *before = now;
        numbers
    }

    pub(crate) fn newest(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts that rates are made of.
#[derive(Clone, Copy, Default)]
pub(crate) struct Marks {
    frames_out: u64,
    engine_ns: u64,
    wait_ns: u64,
    steps: u64,
}

/// A stream and what changes its settings.
fn make(studio: &Studio, parameters: &Parameters) -> Result<(Painter, Hot), EngineError> {
    let size = studio.size_of(parameters);
    let mut parameters = parameters.clone();
    // The engine refuses changes of a size that it was not made with.
    parameters.size = studio.defaults.size;
    let mut prompts = studio.prompts();
    let control = Control::new(prompts.settings(parameters, size)?);
    let painter = (studio.make_painter)(size, control.clone())?;
    let tuner =
        Tuner::start(prompts, studio.facts.clone(), Sizes::Fixed(size), control.clone(), MonotonicClock::start())?;
    Ok((painter, Hot { tuner, control, size }))
}

pub(crate) fn spawn(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|error| EngineError::Thread { name, what: error.to_string() })
}
