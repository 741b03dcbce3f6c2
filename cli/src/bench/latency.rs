//! `livediffusion bench latency`: how old a live picture is when it arrives.

use std::sync::Arc;
use std::time::Duration;

use livediffusion_bench::frames::Source;
use livediffusion_bench::record::Figure;
use livediffusion_bench::summary::Times;
use livediffusion_io::{NewestSender, Received, newest};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::engine::Engine;
use livediffusion_pipeline::frame::{FrameMeta, PictureView};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::{Clock, MonotonicClock, STAGES};
use serde_json::{Value, json};

use super::args::LatencyArgs;
use super::clips::frames;
use super::findings::Findings;
use super::setup::Setup;
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::{milliseconds, round};

/// Frames kept of the clip: they come again and again.
pub(super) const PICTURES: usize = 32;

/// How much faster than the engine the source of the overloaded run is.
const OVERLOAD: f64 = 2.0;

/// A frame that was captured.
struct Captured {
    id: u64,
    at: Duration,
    picture: Arc<Vec<u8>>,
}

/// What happened to the frames of a source of some rate.
#[derive(Default)]
pub(super) struct Lives {
    pub(super) sent: u64,
    pub(super) dropped: u64,
    /// From capture to when the engine took the frame.
    waited: Vec<Duration>,
    /// From capture to when the picture was copied out.
    pub(super) end_to_end: Vec<Duration>,
    stages: Vec<(&'static str, Times)>,
}

/// How fast and how long a source captures.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// Frames a second.
    pub(super) rate: f64,
    pub(super) seconds: f64,
}

pub(crate) fn command(args: &LatencyArgs) -> Outcome<()> {
    if !(0.1..=10_000.0).contains(&args.fps) {
        return Err(Failure::usage(format!("--fps {}", args.fps), "give a rate from 0.1 to 10000"));
    }
    let mut setup = Setup::load(&args.setup, 1)?;
    let settings = setup.session.settings(setup.parameters.clone(), setup.size)?;
    let pictures: Vec<Arc<Vec<u8>>> = frames(&args.input, setup.size, PICTURES)?.into_iter().map(Arc::new).collect();
    let count = u64::from(args.setup.frames) * u64::from(args.setup.rounds);
    // As fast as it can: how fast that is decides what an overload is.
    let mut free = setup.subject_with(settings.clone())?;
    let source: Vec<Vec<u8>> = pictures.iter().map(|picture| picture.to_vec()).collect();
    free.run(Source::Pictures(&source), 5, &setup.clock)?;
    let capacity = free.run(Source::Pictures(&source), usize::from(args.setup.frames), &setup.clock)?.fps();
    let mut figures = vec![Figure::value("", "speed of the engine", "fps", capacity).note("for choosing the overload")];
    let mut body = json!({ "engine_fps": round(capacity) });
    for (name, rate) in [("paced", args.fps), ("overloaded", OVERLOAD * capacity)] {
        let pace = Pace { rate, seconds: count as f64 / rate };
        let lives = live(&setup, &Control::new(settings.clone()), &pictures, pace, &mut |_| Ok(()))?;
        body[name] = report(name, rate, &lives, &mut figures);
    }
    Findings::of(body, setup.context, figures).hand_out("latency", &args.setup.output)
}

fn report(name: &str, rate: f64, lives: &Lives, figures: &mut Vec<Figure>) -> Value {
    let case = format!("{name} {rate:.0} fps");
    let (waited, end_to_end) = (Times::of(&lives.waited), Times::of(&lives.end_to_end));
    let drop_rate = lives.dropped as f64 / lives.sent.max(1) as f64;
    // A delay that grows shows in the difference between the two.
    let tenth = lives.end_to_end.len().div_ceil(10);
    let (first, last) = (&lives.end_to_end[..tenth], &lives.end_to_end[lives.end_to_end.len() - tenth..]);
    let (first, last) = (Times::of(first), Times::of(last));
    figures.push(Figure::times(&case, "end to end", end_to_end));
    figures.push(Figure::times(&case, "end to end, first tenth", first));
    figures.push(Figure::times(&case, "end to end, last tenth", last));
    figures.push(Figure::times(&case, "in the queue", waited));
    for (stage, times) in &lives.stages {
        figures.push(Figure::times(&case, stage, Some(*times)));
    }
    figures.push(Figure::value(&case, "dropped", "share", drop_rate));
    let object = |times: Option<Times>| {
        times.map(
            |Times { p50, p95, p99, .. }| json!({ "p50_ms": round(p50), "p95_ms": round(p95), "p99_ms": round(p99) }),
        )
    };
    let stages: serde_json::Map<String, Value> =
        lives.stages.iter().map(|(stage, times)| ((*stage).to_owned(), json!(object(Some(*times))))).collect();
    json!({
        "fps": round(rate),
        "frames": lives.sent,
        "drop_rate": round(drop_rate),
        "seconds": round(lives.sent as f64 / rate),
        "end_to_end": object(end_to_end),
        "first_tenth": object(first),
        "last_tenth": object(last),
        "queue": object(waited),
        "stages": stages,
    })
}

