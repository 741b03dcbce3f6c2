//! Parameters change while frames are in flight: nothing is lost, nothing turns brown, nothing is mixed.

use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::frame::PictureView;
use livediffusion_pipeline::model::{Branch, DenoiseBatch, Denoiser, ModelError};
use livediffusion_pipeline::schedule::{NoiseSchedule, SchedulerConfig};
use livediffusion_pipeline::stats::StoppedClock;
use livediffusion_pipeline::{Control, fake};

use crate::support::{
    FACTOR, Out, SIZE, collect, engine, engine_of, facts, grey, meta, parameters, scripted, settings,
};

/// Changes `name` to `value` before frame 6 of 14.
fn change(start: &[(&str, &str)], name: &str, value: &str) -> Vec<Out> {
    let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
    let (mut engine, control) = engine_of(fake::networks(FACTOR, fake::exact_denoiser(schedule, 0.5)), start);
    let mut out = Vec::new();
    for id in 0..14 {
        if id == 6 {
            let mut changed = parameters(start);
            changed.set(name, value).unwrap();
            control.store(settings(changed));
        }
        out.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(30))).unwrap()));
    }
    out.extend(collect(engine.flush().unwrap()));
    out
}

#[test]
fn any_hot_change_keeps_every_frame_its_order_and_its_target() {
    let level = ((0.5_f32 + 1.0) * 127.5).round() as i32;
    for (name, value) in [
        ("t-index", "45"),
        ("t-index", "5,10,20,30,40"),
        ("t-index", "16,32"),
        ("steps", "48"),
        ("scheduler", "dpmpp-2m"),
        ("scheduler", "ghvb"),
        ("seed", "77"),
        ("add-noise", "false"),
        ("stream-batch", "false"),
        ("prompt", "another"),
    ] {
        let out = change(&[("t-index", "16,32,45"), ("cfg", "none")], name, value);
        assert_eq!(
            out.iter().map(|out| out.meta.id).collect::<Vec<_>>(),
            (0..14).collect::<Vec<_>>(),
            "{name}={value}"
        );
        for out in out {
            // The denoiser knows its target exactly: a slot run under the wrong plan, or a "brown" one, would miss it.
            assert!(
                (i32::from(out.rgb[0]) - level).abs() <= 1,
                "{name}={value}, frame {}: {}",
                out.meta.id,
                out.rgb[0]
            );
        }
    }
}

#[test]
fn frames_in_flight_finish_under_their_plan() {
    let unet = |x: f32, t: f32, _: usize, _: Branch, _: f32| 0.5 * x + 0.001 * t;
    let long = [("t-index", "10,20,30,40"), ("cfg", "none")];
    let short = [("t-index", "35,45"), ("cfg", "none")];
    let (mut mixed, control) = engine(unet, &long);
    let mut got = Vec::new();
    for id in 0..10 {
        if id == 5 {
            control.store(settings(parameters(&short)));
        }
        got.extend(collect(mixed.step(meta(id), PictureView::packed(SIZE, &grey(id as u8 * 20))).unwrap()));
    }
    got.extend(collect(mixed.flush().unwrap()));
    let alone = |pairs: &[(&str, &str)]| {
        let (mut engine, _) = engine(unet, pairs);
        crate::support::run(&mut engine, &(0..10).map(|id| grey(id * 20)).collect::<Vec<_>>())
    };
    let (before, after) = (alone(&long), alone(&short));
    for (id, got) in got.iter().enumerate() {
        let expected = if id < 5 { &before[id] } else { &after[id] };
        assert_eq!(got, expected, "frame {id}");
    }
}

#[test]
fn a_new_prompt_reaches_all_slots_at_once_or_only_new_frames() {
    // The prediction is the prompt's own number: what a frame was denoised under can be read from its latent.
    for policy in ["all", "admitted"] {
        let unet = |_: f32, _: f32, _: usize, _: Branch, prompt: f32| prompt;
        let start = [("t-index", "40,45"), ("cfg", "none"), ("prompt-policy", policy), ("prompt", "")];
        let run = |change: bool| {
            let (mut engine, control) = engine(unet, &start);
            let mut out = Vec::new();
            for id in 0..6 {
                if change && id == 3 {
                    let mut new = parameters(&start);
                    new.set("prompt", "four").unwrap();
                    control.store(settings(new));
                }
                out.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(100))).unwrap()));
            }
            out
        };
        let (with, without) = (run(true), run(false));
        let changed: Vec<u64> =
            with.iter().zip(&without).filter(|(a, b)| a.latent != b.latent).map(|(a, _)| a.meta.id).collect();
        // Frame 2 was in flight when the prompt changed before frame 3.
        assert_eq!(changed, if policy == "all" { vec![2, 3, 4] } else { vec![3, 4] }, "{policy}");
    }
}

