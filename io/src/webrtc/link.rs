//! Whether a peer is there: what `webrtcbin` says, and what is heard of the other side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;
use gst_webrtc::WebRTCPeerConnectionState as State;
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use super::peer::rtp_of;
use crate::lock;

/// A peer that has not connected by then will not: browsers give up after as long.
const CONNECT: Duration = Duration::from_secs(20);

/// A network that was lost may come back within this.
const LOST: Duration = Duration::from_secs(10);

/// Nothing heard for so long, neither pictures nor reports of them, means that nobody is there: reports come every few seconds.
const SILENCE: Duration = Duration::from_secs(15);

/// What is known of a connection. Written by GStreamer's threads, read by whoever asks.
#[derive(Debug)]
pub(super) struct Link {
    clock: MonotonicClock,
    /// As `webrtcbin` told, and since when.
    state: Mutex<(State, Duration)>,
    /// When something last came from the other side, in nanoseconds.
    heard_ns: AtomicU64,
    /// Why it is over, if a part of ours found out.
    refused: Mutex<Option<String>>,
}

impl Link {
    /// Watches `peer`.
    pub(super) fn watch(peer: &gst::Element) -> Arc<Self> {
        let link = Arc::new(Self {
            clock: MonotonicClock::start(),
            state: Mutex::new((State::New, Duration::ZERO)),
            heard_ns: AtomicU64::new(0),
            refused: Mutex::default(),
        });
        let theirs = Arc::downgrade(&link);
        peer.connect_notify(Some("connection-state"), move |peer, _| {
            if let Some(link) = theirs.upgrade() {
                link.turn(peer.property::<State>("connection-state"));
            }
        });
        // Reports on a stream come whether pictures do or not, and either way.
        let theirs = Arc::downgrade(&link);
        if let Some(rtp) = rtp_of(peer) {
            rtp.connect("on-ssrc-active", false, move |_| {
                if let Some(link) = theirs.upgrade() {
                    link.hear();
                }
                None
            });
        }
        link
    }

    /// Something came from the other side.
    pub(super) fn hear(&self) {
        self.heard_ns.store(self.clock.now().as_nanos() as u64, Ordering::Relaxed);
    }

    /// Ends it for a reason of ours; the first stays.
    pub(super) fn refuse(&self, why: impl Into<String>) {
        lock(&self.refused).get_or_insert_with(|| why.into());
    }

    /// Whether pictures can go over it now.
    pub(super) fn is_connected(&self) -> bool {
        lock(&self.state).0 == State::Connected
    }

    /// Why it is over, if it is.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(why) = lock(&self.refused).clone() {
            return Err(why);
        }
        let now = self.clock.now();
        let (state, since) = *lock(&self.state);
        let heard = Duration::from_nanos(self.heard_ns.load(Ordering::Relaxed)).max(since);
        let lasted = now.saturating_sub(since);
        match state {
            State::Failed => Err("the connection failed".into()),
            State::Closed => Err("the other side has ended it".into()),
            State::Disconnected if lasted >= LOST => Err(format!("the connection was lost for {} s", LOST.as_secs())),
            State::Connected if now.saturating_sub(heard) >= SILENCE => {
                Err(format!("nothing was heard for {} s", SILENCE.as_secs()))
            }
            State::Connected | State::Disconnected => Ok(()),
            _ if now >= CONNECT => Err(format!("no connection came about in {} s", CONNECT.as_secs())),
            _ => Ok(()),
        }
    }

    fn turn(&self, state: State) {
        tracing::debug!(?state, "a peer");
        let mut current = lock(&self.state);
        if current.0 != state {
            *current = (state, self.clock.now());
        }
    }
}
