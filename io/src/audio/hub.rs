//! One sound, several listeners: each output takes the packets at its own pace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::LOOK_UP;
use crate::lock;

/// Packets that wait for one listener while another goes on: half an hour of any usual codec. A listener that is further
/// behind is stuck, and loses the oldest.
const MOST_WAITING: usize = 100_000;

/// Sources whose sound may wait for that of the one before: pictures that come so much earlier than what becomes of them are of passes of
/// a few frames each.
const MOST_TO_FOLLOW: usize = 4;

/// Where packets come out at the moment. A live source that was lost and came back has another than before.
#[derive(Clone, Debug)]
pub(crate) struct Spring {
    pub(crate) packets: gst_app::AppSink,
    /// Whether the pictures came to their own end.
    pub(crate) ended: Arc<AtomicBool>,
    /// Whether the source was torn down.
    pub(crate) closed: Arc<AtomicBool>,
    /// Added to all times: the source's clock may have begun anew, the stream's goes on.
    pub(crate) shift_ns: i64,
}

/// Where packets come from now, and then.
#[derive(Debug)]
struct Springs {
    now: Spring,
    /// Its number in the order of all of them.
    number: u64,
    /// Where its sound begins: what it has before that is of a time that another's had.
    begins_ns: u64,
    /// What follows, each from a time of the stream on.
    then: VecDeque<(Spring, u64)>,
    /// Where the sound of the last ones ends, as another follows there, by their numbers.
    ends: VecDeque<(u64, u64)>,
}

/// A piece of sound.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) buffer: gst::Buffer,
    /// Its place on the stream's clock.
    pub(super) time_ns: u64,
    /// The number of its spring.
    spring: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    listeners: BTreeMap<u64, VecDeque<Packet>>,
}

/// The sound of a source, still compressed.
#[derive(Debug)]
pub(crate) struct Hub {
    caps: gst::Caps,
    /// Tells the source's pictures to run on without being taken.
    discard_pictures: Arc<AtomicBool>,
    springs: Mutex<Springs>,
    /// Held by the listener that takes the next packet, for all of them.
    taking: Mutex<()>,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    /// Whether the source may come back after its end.
    may_return: AtomicBool,
    /// Whether the pictures go on behind what is the end of their source.
    goes_on: AtomicBool,
}

impl Springs {
    /// Goes on with what follows, if there is something.
    fn go_on(&mut self) -> bool {
        let Some(then) = self.then.pop_front() else { return false };
        (self.now, self.begins_ns) = then;
        self.number += 1;
        true
    }

    /// The same behind the spring `number`, unless that was left meanwhile.
    fn go_on_from(&mut self, number: u64) -> bool {
        if self.number == number { self.go_on() } else { true }
    }
}

/// What a listener got.
pub(super) enum Heard {
    Packet(Packet),
    Nothing,
    Over,
}

