//! Presets as the visitor's own frame, painted under each of them in the gaps between frames.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::{Control, EngineError};

use crate::message::{Header, Kind};
use crate::outbox::Note;
use crate::picture::jpeg;
use crate::session::{Session, spawn};

/// Pause after each thumbnail: three frames at 30 a second go by, so that the picture does not visibly stutter.
const PAUSE: Duration = Duration::from_millis(100);

/// Begins to make thumbnails, unless some are being made or no frame has come yet.
pub(crate) fn start(session: &Arc<Session>) {
    if session.is_making_thumbnails.swap(true, Ordering::AcqRel) {
        return;
    }
    let theirs = Arc::clone(session);
    let made = spawn("thumbnails", move || {
        if let Err(error) = make(&theirs) {
            tracing::warn!(%error, "no thumbnails");
        }
        theirs.is_making_thumbnails.store(false, Ordering::Release);
    });
    if made.is_err() {
        session.is_making_thumbnails.store(false, Ordering::Release);
    }
}

fn make(session: &Session) -> Result<(), EngineError> {
    let studio = &*session.studio;
    let (input, size) = {
        let newest = session.newest();
        (newest.input.clone(), session.size())
    };
    if input.len() != 3 * size.pixels() {
        return Ok(());
    }
    let mut prompts = studio.prompts();
    let mut stream = None;
    for (place, preset) in studio.presets.iter().enumerate() {
        if session.is_closed.load(Ordering::Relaxed) {
            break;
        }
        let mut parameters = studio.defaults.clone();
        // One frame by itself, whole: no steps of it wait for frames that never come.
        for (name, text) in preset.values().iter().map(|(name, text)| (name.as_str(), text.as_str())).chain(ALONE) {
            if let Err(error) = parameters.set(name, text) {
                tracing::warn!(%error, preset = preset.name, "a preset does not parse");
            }
        }
        parameters.size = studio.defaults.size;
        let settings = prompts.settings(parameters, size)?;
        let (painter, control) = match &mut stream {
            Some(stream) => stream,
            none => {
                let control = Control::new(settings.clone());
                none.insert(((studio.make_painter)(size, control.clone())?, control))
            }
        };
        control.store(settings);
        let meta = FrameMeta { id: place as u64, ..FrameMeta::default() };
        let painted = painter.step(meta, PictureView::packed(size, &input))?;
        if let Some(picture) = painted.iter().last() {
            send(session, place, picture.rgb, size);
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(())
}

/// What a frame needs to leave in the call that it entered with.
const ALONE: [(&str, &str); 4] =
    [("stream-batch", "false"), ("frame-buffer", "1"), ("similarity", "off"), ("target-fps", "off")];

fn send(session: &Session, place: usize, rgb: &[u8], size: Size) {
    match jpeg(rgb, size) {
        Ok(encoded) => {
            let header = Header { kind: Kind::Thumbnail, id: place as u64, time_us: 0 };
            session.outbox.note(Note::Binary(header.message(&encoded)));
        }
        Err(error) => tracing::warn!(error, "no thumbnail"),
    }
}
