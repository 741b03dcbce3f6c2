//! The order in which quality is given up.

use crate::frame::Size;

/// Sides of the network's picture, as shares of the stream's own. Below a half, faces and lettering are gone; a finer
/// ladder would change the picture's grain more often for little speed.
const SHARES: [f64; 4] = [0.875, 0.75, 0.625, 0.5];

/// What a frame is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Size of the network's picture; pictures are scaled to it and back.
    pub size: Size,
    /// Denoising steps left out of the t_index_list, from its front: the picture keeps what the last steps make sharp and
    /// is changed less.
    pub dropped_steps: usize,
}

impl Level {
    /// What a frame costs, in any unit: the work of every network grows with the pixels, and a VAE there and back is about
    /// one call of a U-Net (13 against 11 ms for the default pack).
    pub(super) fn weight(self, steps: usize) -> f64 {
        self.size.pixels() as f64 * (1 + left(steps, self)) as f64
    }
}

/// Steps that are left of `steps`: one at least.
pub(super) fn left(steps: usize, level: Level) -> usize {
    steps.saturating_sub(level.dropped_steps).max(1)
}

/// Sizes of about the same shape, from `size` down. Sides are multiples of `unit` pixels.
pub(super) fn sizes(size: Size, unit: usize) -> Vec<Size> {
    let mut sizes = vec![size];
    for share in SHARES {
        let side = |side: usize| ((side as f64 * share / unit as f64).round() as usize).max(1) * unit;
        let smaller = Size::new(side(size.width), side(size.height));
        let last = sizes[sizes.len() - 1];
        if smaller.pixels() < last.pixels() && smaller.width <= last.width && smaller.height <= last.height {
            sizes.push(smaller);
        }
    }
    sizes
}

/// The levels from best to cheapest: first smaller and smaller pictures, then, of the smallest, fewer and fewer steps.
pub(super) fn levels(sizes: &[Size], steps: usize) -> Vec<Level> {
    let whole = sizes.iter().map(|size| Level { size: *size, dropped_steps: 0 });
    let smallest = sizes.last().into_iter();
    whole
        .chain(smallest.flat_map(|size| (1..steps).map(|dropped_steps| Level { size: *size, dropped_steps })))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_before_steps_and_every_level_is_cheaper() {
        let levels = levels(&sizes(Size::new(512, 288), 32), 4);
        let list: Vec<_> = levels.iter().map(|level| (level.size.to_string(), level.dropped_steps)).collect();
        let expected = [
            ("512x288", 0),
            ("448x256", 0),
            ("384x224", 0),
            ("320x192", 0),
            ("256x160", 0),
            ("256x160", 1),
            ("256x160", 2),
            ("256x160", 3),
        ];
        assert_eq!(list, expected.map(|(size, dropped)| (size.to_owned(), dropped)));
        for pair in levels.windows(2) {
            assert!(pair[1].weight(4) < pair[0].weight(4));
        }
    }

    #[test]
    fn a_picture_of_one_unit_has_no_smaller_one() {
        assert_eq!(sizes(Size::new(64, 64), 64), [Size::new(64, 64)]);
        assert_eq!(left(2, Level { size: Size::new(64, 64), dropped_steps: 5 }), 1);
    }
}
