//! Calling a server, as outputs (WHIP) and inputs (WHEP) do.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gst_webrtc::WebRTCRTPTransceiverDirection as Direction;
use ureq::http::Uri;

use super::endpoint::Endpoint;
use super::link::Link;
use super::peer::Peer;
use super::publisher::join;
use super::sdp::{self, Chosen, Codec};
use super::{PAYLOAD, Reach};
use crate::error::IoError;
use crate::monitor::Monitor;
use crate::secret::without_secrets;
use crate::{launch, lock};

/// How H.264 is told of in offers: constrained baseline, level 3.1 and, as asymmetry is allowed, whatever each side sends.
const BASELINE: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

/// A call to a server, from before its pipeline runs until this is dropped, which tells the server so.
pub(crate) struct Call {
    link: Arc<Link>,
    address: String,
    state: Arc<Mutex<State>>,
    peer: Peer,
    monitor: Arc<Monitor>,
}

#[derive(Default)]
struct State {
    /// What the server made of the call, and where.
    resource: Option<(Arc<Endpoint>, Uri)>,
    is_over: bool,
}

impl Call {
    /// Gets `peer` ready to send its only stream to `address`.
    pub(crate) fn to_send(peer: gst::Element, address: &str, monitor: &Arc<Monitor>) -> Result<Self, IoError> {
        let call = Self::new(peer, address, monitor)?;
        for transceiver in call.peer.transceivers() {
            transceiver.set_direction(Direction::Sendonly);
            // The profile is left out here: what the encoder makes may have another level, and would not fit.
            transceiver.set_codec_preferences(Some(&offered(Codec::H264, PAYLOAD).caps_to_send()));
            transceiver.set_property("do-nack", true);
        }
        Ok(call)
    }

    /// Gets `peer` ready to receive pictures from `address`, which go to `entry` in its `pipeline`.
    pub(crate) fn to_receive(
        peer: gst::Element,
        address: &str,
        monitor: &Arc<Monitor>,
        pipeline: &gst::Pipeline,
        entry: &gst::Pad,
    ) -> Result<Self, IoError> {
        let call = Self::new(peer, address, monitor)?;
        join(&call.peer.element, pipeline, entry, &call.link);
        let mut any = offered(Codec::H264, PAYLOAD).caps();
        any.make_mut().iter_mut().for_each(|format| {
            for pair in BASELINE.split(';') {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                format.set(name, value);
            }
        });
        any.merge(offered(Codec::Vp8, PAYLOAD + 1).caps());
        any.merge(offered(Codec::Vp9, PAYLOAD + 2).caps());
        call.peer.expect(&any);
        Ok(call)
    }

    fn new(peer: gst::Element, address: &str, monitor: &Arc<Monitor>) -> Result<Self, IoError> {
        let local = is_alone().then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let peer = Peer::around(peer, &Reach { local, stun_server: None })?;
        let link = Link::watch(&peer.element);
        let (address, monitor) = (address.to_owned(), Arc::clone(monitor));
        Ok(Self { link, address, state: Arc::default(), peer, monitor })
    }

    /// Calls, on a thread of its own, once the pipeline runs. What goes wrong is found by [`check`](Self::check).
    pub(crate) fn place(&self) -> Result<(), IoError> {
        let failed = |e: &dyn std::fmt::Display| launch::failed(&without_secrets(&self.address), e);
        let endpoint = Arc::new(Endpoint::new(&self.address).map_err(|e| failed(&e))?);
        let (peer, state) = (self.peer.clone(), Arc::clone(&self.state));
        let (monitor, address) = (Arc::downgrade(&self.monitor), without_secrets(&self.address));
        let call = move || {
            let answered = peer.offer().map_err(|e| e.to_string()).and_then(|offer| {
                let offer = sdp::with_format(&offer, PAYLOAD, BASELINE);
                let (answer, resource) = endpoint.post(&offer)?;
                if let Some(resource) = resource {
                    let mut state = lock(&state);
                    if state.is_over {
                        drop(state);
                        say_goodbye(&endpoint, &resource);
                        return Ok(());
                    }
                    state.resource = Some((Arc::clone(&endpoint), resource));
                }
                peer.take_answer(&answer).map_err(|e| e.to_string())
            });
            if let (Err(detail), Some(monitor)) = (answered, monitor.upgrade()) {
                monitor.fail(IoError::Unreachable { uri: address, detail });
            }
        };
        std::thread::Builder::new().name("io-calling".into()).spawn(call).map(drop).map_err(|e| failed(&e))
    }

    /// Whether the server is there, or may be yet.
    pub(crate) fn check(&self) -> Result<(), IoError> {
        self.link.check().map_err(|detail| IoError::Unreachable { uri: without_secrets(&self.address), detail })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let resource = {
            let mut state = lock(&self.state);
            state.is_over = true;
            state.resource.take()
        };
        if let Some((endpoint, resource)) = resource {
            say_goodbye(&endpoint, &resource);
        }
    }
}

fn say_goodbye(endpoint: &Endpoint, resource: &Uri) {
    if let Err(error) = endpoint.delete(resource) {
        tracing::debug!("{resource} was not deleted: {error}");
    }
}

/// Whether this machine has no network, and reaches only itself. Nothing is sent to find out: an address that nobody has is
/// looked up in the machine's own table of routes.
fn is_alone() -> bool {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    socket.and_then(|socket| socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))).is_err()
}

/// What an offer of ours has.
fn offered(codec: Codec, payload: u8) -> Chosen {
    Chosen { codec, payload, stream: 0, repair: None }
}
