//! Latents: conversion, blending, admitting and advancing.

use livediffusion_kernels::gpu::{DType, GpuErrorKind, calls};
use livediffusion_kernels::{
    Guidance, History, StepCoefficients, admit, advance, blend, f16, f16_to_f32, f32_to_f16, sample_posterior, unscale,
};
use proptest::prelude::*;

use crate::device::{Device, at_most};

fn values() -> impl Strategy<Value = f32> {
    prop_oneof![
        20 => -4.0_f32..4.0,
        1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(-0.0), 1 => Just(1e-42), 1 => Just(3e38),
    ]
}

/// Equal, or both NaN.
fn all_same(have: &[f32], want: &[f32]) -> Result<(), TestCaseError> {
    prop_assert_eq!(have.len(), want.len());
    for (i, (have, want)) in have.iter().zip(want).enumerate() {
        prop_assert!(have == want || (have.is_nan() && want.is_nan()), "{}: {} instead of {}", i, have, want);
    }
    Ok(())
}

/// What a network that breaks gives.
fn no_number() -> impl Strategy<Value = f32> {
    prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)]
}

proptest! {
    #[test]
    fn halves_are_widened_and_floats_rounded_alike(
        bits in prop::collection::vec(any::<u16>(), 1..600),
        floats in prop::collection::vec(prop_oneof![any::<f32>(), values()], 1..600),
        at in prop_oneof![Just(0usize), 0usize..9],
        multiprocessors in 1u32..4,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let halves: Vec<f16> = bits.into_iter().map(f16::from_bits).collect();
        let len = halves.len().saturating_sub(at).max(1);
        let mut want = vec![0.0; len];
        f16_to_f32(&halves[halves.len() - len..], &mut want);
        let (from, mut to) = (device.tensor(&halves), device.zeros(DType::F32, &[len]));
        calls::widen(&device, from.view().part(halves.len() - len, len).unwrap(), to.view_mut()).unwrap();
        all_same(&device.values(&to), &want)?;

        let mut want = vec![f16::ZERO; floats.len()];
        f32_to_f16(&floats, &mut want);
        let mut to = device.zeros(DType::F16, &[floats.len() + at]);
        let part = to.view_mut().part(at, floats.len()).unwrap();
        calls::narrow(&device, device.tensor(&floats).view(), part).unwrap();
        for (have, want) in device.values::<f16>(&to)[at..].iter().zip(want) {
            prop_assert!(have.to_bits() == want.to_bits() || (have.is_nan() && want.is_nan()));
        }
    }

    #[test]
    fn blending_is_the_same(
        pairs in prop::collection::vec((values(), prop_oneof![8 => values(), 1 => no_number()]), 1..500),
        weight in values(),
        at in 0usize..4,
        multiprocessors in 1u32..4,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let (mut x, other): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let at = at.min(x.len());
        let mut on_device = device.tensor(&x);
        let part = on_device.view_mut().part(at, x.len() - at).unwrap();
        calls::blend(&device, weight, device.tensor(&other).view().part(at, other.len() - at).unwrap(), part).unwrap();
        blend(weight, &other[at..], &mut x[at..]);
        all_same(&device.values(&on_device), &x)?;
    }

    #[test]
    fn admitting_is_the_same(
        rows in prop::collection::vec((values(), values()), 1..500),
        (alpha, sigma) in (0.0_f32..1.0, 0.0_f32..1.0),
        (shift, scale) in (-1.0_f32..1.0, 0.1_f32..2.0),
        as_half: bool,
        multiprocessors in 1u32..4,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let (mut given, noise): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
        let from = if as_half {
            let mut narrow = vec![f16::ZERO; given.len()];
            f32_to_f16(&given, &mut narrow);
            f16_to_f32(&narrow, &mut given);
            device.tensor(&narrow)
        } else {
            device.tensor(&given)
        };
        let latent: Vec<f32> = given.iter().map(|v| (v - shift) * scale).collect();
        let mut want = vec![0.0; given.len()];
        admit(alpha, sigma, &latent, &noise, &mut want);
        let (mut kept, mut x) = (device.zeros(DType::F32, &[want.len()]), device.zeros(DType::F32, &[want.len()]));
        let noise = device.tensor(&noise);
        let affine = (shift, scale);
        calls::admit(&device, (alpha, sigma), affine, from.view(), noise.view(), kept.view_mut(), x.view_mut()).unwrap();
        all_same(&device.values(&kept), &latent)?;
        all_same(&device.values(&x), &want)?;
    }
}

