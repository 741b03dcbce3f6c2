//! A WebRTC peer of the tests' own, as OBS or a browser would be: it makes the offer.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use gst::prelude::*;
use gst_webrtc::{
    WebRTCICE, WebRTCICEGatheringState, WebRTCPeerConnectionState, WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection,
    WebRTCSDPType, WebRTCSessionDescription,
};

/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_mins(1);

/// The payload type of the pictures that it sends.
pub(crate) const PICTURES: u8 = 96;

/// What a caller saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) frames: u64,
    pub(crate) size: (u32, u32),
    /// Mean level of the last picture, 0 to 255.
    pub(crate) mean: f64,
    /// Difference of the last two pictures' levels, on average.
    pub(crate) moved: f64,
}

/// Why there can be no caller here, if so; said aloud.
pub(crate) fn cannot_call() -> bool {
    let missing = livediffusion_io::webrtc_missing();
    if let Some(element) = missing {
        println!(
            "skipped: no element {element} (apt install {})",
            livediffusion_io::package_of(element).unwrap_or("?")
        );
    }
    missing.is_some()
}

/// The part of a peer that speaks RTP.
pub(crate) fn rtp_of(peer: &gst::Element) -> gst::Element {
    peer.downcast_ref::<gst::Bin>().unwrap().by_name("rtpbin").unwrap()
}

pub(crate) struct Caller {
    pub(crate) pipeline: gst::Pipeline,
    pub(crate) peer: gst::Element,
    candidates: Arc<Mutex<Vec<(u32, String)>>>,
    seen: Arc<Mutex<Seen>>,
}

impl Caller {
    /// Sends a moving test picture of 320x240 and a tone. As browsers do, it sends a whole picture when it is asked to.
    pub(crate) fn publish(codec: &str, pattern: &str) -> Self {
        let encode = match codec {
            "H264" => {
                "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=6000 ! video/x-h264,profile=baseline ! rtph264pay name=pay config-interval=-1"
            }
            "VP8" => "vp8enc deadline=1 keyframe-max-dist=6000 ! rtpvp8pay name=pay",
            other => panic!("{other}"),
        };
        let caller = Self::new(&format!(
            "videotestsrc is-live=true pattern={pattern} ! video/x-raw,width=320,height=240,framerate=25/1 ! videoconvert \
             ! {encode} pt={PICTURES} ssrc=1234 \
             ! application/x-rtp,media=video,encoding-name={codec},payload={PICTURES},clock-rate=90000,ssrc=(uint)1234 ! peer. \
             audiotestsrc is-live=true volume=0.1 ! opusenc ! rtpopuspay pt=111 \
             ! application/x-rtp,media=audio,encoding-name=OPUS,payload=111,clock-rate=48000 ! peer. \
             webrtcbin name=peer bundle-policy=max-bundle"
        ));
        let at = |at: i32| caller.peer.emit_by_name::<Option<WebRTCRTPTransceiver>>("get-transceiver", &[&at]);
        (0..).map_while(at).for_each(|transceiver| transceiver.set_property("do-nack", true));
        caller
    }

