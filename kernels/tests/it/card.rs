//! The kernels on a card, where there is one: the same calls as on the host, and frames through the three streams.

use std::sync::Arc;

use livediffusion_kernels::cuda::{Cuda, Stream};
use livediffusion_kernels::gpu::schedule::Stage;
use livediffusion_kernels::gpu::{DType, GpuErrorKind, Overlap, Queue, Queues, Tensor, Work, calls};
use livediffusion_kernels::{
    Crop, Filter, Guidance, History, Normalise, PixelFormat, StepCoefficients, advance, dot_products_sampled,
};

use crate::device::{download, upload};
use crate::host::software::{first_card, left};

fn values(len: usize, salt: u32) -> Vec<f32> {
    let value =
        |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(salt).rotate_left(11).wrapping_mul(2_654_435_761);
    (0..len).map(|i| value(i) as f32 / 2.0_f32.powi(31) - 1.0).collect()
}

#[test]
fn frames_come_through_the_streams_as_they_went_in() {
    let Some(cuda) = first_card() else { return };
    let stream = || cuda.stream().unwrap();
    frames_come_through(&cuda, &Queues::one(&stream()));
    frames_come_through(&cuda, &Queues::apart(stream(), stream(), stream()));
}

/// Each frame through f32 and back, the first half of it as the encoder's work, the other as the decoder's.
fn frames_come_through(cuda: &Arc<Cuda>, queues: &Queues<Stream>) {
    let (width, height) = (64, 48);
    let bytes = 3 * width * height;
    // Of each set its own, so that no frame waits for another but by the schedule.
    let planes = || cuda.zeros(DType::F32, &[3, height, width]).unwrap();
    let (mut first, mut second): (Vec<Tensor>, Vec<Tensor>) = (0..3).map(|_| (planes(), planes())).unzip();
    let mut overlap = Overlap::new(queues, 3, (bytes, bytes)).unwrap();
    let frame = |number: usize| -> Vec<u8> { (0..bytes).map(|i| (i * 7 + number * 31) as u8).collect() };
    let (mut sent, mut came) = (0, 0);
    while came < 20 {
        if sent < 20
            && let Some(next) = overlap.next_frame().unwrap()
        {
            next.copy_from_slice(&frame(sent));
            let submitted = overlap.submit(|work: Work<'_, Stream>| {
                let Work { stage, queue, set, frame, picture, .. } = work;
                let size = (width, height);
                match stage {
                    Stage::Encode => {
                        let picture_in = calls::DevicePicture {
                            format: PixelFormat::Rgb8,
                            size,
                            plane: frame.view(),
                            stride: 3 * width,
                            chroma: None,
                        };
                        let (all, to) = (Crop::all(size), first[set].view_mut());
                        calls::picture_to_chw(queue, &picture_in, all, Filter::Area, Normalise::SIGNED, size, to)
                    }
                    Stage::Work => Queue::copy(queue, first[set].view(), second[set].view_mut()),
                    _ => calls::chw_to_rgb8(queue, second[set].view(), picture.view_mut(), None),
                }
            });
            assert!(submitted.unwrap());
            sent += 1;
            continue;
        }
        assert!(
            overlap.collect().unwrap().is_some_and(|came_back| {
                let is_timed = came_back.copies.iter().all(|ms| *ms >= 0.0);
                came_back.picture == frame(came) && !came_back.is_broken && is_timed
            }),
            "frame {came}"
        );
        came += 1;
    }
    assert_eq!(overlap.in_flight(), 0);
}

