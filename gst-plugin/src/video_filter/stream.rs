//! What the element does with frames: the model is loaded, pictures are sent on, others are told.

use std::time::Duration;

use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::{InputBuffer, PrepareOutputBufferSuccess};
use gst_base::subclass::prelude::*;
use gst_video::prelude::*;
use livediffusion_onnx::ErrorKind;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::spec;
use livediffusion_pipeline::{Emitted, find_preset};
use livediffusion_session::{SessionError, preset_hint};

use super::{VideoFilter, lock};
use crate::deadline::Deadline;
use crate::in_flight::InFlight;
use crate::logs::{CATEGORY, Loading};
use crate::painting::{Opened, Painting};
use crate::properties::{self, PRESET, SIZE, Wishes, is_hot, is_hot_name};

impl VideoFilter {
    /// Loads what was opened, and begins a stream.
    pub(super) fn load(&self, opened: Opened, size: Size) -> Result<Painting, SessionError> {
        let loading = Loading::begin(&self.obj());
        let loaded = opened.load(size);
        loading.end(loaded.as_ref().map(drop).map_err(|error| error.what.as_str()));
        let mut loaded = loaded?;
        let (mut refused, before) = {
            let mut wishes = lock(&self.wishes);
            (loaded.refresh(&mut wishes), wishes.clone())
        };
        let painting = Painting::begin(loaded, size)?;
        {
            // Held until the stream takes changes itself, so that none of them is lost between.
            let mut wishes = lock(&self.wishes);
            {
                let mut seen = lock(&self.seen);
                seen.handles = Some(painting.handles());
                seen.running = Some(painting.running.clone());
                seen.fitting = Some(painting.fitting());
                seen.follows = before.follows();
            }
            for (name, text) in wishes.set_since(&before) {
                match self.change(&mut wishes, &name, &text) {
                    // Again, as a preset before it may have made it forgotten.
                    Ok(_) => wishes.set(&name, &text),
                    Err(error) => {
                        wishes.restore(&name, &before);
                        refused.push(error);
                    }
                }
            }
        }
        gst::info!(CATEGORY, imp = self, "{:?}", painting.running);
        // Told when nobody waits for us any more who asks because of that.
        for error in &refused {
            self.warn(error);
        }
        Ok(painting)
    }

    /// Tells the application of what changes nothing.
    pub(super) fn warn(&self, error: &SessionError) {
        let (what, hint) = told(error);
        gst::element_imp_warning!(self, domain(error), ("{what}"), ["{hint}"]);
    }

    /// Whether a frame is passed over, as its picture could not be shown any more. It is counted.
    pub(super) fn is_missed(&self, buffer: &gst::BufferRef) -> bool {
        let obj = self.obj();
        let segment = obj.segment();
        let segment = segment.downcast_ref::<gst::ClockTime>();
        let time = segment.zip(buffer.pts()).and_then(|(segment, pts)| segment.to_running_time(pts));
        let (Some(now), Some(time)) = (obj.current_running_time().filter(|_| obj.is_qos()), time) else { return false };
        let mut seen = lock(&self.seen);
        let (latency, work) = (seen.whole, seen.work());
        let is_missed = seen.deadline.is_missed(now.into(), time.into(), latency.into(), work);
        seen.dropped += u64::from(is_missed);
        drop(seen);
        gst::debug!(
            CATEGORY,
            imp = self,
            "frame of {time} at {now}: due {latency} later, takes {work:?}; passed over: {is_missed}"
        );
        is_missed
    }

    /// Hands a change to a stream that runs. What cannot change there waits for the next start, as all does before the first. Gives
    /// the properties that are others with it.
    pub(super) fn change(&self, wishes: &mut Wishes, name: &str, text: &str) -> Result<Vec<String>, SessionError> {
        let mut seen = lock(&self.seen);
        let (fitting, mut follows) = (seen.fitting, seen.follows);
        let Some(handles) = seen.handles.as_mut() else { return Ok(Vec::new()) };
        let mut others = Vec::new();
        if name == PRESET && !text.is_empty() {
            let presets = handles.tuning.presets();
            let Some(preset) = find_preset(presets, |preset| &preset.name, text) else {
                let hint = preset_hint(presets.iter().map(|preset| preset.name.as_str()));
                return Err(SessionError::invalid(format!("there is no preset {text:?}"), hint));
            };
            let values = preset.values.clone();
            // Networks of another size are not asked for by a name.
            let hot = values.iter().filter(|(name, _)| is_hot_name(name) && name != SIZE);
            let hot: Vec<(&str, &str)> = hot.map(|(name, text)| (name.as_str(), text.as_str())).collect();
            handles.set(&hot)?;
            // The newest wins, and is what is read back.
            for (name, _) in hot {
                wishes.forget(name);
                others.push(name.to_owned());
            }
        } else if name == SIZE {
            follows = properties::is_auto(text);
            let fitting = fitting.filter(|_| follows).map(|size| size.to_string());
            handles.set(&[(SIZE, fitting.as_deref().unwrap_or(text))])?;
        } else if spec(name).is_some_and(is_hot) {
            handles.set(&[(name, text)])?;
        }
        seen.follows = follows;
        Ok(others)
    }

    /// Frames of another size from here on.
    pub(super) fn resize(&self, painting: &mut Painting, size: Size) -> Result<(), SessionError> {
        painting.resize(size)?;
        let fitting = painting.fitting();
        let mut seen = lock(&self.seen);
        seen.fitting = Some(fitting);
        // The stream goes on at the size of before, and follows when the networks are ready for the new one.
        let follows = seen.follows;
        match &mut seen.handles {
            Some(handles) if follows => handles.set(&[(SIZE, &fitting.to_string())]),
            _ => Ok(()),
        }
    }

