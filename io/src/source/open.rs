//! Building the pipeline of an input and waiting for its first picture.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;

use super::chain::Chain;
use super::{AFTER_ERROR, LOOK_UP, Pace, Producer, Queue, SourceInfo, SourceOptions, VideoSource, head, images, pause};
use livediffusion_pipeline::stats::MonotonicClock;

use crate::audio::{AudioTrack, Hub, Spring};
use crate::error::IoError;
use crate::input::Input;
use crate::monitor::{Monitor, Side};
use crate::queue::{LosslessSender, NewestSender, Received, lossless, newest};
use crate::{launch, lock, webrtc};

/// How long an input may take to give its first picture.
const FIRST_PICTURE: Duration = Duration::from_secs(10);

/// Why an input is empty that could be opened.
pub(super) const NO_PICTURE: &str = "no picture in it could be read";

/// Pictures read ahead of the engine: enough to hide the jitter of decoding. Each holds a whole picture in memory.
const READ_AHEAD: usize = 4;

pub(super) fn open(input: &Input, options: &SourceOptions) -> Result<VideoSource, IoError> {
    crate::init()?;
    match input {
        Input::Images(folder) => open_images(input, &images::list(folder)?, options),
        Input::File(path) => {
            let missing = |_| IoError::MissingInput { path: path.clone() };
            let size = std::fs::metadata(path).map_err(missing)?;
            if size.is_file() && size.len() == 0 {
                return Err(IoError::EmptyInput { what: path.display().to_string(), why: "it has no bytes".into() });
            }
            open_pipeline(input, options)
        }
        _ => open_pipeline(input, options),
    }
}

fn source(
    input: &Input,
    options: &SourceOptions,
    producer: Producer,
    queue: Queue,
    monitor: Arc<Monitor>,
) -> Result<VideoSource, IoError> {
    let (width, height) = (options.size.width as u32, options.size.height as u32);
    let picture = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height).build();
    let live = matches!(queue, Queue::Newest(_));
    Ok(VideoSource {
        info: SourceInfo {
            natural: options.size,
            framerate: None,
            live,
            duration_ns: None,
            frames_estimate: None,
            audio: None,
        },
        options: options.clone(),
        picture: picture.map_err(|e| launch::failed(&input.to_string(), &e))?,
        producer,
        queue: Some(queue),
        monitor,
        first: None,
        audio: None,
        hub: None,
        sound_follows: false,
        pace: Pace::Own,
        frames: 0,
        first_pts_ns: None,
        dropped: 0,
        missed: 0,
        idle: Duration::ZERO,
        ended: Arc::default(),
        done: false,
        closed: Arc::default(),
        call: None,
    })
}

fn open_images(input: &Input, paths: &[std::path::PathBuf], options: &SourceOptions) -> Result<VideoSource, IoError> {
    let monitor = Monitor::new(Side::Input(input.to_string()));
    let (sender, queue) = lossless(READ_AHEAD, Arc::default());
    let mut source = source(input, options, Producer::Images(None), Queue::Lossless(queue), Arc::clone(&monitor))?;
    let how = (options.size, options.fit);
    let thread = images::spawn(paths.to_vec(), how, sender, monitor, Arc::clone(&source.closed))?;
    source.producer = Producer::Images(Some(thread));
    wait_for_first(&mut source)?;
    let natural = paths.iter().find_map(|path| images::natural_size(path, options.size, options.fit));
    source.info.natural = natural.unwrap_or(options.size);
    source.info.framerate = Some(images::FRAMERATE);
    let frame_ns = 1_000_000_000 * images::FRAMERATE.1 as u64 / images::FRAMERATE.0 as u64;
    source.info.duration_ns = Some(paths.len() as u64 * frame_ns);
    if options.live == Some(true) {
        source.info.live = true;
        source.pace = Pace::Times { clock: MonotonicClock::start(), begun: None };
    }
    estimate(&mut source);
    Ok(source)
}