#[test]
fn a_slot_advances_on_the_card_as_on_the_cpu() {
    let Some(cuda) = first_card() else { return };
    let stream = cuda.stream().unwrap();
    let len = 4 * 64 * 64;
    let step = StepCoefficients {
        alpha: 0.7,
        sigma: 0.714,
        eps_x: 0.3,
        eps_p: 0.8,
        hist_x: 1.1,
        hist_m: -0.4,
        hist_h: 0.25,
        next_x: 0.9,
        next_h: [0.5, -0.2, 0.1, 0.05],
        next_z: 0.6,
    };
    let (prediction, noise, reference) = (values(len, 1), values(len, 2), values(len, 3));
    let mut x = values(len, 4);
    let mut history = History::default();
    history.reset(2, len);
    let mut on_card = upload(&stream, &x);
    let [on_prediction, on_noise, on_reference] = [&prediction, &noise, &reference].map(|v| upload(&stream, v));
    let mut ring = calls::Ring::new(cuda.zeros(DType::F32, &[2, len]).unwrap()).unwrap();
    for _ in 0..3 {
        let guidance = Guidance::Residual { reference: &reference, scale: 1.4, delta: 0.9 };
        advance(&step, guidance, &prediction, &noise, &mut history, &mut x);
        let guidance = calls::SlotGuidance::Residual { reference: on_reference.view(), scale: 1.4, delta: 0.9 };
        let slots = [calls::Slot {
            step,
            guidance,
            prediction: on_prediction.view(),
            noise: Some(on_noise.view()),
            history: Some(&mut ring),
            x: on_card.view_mut(),
        }];
        calls::advance(&stream, slots).unwrap();
    }
    assert_eq!(download::<f32>(&stream, &on_card), x);
}

#[test]
fn the_similarity_of_two_pictures_is_the_same_on_the_card() {
    let Some(cuda) = first_card() else { return };
    let stream = cuda.stream().unwrap();
    let size = (512, 512);
    let len = 3 * size.0 * size.1;
    let (x, y) = (values(len, 5), values(len, 6));
    let want = dot_products_sampled(&x, &y, size, 3, 2);
    let (x, y) = (upload(&stream, &x), upload(&stream, &y));
    let mut sums = cuda.zeros(DType::F64, &[4]).unwrap();
    let limits = livediffusion_kernels::gpu::Launch::limits(&stream);
    let mut scratch = calls::SimilarityScratch::new(limits, |dtype, shape| cuda.zeros(dtype, shape)).unwrap();
    for _ in 0..3 {
        calls::similarity(&stream, (x.view(), y.view()), size, 3, 2, &mut scratch, sums.view_mut()).unwrap();
        let have = download::<f64>(&stream, &sums);
        for (have, want) in have.into_iter().zip([want.xy, want.xx, want.yy, want.difference]) {
            assert!((have - want).abs() < 1e-6 * len as f64, "{have} instead of {want}");
        }
    }
}

#[test]
fn pinned_memory_is_written_again_once_its_copy_is_done() {
    let Some(cuda) = first_card() else { return };
    let (stream, other) = (cuda.stream().unwrap(), cuda.stream().unwrap());
    let mut pinned = cuda.pinned(DType::F32, &[8]).unwrap();
    let mut rows: Vec<Tensor> = (0..4).map(|_| cuda.zeros(DType::F32, &[8]).unwrap()).collect();
    for (number, row) in rows.iter_mut().enumerate() {
        // One buffer for all of them, and streams in turn.
        pinned.as_mut_slice::<f32>().unwrap().fill(number as f32);
        if number % 2 == 0 { &stream } else { &other }.upload(&pinned, row.view_mut()).unwrap();
    }
    // What comes back into the buffer comes after what went out of it.
    for (number, row) in rows.iter().enumerate() {
        let (from, to) = if number % 2 == 0 { (&stream, &other) } else { (&other, &stream) };
        let done = from.event().unwrap();
        from.record(&done).unwrap();
        to.wait(&done).unwrap();
        to.download(row.view(), &mut pinned).unwrap();
        assert_eq!(pinned.as_slice::<f32>().unwrap(), [number as f32; 8]);
    }
}

