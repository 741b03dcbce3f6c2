//! Listens to a pipeline's bus and turns what goes wrong into one-line errors.
//!
//! Messages are read in the thread that posts them and dropped there: no thread of our own, and nothing piles up on a
//! bus that nobody reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_utils::sync::Unparker;
use gst::prelude::*;

use crate::error::IoError;
use crate::lock;
use crate::secret::without_secrets;

/// Which way the pictures go, because the same GStreamer error reads differently at either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// A file, URI, device or fragment that is read.
    Input(String),
    /// A file that is written.
    OutputFile(std::path::PathBuf),
    /// A window or fragment.
    Output(String),
}

/// The state of a pipeline as its messages tell it.
pub(crate) struct Monitor {
    side: Side,
    failed: AtomicBool,
    eos: AtomicBool,
    error: Mutex<Option<IoError>>,
    missing: Mutex<Option<String>>,
    corrupt: AtomicU64,
    wake: Mutex<Vec<Unparker>>,
}

impl Monitor {
    /// Not attached to any pipeline yet.
    pub(crate) fn new(side: Side) -> Arc<Self> {
        Arc::new(Self {
            side,
            failed: AtomicBool::new(false),
            eos: AtomicBool::new(false),
            error: Mutex::default(),
            missing: Mutex::default(),
            corrupt: AtomicU64::new(0),
            wake: Mutex::default(),
        })
    }

    /// Reads all of `pipeline`'s messages from now on.
    pub(crate) fn watch(self: &Arc<Self>, pipeline: &gst::Pipeline) {
        let monitor = Arc::downgrade(self);
        if let Some(bus) = pipeline.bus() {
            bus.set_sync_handler(move |_, message| {
                if let Some(monitor) = monitor.upgrade() {
                    monitor.read(message);
                }
                gst::BusSyncReply::Drop
            });
        }
    }

    /// `unparker` is called on errors and at the end of the stream.
    pub(crate) fn wake(&self, unparker: Unparker) {
        lock(&self.wake).push(unparker);
    }

    fn read(&self, message: &gst::Message) {
        match message.view() {
            gst::MessageView::Error(error) => self.fail(self.explain(error)),
            gst::MessageView::Warning(warning) => {
                let text = warning.error();
                let more = without_secrets(&warning.debug().unwrap_or_default());
                tracing::debug!(what = self.what(), "{} ({more})", without_secrets(text.message()));
            }
            gst::MessageView::Eos(_) => {
                self.eos.store(true, Ordering::Release);
                lock(&self.wake).iter().for_each(Unparker::unpark);
            }
            gst::MessageView::Element(_) => {
                if let Ok(missing) = gst_pbutils::MissingPluginMessage::parse(message) {
                    *lock(&self.missing) = Some(missing.description().to_string());
                }
            }
            _ => {}
        }
    }

    /// Records `error`, unless one came before: the first is the cause, the rest are consequences.
    pub(crate) fn fail(&self, error: IoError) {
        let mut first = lock(&self.error);
        if !self.failed.load(Ordering::Relaxed) {
            *first = Some(error);
            self.failed.store(true, Ordering::Release);
        }
        drop(first);
        lock(&self.wake).iter().for_each(Unparker::unpark);
    }

    /// Whether an error came.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Whether the pipeline has come to its end.
    pub(crate) fn ended(&self) -> bool {
        self.eos.load(Ordering::Acquire)
    }

    /// The error that came, if one did. Everyone who asks is told: the thread for sound may ask before the caller.
    pub(crate) fn check(&self) -> Result<(), IoError> {
        if !self.failed() {
            return Ok(());
        }
        lock(&self.error).clone().map_or(Ok(()), Err)
    }

    /// Notes pictures that decoded badly.
    pub(crate) fn count_corrupt(&self, pictures: u64) {
        self.corrupt.fetch_add(pictures, Ordering::Relaxed);
    }

    /// Pictures that decoded badly.
    pub(crate) fn corrupt(&self) -> u64 {
        self.corrupt.load(Ordering::Relaxed)
    }

    /// The input or output as an error names it.
    pub(crate) fn what(&self) -> String {
        match &self.side {
            Side::Input(what) | Side::Output(what) => what.clone(),
            Side::OutputFile(path) => path.display().to_string(),
        }
    }

    /// What an error message means for the user.
    fn explain(&self, message: &gst::message::Error) -> IoError {
        use gst::{CoreError, ResourceError, StreamError};
        let error = message.error();
        let more = without_secrets(&message.debug().unwrap_or_default());
        let said = without_secrets(error.message());
        tracing::debug!(what = self.what(), "{said} ({more})");
        let what = self.what();
        // The first line is GStreamer's sentence; "Internal data stream error." alone says nothing, its reason does.
        let mut detail = said.lines().next().unwrap_or_default().trim_end_matches('.').to_owned();
        if let Some(reason) = more.lines().last().filter(|line| line.contains("reason")) {
            detail = format!("{detail} ({})", reason.trim());
        }
        if let Some(needed) = lock(&self.missing)
            .take()
            .filter(|_| error.matches(StreamError::CodecNotFound) || error.matches(CoreError::MissingPlugin))
        {
            return IoError::MissingPlugin { what, needed };
        }
        match &self.side {
            Side::OutputFile(path) if error.matches(ResourceError::NoSpaceLeft) => {
                IoError::DiskFull { path: path.clone() }
            }
            Side::OutputFile(path) => IoError::Write { path: path.clone(), detail },
            Side::Output(_) if detail.contains("window was closed") => IoError::WindowClosed,
            Side::Input(_) if what.contains("://") && is_from_source(message) => {
                IoError::Unreachable { uri: what, detail }
            }
            Side::Output(_) if what.contains("://") && !what.contains(" ! ") && is_device(&error) => {
                IoError::Unreachable { uri: what, detail }
            }
            Side::Input(_) if error.kind::<StreamError>().is_some() => IoError::Corrupt { what, detail },
            Side::Input(_) | Side::Output(_) if is_device(&error) => IoError::Unavailable { what, detail },
            Side::Input(_) | Side::Output(_) => IoError::Failed { what, detail },
        }
    }
}

/// Whether the element that reads from the network complains, rather than one that takes its bytes apart.
fn is_from_source(message: &gst::message::Error) -> bool {
    let factory = message.src().and_then(|src| src.downcast_ref::<gst::Element>()).and_then(ElementExt::factory);
    factory.is_some_and(|factory| factory.has_type(gst::ElementFactoryType::SRC))
}

/// Whether a resource could not be had at all.
fn is_device(error: &gst::glib::Error) -> bool {
    use gst::ResourceError as R;
    [R::NotFound, R::Busy, R::OpenRead, R::OpenWrite, R::OpenReadWrite].into_iter().any(|kind| error.matches(kind))
}
