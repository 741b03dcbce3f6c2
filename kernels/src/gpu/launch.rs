//! Which kernels there are, in what shape they are launched, and by whom.

use std::ffi::c_void;

use crate::gpu::error::GpuError;
use crate::gpu::tensor::Place;

macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A kernel of [`SOURCE`](crate::gpu::SOURCE).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kernel {
            $($(#[$doc])* $name,)*
        }

        impl Kernel {
            /// Every kernel, in the order of their numbers (`as usize`).
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in the source.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kernels! {
    /// RGB to planes of f32.
    Rgb8ToF32 = "rgb8_to_chw_f32",
    /// RGB to planes of f16.
    Rgb8ToF16 = "rgb8_to_chw_f16",
    /// RGBA to planes of f32.
    Rgba8ToF32 = "rgba8_to_chw_f32",
    /// RGBA to planes of f16.
    Rgba8ToF16 = "rgba8_to_chw_f16",
    /// NV12 to planes of f32.
    Nv12ToF32 = "nv12_to_chw_f32",
    /// NV12 to planes of f16.
    Nv12ToF16 = "nv12_to_chw_f16",
    /// Planes of f32 to RGB.
    F32ToRgb8 = "chw_to_rgb8_f32",
    /// Planes of f16 to RGB.
    F16ToRgb8 = "chw_to_rgb8_f16",
    /// f16 to f32.
    Widen = "f16_to_f32",
    /// f32 to f16.
    Narrow = "f32_to_f16",
    /// One tensor into another.
    Blend = "blend_f32",
    /// A latent in f32 into a slot.
    AdmitF32 = "admit_f32",
    /// A latent in f16 into a slot.
    AdmitF16 = "admit_f16",
    /// All slots by a step, from predictions in f32.
    AdvanceF32 = "advance_f32",
    /// All slots by a step, from predictions in f16.
    AdvanceF16 = "advance_f16",
    /// A sample of a KL posterior whose moments are in f32.
    PosteriorF32 = "posterior_f32",
    /// A sample of a KL posterior whose moments are in f16.
    PosteriorF16 = "posterior_f16",
    /// A latent to the decoder's scale, in f32.
    UnscaleF32 = "unscale_f32",
    /// A latent to the decoder's scale, in f16.
    UnscaleF16 = "unscale_f16",
    /// Sums of the similarity filter.
    Similarity = "similarity_f32",
}

/// What a device offers, as far as launches depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Threads that one of them holds at a time.
    pub threads_per_multiprocessor: u32,
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks along x.
    pub blocks: u32,
    /// Blocks along y.
    pub rows: u32,
    /// Threads of a block.
    pub threads: u32,
}

/// Threads of a block. Every card since compute capability 7.5 holds a multiple of it on a multiprocessor.
pub(crate) const THREADS: u32 = 256;

impl Shape {
    /// Enough threads for `items` pieces of work, but no more than the device holds at once: kernels loop over what is left.
    pub fn for_items(items: usize, rows: u32, limits: Limits) -> Self {
        let rows = rows.max(1);
        let wanted = items.div_ceil(THREADS as usize).max(1);
        let resident = limits.multiprocessors * (limits.threads_per_multiprocessor / THREADS).max(1);
        let blocks = wanted.min(resident.div_ceil(rows).max(1) as usize) as u32;
        Self { blocks, rows, threads: THREADS }
    }
}

/// Where kernels run, one after the other: a CUDA stream.
#[allow(unsafe_code, reason = "a launch hands raw addresses to a device")]
pub trait Launch {
    /// What the device offers.
    fn limits(&self) -> Limits;

    /// Whose memory the kernels reach.
    fn place(&self) -> Place;

    /// Puts a kernel behind what was launched before. Returns before it has run.
    ///
    /// # Safety
    /// `arguments` point to values of the types that the kernel takes, in its order, and addresses among them are valid in
    /// [`place`](Self::place) for what the kernel reads and writes.
    unsafe fn launch(&self, kernel: Kernel, shape: Shape, arguments: &mut [*mut c_void]) -> Result<(), GpuError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::SOURCE;

    #[test]
    fn every_kernel_is_in_the_source() {
        for (number, kernel) in Kernel::ALL.iter().enumerate() {
            assert_eq!(*kernel as usize, number);
            let name = kernel.name();
            let by_macro = name.split_once("_to_chw_").map(|(format, _)| format!("PICTURE_KERNELS({format},"));
            let found =
                SOURCE.contains(&format!("void {name}(")) || by_macro.is_some_and(|text| SOURCE.contains(&text));
            assert!(found, "{name}");
        }
    }

    #[test]
    fn a_launch_fills_the_device_and_no_more() {
        let limits = Limits { multiprocessors: 10, threads_per_multiprocessor: 1536 };
        let shape = |items, rows| Shape::for_items(items, rows, limits);
        assert_eq!(shape(1, 1), Shape { blocks: 1, rows: 1, threads: 256 });
        assert_eq!(shape(257, 1).blocks, 2);
        assert_eq!(shape(1 << 30, 1).blocks, 60);
        // Sixteen slots share it.
        assert_eq!(shape(1 << 30, 16).blocks, 4);
        assert_eq!(shape(0, 0), Shape { blocks: 1, rows: 1, threads: 256 });
    }
}
