//! What a call of a stream hands out: pictures in order, borrowed from its buffers.

use crate::frame::FrameMeta;

/// A picture on its way to the sink.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Which frame it belongs to.
    pub meta: FrameMeta,
    /// Interleaved RGB without padding, of the stream's size.
    pub rgb: &'a [u8],
    /// The clean latent that it was decoded from; `None` for a repeated picture.
    pub latent: Option<&'a [f32]>,
    /// Whether it is the picture before it again: the filter skipped the frame, or a network failed on it.
    pub repeated: bool,
}

/// A frame that leaves, and where its picture lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exit {
    pub(crate) meta: FrameMeta,
    /// Place of its picture in `pictures`.
    pub(crate) place: usize,
    /// Place of its latent in `latents`.
    pub(crate) latent: Option<usize>,
}

/// The pictures that left in one call, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct Emitted<'a> {
    pub(crate) exits: &'a [Exit],
    /// Places of `bytes` each.
    pub(crate) pictures: &'a [u8],
    pub(crate) bytes: usize,
    /// Places of `len` each.
    pub(crate) latents: &'a [f32],
    pub(crate) len: usize,
}

impl<'a> Emitted<'a> {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.exits.len()
    }

    /// Whether none left.
    pub fn is_empty(&self) -> bool {
        self.exits.is_empty()
    }

    /// The pictures, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Picture<'a>> + use<'a> {
        let Self { pictures, bytes, latents, len, .. } = *self;
        self.exits.iter().map(move |exit| Picture {
            meta: exit.meta,
            rgb: &pictures[exit.place * bytes..(exit.place + 1) * bytes],
            latent: exit.latent.map(|at| &latents[at * len..(at + 1) * len]),
            repeated: exit.latent.is_none(),
        })
    }
}
