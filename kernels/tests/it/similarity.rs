//! The sums of the similarity filter: a reduction, whose order is another than on the CPU.

use livediffusion_kernels::dot_products_sampled;
use livediffusion_kernels::gpu::{DType, Launch as _, calls};
use proptest::prelude::*;

use crate::device::{Device, at_most};

proptest! {
    #![proptest_config(at_most(64))]

    #[test]
    fn the_sums_are_the_same(
        (width, height, step) in (1usize..120, 1usize..60, 1usize..5),
        seed in any::<u32>(),
        kinds in (0usize..5, 0usize..5),
        multiprocessors in 1u32..5,
    ) {
        let Some(device) = Device::new(multiprocessors) else { return Ok(()) };
        let len = 3 * width * height;
        let noise = |salt: u32| -> Vec<f32> {
            let value = |i: usize| (i as u32 ^ salt).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(seed | 1);
            (0..len).map(|i| value(i) as f32 / 2.0_f32.powi(31) - 1.0).collect()
        };
        // Black, white, one value that is not, what is too small for a square in f32, and noise.
        let picture = |kind: usize, salt: u32| match kind {
            0 => vec![0.0; len],
            1 => vec![1.0; len],
            2 => (0..len).map(|i| f32::from(u8::from(i == len - 1))).collect(),
            3 => vec![1e-30; len],
            _ => noise(salt),
        };
        let (x, y) = (picture(kinds.0, 1), picture(kinds.1, 77));
        let want = dot_products_sampled(&x, &y, (width, height), 3, step);

        let (x, y) = (device.tensor(&x), device.tensor(&y));
        let mut sums = device.zeros(DType::F64, &[4]);
        let zeros = |dtype, shape: &[usize]| Ok(device.zeros(dtype, shape));
        let mut scratch = calls::SimilarityScratch::new(device.limits(), zeros).unwrap();
        let mut first = None;
        // Twice, since the ticket has to be back at 0; the same to the last bit.
        for _ in 0..2 {
            let pictures = (x.view(), y.view());
            calls::similarity(&device, pictures, (width, height), 3, step, &mut scratch, sums.view_mut()).unwrap();
            let have = <[f64; 4]>::try_from(device.values::<f64>(&sums)).unwrap();
            prop_assert_eq!(*first.get_or_insert(have), have);
            let scale = 1.0 + len as f64;
            for (have, want) in have.into_iter().zip([want.xy, want.xx, want.yy, want.difference]) {
                prop_assert!((have - want).abs() < 1e-6 * scale, "{have} instead of {want}");
            }
        }
    }
}
