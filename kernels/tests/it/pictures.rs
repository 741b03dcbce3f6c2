//! Pictures to tensors and back.

use livediffusion_kernels::gpu::{DType, GpuErrorKind, calls};
use livediffusion_kernels::{
    Crop, Filter, Normalise, Picture, PixelFormat, YuvMatrix, all_finite, chw_to_rgb8, f16, picture_to_chw,
};
use proptest::prelude::*;

use crate::device::Device;

/// A picture, the part of it that is taken, and what becomes of it.
#[derive(Clone, Debug)]
struct Case {
    format: PixelFormat,
    size: (usize, usize),
    strides: (usize, usize),
    crop: Crop,
    target: (usize, usize),
    filter: Filter,
    /// Where the first pixel and the first value of the tensor lie, to be not aligned.
    offsets: (usize, usize),
    bytes: Vec<u8>,
}

fn formats() -> impl Strategy<Value = PixelFormat> {
    prop_oneof![
        Just(PixelFormat::Rgb8),
        Just(PixelFormat::Rgba8),
        Just(PixelFormat::Nv12(YuvMatrix::BT709)),
        Just(PixelFormat::Nv12(YuvMatrix::BT601)),
        Just(PixelFormat::Nv12(YuvMatrix::JPEG)),
    ]
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..40, 1usize..24);
    (formats(), sizes, (0usize..20, 0usize..20), any::<[u16; 4]>(), (1usize..40, 1usize..24), any::<[bool; 3]>())
        .prop_flat_map(|(format, (width, height), padding, cut, target, [shrink, same, aligned])| {
            let left = usize::from(cut[0]) % width;
            let top = usize::from(cut[1]) % height;
            let crop = Crop {
                left,
                top,
                width: 1 + usize::from(cut[2]) % (width - left),
                height: 1 + usize::from(cut[3]) % (height - top),
            };
            let row = match format {
                PixelFormat::Rgb8 => 3 * width,
                PixelFormat::Rgba8 => 4 * width,
                PixelFormat::Nv12(_) => width,
            };
            // Half of the time as aligned as frames from GStreamer are.
            let strides = if aligned {
                (row.next_multiple_of(16), (2 * width.div_ceil(2)).next_multiple_of(16))
            } else {
                (row + padding.0, 2 * width.div_ceil(2) + padding.1)
            };
            let crop = if aligned && same { Crop::all((width, height)) } else { crop };
            let target = if same { (crop.width, crop.height) } else { target };
            let filter = if shrink { Filter::Area } else { Filter::Bilinear };
            let offsets = if aligned { Just((0, 0)).boxed() } else { (0usize..7, 0usize..7).boxed() };
            let length = strides.0 * height + strides.1 * height.div_ceil(2) + 8;
            (offsets, prop::collection::vec(any::<u8>(), length)).prop_map(move |(offsets, bytes)| Case {
                format,
                size: (width, height),
                strides,
                crop,
                target,
                filter,
                offsets,
                bytes,
            })
        })
}

/// That of VAE encoders, and others.
fn normalisations() -> impl Strategy<Value = Normalise> {
    let any = (-0.1f32..0.1, -2.0f32..2.0).prop_map(|(scale, bias)| Normalise { scale, bias });
    prop_oneof![Just(Normalise::SIGNED), any]
}

/// Nothing that a kernel should write.
const UNTOUCHED: f32 = 12345.0;

fn same(have: f32, want: f32) -> bool {
    have == want || (have.is_nan() && want.is_nan())
}

