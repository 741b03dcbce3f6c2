//! Frames, pictures and tensor shapes: the plain data that every other module passes around.

/// Nanoseconds on the stream's own clock, as GStreamer counts them.
pub type Nanos = u64;

/// What identifies a frame. It travels with the frame's slot from source to sink, so that a picture leaves with the
/// time stamp of the frame that it was made from, however many calls later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameMeta {
    /// Position in the stream, counted from 0 by the source.
    pub id: u64,
    /// Presentation time stamp; `None` where the source has none (a folder of pictures, say).
    pub pts_ns: Option<Nanos>,
    /// How long the frame is shown.
    pub duration_ns: Option<Nanos>,
}

/// Width and height of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
}

impl Size {
    /// A size of `width` × `height` pixels.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }

    /// Number of pixels.
    pub const fn pixels(self) -> usize {
        self.width * self.height
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// A borrowed 8-bit RGB picture, interleaved, rows `stride` bytes apart.
#[derive(Clone, Copy, Debug)]
pub struct PictureView<'a> {
    /// Width and height in pixels.
    pub size: Size,
    /// Bytes from the start of a row to the start of the next; at least `3 * size.width`.
    pub stride: usize,
    /// `stride * (height - 1) + 3 * width` bytes or more.
    pub rgb: &'a [u8],
}

impl<'a> PictureView<'a> {
    /// A picture whose rows follow each other without a gap.
    pub const fn packed(size: Size, rgb: &'a [u8]) -> Self {
        Self { size, stride: size.width * 3, rgb }
    }

    /// The rows without the gaps between them, of a picture that [`is_consistent`](Self::is_consistent).
    pub fn rows(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let row = 3 * self.size.width;
        self.rgb.chunks(self.stride).take(self.size.height).map(move |line| &line[..row])
    }

    /// Whether `rgb` is long enough for the size and the stride.
    pub fn is_consistent(&self) -> bool {
        let row = self.size.width * 3;
        self.stride >= row
            && self.size.height > 0
            && self.size.width > 0
            && self.rgb.len() >= self.stride * (self.size.height - 1) + row
    }
}

/// Channels, height and width of one latent (NCHW without the N).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LatentShape {
    /// Latent channels: 4 for the Stable Diffusion families.
    pub channels: usize,
    /// Rows: picture height divided by the VAE's spatial factor.
    pub height: usize,
    /// Columns: picture width divided by the VAE's spatial factor.
    pub width: usize,
}

impl LatentShape {
    /// Values in one latent.
    #[allow(clippy::len_without_is_empty, reason = "a shape with a zero side is refused before it is built")]
    pub const fn len(self) -> usize {
        self.channels * self.height * self.width
    }
}
