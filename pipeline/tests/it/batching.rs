//! Streams that share a U-Net get what each would get alone, whoever is slow, stops or fails.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use livediffusion_pipeline::batching::SharedDenoiser;
use livediffusion_pipeline::fake::{self, PointwiseDenoiser};
use livediffusion_pipeline::frame::LatentShape;
use livediffusion_pipeline::model::{Branch, Conditioning, DenoiseBatch, Denoiser, ModelError, Networks, Row};

use crate::support::{FACTOR, engine, engine_of, grey, run};

fn unet(x: f32, t: f32, step: usize, branch: Branch, prompt: f32) -> f32 {
    let branch = if branch == Branch::Negative { -0.2 } else { 0.1 };
    (0.7 * x + 0.0003 * t + branch).sin() + 0.01 * step as f32 + 0.02 * prompt
}

const SHAPE: LatentShape = LatentShape { channels: 1, height: 1, width: 2 };

fn row(timestep: f32, length: usize) -> Row {
    let conditioning =
        Arc::new(Conditioning { tokens: vec![0.0; length], length, width: 1, ..Conditioning::default() });
    Row { frame: 0, step: 0, timestep, branch: Branch::Prompt, conditioning, control: None, control_scale: 0.0 }
}

/// Adds each row's time to its values, and says how many rows each call had. A call begins when the test lets it.
struct Gated {
    entered: SyncSender<usize>,
    go: Receiver<Option<&'static str>>,
}

impl Denoiser for Gated {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        self.entered.send(batch.rows.len()).unwrap();
        match self.go.recv().unwrap() {
            Some("panic") => panic!("on purpose"),
            Some(error) => return Err(ModelError::new(error).with_hint("a hint")),
            None => {}
        }
        for ((row, sample), out) in batch.rows.iter().zip(batch.sample.chunks(2)).zip(out.chunks_mut(2)) {
            for (x, out) in sample.iter().zip(out) {
                *out = x + row.timestep;
            }
        }
        Ok(())
    }
}

fn gated(most_rows: usize) -> (SharedDenoiser, Receiver<usize>, SyncSender<Option<&'static str>>) {
    let (entered, calls) = sync_channel(8);
    let (let_go, go) = sync_channel(8);
    (SharedDenoiser::new(Box::new(Gated { entered, go }), most_rows), calls, let_go)
}

/// A stream's call on a thread of its own; its rows have the time steps given.
fn call(
    shared: &SharedDenoiser,
    times: &[f32],
    length: usize,
) -> std::thread::JoinHandle<Result<Vec<f32>, ModelError>> {
    let (mut unet, rows): (_, Vec<_>) = (shared.handle(), times.iter().map(|time| row(*time, length)).collect());
    std::thread::spawn(move || {
        let sample: Vec<f32> = (0..2 * rows.len()).map(|i| i as f32).collect();
        let mut out = vec![0.0; sample.len()];
        unet.denoise(&DenoiseBatch { sample: &sample, shape: SHAPE, rows: &rows }, &mut out)?;
        Ok(out)
    })
}

/// Waits until that many calls of streams have come in.
fn until_requests(shared: &SharedDenoiser, count: u64) {
    while shared.counts().requests < count {
        std::thread::yield_now();
    }
}

#[test]
fn streams_on_a_shared_unet_equal_streams_alone() {
    let shared = SharedDenoiser::new(Box::new(PointwiseDenoiser(unet)), 64);
    let pictures: Vec<_> = (0..20).map(|id| grey(id * 12)).collect();
    std::thread::scope(|scope| {
        for (t_index, cfg, prompt) in
            [("45", "self", "a"), ("16,32", "full", "b"), ("8,20,40", "initialize", "a cat"), ("30", "none", "")]
        {
            let (shared, pictures) = (&shared, &pictures);
            scope.spawn(move || {
                let pairs = [("t-index", t_index), ("cfg", cfg), ("guidance", "1.5"), ("prompt", prompt)];
                let alone = run(&mut engine(unet, &pairs).0, pictures);
                let networks = Networks {
                    denoiser: shared.handle(),
                    ..fake::networks(FACTOR, PointwiseDenoiser(|x: f32, _, _, _: Branch, _| x))
                };
                assert_eq!(run(&mut engine_of(networks, &pairs).0, pictures), alone, "{t_index} {cfg}");
            });
        }
    });
    let counts = shared.counts();
    assert!(counts.calls <= counts.requests && counts.rows >= counts.requests, "{counts:?}");
}

