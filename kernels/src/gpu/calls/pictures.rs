//! Pictures to tensors and back, and how alike two of them are.

use crate::gpu::arguments::PictureArguments;
use crate::gpu::calls::{by_type, check, launch, shape};
use crate::gpu::error::GpuError;
use crate::gpu::launch::{Kernel, Launch, Limits, Shape, THREADS};
use crate::gpu::tensor::{DType, Element, Place, Tensor, View, ViewMut};
use crate::resample::{Crop, Filter, Normalise, PixelFormat};

/// A picture in the memory that a queue's kernels reach.
#[derive(Clone, Copy, Debug)]
pub struct DevicePicture<'a> {
    /// Layout of the bytes.
    pub format: PixelFormat,
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// The pixels; luma for NV12.
    pub plane: View<'a>,
    /// Bytes from row to row.
    pub stride: usize,
    /// U and V for NV12.
    pub chroma: Option<(View<'a>, usize)>,
}

impl DevicePicture<'_> {
    fn bytes_of_pixel(&self) -> usize {
        match self.format {
            PixelFormat::Rgb8 => 3,
            PixelFormat::Rgba8 => 4,
            PixelFormat::Nv12(_) => 1,
        }
    }

    /// Whether the planes hold what the size says.
    fn check(&self, queue: &impl Launch, crop: Crop) -> Result<(), GpuError> {
        let (width, height) = self.size;
        let row = width * self.bytes_of_pixel();
        plane(queue, "picture", self.plane, (row, height, self.stride))?;
        if let PixelFormat::Nv12(_) = self.format {
            let (chroma, stride) = self.chroma.ok_or_else(|| GpuError::misuse("picture: NV12 without chroma"))?;
            plane(queue, "chroma", chroma, (2 * width.div_ceil(2), height.div_ceil(2), stride))?;
        }
        // Kernels count pixels in 32 bits.
        let inside = crop.left + crop.width <= width && crop.top + crop.height <= height;
        if inside && crop.width > 0 && crop.height > 0 && width.saturating_mul(height) < 1 << 28 {
            return Ok(());
        }
        Err(GpuError::misuse(format!("{crop:?} of a picture of {:?}", self.size)))
    }
}

fn plane(
    queue: &impl Launch,
    what: &str,
    view: View<'_>,
    (row, rows, stride): (usize, usize, usize),
) -> Result<u64, GpuError> {
    let needed = rows.saturating_sub(1) * stride + row;
    if stride < row || view.len() < needed {
        let have = view.len();
        return Err(GpuError::misuse(format!("{what}: {have} bytes for {rows} rows of {row}, {stride} apart")));
    }
    check(queue, what, view, DType::U8, view.len())
}

/// [`picture_to_chw`](crate::picture_to_chw) into f32 or f16.
pub fn picture_to_chw(
    queue: &impl Launch,
    picture: &DevicePicture<'_>,
    crop: Crop,
    filter: Filter,
    normalise: Normalise,
    (width, height): (usize, usize),
    chw: ViewMut<'_>,
) -> Result<(), GpuError> {
    picture.check(queue, crop)?;
    let chw = chw.into_view();
    let dtype = chw.dtype();
    if width.saturating_mul(height) >= 1 << 28 {
        return Err(GpuError::misuse(format!("planes: {width}x{height} is too large")));
    }
    let chw = check(queue, "planes", chw, dtype, 3 * width * height)?;
    let kernel = match picture.format {
        PixelFormat::Rgb8 => by_type("planes", dtype, Kernel::Rgb8ToF32, Kernel::Rgb8ToF16),
        PixelFormat::Rgba8 => by_type("planes", dtype, Kernel::Rgba8ToF32, Kernel::Rgba8ToF16),
        PixelFormat::Nv12(_) => by_type("planes", dtype, Kernel::Nv12ToF32, Kernel::Nv12ToF16),
    }?;
    let same = (crop.width, crop.height) == (width, height);
    let mut arguments = PictureArguments {
        planes: [picture.plane.address(), picture.chroma.map_or(0, |(view, _)| view.address())],
        strides: [picture.stride as u64, picture.chroma.map_or(0, |(_, stride)| stride as u64)],
        left: crop.left as u32,
        top: crop.top as u32,
        crop_width: crop.width as u32,
        crop_height: crop.height as u32,
        width: width as u32,
        height: height as u32,
        filter: match filter {
            _ if same => 0,
            Filter::Bilinear => 1,
            Filter::Area => 2,
        },
        ratio_x: crop.width as f32 / width as f32,
        ratio_y: crop.height as f32 / height as f32,
        scale: normalise.scale,
        bias: normalise.bias,
        ..PictureArguments::default()
    };
    if let PixelFormat::Nv12(m) = picture.format {
        (arguments.luma_scale, arguments.luma_offset) = (m.luma_scale, m.luma_offset);
        (arguments.red_v, arguments.green_u, arguments.green_v, arguments.blue_u) =
            (m.red_v, m.green_u, m.green_v, m.blue_u);
    }
    let wide = if same { 16 / dtype.size() } else { 1 };
    launch!(queue, kernel, shape(width * height, wide, queue.limits()), arguments, chw)
}