    /// Sends the pictures of the frames in flight. The next frame finds the stream batch empty.
    pub(super) fn drain(&self) {
        let mut painting = lock(&self.painting);
        let Some(painting) = painting.as_mut().filter(|painting| !painting.in_flight.is_empty()) else { return };
        let Some(info) = lock(&self.seen).info.clone() else { return };
        let sent = match painting.flush() {
            Ok((emitted, in_flight)) => {
                let last = self.send(emitted, in_flight, &info);
                last.and_then(|last| last.map_or(Ok(gst::FlowSuccess::Ok), |last| self.obj().src_pad().push(last)))
            }
            Err(error) => Err(self.fail(&error.into())),
        };
        painting.in_flight.clear();
        if let Err(error) = sent {
            gst::info!(CATEGORY, imp = self, "frames in flight were not sent: {error}");
        }
        self.look_at(painting, None);
    }

    /// Forgets the frames in flight.
    pub(super) fn forget(&self) {
        if let Some(painting) = lock(&self.painting).as_mut() {
            if let Err(error) = painting.flush() {
                gst::warning!(CATEGORY, imp = self, "{error}");
            }
            painting.in_flight.clear();
        }
        // Times begin anew.
        lock(&self.seen).deadline = Deadline::default();
    }

    /// Sends pictures but for the last, which it gives.
    pub(super) fn send(
        &self,
        emitted: Emitted<'_>,
        in_flight: &mut InFlight,
        info: &gst_video::VideoInfo,
    ) -> Result<Option<gst::Buffer>, gst::FlowError> {
        let mut last = None;
        for picture in emitted.iter() {
            let Some(frame) = in_flight.leave(picture.meta.id) else { continue };
            // One after the other: the buffers that are drawn from may be few.
            if let Some(before) = last.take() {
                self.obj().src_pad().push(before)?;
            }
            last = Some(self.painted(&frame, picture.rgb, info)?);
        }
        Ok(last)
    }

    /// A buffer with a picture, and all that is known of the frame that it was painted over.
    pub(super) fn painted(
        &self,
        frame: &gst::BufferRef,
        rgb: &[u8],
        info: &gst_video::VideoInfo,
    ) -> Result<gst::Buffer, gst::FlowError> {
        let prepared = self.parent_prepare_output_buffer(InputBuffer::Readable(frame))?;
        let PrepareOutputBufferSuccess::Buffer(mut buffer) = prepared else { return Err(gst::FlowError::NotSupported) };
        let target = buffer.make_mut();
        let written = gst_video::VideoFrameRef::from_buffer_ref_writable(target, info);
        let mut written = written.map_err(|_| self.fail(&wrong("a picture that cannot be written")))?;
        let row = 3 * info.width() as usize;
        let stride = usize::try_from(written.plane_stride()[0]).unwrap_or(row);
        let pixels = written.plane_data_mut(0).map_err(|_| self.fail(&wrong("a picture without pixels")))?;
        for (to, from) in pixels.chunks_mut(stride).zip(rgb.chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        drop(written);
        Ok(buffer)
    }

    /// Notes what is to be seen of it, after a frame that took so long. That pictures come later or sooner is told to the pipeline.
    pub(super) fn look_at(&self, painting: &Painting, took: Option<Duration>) {
        let (delay, now) = (painting.delay(), self.obj().current_running_time());
        let mut seen = lock(&self.seen);
        let before = seen.told;
        let [.., skipped, failed] = seen.counts;
        (seen.counts, seen.network) = (painting.counts(), Some(painting.network()));
        if std::mem::replace(&mut seen.delay, delay) != delay {
            seen.pace.warm_up(delay);
        }
        if let Some(now) = now.filter(|_| took.is_some()) {
            seen.deadline.painted(now.into());
        }
        // What was not worked on says nothing of how long that takes.
        let [.., now_skipped, now_failed] = seen.counts;
        if let Some(took) = took.filter(|_| (now_skipped, now_failed) == (skipped, failed)) {
            seen.pace.took(took, painting.group());
        }
        seen.told = seen.latency();
        if seen.live && seen.told != before {
            drop(seen);
            let obj = self.obj();
            // Nobody listens: then nobody waits for pictures either.
            let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
        }
    }

    /// Tells the application, unless it has stopped the element.
    pub(super) fn fail(&self, error: &SessionError) -> gst::FlowError {
        if lock(&self.seen).stops {
            return gst::FlowError::Flushing;
        }
        let (what, hint) = told(error);
        gst::element_imp_error!(self, domain(error), ("{what}"), ["{hint}"]);
        gst::FlowError::Error
    }
}

pub(super) fn domain(error: &SessionError) -> gst::ResourceError {
    match error.kind {
        ErrorKind::Invalid => gst::ResourceError::Settings,
        ErrorKind::Missing => gst::ResourceError::NotFound,
        ErrorKind::Failed => gst::ResourceError::Failed,
    }
}

/// What went wrong, and what to do about it, in words that have properties where a command line has flags.
pub(super) fn told(error: &SessionError) -> (String, String) {
    let general = "GST_DEBUG=livediffusion:4 says what led to it; livediffusion doctor, what is missing";
    (properties::without_flags(&error.what), properties::without_flags(error.hint.as_deref().unwrap_or(general)))
}

/// Something that cannot be, in a pipeline that keeps GStreamer's rules.
pub(super) fn wrong(what: &str) -> SessionError {
    SessionError::new(ErrorKind::Failed, what)
}

pub(super) fn size_of(info: &gst_video::VideoInfo) -> Size {
    Size::new(info.width() as usize, info.height() as usize)
}