proptest! {
    #[test]
    fn posteriors_are_sampled_and_latents_unscaled_alike(
        rows in prop::collection::vec((values(), prop_oneof![9 => -40.0_f32..25.0, 1 => values()], values()), 1..500),
        (scale, shift) in (0.1_f32..2.0, -1.0_f32..1.0),
        as_half: bool,
        multiprocessors in 1u32..4,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let narrowed = |v: f32| if as_half { f16::from_f32(v).to_f32() } else { v };
        let mean: Vec<f32> = rows.iter().map(|row| narrowed(row.0)).collect();
        let log_variance: Vec<f32> = rows.iter().map(|row| narrowed(row.1)).collect();
        let noise: Vec<f32> = rows.iter().map(|row| row.2).collect();
        let len = rows.len();
        let moments = |values: &[f32]| {
            if as_half {
                device.tensor(&values.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>())
            } else {
                device.tensor(values)
            }
        };
        let mut want = vec![0.0; len];
        sample_posterior(&mean, &log_variance, &noise, &mut want);
        let mut sample = device.zeros(DType::F32, &[len]);
        let (m, v, n) = (moments(&mean), moments(&log_variance), device.tensor(&noise));
        calls::posterior(&device, m.view(), v.view(), n.view(), sample.view_mut()).unwrap();
        for ((have, want), mean) in device.values::<f32>(&sample).iter().zip(&want).zip(&mean) {
            // A card's exponential is its own, good to the last two bits, of which more is seen where mean and noise cancel out.
            let parts = mean.abs() + (want - mean).abs();
            let close = (have - want).abs() <= 4.0 * f32::EPSILON * parts.max(1e-30);
            prop_assert!(have == want || close || (have.is_nan() && want.is_nan()), "{} instead of {}", have, want);
        }

        unscale(scale, shift, &noise, &mut want);
        let mut out = device.zeros(if as_half { DType::F16 } else { DType::F32 }, &[len]);
        calls::unscale(&device, (scale, shift), n.view(), out.view_mut()).unwrap();
        if as_half {
            let want: Vec<f32> = want.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
            let have: Vec<f32> = device.values::<f16>(&out).iter().map(|v| v.to_f32()).collect();
            all_same(&have, &want)?;
        } else {
            all_same(&device.values(&out), &want)?;
        }
    }
}

/// A step in which every coefficient matters, or none of some.
fn steps() -> impl Strategy<Value = StepCoefficients> {
    let c = || -1.5_f32..1.5;
    (0.1_f32..1.0, 0.1_f32..1.0, [c(), c(), c(), c(), c(), c(), c(), c(), c(), c()], prop::option::of(c())).prop_map(
        |(alpha, sigma, v, next_z)| StepCoefficients {
            alpha,
            sigma,
            eps_x: v[0],
            eps_p: v[1],
            hist_x: v[2],
            hist_m: v[3],
            hist_h: v[4],
            next_x: v[5],
            next_h: [v[6], v[7], v[8], v[9]],
            next_z: next_z.unwrap_or(0.0),
        },
    )
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    Full,
    Residual,
    Initialize,
}

#[derive(Clone, Debug)]
struct SlotCase {
    kind: Kind,
    capacity: usize,
    scale: f32,
    delta: f32,
    steps: Vec<StepCoefficients>,
}

fn slots() -> impl Strategy<Value = SlotCase> {
    let kind = prop_oneof![Just(Kind::None), Just(Kind::Full), Just(Kind::Residual), Just(Kind::Initialize)];
    (kind, 0usize..=3, 0.0_f32..3.0, 0.0_f32..2.0, prop::collection::vec(steps(), 3))
        .prop_map(|(kind, capacity, scale, delta, steps)| SlotCase { kind, capacity, scale, delta, steps })
}

/// What a slot holds beside its x, on the CPU.
struct OnCpu {
    x: Vec<f32>,
    prediction: Vec<f32>,
    negative: Vec<f32>,
    noise: Vec<f32>,
    reference: Vec<f32>,
    history: History,
}

impl OnCpu {
    fn advance(&mut self, case: &SlotCase, step: &StepCoefficients) {
        let (scale, delta) = (case.scale, case.delta);
        let guidance = match case.kind {
            Kind::None => Guidance::None,
            Kind::Full => Guidance::Full { negative: &self.negative, scale },
            Kind::Residual => Guidance::Residual { reference: &self.reference, scale, delta },
            Kind::Initialize => {
                Guidance::Initialize { negative: &self.negative, reference: &mut self.reference, scale, delta }
            }
        };
        advance(step, guidance, &self.prediction, &self.noise, &mut self.history, &mut self.x);
    }
}

