//! The kernels' source text: one module, of the .cu files beside their CPU twins.

/// All kernels, to be compiled as one file.
pub const SOURCE: &str = concat!(
    include_str!("../prelude.cu"),
    include_str!("../resample.cu"),
    include_str!("../picture.cu"),
    include_str!("../half.cu"),
    include_str!("../blend.cu"),
    include_str!("../advance.cu"),
    include_str!("../latent.cu"),
    include_str!("../similarity.cu"),
);

/// Options of NVRTC beside the architecture. Without fused multiply-adds the element-wise kernels give the CPU's values.
pub const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];