proptest! {
    #[test]
    fn a_picture_becomes_the_same_tensor(
        case in cases(),
        normalise in normalisations(),
        multiprocessors in 1u32..4,
        as_half: bool,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let (width, height) = case.target;
        let (len, luma) = (3 * width * height, case.strides.0 * case.size.1);
        let is_yuv = matches!(case.format, PixelFormat::Nv12(_));

        let mut want = vec![0.0; len];
        let at = case.offsets.0;
        let picture = Picture {
            format: case.format,
            size: case.size,
            plane: &case.bytes[at..],
            stride: case.strides.0,
            chroma: &case.bytes[at + luma..],
            chroma_stride: case.strides.1,
        };
        picture_to_chw(&picture, case.crop, case.filter, normalise, case.target, &mut want);

        let bytes = device.tensor(&case.bytes);
        let view = |at: usize| bytes.view().part(at, case.bytes.len() - at).unwrap();
        let picture = calls::DevicePicture {
            format: case.format,
            size: case.size,
            plane: view(at),
            stride: case.strides.0,
            chroma: is_yuv.then(|| (view(at + luma), case.strides.1)),
        };
        let start = case.offsets.1;
        let whole = len + start + 9;
        let (inside, outside);
        if as_half {
            let mut chw = device.tensor(&vec![f16::from_f32(UNTOUCHED); whole]);
            let part = chw.view_mut().part(start, len).unwrap();
            calls::picture_to_chw(&device, &picture, case.crop, case.filter, normalise, case.target, part).unwrap();
            let all = device.values::<f16>(&chw);
            want = want.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
            inside = all[start..start + len].iter().map(|v| v.to_f32()).collect::<Vec<_>>();
            outside = all[..start].iter().chain(&all[start + len..]).all(|v| *v == f16::from_f32(UNTOUCHED));
        } else {
            let mut chw = device.tensor(&vec![UNTOUCHED; whole]);
            let part = chw.view_mut().part(start, len).unwrap();
            calls::picture_to_chw(&device, &picture, case.crop, case.filter, normalise, case.target, part).unwrap();
            let all = device.values::<f32>(&chw);
            inside = all[start..start + len].to_vec();
            outside = all[..start].iter().chain(&all[start + len..]).all(|v| *v == UNTOUCHED);
        }
        prop_assert!(outside, "written beside the tensor");
        for (i, (have, want)) in inside.iter().zip(&want).enumerate() {
            prop_assert!(same(*have, *want), "{i}: {have} instead of {want}");
        }
    }

    #[test]
    fn a_tensor_becomes_the_same_picture(
        values in prop::collection::vec(
            prop_oneof![8 => -1.3_f32..1.3, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(-1e30)], 1..700),
        offsets in prop_oneof![Just((0usize, 0usize)), (0usize..5, 0usize..5)],
        finite: bool,
        as_half: bool,
        multiprocessors in 1u32..4,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let pixels = values.len().div_ceil(3);
        let mut chw: Vec<f32> = values.into_iter().cycle().take(3 * pixels).collect();
        if finite {
            chw = chw.iter().map(|v| if v.is_finite() { *v } else { 0.25 }).collect();
        }
        if as_half {
            chw = chw.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
        }
        let mut want = vec![0; 3 * pixels];
        chw_to_rgb8(&chw, pixels, 1, &mut want);

        let (start, at) = offsets;
        let padded: Vec<f32> = std::iter::repeat_n(f32::NAN, start).chain(chw.iter().copied()).collect();
        let tensor = if as_half {
            let narrow: Vec<f16> = padded.iter().map(|v| f16::from_f32(*v)).collect();
            device.tensor(&narrow)
        } else {
            device.tensor(&padded)
        };
        let mut rgb = device.tensor(&vec![0xab_u8; 3 * pixels + at + 5]);
        let mut broken = device.zeros(DType::U32, &[1]);
        let (from, to) = (tensor.view().part(start, 3 * pixels).unwrap(), rgb.view_mut().part(at, 3 * pixels).unwrap());
        calls::chw_to_rgb8(&device, from, to, Some(broken.view_mut())).unwrap();
        let all = device.values::<u8>(&rgb);
        prop_assert_eq!(&all[at..at + 3 * pixels], &want[..]);
        prop_assert!(all[..at].iter().chain(&all[at + 3 * pixels..]).all(|v| *v == 0xab));
        prop_assert_eq!(device.values::<u32>(&broken)[0] == 0, all_finite(&chw));
    }
}

#[test]
fn wrong_tensors_are_refused_before_anything_is_launched() {
    let Some(device) = Device::new(1) else { return };
    let bytes = device.zeros(DType::U8, &[8 * 6 * 3 - 1]);
    let mut chw = device.zeros(DType::F32, &[3, 6, 8]);
    let picture =
        calls::DevicePicture { format: PixelFormat::Rgb8, size: (8, 6), plane: bytes.view(), stride: 24, chroma: None };
    let mut call = |picture: &calls::DevicePicture<'_>, crop, target| {
        let chw = chw.view_mut();
        calls::picture_to_chw(&device, picture, crop, Filter::Area, Normalise::SIGNED, target, chw).unwrap_err()
    };
    let all = Crop::all((8, 6));
    let too_short = call(&picture, all, (8, 6));
    assert_eq!(too_short.kind, GpuErrorKind::Misuse);
    assert!(too_short.what.contains("143 bytes for 6 rows of 24"), "{too_short}");
    let smaller = calls::DevicePicture { size: (8, 5), ..picture };
    assert!(call(&smaller, all, (8, 6)).what.contains("Crop"));
    assert!(call(&smaller, Crop::all((8, 5)), (9, 6)).what.contains("162"));
    let yuv = calls::DevicePicture { format: PixelFormat::Nv12(YuvMatrix::BT709), ..picture };
    assert!(call(&yuv, all, (8, 6)).what.contains("without chroma"));
}