impl Hub {
    pub(crate) fn new(spring: Spring, caps: gst::Caps, discard_pictures: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            caps,
            discard_pictures,
            springs: Mutex::new(Springs {
                now: spring,
                number: 0,
                begins_ns: 0,
                then: VecDeque::new(),
                ends: VecDeque::new(),
            }),
            taking: Mutex::default(),
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            may_return: AtomicBool::new(false),
            goes_on: AtomicBool::new(false),
        })
    }

    /// Whether the end of the source is not the end of the sound, as [`replace`](Self::replace) may follow.
    pub(crate) fn expect_return(&self, expected: bool) {
        self.may_return.store(expected, Ordering::Relaxed);
    }

    /// The source came back: its sound comes from `other` now, with `shift_ns` added to its times. Refused if the format
    /// is another one, for what listens was built for this one.
    pub(crate) fn replace(&self, other: &Self, shift_ns: i64) -> bool {
        if self.caps != other.caps {
            return false;
        }
        let now = Spring { shift_ns, ..other.spring() };
        now.packets.set_drop(self.is_unheard());
        let mut springs = lock(&self.springs);
        springs.number += springs.then.len() as u64 + 1;
        springs.then.clear();
        (springs.now, springs.begins_ns) = (now, 0);
        true
    }

    /// The source begins again as `other`, whose sound comes with `shift_ns` added to its times from `from_ns` of the stream on: behind
    /// what the sound until now has before that. Refused as by [`replace`](Self::replace).
    pub(crate) fn follow(&self, other: &Self, shift_ns: i64, from_ns: u64) -> bool {
        if self.caps != other.caps {
            return false;
        }
        let spring = Spring { shift_ns, ..other.spring() };
        let is_unheard = self.is_unheard();
        spring.packets.set_drop(is_unheard);
        let mut springs = lock(&self.springs);
        let last = springs.number + springs.then.len() as u64;
        springs.ends.push_back((last, from_ns));
        if springs.ends.len() > 2 * MOST_TO_FOLLOW {
            springs.ends.pop_front();
        }
        springs.then.push_back((spring, from_ns));
        // Nobody takes what is left of those before.
        let most = if is_unheard { 0 } else { MOST_TO_FOLLOW };
        while springs.then.len() > most {
            springs.go_on();
        }
        true
    }

    /// How many of the sources that [`follow`](Self::follow) named have not begun: as many before the last are needed still.
    pub(crate) fn to_follow(&self) -> usize {
        lock(&self.springs).then.len()
    }

    /// The end of the source is not the end of the pictures: sound that goes on behind it is not wanted.
    pub(crate) fn pictures_go_on(&self) {
        self.goes_on.store(true, Ordering::Relaxed);
    }

    fn is_unheard(&self) -> bool {
        lock(&self.waiting).listeners.is_empty()
    }

    fn spring(&self) -> Spring {
        lock(&self.springs).now.clone()
    }

    /// Lets packets nobody waits for be dropped, or not.
    fn set_drop(&self, drops: bool) {
        let springs = lock(&self.springs);
        for spring in springs.then.iter().map(|(spring, _)| spring).chain([&springs.now]) {
            spring.packets.set_drop(drops);
        }
    }

    /// Whether the sound of another spring has taken the place of a packet since it was taken.
    pub(super) fn is_over(&self, packet: &Packet) -> bool {
        let springs = lock(&self.springs);
        springs.ends.iter().any(|&(spring, end_ns)| spring == packet.spring && packet.time_ns >= end_ns)
    }

    fn pop(&self, listener: u64) -> Option<Packet> {
        lock(&self.waiting).listeners.get_mut(&listener)?.pop_front()
    }

    fn hand_out(&self, packet: &Packet) {
        for queue in lock(&self.waiting).listeners.values_mut() {
            if queue.len() >= MOST_WAITING {
                queue.pop_front();
            }
            queue.push_back(packet.clone());
        }
        self.arrived.notify_all();
    }

    /// The next packet for `listener`, taken from the source for all listeners if need be.
    fn next(&self, listener: u64) -> Heard {
        if let Some(packet) = self.pop(listener) {
            return Heard::Packet(packet);
        }
        let Ok(taking) = self.taking.try_lock() else {
            self.pause();
            return Heard::Nothing;
        };
        let (spring, number, begins_ns, until_ns) = {
            let Springs { now, number, begins_ns, then, .. } = &*lock(&self.springs);
            (now.clone(), *number, *begins_ns, then.front().map(|(_, from_ns)| *from_ns))
        };
        let look_up = gst::ClockTime::from_nseconds(LOOK_UP.as_nanos() as u64);
        let Some(sample) = spring.packets.try_pull_sample(look_up) else {
            if !spring.packets.is_eos() && !spring.closed.load(Ordering::Acquire) {
                return Heard::Nothing;
            }
            if lock(&self.springs).go_on_from(number) {
                return Heard::Nothing;
            }
            drop(taking);
            if self.may_return.load(Ordering::Relaxed) {
                self.pause();
                return Heard::Nothing;
            }
            // Another listener may have taken the last packets meanwhile.
            return self.pop(listener).map_or(Heard::Over, Heard::Packet);
        };
        if let Some((buffer, time_ns)) = placed(&sample)
            && let Some(time_ns) = time_ns.checked_add_signed(spring.shift_ns)
        {
            if until_ns.is_some_and(|until| time_ns >= until) {
                lock(&self.springs).go_on_from(number);
            } else if time_ns >= begins_ns {
                self.hand_out(&Packet { buffer, time_ns, spring: number });
            }
        }
        Heard::Nothing
    }

    /// Waits a little for packets that another listener takes.
    fn pause(&self) {
        let waiting = lock(&self.waiting);
        let waited = self.arrived.wait_timeout(waiting, LOOK_UP).unwrap_or_else(PoisonError::into_inner);
        drop(waited);
    }
}

