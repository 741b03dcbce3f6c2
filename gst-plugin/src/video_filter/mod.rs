//! The element: frames in, painted frames out, on the thread that brings them.

mod seen;
mod stream;

use std::sync::{Mutex, MutexGuard, PoisonError};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::base_transform::GenerateOutputSuccess;
use gst_base::subclass::prelude::*;
use gst_video::prelude::*;
use gst_video::subclass::prelude::*;
use livediffusion_pipeline::frame::PictureView;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};

use self::seen::Seen;
use self::stream::{domain, size_of, told, wrong};
use crate::LiveDiffusion;
use crate::logs::{self, CATEGORY};
use crate::painting::{Opened, Painting};
use crate::properties::{self, STATS, Wishes};

/// Longest side of a frame: what a parameter takes as a size, too.
const MOST_SIDE: i32 = 8192;

/// See the crate. Who locks several locks `painting` first, then `wishes`, then `seen`. Buffers are pushed and messages posted with
/// neither of the last two: whoever gets them may ask for properties.
#[derive(Default)]
pub struct VideoFilter {
    /// Locked for as long as a frame is painted, or a model is loaded: by the streaming thread, and where that stands still.
    painting: Mutex<Option<Painting>>,
    wishes: Mutex<Wishes>,
    /// What others ask for while frames are painted.
    seen: Mutex<Seen>,
    /// Between the start and the first caps; locked alone.
    opened: Mutex<Option<Opened>>,
}

#[glib::object_subclass]
impl ObjectSubclass for VideoFilter {
    const NAME: &'static str = "LiveDiffusion";
    type Type = LiveDiffusion;
    type ParentType = gst_video::VideoFilter;
}

impl ObjectImpl for VideoFilter {
    fn constructed(&self) {
        self.parent_constructed();
        // Frames that would come too late are passed over before they are painted.
        self.obj().set_qos(true);
    }

    fn properties() -> &'static [glib::ParamSpec] {
        properties::all()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, property: &glib::ParamSpec) {
        let (name, text) = (property.name(), properties::text_of(value));
        let mut wishes = lock(&self.wishes);
        match self.change(&mut wishes, name, &text) {
            Ok(others) => {
                wishes.set(name, &text);
                drop(wishes);
                for other in others {
                    self.obj().notify(&other);
                }
            }
            Err(error) => {
                drop(wishes);
                self.warn(&error);
            }
        }
    }

    fn property(&self, _id: usize, property: &glib::ParamSpec) -> glib::Value {
        if property.name() == STATS {
            return lock(&self.seen).stats().to_value();
        }
        let wishes = lock(&self.wishes);
        let parameters = lock(&self.seen).parameters();
        wishes.value(property, parameters.as_ref())
    }
}

impl GstObjectImpl for VideoFilter {}

impl ElementImpl for VideoFilter {
    fn change_state(&self, transition: gst::StateChange) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::PausedToReady {
            let mut seen = lock(&self.seen);
            seen.stops = true;
            // The streaming thread may be waiting for one that is away, and the change of state for that thread.
            if let Some(servers) = &seen.servers {
                servers.give_up();
            }
        }
        self.parent_change_state(transition)
    }

    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: std::sync::LazyLock<gst::subclass::ElementMetadata> = std::sync::LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Live diffusion",
                "Filter/Effect/Video",
                "Repaints every frame under a prompt with a few-step diffusion model",
                env!("CARGO_PKG_AUTHORS"),
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: std::sync::LazyLock<Vec<gst::PadTemplate>> = std::sync::LazyLock::new(|| {
            let caps = gst_video::VideoCapsBuilder::new()
                .format(gst_video::VideoFormat::Rgb)
                .width_range(1..=MOST_SIDE)
                .height_range(1..=MOST_SIDE)
                .build();
            let template = |name, direction| gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps);
            // Of constant, valid arguments.
            [template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)]
                .into_iter()
                .flatten()
                .collect()
        });
        &TEMPLATES
    }
}

impl BaseTransformImpl for VideoFilter {
    const MODE: gst_base::subclass::BaseTransformMode = gst_base::subclass::BaseTransformMode::NeverInPlace;
    const PASSTHROUGH_ON_SAME_CAPS: bool = false;
    const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

