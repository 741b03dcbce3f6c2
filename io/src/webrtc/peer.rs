//! `webrtcbin`, and asking it things.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::bounded;
use gst::glib;
use gst::prelude::*;
use gst_sdp::SDPMessage;
use gst_webrtc::{
    WebRTCBundlePolicy, WebRTCICE, WebRTCICEGatheringState, WebRTCRTPTransceiver, WebRTCRTPTransceiverDirection,
    WebRTCSDPType, WebRTCSessionDescription,
};

use super::{Reach, sdp};
use crate::error::IoError;
use crate::{launch, lock};

/// How long `webrtcbin` may take for an answer: it computes, and asks nobody.
const ANSWER: Duration = Duration::from_secs(5);

/// How long addresses are gathered at most: those of this machine are there at once, a STUN server that does not answer is not
/// waited for longer.
const GATHER: Duration = Duration::from_secs(3);

/// Packets that are late are waited for as long, in milliseconds.
const JITTER: u32 = 100;

/// What a session's reports are rationed by, in bits a second: they get a twentieth. A lost packet is told of at once, but not
/// sooner after the last time than the ration allows (RFC 4585, 3.5): with GStreamer's own 64 kbit/s that is half a second,
/// and most losses would be told of when their pictures are long due.
const BANDWIDTH: f64 = 8e6;

/// The part of a `webrtcbin` that speaks RTP.
pub(super) fn rtp_of(peer: &gst::Element) -> Option<gst::Element> {
    peer.dynamic_cast_ref::<gst::Bin>()?.by_name("rtpbin")
}

/// One `webrtcbin`, by what is asked of it. Never asked on a thread of GStreamer's: it answers on its own.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) element: gst::Element,
    found: Arc<Mutex<Vec<(u32, String)>>>,
}

impl Peer {
    /// A new one, that gathers the addresses of `reach`.
    pub(super) fn new(reach: &Reach) -> Result<Self, IoError> {
        let missing = |_| IoError::MissingElement { element: "webrtcbin".into() };
        let element = gst::ElementFactory::make("webrtcbin").name("peer").build().map_err(missing)?;
        Self::around(element, reach)
    }

