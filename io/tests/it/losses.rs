//! Peers whose packets do not all come through.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gst::prelude::*;

use crate::caller::{Caller, PICTURES, rtp_of};

impl Caller {
    /// What it sends loses one packet, and it does not hear what it is asked: until this is dropped.
    pub(crate) fn lose_one_and_hear_nothing(&self) -> Deaf {
        let pay = self.pipeline.by_name("pay").unwrap().static_pad("src").unwrap();
        let is_lost = AtomicBool::new(false);
        pay.add_probe(gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST, move |_, _| {
            if is_lost.swap(true, Ordering::Relaxed) { gst::PadProbeReturn::Remove } else { gst::PadProbeReturn::Drop }
        });
        let deaf = pay.add_probe(gst::PadProbeType::EVENT_UPSTREAM, |_, info| {
            let asks = info.event().is_some_and(|event| gst_video::ForceKeyUnitEvent::is(event));
            if asks { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
        });
        Deaf { pay, deaf }
    }

    /// One of five packets of its pictures is lost from now on; counts those that it sends again, which are of the type `again`.
    pub(crate) fn lose_many_sent(&self, again: u8) -> Arc<AtomicU64> {
        let (count, repairs) = (AtomicU64::new(1), Arc::new(AtomicU64::new(0)));
        let theirs = Arc::clone(&repairs);
        let payload = |packet: &gst::BufferRef| {
            let mut head = [0; 2];
            packet.copy_to_slice(0, &mut head).unwrap();
            head[1] & 127
        };
        let is_lost = move |packet: &gst::BufferRef| {
            theirs.fetch_add(u64::from(payload(packet) == again), Ordering::Relaxed);
            payload(packet) == PICTURES && count.fetch_add(1, Ordering::Relaxed).is_multiple_of(5)
        };
        rtp_of(&self.peer).static_pad("send_rtp_src_0").unwrap().add_probe(
            gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
            move |_, info| {
                let lost = info.buffer().is_some_and(|packet| is_lost(packet))
                    || info.buffer_list().is_some_and(|packets| packets.iter().map(&is_lost).max() == Some(true));
                if lost { gst::PadProbeReturn::Handled } else { gst::PadProbeReturn::Ok }
            },
        );
        repairs
    }

    /// Loses one of five packets that come, from now on.
    pub(crate) fn lose_many(&self) {
        let count = AtomicU64::new(1);
        rtp_of(&self.peer).static_pad("recv_rtp_sink_0").unwrap().add_probe(
            gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST,
            move |_, _| match count.fetch_add(1, Ordering::Relaxed) % 5 {
                0 => gst::PadProbeReturn::Handled,
                _ => gst::PadProbeReturn::Ok,
            },
        );
    }

    /// How many packets were lost for good, and how many came after they were asked for again.
    pub(crate) fn lost_and_repaired(&self) -> (u64, u64) {
        let peer = self.peer.downcast_ref::<gst::Bin>().unwrap();
        let buffers = peer
            .iterate_recurse()
            .into_iter()
            .flatten()
            .filter(|element| element.factory().is_some_and(|factory| factory.name() == "rtpjitterbuffer"));
        let stats = buffers.map(|buffer| buffer.property::<gst::Structure>("stats"));
        stats.fold((0, 0), |(lost, repaired), stats| {
            let count = |name| stats.get::<u64>(name).unwrap();
            (lost + count("num-lost"), repaired + count("rtx-success-count"))
        })
    }
}

/// See [`Caller::lose_one_and_hear_nothing`].
pub(crate) struct Deaf {
    pay: gst::Pad,
    deaf: Option<gst::PadProbeId>,
}

impl Drop for Deaf {
    fn drop(&mut self) {
        if let Some(deaf) = self.deaf.take() {
            self.pay.remove_probe(deaf);
        }
    }
}
