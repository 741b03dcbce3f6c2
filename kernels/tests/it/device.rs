//! The kernels on a card, where there is one: the same calls as on the host, and frames through the three streams.

use std::sync::Arc;

use livediffusion_kernels::cuda::{Card, Cuda, Image, NvrtcSearch, Stream, Target};
use livediffusion_kernels::gpu::{DType, Element, GpuError, Overlap, Tensor, Work, calls};
use livediffusion_kernels::{
    Crop, Filter, Guidance, History, Normalise, PixelFormat, StepCoefficients, advance, dot_products_sampled,
};

/// The first card with the kernels on it; `None`, and a line that says why, where there is none. With `LIVEDIFFUSION_NEEDS_CARD` in
/// the environment that is a failure, so that nobody takes what was skipped for a success.
fn cuda() -> Option<Arc<Cuda>> {
    let open = || -> Result<Arc<Cuda>, GpuError> {
        let card = Card::open(0)?;
        let driver = Some(card.driver().version());
        let cache = crate::nvrtc::cache();
        let nvrtc = NvrtcSearch { cache: cache.as_deref(), driver, explicit: None }.load()?;
        let target = Target::for_card(card.capability()?, &nvrtc)?;
        let version = card.driver().version();
        card.with_kernels(Image::cached(None, &nvrtc, target, version)?)
    };
    let found = open();
    if let (Err(error), Some(_)) = (&found, std::env::var_os("LIVEDIFFUSION_NEEDS_CARD")) {
        panic!("error: {error}");
    }
    found.inspect_err(|error| eprintln!("skipped: {error}")).ok()
}

fn upload<T: Element>(stream: &Stream, values: &[T]) -> Tensor {
    let cuda = stream.cuda();
    let mut pinned = cuda.pinned(T::DTYPE, &[values.len()]).unwrap();
    pinned.as_mut_slice::<T>().unwrap().copy_from_slice(values);
    let mut tensor = cuda.zeros(T::DTYPE, &[values.len()]).unwrap();
    stream.upload(&pinned, tensor.view_mut()).unwrap();
    stream.synchronize().unwrap();
    tensor
}

fn download<T: Element>(stream: &Stream, tensor: &Tensor) -> Vec<T> {
    let mut pinned = stream.cuda().pinned(tensor.dtype(), tensor.shape()).unwrap();
    stream.download(tensor.view(), &mut pinned).unwrap();
    pinned.as_slice::<T>().unwrap().to_vec()
}

fn values(len: usize, salt: u32) -> Vec<f32> {
    let value =
        |i: usize| (i as u32).wrapping_mul(0x9e37_79b9).wrapping_add(salt).rotate_left(11).wrapping_mul(2_654_435_761);
    (0..len).map(|i| value(i) as f32 / 2.0_f32.powi(31) - 1.0).collect()
}

#[test]
fn frames_come_through_the_streams_as_they_went_in() {
    let Some(cuda) = cuda() else { return };
    let (width, height) = (64, 48);
    let bytes = 3 * width * height;
    let stream = cuda.stream().unwrap();
    let mut chw = cuda.zeros(DType::F32, &[3, height, width]).unwrap();
    let mut overlap = Overlap::new(&stream, 3, (bytes, bytes)).unwrap();
    let frame = |number: usize| -> Vec<u8> { (0..bytes).map(|i| (i * 7 + number * 31) as u8).collect() };
    let (mut sent, mut came) = (0, 0);
    while came < 20 {
        if sent < 20
            && let Some(next) = overlap.next_frame().unwrap()
        {
            next.copy_from_slice(&frame(sent));
            let submitted = overlap.submit(|work: Work<'_, Stream>| {
                let Work { queue: stream, frame, picture, .. } = work;
                let picture_in = calls::DevicePicture {
                    format: PixelFormat::Rgb8,
                    size: (width, height),
                    plane: frame.view(),
                    stride: 3 * width,
                    chroma: None,
                };
                let all = Crop::all((width, height));
                let size = (width, height);
                calls::picture_to_chw(stream, &picture_in, all, Filter::Area, Normalise::SIGNED, size, chw.view_mut())?;
                calls::chw_to_rgb8(stream, chw.view(), picture.view_mut(), None)
            });
            assert!(submitted.unwrap());
            sent += 1;
            continue;
        }
        assert!(
            overlap.collect().unwrap().is_some_and(|(picture, broken)| picture == frame(came) && !broken),
            "frame {came}"
        );
        came += 1;
    }
    assert_eq!(overlap.in_flight(), 0);
}

#[test]
fn a_slot_advances_on_the_card_as_on_the_cpu() {
    let Some(cuda) = cuda() else { return };
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
    let Some(cuda) = cuda() else { return };
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
