//! `livediffusion bench ablation`: the paper's ablation, all on and then without each part.
//!
//! Every variant reads, repaints and writes the same frames: JPEG from memory, the engine with all cores on a frame, JPEG to
//! memory. So reading and writing are work that a frame queue can do beside the networks, and no codec's own threads
//! blur what it gains.

use std::io::Cursor;
use std::sync::mpsc::{Receiver, sync_channel};

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageFormat};
use livediffusion_bench::record::Figure;
use livediffusion_bench::rounds::{Variant, alternate, ratios};
use livediffusion_bench::summary::Spread;
use livediffusion_onnx::physical_cores;
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::noise::SeededNoise;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::{CfgType, Parameters};
use livediffusion_pipeline::plan::Plan;
use livediffusion_pipeline::schedule::NoiseSchedule;
use livediffusion_pipeline::solver::Solver;
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use livediffusion_pipeline::{Control, Emitted};
use livediffusion_session::Session;
use serde_json::json;

use super::args::AblationArgs;
use super::clips::frames;
use super::findings::Findings;
use super::setup::{Reach, Setup, steps_and_guidance};
use crate::failure::{Failure, Outcome, RUNNING};
use crate::units::round;

/// Frames that may wait before and behind the networks.
const QUEUE: usize = 2;

/// The reference's threshold.
const SIMILARITY: f64 = 0.98;

/// What may be left out.
#[derive(Clone, Copy, PartialEq)]
enum Without {
    Nothing,
    StreamBatch,
    ResidualGuidance,
    SimilarityFilter,
    FrameQueue,
    PreComputation,
}

const VARIANTS: [(Without, &str, &str); 6] = [
    (Without::Nothing, "all_on", "all on"),
    (Without::StreamBatch, "without_stream_batch", "without stream batch"),
    (Without::ResidualGuidance, "without_rcfg", "without R-CFG (full guidance)"),
    (Without::SimilarityFilter, "without_similarity_filter", "without similarity filter"),
    (Without::FrameQueue, "without_frame_queue", "without frame queue"),
    (Without::PreComputation, "without_pre_computation", "without pre-computation"),
];

pub(crate) fn command(args: &AblationArgs) -> Outcome<()> {
    let mut setup = Setup::load_for(&args.setup, 1, Reach::steps([args.steps]))?;
    let clip = frames(&args.input, setup.size, usize::from(args.setup.frames))?;
    let clip = clip.iter().map(|frame| encode(frame, setup.size)).collect::<Outcome<Vec<_>>>()?;
    let steps = usize::from(args.steps);
    let painters = VARIANTS.map(|(without, _, _)| painter(&mut setup, without, steps));
    let mut painters = painters.into_iter().collect::<Outcome<Vec<_>>>()?;
    let (clock, size) = (setup.clock, setup.size);
    // Encoding prompts takes the session for itself.
    let parameters = parameters(&setup.parameters, Without::Nothing, steps);
    let session = std::cell::RefCell::new(&mut setup.session);
    let mut variants: Vec<Variant<'_, f64, Failure>> = Vec::new();
    for ((without, _, _), painter) in VARIANTS.iter().zip(&mut painters) {
        let (clip, session, parameters) = (&clip, &session, &parameters);
        variants.push(Box::new(move || {
            let recompute = || {
                if *without == Without::PreComputation {
                    compute_anew(&mut session.borrow_mut(), parameters, size)
                } else {
                    Ok(())
                }
            };
            let started = clock.now();
            if *without == Without::FrameQueue {
                inline(painter, clip, size)?;
            } else {
                queued(painter, clip, size, recompute)?;
            }
            Ok(clip.len() as f64 / seconds_since(&clock, started))
        }));
    }
    let measured = alternate(usize::from(args.setup.rounds), &mut variants)?;
    drop(variants);

    let rounds = measured[0].len();
    let mut figures = vec![Figure::spread("all on", "speed", "fps", Some(Spread::of(&measured[0])), rounds)];
    let mut body =
        json!({ "steps": steps, "all_on_fps": round(Spread::of(&measured[0]).median), "frames": clip.len() });
    for ((_, key, name), fps) in VARIANTS.iter().zip(&measured).skip(1) {
        let ratio = ratios(fps, &measured[0]);
        figures.push(Figure::spread(name, "speed over all on", "ratio", ratio, rounds));
        body[key] = json!(ratio.map(|ratio| round(ratio.median)));
    }
    let skipped = painters[0].stats().frames_skipped as f64 / painters[0].stats().frames_in.max(1) as f64;
    figures.push(Figure::value("all on", "skipped by the filter", "share", skipped));
    body["skipped_share"] = json!(round(skipped));
    body["cores"] = json!(physical_cores());
    Findings::of(body, setup.context, figures).hand_out("ablation", &args.setup.output)
}