proptest! {
    #![proptest_config(at_most(96))]

    #[test]
    fn a_stream_batch_advances_alike(
        cases in prop::collection::vec(slots(), 1..20),
        pool in prop::collection::vec(values(), 64),
        // Not a multiple of 4 now and then, which rules wide accesses out.
        len in prop_oneof![(1usize..40).prop_map(|n| 4 * n), 1usize..160],
        as_half: bool,
        multiprocessors in 1u32..6,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let some = |salt: usize| -> Vec<f32> { (0..len).map(|i| pool[(i * 7 + salt * 13) % 64]).collect() };
        let raw = |salt: usize| -> Vec<f32> {
            some(salt).into_iter().map(|v| if as_half { f16::from_f32(v).to_f32() } else { v }).collect()
        };
        let mut cpu: Vec<OnCpu> = cases.iter().enumerate().map(|(i, case)| {
            let mut history = History::default();
            history.reset(case.capacity, len);
            OnCpu { x: some(i), prediction: raw(i + 1), negative: raw(i + 2), noise: some(i + 3), reference: some(i + 4), history }
        }).collect();

        // The same on the device: all latents in one tensor, as the network takes them.
        let all: Vec<f32> = cpu.iter().flat_map(|slot| slot.x.clone()).collect();
        let mut x = device.tensor(&all);
        let network = |values: &[f32]| {
            if as_half {
                let narrow: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
                device.tensor(&narrow)
            } else {
                device.tensor(values)
            }
        };
        let predictions: Vec<_> = cpu.iter().map(|slot| network(&slot.prediction)).collect();
        let negatives: Vec<_> = cpu.iter().map(|slot| network(&slot.negative)).collect();
        let noises: Vec<_> = cpu.iter().map(|slot| device.tensor(&slot.noise)).collect();
        let mut references: Vec<_> = cpu.iter().map(|slot| device.tensor(&slot.reference)).collect();
        let mut rings: Vec<_> = cases.iter().map(|case| {
            (case.capacity > 0).then(|| calls::Ring::new(device.zeros(DType::F32, &[case.capacity, len])).unwrap())
        }).collect();

        for turn in 0..3 {
            let mut rest = x.view_mut();
            let mut slots = Vec::new();
            let parts = references.iter_mut().zip(&mut rings);
            for (i, (case, (reference, ring))) in cases.iter().zip(parts).enumerate() {
                let (mine, others) = rest.split(len).unwrap();
                rest = others;
                let (scale, delta, negative) = (case.scale, case.delta, negatives[i].view());
                let guidance = match case.kind {
                    Kind::None => calls::SlotGuidance::None,
                    Kind::Full => calls::SlotGuidance::Full { negative, scale },
                    Kind::Residual => calls::SlotGuidance::Residual { reference: reference.view(), scale, delta },
                    Kind::Initialize => {
                        calls::SlotGuidance::Initialize { negative, reference: reference.view_mut(), scale, delta }
                    }
                };
                slots.push(calls::Slot {
                    step: case.steps[turn],
                    guidance,
                    prediction: predictions[i].view(),
                    noise: Some(noises[i].view()),
                    history: ring.as_mut(),
                    x: mine,
                });
            }
            calls::advance(&device, slots).unwrap();
            for (i, (slot, case)) in cpu.iter_mut().zip(&cases).enumerate() {
                slot.advance(case, &case.steps[turn]);
                all_same(&device.values::<f32>(&x)[i * len..][..len], &slot.x)?;
                all_same(&device.values(&references[i]), &slot.reference)?;
            }
        }
    }
}

#[test]
fn a_step_with_noise_needs_noise() {
    let Some(device) = Device::new(1) else { return };
    let (mut x, prediction) = (device.tensor(&[0.0_f32; 4]), device.tensor(&[0.0_f32; 4]));
    let step = StepCoefficients { next_z: 0.5, ..StepCoefficients::default() };
    let guidance = calls::SlotGuidance::None;
    let slots =
        [calls::Slot { step, guidance, prediction: prediction.view(), noise: None, history: None, x: x.view_mut() }];
    let error = calls::advance(&device, slots).unwrap_err();
    assert_eq!(error.kind, GpuErrorKind::Misuse);
    assert!(calls::Ring::new(device.zeros(DType::F32, &[4, 4])).is_err(), "more than the solvers ask for");
}