#[test]
fn guidance_and_delta_change_at_any_frame_in_every_mode() {
    for cfg in ["none", "self", "initialize", "full"] {
        for to in ["none", "self", "initialize", "full"] {
            let unet = |x: f32, _: f32, _: usize, branch: Branch, _: f32| {
                if branch == Branch::Negative { 0.2 * x } else { 0.4 * x }
            };
            let start = [("t-index", "10,25,40"), ("cfg", cfg), ("guidance", "1.0")];
            let (mut engine, control) = engine(unet, &start);
            let mut out = Vec::new();
            for id in 0..12 {
                if id % 3 == 2 {
                    let mut new = parameters(&start);
                    new.set("guidance", &(0.8 + 0.1 * id as f32).to_string()).unwrap();
                    new.set("delta", &(0.1 * id as f32).to_string()).unwrap();
                    new.set("cfg", if id % 2 == 0 { cfg } else { to }).unwrap();
                    control.store(settings(new));
                }
                out.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(100))).unwrap()));
            }
            out.extend(collect(engine.flush().unwrap()));
            assert_eq!(out.len(), 12, "{cfg} to {to}");
            assert!(out.iter().all(|out| out.latent.as_ref().unwrap().iter().all(|v| v.is_finite() && v.abs() < 50.0)));
        }
    }
}

#[test]
fn settings_that_cannot_be_done_are_refused_and_the_stream_goes_on() {
    let start = [("t-index", "16,32"), ("cfg", "none")];
    for (name, value) in [("t-index", "16,60"), ("frame-buffer", "2"), ("size", "64x64"), ("order", "4")] {
        let (mut engine, control) = engine(|x, _, _, _, _| 0.3 * x, &start);
        let mut out = Vec::new();
        for id in 0..6 {
            if id == 3 {
                let mut new = parameters(&start);
                new.set(name, value).unwrap();
                new.set("scheduler", "deis").unwrap();
                control.store(settings(new));
            }
            out.extend(collect(engine.step(meta(id), PictureView::packed(SIZE, &grey(100))).unwrap()));
        }
        out.extend(collect(engine.flush().unwrap()));
        assert!(out.windows(2).all(|pair| pair[0].latent == pair[1].latent), "{name}={value} took effect");
        assert_eq!(out.len(), 6);
    }
}

/// A U-Net that was compiled for so many rows.
struct Compiled(usize);

impl Denoiser for Compiled {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        out.fill(0.0);
        let rows = batch.rows.len();
        if rows > self.0 { Err(ModelError::new(format!("{rows} rows"))) } else { Ok(()) }
    }
}

#[test]
fn no_change_brings_more_rows_than_the_networks_were_compiled_for() {
    let at_most_eight = [
        [("t-index", "5,10,15,20,25,30,35,40"), ("cfg", "none"), ("stream-batch", "true")],
        [("t-index", "10,20,30,40"), ("cfg", "full"), ("stream-batch", "true")],
        [("t-index", "5,10,20,25,30,35,40"), ("cfg", "initialize"), ("stream-batch", "true")],
        [("t-index", "30"), ("cfg", "full"), ("stream-batch", "false")],
        [("t-index", "1,5,10,15,20,25,30,35,40,45"), ("cfg", "full"), ("stream-batch", "false")],
    ];
    let with = |pairs: &[(&str, &str)]| {
        let guided = [pairs, &[("guidance", "1.5"), ("negative-prompt", "blurry")]].concat();
        settings(parameters(&guided))
    };
    let limited = ModelFacts { most_rows: Some(8), ..facts() };
    let run = |changes: &dyn Fn(u64) -> Option<usize>, what: &str| {
        let control = Control::new(with(&at_most_eight[changes(0).unwrap_or(0)]));
        let networks = scripted(&[0.5; 40], Compiled(8));
        let mut engine = Engine::new(networks, limited.clone(), SIZE, control.clone(), Box::new(StoppedClock)).unwrap();
        let mut out = Vec::new();
        for id in 0..40 {
            if let Some(next) = changes(id) {
                control.store(with(&at_most_eight[next]));
            }
            let emitted = engine.step(meta(id), PictureView::packed(SIZE, &grey(30)));
            out.extend(collect(emitted.unwrap_or_else(|error| panic!("{what}, frame {id}: {error}"))));
        }
        out.extend(collect(engine.flush().unwrap()));
        let ids: Vec<u64> = out.iter().map(|out| out.meta.id).collect();
        assert_eq!(ids, (0..40).collect::<Vec<_>>(), "{what}");
    };
    let kinds = at_most_eight.len();
    for (before, after) in (0..kinds).flat_map(|before| (0..kinds).map(move |after| (before, after))) {
        // Also while few frames are on their way, as after a start.
        for at in 1..12 {
            let change = |id: u64| if id == 0 { Some(before) } else { (id == at).then_some(after) };
            run(&change, &format!("{:?} to {:?} at {at}", at_most_eight[before], at_most_eight[after]));
        }
    }
    // So quickly that frames of several are on their way.
    for (every, stride) in [(1, 1), (1, 2), (2, 3), (3, 1), (3, 4), (5, 2)] {
        let change = |id: u64| id.is_multiple_of(every).then_some((id / every) as usize * stride % kinds);
        run(&change, &format!("every {every}, {stride} on"));
    }
}