    /// Watches in one codec.
    pub(crate) fn watch(codec: &str) -> Self {
        let caller = Self::new("webrtcbin name=peer bundle-policy=max-bundle");
        let caps = gst::Caps::builder("application/x-rtp")
            .field("media", "video")
            .field("encoding-name", codec)
            .field("payload", 101_i32)
            .field("clock-rate", 90_000_i32);
        let caps = match codec {
            "H264" => caps.field("packetization-mode", "1").field("profile-level-id", "42e01f").build(),
            _ => caps.build(),
        };
        let direction = WebRTCRTPTransceiverDirection::Recvonly;
        let made: WebRTCRTPTransceiver = caller.peer.emit_by_name("add-transceiver", &[&direction, &caps]);
        made.set_property("do-nack", true);
        let seen = Arc::clone(&caller.seen);
        caller.peer.connect_pad_added(move |peer, pad| {
            let Some(around) = peer.parent().and_downcast::<gst::Bin>() else { return };
            let text = "decodebin name=d ! videoconvert ! video/x-raw,format=GRAY8 ! appsink name=seen sync=false async=false max-buffers=2 drop=true";
            let bin = gst::parse::bin_from_description(text, false).unwrap();
            let entry = bin.by_name("d").unwrap().static_pad("sink").unwrap();
            bin.add_pad(&gst::GhostPad::builder_with_target(&entry).unwrap().name("sink").build()).unwrap();
            let sink = bin.by_name("seen").and_downcast::<gst_app::AppSink>().unwrap();
            let seen = Arc::clone(&seen);
            let last = Mutex::new(Vec::<u8>::new());
            let new_sample = move |sink: &gst_app::AppSink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
                let info = gst_video::VideoInfo::from_caps(sample.caps().unwrap()).unwrap();
                let map = sample.buffer().unwrap().map_readable().unwrap();
                let mean = |levels: &mut dyn Iterator<Item = u8>| {
                    let (sum, count) = levels.fold((0_u64, 0_u64), |(s, n), level| (s + u64::from(level), n + 1));
                    sum as f64 / count.max(1) as f64
                };
                let mut last = last.lock().unwrap();
                let mut seen = seen.lock().unwrap();
                seen.frames += 1;
                seen.size = (info.width(), info.height());
                seen.mean = mean(&mut map.iter().copied());
                seen.moved = mean(&mut map.iter().zip(last.iter()).map(|(a, b)| a.abs_diff(*b)));
                *last = map.to_vec();
                Ok(gst::FlowSuccess::Ok)
            };
            sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
            around.add(&bin).unwrap();
            bin.sync_state_with_parent().unwrap();
            pad.link(&bin.static_pad("sink").unwrap()).unwrap();
        });
        caller
    }

    fn new(text: &str) -> Self {
        gst::init().unwrap();
        let pipeline = gst::Pipeline::new();
        let bin = gst::parse::bin_from_description(text, false).unwrap();
        pipeline.add(&bin).unwrap();
        let peer = pipeline.by_name("peer").unwrap();
        let ice = peer.property::<WebRTCICE>("ice-agent");
        assert!(ice.emit_by_name::<bool>("add-local-ip-address", &[&"127.0.0.1"]));
        if let Some(agent) = ice.property::<Option<gst::glib::Object>>("agent") {
            agent.set_property("upnp", false);
        }
        // As browsers do: what is lost is told of at once, and not once in half a second.
        rtp_of(&peer).downcast_ref::<gst::Bin>().unwrap().connect_element_added(|_, session| {
            if session.factory().is_some_and(|factory| factory.name() == "rtpsession") {
                session.set_property("bandwidth", 8e6);
            }
        });
        let candidates = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&candidates);
        peer.connect("on-ice-candidate", false, move |values| {
            found.lock().unwrap().push((values[1].get::<u32>().unwrap(), values[2].get::<String>().unwrap()));
            None
        });
        Self { pipeline, peer, candidates, seen: Arc::default() }
    }

    fn ask(&self, signal: &str, arguments: &[&dyn ToValue]) -> Option<gst::Structure> {
        let (tell, told) = mpsc::sync_channel(8);
        let promise = gst::Promise::with_change_func(move |reply| {
            let _ = tell.send(reply.unwrap().map(ToOwned::to_owned));
        });
        let mut arguments = arguments.to_vec();
        arguments.push(&promise);
        self.peer.emit_by_name::<()>(signal, &arguments);
        let reply = told.recv_timeout(PATIENCE).unwrap();
        assert!(!reply.as_ref().is_some_and(|reply| reply.has_field("error")), "{signal}: {reply:?}");
        reply
    }

    /// The offer with all addresses.
    pub(crate) fn offer(&self) -> String {
        self.pipeline.set_state(gst::State::Playing).unwrap();
        let reply = self.ask("create-offer", &[&None::<gst::Structure>]).unwrap();
        let offer = reply.get::<WebRTCSessionDescription>("offer").unwrap();
        let (tell, told) = mpsc::sync_channel(8);
        self.peer.connect_notify(Some("ice-gathering-state"), move |peer, _| {
            if peer.property::<WebRTCICEGatheringState>("ice-gathering-state") == WebRTCICEGatheringState::Complete {
                let _ = tell.send(());
            }
        });
        self.ask("set-local-description", &[&offer]);
        told.recv_timeout(PATIENCE).unwrap();
        // One transport for all: its addresses stand with the first stream.
        let found: Vec<String> = self.candidates.lock().unwrap().iter().map(|(_, c)| format!("a={c}\r\n")).collect();
        let text = offer.sdp().as_text().unwrap();
        let (head, streams) = text.split_once("m=").unwrap();
        let first = streams.find("m=").unwrap_or(streams.len());
        [head, "m=", &streams[..first], &found.concat(), &streams[first..]].concat()
    }

    /// Takes what the other side answered.
    pub(crate) fn accept(&self, answer: &str) {
        let sdp = gst_sdp::SDPMessage::parse_buffer(answer.as_bytes()).unwrap();
        self.ask("set-remote-description", &[&WebRTCSessionDescription::new(WebRTCSDPType::Answer, sdp)]);
    }

    pub(crate) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap()
    }

    pub(crate) fn state(&self) -> WebRTCPeerConnectionState {
        self.peer.property("connection-state")
    }

    /// Waits until what was seen is as wanted.
    pub(crate) fn until(&self, what: &str, is_right: impl Fn(Seen) -> bool) -> Seen {
        for _ in 0..PATIENCE.as_millis() / 20 {
            let seen = self.seen();
            if is_right(seen) {
                return seen;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        panic!("{what}: {:?}, {:?}", self.seen(), self.state());
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