#[test]
fn those_who_wait_share_the_next_call_up_to_its_size() {
    let (shared, calls, let_go) = gated(4);
    let first = call(&shared, &[100.0], 1);
    assert_eq!(calls.recv().unwrap(), 1, "a stream alone does not wait for others");
    // Three streams come while the call runs: 2 + 1 rows fit, 3 more do not, and a prompt of another length never does.
    let mut waiting = Vec::new();
    for (at, times) in [&[1.0, 2.0][..], &[3.0], &[4.0, 5.0, 6.0]].into_iter().enumerate() {
        waiting.push(call(&shared, times, 1));
        until_requests(&shared, 2 + at as u64);
    }
    waiting.push(call(&shared, &[7.0], 9));
    until_requests(&shared, 5);
    (0..4).for_each(|_| let_go.send(None).unwrap());
    assert_eq!([calls.recv().unwrap(), calls.recv().unwrap(), calls.recv().unwrap()], [3, 3, 1]);
    assert_eq!(first.join().unwrap().unwrap(), [100.0, 101.0]);
    let results: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
    assert_eq!(results[0], [1.0, 2.0, 4.0, 5.0]);
    assert_eq!(results[1], [3.0, 4.0]);
    assert_eq!(results[2], [4.0, 5.0, 7.0, 8.0, 10.0, 11.0]);
    assert_eq!(results[3], [7.0, 8.0]);
    assert_eq!(shared.counts().calls, 4);
}

#[test]
fn an_error_reaches_those_in_the_call_and_the_next_call_goes_on() {
    for ends in ["out of memory", "panic"] {
        let (shared, calls, let_go) = gated(8);
        let first = call(&shared, &[0.0], 1);
        calls.recv().unwrap();
        let second = call(&shared, &[1.0], 1);
        until_requests(&shared, 2);
        let third = call(&shared, &[2.0], 1);
        until_requests(&shared, 3);
        let_go.send(None).unwrap();
        assert_eq!(calls.recv().unwrap(), 2);
        let_go.send(Some(ends)).unwrap();
        assert!(first.join().unwrap().is_ok());
        let ended = [second.join(), third.join()];
        if ends == "panic" {
            // Who ran the call panicked; the other has an error.
            assert_eq!(ended.iter().filter(|ended| ended.is_err()).count(), 1);
            assert_eq!(ended.iter().filter(|ended| matches!(ended, Ok(Err(_)))).count(), 1);
        } else {
            for ended in ended {
                let error = ended.unwrap().unwrap_err();
                assert_eq!((error.what.as_str(), error.hint.as_deref()), (ends, Some("a hint")));
            }
        }
        let next = call(&shared, &[5.0], 1);
        assert_eq!(calls.recv().unwrap(), 1);
        let_go.send(None).unwrap();
        assert_eq!(next.join().unwrap().unwrap(), [5.0, 6.0]);
    }
}

#[test]
fn nobody_waits_for_a_stream_that_is_slow_between_its_calls() {
    // A stream that made one call and then does something else: the other's calls go on, one by one.
    let shared = SharedDenoiser::new(Box::new(PointwiseDenoiser(unet)), 8);
    let (slow, quick) = (shared.handle(), Arc::new(Mutex::new(shared.handle())));
    for _ in 0..50 {
        let mut out = [0.0; 2];
        let rows = [row(10.0, 1)];
        let batch = DenoiseBatch { sample: &[0.5, 0.6], shape: SHAPE, rows: &rows };
        quick.lock().unwrap().denoise(&batch, &mut out).unwrap();
    }
    assert_eq!(shared.counts().calls, 50);
    drop(slow);
}
