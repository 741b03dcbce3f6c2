//! As many frames out as in, in order, with their time stamps, whatever the mode.

use livediffusion_pipeline::fake;
use livediffusion_pipeline::schedule::{NoiseSchedule, SchedulerConfig};

use crate::support::{FACTOR, collect, engine, engine_of, grey, meta, run};

#[test]
fn every_frame_leaves_once_in_order_with_its_time_stamps() {
    for t_index in ["45", "32,45", "22,32,45", "0,16,32,45"] {
        for frame_buffer in ["1", "2", "3"] {
            for similarity in ["off", "0.9"] {
                for stream_batch in ["true", "false"] {
                    for cfg in ["none", "self", "initialize", "full"] {
                        let pairs = [
                            ("t-index", t_index),
                            ("frame-buffer", frame_buffer),
                            ("similarity", similarity),
                            ("stream-batch", stream_batch),
                            ("cfg", cfg),
                            ("guidance", "1.3"),
                        ];
                        let (mut engine, _) = engine(|x, _, _, _, _| 0.3 * x, &pairs);
                        // Stretches of stillness and of motion, and a length that no frame buffer divides.
                        let pictures: Vec<_> =
                            [9, 9, 9, 200, 201, 201, 30, 30, 30, 30, 90, 150, 151].map(grey).to_vec();
                        let out = run(&mut engine, &pictures);
                        let metas: Vec<_> = out.iter().map(|out| out.meta).collect();
                        assert_eq!(metas, (0..13).map(meta).collect::<Vec<_>>(), "{pairs:?}");
                        let stats = engine.stats();
                        assert_eq!((stats.frames_in, stats.frames_out), (13, 13), "{pairs:?}");
                        let repeated = out.iter().filter(|out| out.repeated).count() as u64;
                        assert_eq!(stats.frames_skipped, repeated, "{pairs:?}");
                        assert_eq!(similarity == "off", repeated == 0, "{pairs:?}: {repeated} repeated");
                    }
                }
            }
        }
    }
}

#[test]
fn the_delay_is_the_number_of_steps_less_one() {
    for (t_index, delay) in [("45", 0), ("32,45", 1), ("0,16,32,45", 3)] {
        let (mut engine, _) = engine(|x, _, _, _, _| 0.3 * x, &[("t-index", t_index)]);
        for id in 0..8 {
            let picture = grey(id as u8);
            let view = livediffusion_pipeline::frame::PictureView::packed(crate::support::SIZE, &picture);
            let out = collect(engine.step(meta(id), view).unwrap());
            let ids: Vec<_> = out.iter().map(|out| out.meta.id).collect();
            assert_eq!(ids, if id < delay { vec![] } else { vec![id - delay] }, "{t_index} after frame {id}");
        }
    }
}

#[test]
fn a_perfect_denoiser_paints_its_target_and_an_identity_keeps_the_picture() {
    let schedule = NoiseSchedule::new(&SchedulerConfig::default()).unwrap();
    let target = 0.25;
    let networks = fake::networks(FACTOR, fake::exact_denoiser(schedule, target));
    let (mut engine, _) = engine_of(networks, &[("t-index", "16,32,45"), ("cfg", "none")]);
    let out = run(&mut engine, &[grey(0), grey(255), grey(77)]);
    let level = ((target + 1.0) * 127.5).round() as u8;
    for out in &out {
        assert!(out.rgb.iter().all(|byte| *byte == level), "{:?}", &out.rgb[..6]);
    }
}

#[test]
fn stream_of_no_frames_flushes_nothing() {
    let (mut engine, _) = engine(|x, _, _, _, _| x, &[]);
    assert!(engine.flush().unwrap().is_empty());
}
