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
use livediffusion_session::SessionError;

use super::{VideoFilter, lock};
use crate::freshness::Freshness;
use crate::in_flight::InFlight;
use crate::logs::{CATEGORY, Loading};
use crate::painting::{Opened, Painting};
use crate::properties::{self, PRESET, SIZE, Wishes, is_hot};

impl VideoFilter {
    /// Loads what was opened, and begins a stream.
    pub(super) fn load(&self, opened: Opened, size: Size) -> Result<Painting, SessionError> {
        let mut upstream = gst::query::Latency::new();
        let live = self.obj().sink_pad().peer_query(&mut upstream) && upstream.result().0;
        let loading = Loading::begin(&self.obj());
        let loaded = opened.load(size, live);
        loading.end(loaded.as_ref().map(drop).map_err(|error| error.what.as_str()));
        let mut loaded = loaded?;
        // Held until the stream takes changes itself, so that none of them is lost between.
        let wishes = lock(&self.wishes);
        let refused = loaded.refresh(&wishes).err();
        let painting = Painting::begin(loaded, size)?;
        {
            let mut seen = lock(&self.seen);
            seen.handles = Some(painting.handles());
            seen.running = Some(painting.running.clone());
            seen.fitting = Some(painting.fitting());
            seen.follows = wishes.follows();
            seen.live = live;
        }
        // Nothing is told while others would wait for what they ask because of that.
        drop(wishes);
        gst::info!(CATEGORY, imp = self, "{:?}, live {live}", painting.running);
        if let Some(error) = refused {
            let (what, hint) = told(&error);
            gst::element_imp_warning!(self, domain(&error), ("{what}"), ["{hint}"]);
        }
        Ok(painting)
    }

    /// The next frame can come.
    pub(super) fn is_done(&self) {
        let now = self.obj().current_running_time();
        let mut seen = lock(&self.seen);
        if let Some(now) = now.filter(|_| seen.live) {
            seen.freshness.done(now.into());
        }
    }

    /// Whether a frame of a live source is too old to be painted. That it is passed over is counted.
    pub(super) fn is_stale(&self, buffer: &gst::BufferRef) -> bool {
        let (Some(now), Some(pts)) = (self.obj().current_running_time(), buffer.pts()) else { return false };
        let segment = self.obj().segment();
        let Some(time) = segment.downcast_ref::<gst::ClockTime>().and_then(|segment| segment.to_running_time(pts))
        else {
            return false;
        };
        let late =
            i64::try_from(now.nseconds()).unwrap_or(i64::MAX) - i64::try_from(time.nseconds()).unwrap_or(i64::MAX);
        let mut seen = lock(&self.seen);
        let (frame, room) = (Duration::from(seen.frame()), seen.room());
        let stale = seen.live && seen.freshness.is_stale(now.into(), late, frame, room);
        if stale {
            seen.dropped += 1;
            seen.freshness.done(now.into());
        }
        let expected = seen.pace.expected();
        drop(seen);
        gst::debug!(
            CATEGORY,
            imp = self,
            "frame {pts}: {late} ns late, {room:?}, {expected:?} expected; passed over: {stale}"
        );
        stale
    }

    /// Hands a change to a stream that runs. What cannot change there waits for the next start, as all does before the first.
    pub(super) fn change(&self, wishes: &mut Wishes, name: &str, text: &str) -> Result<(), String> {
        let mut seen = lock(&self.seen);
        let Some((tuning, _)) = seen.handles.clone() else { return Ok(()) };
        if name == PRESET {
            if text.is_empty() {
                return Ok(());
            }
            tuning.set(PRESET, text)?;
            // The newest wins, and is what is read back.
            let preset = find_preset(tuning.presets(), |preset| &preset.name, text);
            wishes.forget(preset.into_iter().flat_map(|preset| &preset.values).map(|(name, _)| name));
        } else if name == SIZE {
            let follows = properties::is_auto(text);
            let fitting = seen.fitting.filter(|_| follows).map(|size| size.to_string());
            tuning.set(SIZE, fitting.as_deref().unwrap_or(text))?;
            seen.follows = follows;
        } else if spec(name).is_some_and(is_hot) {
            tuning.set(name, text)?;
        } else {
            gst::info!(CATEGORY, imp = self, "{name} changes at the next start");
        }
        Ok(())
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
        lock(&self.seen).freshness = Freshness::default();
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
        seen.counts = painting.counts();
        seen.delay = delay;
        if let Some(took) = took {
            seen.pace.took(took);
            if let Some(now) = now {
                seen.freshness.painted(now.into());
            }
        }
        seen.told = seen.latency();
        if seen.live && seen.told != before {
            drop(seen);
            let obj = self.obj();
            // Nobody listens: then nobody waits for pictures either.
            let _ = obj.post_message(gst::message::Latency::builder().src(&*obj).build());
        }
    }

    /// Tells the application.
    pub(super) fn fail(&self, error: &SessionError) -> gst::FlowError {
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