#[test]
fn copies_of_two_streams_take_turns_in_pinned_memory() {
    let Some(cuda) = first_card() else { return };
    // In both orders of their making, which decides on a card in software how early each does its work.
    for order in [[0, 1], [1, 0]] {
        let streams = [cuda.stream().unwrap(), cuda.stream().unwrap()];
        let [first, second] = order.map(|at| &streams[at]);
        let (ones, twos) = (upload(first, &[1.0_f32; 8]), upload(first, &[2.0_f32; 8]));
        let (mut pinned, mut there) = (cuda.pinned(DType::F32, &[8]).unwrap(), cuda.zeros(DType::F32, &[8]).unwrap());
        // The host looks at nothing between: out of the buffer what came into it, and not yet what comes next.
        first.download(ones.view(), &mut pinned).unwrap();
        second.upload(&pinned, there.view_mut()).unwrap();
        first.download(twos.view(), &mut pinned).unwrap();
        assert_eq!(pinned.as_slice::<f32>().unwrap(), [2.0; 8]);
        assert_eq!(download::<f32>(second, &there), [1.0; 8]);
    }
}

#[test]
fn events_order_streams_and_tell_times() {
    let Some(cuda) = first_card() else { return };
    let (first, second) = (cuda.stream().unwrap(), cuda.stream().unwrap());
    let ones = upload(&first, &[1.0_f32; 64]);
    let mut there = cuda.zeros(DType::F32, &[64]).unwrap();
    let mut further = cuda.zeros(DType::F32, &[64]).unwrap();
    let (begun, copied, done) = (first.event().unwrap(), first.event().unwrap(), second.event().unwrap());
    first.record(&begun).unwrap();
    Queue::copy(&first, ones.view(), there.view_mut()).unwrap();
    first.record(&copied).unwrap();
    second.wait(&copied).unwrap();
    Queue::copy(&second, there.view(), further.view_mut()).unwrap();
    second.record(&done).unwrap();
    assert_eq!(download::<f32>(&second, &further), [1.0; 64]);
    assert!(begun.ms_until(&copied).unwrap() >= 0.0 && begun.ms_until(&done).unwrap() >= 0.0);
}

#[test]
fn what_a_card_cannot_do_is_refused() {
    let Some(cuda) = first_card() else { return };
    let stream = cuda.stream().unwrap();
    let mut tensor = cuda.zeros(DType::F32, &[8]).unwrap();
    let pageable = Tensor::host(DType::F32, &[8]);
    assert_eq!(stream.upload(&pageable, tensor.view_mut()).unwrap_err().kind, GpuErrorKind::Misuse);
    let longer = cuda.pinned(DType::F32, &[9]).unwrap();
    assert_eq!(stream.upload(&longer, tensor.view_mut()).unwrap_err().kind, GpuErrorKind::Misuse);
    // More than any card has.
    let full = cuda.zeros(DType::F32, &[1 << 42]).unwrap_err();
    assert_eq!(full.kind, GpuErrorKind::OutOfMemory, "{full}");
    assert!(full.hint.is_some(), "{full}");
    let bus_id = cuda.card().bus_id().unwrap();
    assert!(bus_id.ends_with(".0") && bus_id.matches(':').count() == 2, "{bus_id}");
    // An error of one call is none of the next.
    assert_eq!(download::<f32>(&stream, &cuda.zeros(DType::F32, &[8]).unwrap()), [0.0; 8]);
}

#[test]
fn nothing_is_left_of_what_is_dropped() {
    let Some(cuda) = first_card() else { return };
    let before = left();
    {
        let stream = cuda.stream().unwrap();
        let mut tensor = cuda.zeros(DType::F32, &[1 << 16]).unwrap();
        let pinned = cuda.pinned(DType::F32, &[1 << 16]).unwrap();
        stream.upload(&pinned, tensor.view_mut()).unwrap();
        // On their way while they are dropped.
        drop((pinned, tensor));
        drop(Overlap::new(&Queues::one(&stream), 3, (1 << 12, 1 << 12)).unwrap());
    }
    match (before, left()) {
        (Some(before), Some(after)) => {
            assert_eq!((after.blocks, after.streams, after.events), (before.blocks, before.streams, before.events));
        }
        _ => println!("not counted: the card is a real one"),
    }
}
