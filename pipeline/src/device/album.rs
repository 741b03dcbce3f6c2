//! The pictures of a call, in order, and the last one of the call before.

use crate::emitted::{Emitted, Exit};
use crate::frame::FrameMeta;

/// Copies of pictures that were collected.
pub(super) struct Album {
    /// Of a picture.
    bytes: usize,
    exits: Vec<Exit>,
    /// Place 0 holds the last picture of the call before; the call's own follow.
    pictures: Vec<u8>,
    painted: usize,
    has_last: bool,
}

impl Album {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, exits: Vec::new(), pictures: vec![0; 2 * bytes], painted: 0, has_last: false }
    }

    /// Forgets the pictures of the call before, all but the last one.
    pub(super) fn clear(&mut self) {
        let bytes = self.bytes;
        if self.painted > 0 {
            self.pictures.copy_within(self.painted * bytes..(self.painted + 1) * bytes, 0);
            self.has_last = true;
        }
        self.painted = 0;
        self.exits.clear();
    }

    /// A new picture.
    pub(super) fn paint(&mut self, meta: FrameMeta, picture: &[u8]) {
        self.painted += 1;
        let (from, to) = (self.painted * self.bytes, (self.painted + 1) * self.bytes);
        if self.pictures.len() < to {
            self.pictures.resize(to, 0);
        }
        self.pictures[from..to].copy_from_slice(picture);
        self.exits.push(Exit { meta, place: self.painted, latent: Some(0) });
    }

    /// The picture before again; false where there is none, and the frame is dropped.
    pub(super) fn repeat(&mut self, meta: FrameMeta) -> bool {
        let shows = self.painted > 0 || self.has_last;
        if shows {
            self.exits.push(Exit { meta, place: self.painted, latent: None });
        }
        shows
    }

    /// The call's pictures. Their latents stay on the device: the slices are empty.
    pub(super) fn emitted(&self) -> Emitted<'_> {
        Emitted { exits: &self.exits, pictures: &self.pictures, bytes: self.bytes, latents: &[], len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_pictures_are_the_one_before_also_across_calls() {
        let mut album = Album::new(2);
        let meta = |id| FrameMeta { id, ..FrameMeta::default() };
        assert!(!album.repeat(meta(0)), "there is nothing to show yet");
        album.paint(meta(1), &[1, 1]);
        album.paint(meta(2), &[2, 2]);
        assert!(album.repeat(meta(3)));
        let shown = |album: &Album| -> Vec<(u64, u8, bool)> {
            album.emitted().iter().map(|picture| (picture.meta.id, picture.rgb[0], picture.repeated)).collect()
        };
        assert_eq!(shown(&album), [(1, 1, false), (2, 2, false), (3, 2, true)]);
        for id in 4..6 {
            album.clear();
            assert!(album.repeat(meta(id)));
            assert_eq!(shown(&album), [(id, 2, true)]);
        }
        album.paint(meta(6), &[6, 6]);
        assert_eq!(shown(&album), [(5, 2, true), (6, 6, false)]);
    }
}