    /// The one that a pipeline was built with.
    pub(super) fn around(element: gst::Element, reach: &Reach) -> Result<Self, IoError> {
        if !crate::element_available("nicesrc") {
            return Err(IoError::MissingElement { element: "nicesrc".into() });
        }
        element.set_property("bundle-policy", WebRTCBundlePolicy::MaxBundle);
        element.set_property("latency", JITTER);
        if let Some(stun) = &reach.stun_server {
            element.set_property("stun-server", stun);
        }
        let ice = element.property::<WebRTCICE>("ice-agent");
        let agent = ice.has_property("agent").then(|| ice.property::<Option<glib::Object>>("agent")).flatten();
        // It would ask the router for a way in, which is for its owner to open.
        if let Some(agent) = agent.filter(|agent| agent.has_property("upnp")) {
            agent.set_property("upnp", false);
        }
        if let Some(local) = reach.local
            && !ice.emit_by_name::<bool>("add-local-ip-address", &[&local.to_string()])
        {
            return Err(launch::failed("webrtcbin", &format!("{local} is not taken as an address")));
        }
        // A decoder that is too slow must not make packets pile up.
        if let Some(rtp) = rtp_of(&element) {
            rtp.set_property("drop-on-latency", true);
            rtp.connect("element-added", false, |values| {
                let session = values.get(1)?.get::<gst::Element>().ok()?;
                if session.factory().is_some_and(|factory| factory.name() == "rtpsession") {
                    session.set_property("bandwidth", BANDWIDTH);
                }
                None
            });
            // Of streams that come in one, each is treated as the last of them wishes, which may be sound.
            rtp.connect("new-jitterbuffer", false, |values| {
                let buffer = values.get(1)?.get::<gst::Element>().ok()?;
                buffer.set_property("do-retransmission", true);
                None
            });
        }
        let found = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&found);
        element.connect("on-ice-candidate", false, move |values| {
            let stream = values.get(1).and_then(|value| value.get::<u32>().ok());
            let candidate = values.get(2).and_then(|value| value.get::<String>().ok());
            if let Some(found) = stream.zip(candidate) {
                lock(&theirs).push(found);
            }
            None
        });
        Ok(Self { element, found })
    }

    /// Expects a stream of `caps`.
    pub(super) fn expect(&self, caps: &gst::Caps) {
        let direction = WebRTCRTPTransceiverDirection::Recvonly;
        let transceiver: WebRTCRTPTransceiver = self.element.emit_by_name("add-transceiver", &[&direction, caps]);
        // Lost packets are asked for again.
        transceiver.set_property("do-nack", true);
    }

    /// Answers `offer`: the description to send back, with addresses. Called once its pipeline runs.
    pub(super) fn answer(&self, offer: &str) -> Result<String, IoError> {
        self.set_remote(WebRTCSDPType::Offer, offer)?;
        let answer = self.describe("answer")?;
        self.gather(&answer)
    }

    /// Makes an offer: the description to send, with addresses. Called once its pipeline runs.
    pub(super) fn offer(&self) -> Result<String, IoError> {
        let offer = self.describe("offer")?;
        self.gather(&offer)
    }

    /// Takes what came back for an offer.
    pub(super) fn take_answer(&self, answer: &str) -> Result<(), IoError> {
        sdp::check(answer)?;
        self.set_remote(WebRTCSDPType::Answer, answer)
    }

    /// Its streams.
    pub(super) fn transceivers(&self) -> impl Iterator<Item = WebRTCRTPTransceiver> {
        let at = |at: i32| self.element.emit_by_name::<Option<WebRTCRTPTransceiver>>("get-transceiver", &[&at]);
        (0..).map_while(at)
    }

    fn set_remote(&self, kind: WebRTCSDPType, text: &str) -> Result<(), IoError> {
        let bad = |detail: String| IoError::BadDescription { detail };
        let message = SDPMessage::parse_buffer(text.as_bytes()).map_err(|e| bad(e.message.to_string()))?;
        let description = WebRTCSessionDescription::new(kind, message);
        Self::ask("set-remote-description", |promise| {
            self.element.emit_by_name::<()>("set-remote-description", &[&description, &promise]);
        })
        .map(drop)
        .map_err(bad)
    }

    fn describe(&self, what: &str) -> Result<WebRTCSessionDescription, IoError> {
        let signal = format!("create-{what}");
        let failed = |detail: String| launch::failed("webrtcbin", &detail);
        let reply = Self::ask(&signal, |promise| {
            self.element.emit_by_name::<()>(&signal, &[&None::<gst::Structure>, &promise]);
        });
        let reply = reply.map_err(failed)?;
        let made = reply.and_then(|reply| reply.get::<WebRTCSessionDescription>(what).ok());
        made.ok_or_else(|| failed(format!("it made no {what}")))
    }

    /// Makes a description ours and waits for its addresses.
    fn gather(&self, description: &WebRTCSessionDescription) -> Result<String, IoError> {
        let failed = |detail: &dyn std::fmt::Display| launch::failed("webrtcbin", detail);
        let (tell, told) = bounded(1);
        let id = self.element.connect_notify(Some("ice-gathering-state"), move |element, _| {
            if element.property::<WebRTCICEGatheringState>("ice-gathering-state") == WebRTCICEGatheringState::Complete {
                let _ = tell.try_send(());
            }
        });
        let set = Self::ask("set-local-description", |promise| {
            self.element.emit_by_name::<()>("set-local-description", &[description, &promise]);
        });
        let in_time = set.is_ok() && told.recv_timeout(GATHER).is_ok();
        self.element.disconnect(id);
        set.map_err(|detail| failed(&detail))?;
        let local = self.element.property::<Option<WebRTCSessionDescription>>("local-description");
        let text = local.as_ref().unwrap_or(description).sdp().as_text().map_err(|e| failed(&e))?;
        let found = lock(&self.found).clone();
        if found.is_empty() {
            return Err(failed(&"no address of this machine was found"));
        }
        if !in_time {
            tracing::debug!("gathering addresses took too long: there are {}", found.len());
        }
        Ok(sdp::with_candidates(&text, &found))
    }

    /// Waits for the reply to what `emit` asks.
    fn ask(what: &str, emit: impl FnOnce(gst::Promise)) -> Result<Option<gst::Structure>, String> {
        let (tell, told) = bounded(1);
        let promise = gst::Promise::with_change_func(move |reply| {
            let reply = match reply {
                Ok(reply) => Ok(reply.map(ToOwned::to_owned)),
                Err(error) => Err(format!("{error:?}")),
            };
            let _ = tell.try_send(reply);
        });
        emit(promise);
        let reply = told.recv_timeout(ANSWER).map_err(|_| format!("{what} was not answered"))?;
        let reply = reply.map_err(|error| format!("{what}: {error}"))?;
        match reply.as_ref().and_then(|reply| reply.get::<glib::Error>("error").ok()) {
            Some(error) => Err(error.message().lines().next().unwrap_or_default().to_owned()),
            None => Ok(reply),
        }
    }
}