/// [`chw_to_rgb8`](crate::chw_to_rgb8) from f32 or f16. `broken`, one number, becomes 1 if a value is infinite or NaN, and stays
/// as it is otherwise.
pub fn chw_to_rgb8(
    queue: &impl Launch,
    chw: View<'_>,
    rgb: ViewMut<'_>,
    broken: Option<ViewMut<'_>>,
) -> Result<(), GpuError> {
    let pixels = chw.len() / 3;
    let dtype = chw.dtype();
    let kernel = by_type("planes", dtype, Kernel::F32ToRgb8, Kernel::F16ToRgb8)?;
    if pixels >= 1 << 28 {
        return Err(GpuError::misuse(format!("planes: {pixels} pixels are too many")));
    }
    let chw = check(queue, "planes", chw, dtype, 3 * pixels)?;
    let rgb = check(queue, "picture", rgb.into_view(), DType::U8, 3 * pixels)?;
    let broken = broken.map_or(Ok(0), |flag| check(queue, "flag", flag.into_view(), DType::U32, 1))?;
    let (count, wide) = (pixels as u32, 16 / dtype.size());
    launch!(queue, kernel, shape(pixels, wide, queue.limits()), chw, count, rgb, broken)
}

/// What the similarity kernel needs between calls; made once.
#[derive(Debug)]
pub struct SimilarityScratch {
    partial: Tensor,
    ticket: Tensor,
}

impl SimilarityScratch {
    /// Tensors as `zeros` makes them in the queue's place.
    pub fn new(
        limits: Limits,
        mut zeros: impl FnMut(DType, &[usize]) -> Result<Tensor, GpuError>,
    ) -> Result<Self, GpuError> {
        let blocks = Shape::for_items(usize::MAX, 1, limits).blocks as usize;
        Ok(Self { partial: zeros(f64::DTYPE, &[4 * blocks])?, ticket: zeros(u32::DTYPE, &[1])? })
    }

    /// Whose memory it is in.
    pub fn place(&self) -> Place {
        self.partial.place()
    }
}

/// [`dot_products_sampled`](crate::dot_products_sampled): `sums` gets xy, xx, yy and difference. One reduction, in an order that
/// does not depend on which block is done first. The sums are to be copied away and looked at a frame later, so that nobody
/// waits for them.
pub fn similarity(
    queue: &impl Launch,
    (x, y): (View<'_>, View<'_>),
    (width, height): (usize, usize),
    planes: usize,
    step: usize,
    scratch: &mut SimilarityScratch,
    sums: ViewMut<'_>,
) -> Result<(), GpuError> {
    let len = planes * width * height;
    let (x, y) = (check(queue, "x", x, DType::F32, len)?, check(queue, "y", y, DType::F32, len)?);
    if len >= 1 << 31 || step == 0 {
        return Err(GpuError::misuse(format!("every {step}th of {len} values")));
    }
    let samples = planes * width.div_ceil(step) * height.div_ceil(step);
    // Each thread adds up a few values before the blocks come together.
    let mut shape = Shape::for_items(samples.div_ceil(8), 1, queue.limits());
    shape.blocks = shape.blocks.min((scratch.partial.len() / 4) as u32);
    debug_assert_eq!(shape.threads, THREADS);
    let partial = check(queue, "partial sums", scratch.partial.view(), DType::F64, scratch.partial.len())?;
    let ticket = check(queue, "ticket", scratch.ticket.view(), DType::U32, 1)?;
    let sums = check(queue, "sums", sums.into_view(), DType::F64, 4)?;
    let sides = [width as u32, height as u32, planes as u32, step as u32];
    launch!(queue, Kernel::Similarity, shape, x, y, sides[0], sides[1], sides[2], sides[3], partial, ticket, sums)
}