fn seconds_since(clock: &MonotonicClock, started: std::time::Duration) -> f64 {
    clock.now().saturating_sub(started).as_secs_f64()
}

fn parameters(pack: &Parameters, without: Without, steps: usize) -> Parameters {
    let cfg = if without == Without::ResidualGuidance { CfgType::Full } else { CfgType::SelfNegative };
    Parameters {
        stream_batch: without != Without::StreamBatch,
        similarity: (without != Without::SimilarityFilter).then_some(SIMILARITY),
        ..steps_and_guidance(pack, steps, cfg)
    }
}

fn painter(setup: &mut Setup, without: Without, steps: usize) -> Outcome<Painter> {
    let settings = setup.session.settings(parameters(&setup.parameters, without, steps), setup.size)?;
    Ok(setup.session.painter(setup.size, Control::new(settings))?)
}

/// What pre-computation saves a frame: the prompt's embedding, the schedule, the plan and the noise. The engine goes on
/// with those that it has, which are the same.
fn compute_anew(session: &mut Session, parameters: &Parameters, size: Size) -> Outcome<()> {
    let settings = session.settings(parameters.clone(), size)?;
    let facts = &session.open.facts;
    let schedule = NoiseSchedule::new(&facts.scheduler).map_err(|error| Failure::new(RUNNING, error))?;
    let request = parameters.plan_request(Solver::from_scheduler_class(&facts.scheduler.class_name));
    let plan = Plan::new(&facts.scheduler, &schedule, &request).map_err(|error| Failure::new(RUNNING, error))?;
    let noise = SeededNoise::new(parameters.seed, plan.len(), facts.latent_shape(size)?.len());
    std::hint::black_box((settings, plan, noise));
    Ok(())
}

fn encode(picture: &[u8], size: Size) -> Outcome<Vec<u8>> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90)
        .encode(picture, size.width as u32, size.height as u32, ExtendedColorType::Rgb8)
        .map_err(|error| Failure::new(RUNNING, format!("writing a JPEG: {error}")))?;
    Ok(jpeg)
}

fn decode(jpeg: &[u8]) -> Outcome<Vec<u8>> {
    let picture = image::load(Cursor::new(jpeg), ImageFormat::Jpeg)
        .map_err(|error| Failure::new(RUNNING, format!("reading a JPEG: {error}")))?;
    Ok(picture.into_rgb8().into_raw())
}

/// Read, repaint, write, one after the other.
fn inline(painter: &mut Painter, clip: &[Vec<u8>], size: Size) -> Outcome<()> {
    let write = |emitted: Emitted<'_>| emitted.iter().try_for_each(|picture| encode(picture.rgb, size).map(drop));
    for (id, jpeg) in clip.iter().enumerate() {
        let rgb = decode(jpeg)?;
        write(painter.step(meta(id), PictureView::packed(size, &rgb))?)?;
    }
    write(painter.flush()?)
}

/// Read and write on threads of their own, with a few frames between them and the networks.
fn queued(
    painter: &mut Painter,
    clip: &[Vec<u8>],
    size: Size,
    mut before_frame: impl FnMut() -> Outcome<()>,
) -> Outcome<()> {
    let (read, frames) = sync_channel::<Outcome<Vec<u8>>>(QUEUE);
    let (pictures, to_write) = sync_channel::<Vec<u8>>(QUEUE);
    std::thread::scope(|scope| {
        scope.spawn(move || clip.iter().map(|jpeg| decode(jpeg)).try_for_each(|frame| read.send(frame)));
        let writer = scope.spawn(move || write_all(&to_write, size));
        // Where nobody takes pictures any more, the writer's own error says why.
        let hand_on =
            |emitted: Emitted<'_>| emitted.iter().for_each(|picture| drop(pictures.send(picture.rgb.to_vec())));
        for (id, frame) in frames.iter().enumerate() {
            let frame = frame?;
            before_frame()?;
            hand_on(painter.step(meta(id), PictureView::packed(size, &frame))?);
        }
        hand_on(painter.flush()?);
        drop(pictures);
        writer.join().map_err(|_| Failure::new(RUNNING, "the writing thread panicked"))?
    })
}

fn write_all(pictures: &Receiver<Vec<u8>>, size: Size) -> Outcome<()> {
    pictures.iter().try_for_each(|picture| encode(&picture, size).map(drop))
}

fn meta(id: usize) -> FrameMeta {
    FrameMeta { id: id as u64, ..FrameMeta::default() }
}
