//! What the libraries say, to GStreamer's log; and while a model is loaded, what takes long, to the application.

use std::fmt::{self, Write as _};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};

use gst::glib::WeakRef;
use gst::prelude::*;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::properties::without_flags;
use crate::{FILE, LiveDiffusion};

/// The category: `GST_DEBUG=livediffusion:4`.
pub(crate) static CATEGORY: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new("livediffusion", gst::DebugColorFlags::empty(), Some("Live diffusion video filter"))
});

/// Elements that are loading their models.
static LOADING: Mutex<Vec<WeakRef<LiveDiffusion>>> = Mutex::new(Vec::new());

fn loading() -> MutexGuard<'static, Vec<WeakRef<LiveDiffusion>>> {
    LOADING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends what is traced from here on to GStreamer. In a program that this is linked into, the program decides on that.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    if FILE.get().is_none() {
        return;
    }
    ONCE.call_once(|| {
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(ToGStreamer));
    });
}

/// Tells the application that a model is loaded, until it is dropped.
pub(crate) struct Loading(LiveDiffusion);

impl Loading {
    pub(crate) fn begin(element: &LiveDiffusion) -> Self {
        post(element, gst::ProgressType::Start, "loading the model");
        loading().push(element.downgrade());
        Self(element.clone())
    }

    pub(crate) fn end(self, how: Result<(), &str>) {
        let element = self.0.clone();
        // First, for nothing goes on when it is complete.
        drop(self);
        match how {
            Ok(()) => post(&element, gst::ProgressType::Complete, "the model is loaded"),
            Err(what) => post(&element, gst::ProgressType::Error, what),
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        loading().retain(|other| other.upgrade().is_some_and(|other| other != self.0));
    }
}

fn post(element: &LiveDiffusion, kind: gst::ProgressType, text: &str) {
    // Nobody listens: that is fine.
    let _ = element.post_message(gst::message::Progress::builder(kind, "model", text).src(element).build());
}

/// Events of the libraries as lines of GStreamer's log.
struct ToGStreamer;

impl<S: Subscriber> Layer<S> for ToGStreamer {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        is_ours(metadata.target())
            && (*metadata.level() <= Level::WARN || CATEGORY.above_threshold(level(*metadata.level())))
    }

    /// GStreamer's levels change while it runs: it is asked each time.
    fn register_callsite(&self, metadata: &'static tracing::Metadata<'static>) -> Interest {
        if is_ours(metadata.target()) { Interest::sometimes() } else { Interest::never() }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.message + &line.fields;
        gst::log_with_level!(CATEGORY, level(*event.metadata().level()), "{text}");
        if *event.metadata().level() <= Level::WARN {
            let elements: Vec<LiveDiffusion> = loading().iter().filter_map(WeakRef::upgrade).collect();
            let text = without_flags(&text);
            for element in &elements {
                post(element, gst::ProgressType::Continue, &text);
            }
        }
    }
}

/// Whether it is of this project or of ONNX Runtime: what other crates have to say is for their developers.
fn is_ours(target: &str) -> bool {
    target.starts_with("livediffusion") || target.starts_with("ort")
}

fn level(level: Level) -> gst::DebugLevel {
    match level {
        Level::ERROR => gst::DebugLevel::Error,
        Level::WARN => gst::DebugLevel::Warning,
        Level::INFO => gst::DebugLevel::Info,
        Level::DEBUG => gst::DebugLevel::Debug,
        Level::TRACE => gst::DebugLevel::Trace,
    }
}

/// An event's message, and its other fields behind it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
