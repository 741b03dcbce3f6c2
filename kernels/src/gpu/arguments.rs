//! What kernels take by value, laid out as the .cu files have it.

use crate::advance::StepCoefficients;

/// Slots that one launch of `advance` takes. A larger stream batch is several launches.
pub const MAX_SLOTS: usize = 16;

/// `PictureArguments` in resample.cu.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct PictureArguments {
    pub(crate) planes: [u64; 2],
    pub(crate) strides: [u64; 2],
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) crop_width: u32,
    pub(crate) crop_height: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) filter: u32,
    pub(crate) ratio_x: f32,
    pub(crate) ratio_y: f32,
    pub(crate) scale: f32,
    pub(crate) bias: f32,
    pub(crate) luma_scale: f32,
    pub(crate) luma_offset: f32,
    pub(crate) red_v: f32,
    pub(crate) green_u: f32,
    pub(crate) green_v: f32,
    pub(crate) blue_u: f32,
}

/// `SlotArguments` in advance.cu.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct SlotArguments {
    pub(crate) step: StepCoefficients,
    pub(crate) guidance: u32,
    pub(crate) scale: f32,
    pub(crate) delta: f32,
    pub(crate) capacity: u32,
    pub(crate) newest: u32,
    pub(crate) prediction: u64,
    pub(crate) negative: u64,
    pub(crate) noise: u64,
    pub(crate) reference: u64,
    pub(crate) history: u64,
    pub(crate) x: u64,
}

/// `BatchArguments` in advance.cu.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct BatchArguments {
    pub(crate) slots: [SlotArguments; MAX_SLOTS],
}

// Parameters of a kernel fit into 4 KB on every card.
const _: () = assert!(size_of::<BatchArguments>() + 8 <= 4096);