/// A live stream: a thread that captures, the queue in which the newest frame wins, an engine with all cores on a frame.
/// `on_frame` is called with the number of each frame that the engine takes, just before it does.
pub(super) fn live(
    setup: &Setup,
    control: &Control,
    pictures: &[Arc<Vec<u8>>],
    pace: Pace,
    on_frame: &mut dyn FnMut(u64) -> Outcome<()>,
) -> Outcome<Lives> {
    let settings = control.load();
    let mut painter = setup.session.painter(setup.size, control.clone())?;
    let clock = setup.clock;
    // Tensors are made at the first frames.
    for id in 0..=settings.parameters.t_index.len() as u64 {
        painter.step(FrameMeta { id, ..FrameMeta::default() }, PictureView::packed(setup.size, &pictures[0]))?;
    }
    painter.flush()?;
    // A stream of its own for what is measured: its statistics begin here. On a card the tensors are the stream's, which goes on.
    let mut engine = if matches!(painter, Painter::Device(_)) {
        painter
    } else {
        let (facts, clock) = (setup.session.open.facts.clone(), Box::new(setup.clock));
        let networks =
            painter.into_networks().pop().ok_or_else(|| Failure::new(RUNNING, "a stream without networks"))?;
        Painter::Whole(Engine::new(networks, facts, setup.size, control.clone(), clock)?)
    };
    let mut lives = Lives::default();
    let mut captured = std::collections::VecDeque::new();
    let mut copy = vec![0; 3 * setup.size.pixels()];
    let (sender, queue) = newest();
    std::thread::scope(|scope| -> Outcome<()> {
        let source = scope.spawn(move || capture(sender, pictures, pace, clock));
        loop {
            let frame: Captured = match queue.receive(Duration::from_millis(100)) {
                Received::Item(frame) => frame,
                Received::Empty => continue,
                Received::Closed => break,
            };
            lives.waited.push(clock.now().saturating_sub(frame.at));
            captured.push_back((frame.id, frame.at));
            on_frame(frame.id)?;
            let meta = FrameMeta { id: frame.id, ..FrameMeta::default() };
            for picture in engine.step(meta, PictureView::packed(setup.size, &frame.picture))?.iter() {
                copy.copy_from_slice(picture.rgb);
                while let Some((id, at)) = captured.pop_front() {
                    if id == picture.meta.id {
                        lives.end_to_end.push(clock.now().saturating_sub(at));
                        break;
                    }
                }
            }
        }
        lives.sent = source.join().map_err(|_| Failure::new(RUNNING, "the source's thread panicked"))?;
        Ok(())
    })?;
    lives.dropped = queue.dropped();
    let stats = engine.stats();
    for (stage, name) in STAGES {
        let at = |quantile| milliseconds(stats.quantile(stage, quantile));
        let samples = stats.count(stage) as usize;
        if samples > 0 {
            lives.stages.push((name, Times { p50: at(0.50), p95: at(0.95), p99: at(0.99), samples }));
        }
    }
    Ok(lives)
}

/// Captures until the time is over and says how many frames that were.
fn capture(
    sender: NewestSender<Captured>,
    pictures: &[Arc<Vec<u8>>],
    Pace { rate, seconds }: Pace,
    clock: MonotonicClock,
) -> u64 {
    let started = clock.now();
    let mut id = 0;
    while id as f64 / rate < seconds {
        let due = started + Duration::from_secs_f64(id as f64 / rate);
        if due.saturating_sub(started).as_secs_f64() >= seconds
            || clock.now().saturating_sub(started).as_secs_f64() > seconds
        {
            break;
        }
        while let Some(wait) = due.checked_sub(clock.now()).filter(|wait| !wait.is_zero()) {
            std::thread::park_timeout(wait);
        }
        sender.send(Captured { id, at: clock.now(), picture: Arc::clone(&pictures[id as usize % pictures.len()]) });
        id += 1;
    }
    drop(sender);
    id
}
