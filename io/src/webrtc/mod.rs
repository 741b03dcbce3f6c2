//! Pictures over WebRTC: with whoever calls, and with servers that are called.
//!
//! One `webrtcbin` has one peer. Who is called answers an offer ([`Publisher`], [`Viewer`]); who calls makes one and brings it
//! to a server over HTTP, as WHIP and WHEP say (RFC 9725, draft-ietf-wish-whep), for the outputs `whip://` and the inputs
//! `whep://`. Either way a description goes out once its addresses are gathered: nothing is sent after it.

mod asking;
mod audience;
mod call;
mod endpoint;
mod link;
mod peer;
mod publisher;
mod sdp;
mod viewer;

use std::net::IpAddr;

pub use audience::Audience;
pub(crate) use call::Call;
pub(crate) use endpoint::{http_of, is_whep};
pub use publisher::Publisher;
pub(crate) use sdp::Codec;
pub use viewer::Viewer;
pub(crate) use viewer::{encoder, payloader};

/// The number of our pictures in the offers that we make.
pub(crate) const PAYLOAD: u8 = 96;

/// The name of our pictures among the packets of a peer, which gets no others of ours.
pub(crate) const SSRC: u32 = 0x4c44_0001;

/// Which of this machine's addresses peers are told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Only this one; all of them, but those that reach only the machine itself, if `None`.
    pub local: Option<IpAddr>,
    /// A server that tells the address by which this machine is seen: `stun://host:port`.
    pub stun_server: Option<String>,
}

impl Reach {
    /// Of a server that is bound to `address`: what is reached there only is reached by nothing else.
    pub fn bound_to(address: IpAddr, stun_server: Option<String>) -> Self {
        Self { local: Some(address).filter(|address| !address.is_unspecified()), stun_server }
    }
}

/// Whether the elements that WebRTC is made of are installed; the name of one that is not.
pub fn webrtc_missing() -> Option<&'static str> {
    ["webrtcbin", "nicesrc", "nicesink", "dtlssrtpenc", "srtpenc", "rtpbin", "x264enc", "vp8enc"]
        .into_iter()
        .find(|element| !crate::element_available(element))
}