fn open_pipeline(input: &Input, options: &SourceOptions) -> Result<VideoSource, IoError> {
    let what = input.to_string();
    let monitor = Monitor::new(Side::Input(what.clone()));
    let pipeline = gst::Pipeline::new();
    monitor.watch(&pipeline);
    let chain = Chain::new(options.size, options.fit)?;
    pipeline.add(&chain.bin).map_err(|e| launch::failed(&what, &e))?;
    let call = match input {
        Input::Uri(address) if webrtc::is_whep(address) => Some(head::call(address, &pipeline, &chain, &monitor)?),
        _ => None,
    };
    let sound = match &call {
        Some(_) => Arc::default(),
        None => head::attach(input, &pipeline, &chain, &monitor, options.keep_audio)?,
    };

    let paused = pipeline.set_state(gst::State::Paused);
    let real_time = matches!(paused, Ok(gst::StateChangeSuccess::NoPreroll)) || input.is_live_stream();
    let live = options.live.unwrap_or(real_time);
    // A file that is to behave as a camera needs the clock to slow it down.
    let paced = live && !real_time;
    chain.pictures.set_sync(paced);
    let discard = Arc::new(AtomicBool::new(false));
    let held = holds(&chain);
    let queue = if live {
        let (sender, queue) = newest();
        deliver(&chain, (&monitor, &held), Sender::Newest(sender));
        Queue::Newest(queue)
    } else {
        let (sender, queue) = lossless(READ_AHEAD, Arc::clone(&discard));
        deliver(&chain, (&monitor, &held), Sender::Lossless(sender));
        Queue::Lossless(queue)
    };
    // From here on dropping `source` takes the pipeline down.
    let mut source = source(input, options, Producer::Pipeline(pipeline.clone()), queue, Arc::clone(&monitor))?;
    let started = paused.and_then(|_| if paced { Ok(()) } else { pipeline.set_state(gst::State::Playing).map(drop) });
    if started.is_err() {
        monitor.check()?;
        return Err(IoError::Failed { what, detail: "it does not start".into() });
    }
    if let Some(call) = call {
        call.place()?;
        source.call = Some(call);
    }
    if paced {
        // Its clock runs from the first `next` on: nobody misses the beginning of a file.
        wait_until_ready(&pipeline, &chain, &source)?;
        source.pace = Pace::Clock { to_start: Some(pipeline.clone()), held };
    } else {
        wait_for_first(&mut source)?;
    }

    if let Some((natural, framerate)) = chain.natural() {
        source.info.natural = natural;
        source.info.framerate = framerate;
    }
    source.info.duration_ns = pipeline.query_duration::<gst::ClockTime>().map(gst::ClockTime::nseconds);
    if let Some((packets, caps)) = lock(&sound).take() {
        if paced {
            let_sound_wait(&packets);
        } else if live {
            forget_old_sound(&packets);
        }
        let (ended, closed) = (Arc::clone(&source.ended), Arc::clone(&source.closed));
        let spring = Spring { packets, ended, closed, shift_ns: 0 };
        let track = AudioTrack::listen(&Hub::new(spring, caps, discard));
        source.info.audio = Some(track.format());
        source.hub = Some(track.hub());
        source.audio = Some(track);
    }
    estimate(&mut source);
    Ok(source)
}

/// Where sound waits for those who take it.
fn waiting(packets: &gst_app::AppSink) -> Option<gst::Element> {
    packets.parent().and_downcast::<gst::Bin>()?.by_name("waiting")
}

/// Sound of a file at its own speed waits for its pictures, which the clock holds back: a full queue is no error, but lets the file wait.
fn let_sound_wait(packets: &gst_app::AppSink) {
    if let Some(queue) = waiting(packets) {
        queue.set_property("max-size-bytes", head::SOUND_BYTES - 1);
    }
}

/// Live sound that nobody takes must not pile up: some seconds of it are kept, as it may wait for its pictures.
fn forget_old_sound(packets: &gst_app::AppSink) {
    let Some(queue) = waiting(packets) else { return };
    queue.set_property_from_str("leaky", "downstream");
    queue.set_property("max-size-bytes", head::LIVE_SOUND_BYTES);
    queue.set_property("max-size-time", head::LIVE_SOUND_NS);
}

enum Sender {
    Newest(NewestSender<gst::Sample>),
    Lossless(LosslessSender<gst::Sample>),
}