/// The sound of a source, for one output. It waits in a bounded queue until the output takes it.
#[derive(Debug)]
pub struct AudioTrack {
    hub: Arc<Hub>,
    listener: u64,
}

impl AudioTrack {
    /// Begins to listen: packets from here on are kept until they are taken, or the track is dropped.
    pub(crate) fn listen(hub: &Arc<Hub>) -> Self {
        let mut waiting = lock(&hub.waiting);
        let listener = waiting.next;
        waiting.next += 1;
        waiting.listeners.insert(listener, VecDeque::new());
        drop(waiting);
        hub.set_drop(false);
        Self { hub: Arc::clone(hub), listener }
    }

    /// The same sound for another output, from here on.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::listen(&self.hub)
    }

    /// The sound without a listener.
    pub(crate) fn hub(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }

    /// The format in a few words, such as `audio/mpeg, mpegversion=4`.
    pub fn format(&self) -> String {
        self.media().to_string()
    }

    /// The format as the source gives it.
    pub(crate) fn caps(&self) -> &gst::Caps {
        &self.hub.caps
    }

    /// The format without what differs from file to file.
    pub(crate) fn media(&self) -> gst::Caps {
        // Muxers take some sample formats of uncompressed sound and not others.
        let keep = ["mpegversion", "layer", "format"];
        let Some(full) = self.hub.caps.structure(0) else {
            return gst::Caps::new_empty();
        };
        let mut media = gst::Structure::new_empty(full.name());
        for name in keep {
            if let Ok(value) = full.value(name) {
                media.set_value(name, value.clone());
            }
        }
        gst::Caps::builder_full().structure(media).build()
    }

    pub(super) fn next(&self) -> Heard {
        self.hub.next(self.listener)
    }

    /// Whether a packet that was taken is not wanted any more.
    pub(super) fn is_over(&self, packet: &Packet) -> bool {
        self.hub.is_over(packet)
    }

    /// Whether the pictures came to their own end.
    pub(super) fn pictures_ended(&self) -> bool {
        self.hub.spring().ended.load(Ordering::Acquire) && !self.hub.goes_on.load(Ordering::Relaxed)
    }

    /// Tells the source's pictures to run on without being taken.
    pub(super) fn discard_pictures(&self) {
        self.hub.discard_pictures.store(true, Ordering::Relaxed);
    }

    /// Stops listening. Where nobody else does, the sound is read and forgotten, so that it holds nothing up.
    pub(super) fn close(&self) {
        let mut waiting = lock(&self.hub.waiting);
        waiting.listeners.remove(&self.listener);
        let nobody = waiting.listeners.is_empty();
        drop(waiting);
        if nobody {
            self.hub.set_drop(true);
        }
    }
}

impl Drop for AudioTrack {
    fn drop(&mut self) {
        self.close();
    }
}

/// The packet and its place on the clock that it shares with the pictures; `None` if it lies before its start.
fn placed(sample: &gst::Sample) -> Option<(gst::Buffer, u64)> {
    let buffer = sample.buffer_owned()?;
    let time_ns = match buffer.pts() {
        Some(_) => crate::source::running_time(sample)?,
        // Packets without a time follow the one before; the muxer would refuse them, so they join the start.
        None => 0,
    };
    Some((buffer, time_ns))
}