    /// Finds and reads the model: what is wrong with it or with a parameter shows here. Its networks are loaded on the streaming
    /// thread, when the frames' size is known: that can take minutes, for which no application's own thread shall stand still.
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        logs::start();
        let wishes = lock(&self.wishes).clone();
        let opened = Opened::open(&wishes);
        let opened = opened.map_err(|error| {
            let (what, hint) = told(&error);
            gst::error_msg!(domain(&error), ("{what}"), ["{hint}"])
        })?;
        lock(&self.seen).servers = opened.servers();
        *lock(&self.opened) = Some(opened);
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.seen) = Seen::default();
        *lock(&self.opened) = None;
        // Its threads end here, and its networks are freed.
        *lock(&self.painting) = None;
        Ok(())
    }

    fn query(&self, direction: gst::PadDirection, query: &mut gst::QueryRef) -> bool {
        if direction == gst::PadDirection::Src
            && let gst::QueryViewMut::Latency(latency) = query.view_mut()
        {
            let mut upstream = gst::query::Latency::new();
            if !self.obj().sink_pad().peer_query(&mut upstream) {
                return false;
            }
            let (live, least, most) = upstream.result();
            let mut seen = lock(&self.seen);
            // Sources can be exchanged.
            seen.live = live;
            let own = seen.told;
            drop(seen);
            latency.set(live, least.saturating_add(own), most.map(|most| most.saturating_add(own)));
            return true;
        }
        BaseTransformImplExt::parent_query(self, direction, query)
    }

    fn sink_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::FlushStop(_) => self.forget(),
            // The same caps again change nothing.
            gst::EventView::Caps(caps) if self.obj().sink_pad().current_caps().as_deref() == Some(caps.caps()) => {}
            // What came before it goes before it.
            _ if event.is_serialized() => self.drain(),
            _ => {}
        }
        self.parent_sink_event(event)
    }

    fn src_event(&self, event: gst::Event) -> bool {
        match event.view() {
            gst::EventView::Latency(latency) => lock(&self.seen).whole = latency.latency(),
            gst::EventView::Qos(_) => {
                if let Some(now) = self.obj().current_running_time() {
                    lock(&self.seen).deadline.keep(now.into());
                }
            }
            _ => {}
        }
        self.parent_src_event(event)
    }

    fn submit_input_buffer(&self, is_discont: bool, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let submitted = self.parent_submit_input_buffer(is_discont, buffer);
        if submitted == Ok(gst_base::BASE_TRANSFORM_FLOW_DROPPED) {
            lock(&self.seen).dropped += 1;
        }
        submitted
    }

    fn generate_output(&self) -> Result<GenerateOutputSuccess, gst::FlowError> {
        let Some(buffer) = self.take_queued_buffer() else { return Ok(GenerateOutputSuccess::NoOutput) };
        if self.is_missed(&buffer) {
            return Ok(GenerateOutputSuccess::Dropped);
        }
        let mut painting = lock(&self.painting);
        let info = lock(&self.seen).info.clone();
        let (Some(painting), Some(info)) = (painting.as_mut(), info) else { return Err(gst::FlowError::NotNegotiated) };
        let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &info);
        let Ok(frame) = frame else {
            // One of a stream that may be fine again.
            self.warn(&wrong("a frame that is smaller than its caps say"));
            return Ok(GenerateOutputSuccess::Dropped);
        };
        let (Ok(rgb), stride) = (frame.plane_data(0), frame.plane_stride()[0]) else {
            return Err(self.fail(&wrong("a frame without pixels")));
        };
        let Ok(stride) = usize::try_from(stride) else { return Err(self.fail(&wrong("a frame upside down"))) };
        let picture = PictureView { size: size_of(&info), stride, rgb };
        let clock = MonotonicClock::start();
        let stepped = painting.step(&buffer, picture);
        let took = clock.now();
        let (emitted, in_flight) = stepped.map_err(|error| self.fail(&error))?;
        let last = self.send(emitted, in_flight, &info)?;
        self.look_at(painting, Some(took));
        Ok(last.map_or(GenerateOutputSuccess::NoOutput, GenerateOutputSuccess::Buffer))
    }
}

impl VideoFilterImpl for VideoFilter {
    fn set_info(
        &self,
        incaps: &gst::Caps,
        in_info: &gst_video::VideoInfo,
        outcaps: &gst::Caps,
        out_info: &gst_video::VideoInfo,
    ) -> Result<(), gst::LoggableError> {
        self.parent_set_info(incaps, in_info, outcaps, out_info)?;
        let mut painting = lock(&self.painting);
        let size = size_of(in_info);
        let opened = lock(&self.opened).take();
        let done = match (painting.as_mut(), opened) {
            (Some(painting), _) => self.resize(painting, size),
            (None, Some(opened)) => self.load(opened, size).map(|loaded| *painting = Some(loaded)),
            // It failed before and said so; sources try again with other caps.
            (None, None) => return Err(gst::loggable_error!(CATEGORY, "there is no model")),
        };
        if let Err(error) = done {
            // Told here, as what follows says no more than that caps were refused.
            let _ = self.fail(&error);
            return Err(gst::loggable_error!(CATEGORY, "{error}"));
        }
        {
            let mut seen = lock(&self.seen);
            seen.info = Some(in_info.clone());
            let delay = seen.delay;
            seen.pace.warm_up(delay);
        }
        if let Some(painting) = painting.as_ref() {
            self.look_at(painting, None);
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