/// Whether a picture is there whose time has not come: [`deliver`] says when it was shown.
fn holds(chain: &Chain) -> Arc<AtomicBool> {
    let held = Arc::new(AtomicBool::new(false));
    if let Some(pad) = chain.pictures.static_pad("sink") {
        let held = Arc::clone(&held);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            held.store(true, Ordering::Release);
            gst::PadProbeReturn::Ok
        });
        // Demuxers tell of gaps where only sound is left. A sink waits for the time of each, and what a decoder still has would come behind.
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| match info.event().map(|event| event.type_()) {
            Some(gst::EventType::Gap) => gst::PadProbeReturn::Drop,
            _ => gst::PadProbeReturn::Ok,
        });
    }
    held
}

/// Sends pictures into the queue from GStreamer's thread, and closes the queue at the end of the stream.
fn deliver(chain: &Chain, (monitor, held): (&Arc<Monitor>, &Arc<AtomicBool>), sender: Sender) {
    let sender = Arc::new(Mutex::new(Some(sender)));
    let last = Arc::clone(&sender);
    let (monitor, held) = (Arc::clone(monitor), Arc::clone(held));
    let new_sample = move |sink: &gst_app::AppSink| {
        held.store(false, Ordering::Release);
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Flushing)?;
        if sample.buffer().is_some_and(|buffer| buffer.flags().contains(gst::BufferFlags::CORRUPTED)) {
            monitor.count_corrupt(1);
            return Ok(gst::FlowSuccess::Ok);
        }
        let listened = match &*lock(&sender) {
            Some(Sender::Newest(sender)) => {
                sender.send(sample);
                true
            }
            Some(Sender::Lossless(sender)) => sender.send(sample),
            None => false,
        };
        if listened { Ok(gst::FlowSuccess::Ok) } else { Err(gst::FlowError::Flushing) }
    };
    let eos = move |_: &gst_app::AppSink| drop(lock(&last).take());
    chain.pictures.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).eos(eos).build());
}

/// Waits until the first picture of a file is there to be shown.
fn wait_until_ready(pipeline: &gst::Pipeline, chain: &Chain, source: &VideoSource) -> Result<(), IoError> {
    let look_up = gst::ClockTime::from_nseconds(LOOK_UP.as_nanos() as u64);
    let (mut waited, mut failing) = (Duration::ZERO, Duration::ZERO);
    while waited < FIRST_PICTURE {
        let state = pipeline.state(Some(look_up)).0;
        source.monitor.check()?;
        match state {
            Ok(gst::StateChangeSuccess::Async) => waited += LOOK_UP,
            Ok(_) if chain.pictures.is_eos() => {
                return Err(IoError::EmptyInput { what: source.monitor.what(), why: NO_PICTURE.into() });
            }
            Ok(_) => return Ok(()),
            // The reason is on its way.
            Err(_) if failing < AFTER_ERROR => {
                pause(LOOK_UP);
                failing += LOOK_UP;
            }
            Err(_) => return Err(launch::failed(&source.monitor.what(), &"it does not start")),
        }
    }
    Err(IoError::Stalled { what: source.monitor.what(), seconds: FIRST_PICTURE.as_secs() })
}

fn wait_for_first(source: &mut VideoSource) -> Result<(), IoError> {
    let mut waited = Duration::ZERO;
    while waited < FIRST_PICTURE {
        match source.wait(LOOK_UP)? {
            Received::Item(sample) => {
                source.first = Some(sample);
                return Ok(());
            }
            Received::Empty => waited += LOOK_UP,
            Received::Closed => {
                source.monitor.check()?;
                return Err(IoError::EmptyInput { what: source.monitor.what(), why: NO_PICTURE.into() });
            }
        }
    }
    Err(IoError::Stalled { what: source.monitor.what(), seconds: FIRST_PICTURE.as_secs() })
}

/// Applies the limits to the length and works out how many frames to expect.
fn estimate(source: &mut VideoSource) {
    let info = &mut source.info;
    let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
    info.duration_ns = least(info.duration_ns, source.options.max_duration_ns.filter(|_| !info.live));
    let frames = info.duration_ns.zip(info.framerate).map(|(ns, (n, d))| {
        let frames = u128::from(ns) * u128::from(n) + u128::from(d) * 500_000_000;
        (frames / (u128::from(d) * 1_000_000_000)) as u64
    });
    info.frames_estimate = least(frames, source.options.max_frames);
}
