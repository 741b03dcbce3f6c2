//! Canny's edges, bit by bit those of OpenCV's `Canny(rgb, low, high)`: what the ControlNets for edges were trained on.
//!
//! OpenCV's choices, which other implementations make differently: no blur before it, Sobel's 3 × 3 with the border repeated, of the
//! three colours the one with the strongest gradient, its strength |dx| + |dy|, and directions told apart by tan 22.5° in 15 bits.

use crate::frame::{PictureView, Size};

/// tan 22.5° in 15 bits after the point.
const TAN_22: i32 = 13_573;

/// What is known of a pixel.
const MAYBE: u8 = 0;
const NO: u8 = 1;
const EDGE: u8 = 2;

/// A row of gradients, of the strongest colour of each pixel.
#[derive(Debug, Default)]
struct Gradients {
    dx: Vec<i16>,
    dy: Vec<i16>,
    /// |dx| + |dy|, at most 2040, with a zero before the first pixel and behind the last.
    strength: Vec<i16>,
}

/// The edge finder and its room.
#[derive(Debug, Default)]
pub(super) struct Canny {
    size: Option<Size>,
    /// Around this pixel row: the one above, itself, the one below.
    rows: [Gradients; 3],
    /// Sums and differences of the rows above and below, each colour of each pixel, with the border repeated at both ends.
    smooth: Vec<i16>,
    change: Vec<i16>,
    /// Every pixel's state, with a frame of `NO` around the picture.
    map: Vec<u8>,
    /// Edges whose neighbours have not been looked at.
    open: Vec<u32>,
}

impl Canny {
    /// Writes white for pixels on edges and black for others to `image`, packed RGB of the picture's size. Edges are where the gradient
    /// is stronger than both along its direction and above the greater threshold, or above the lesser one and in touch with an edge.
    pub(super) fn run(&mut self, picture: PictureView<'_>, thresholds: [u32; 2], image: &mut [u8]) {
        self.make_room(picture.size);
        let limits = thresholds.map(|threshold| i16::try_from(threshold).unwrap_or(i16::MAX));
        let (low, high) = (limits[0].min(limits[1]), limits[0].max(limits[1]));
        let Size { width, height } = picture.size;
        let [above, _, _] = &mut self.rows;
        above.strength.fill(0);
        self.gradients(picture, 0, 1);
        for y in 0..height {
            if y + 1 < height {
                self.gradients(picture, y + 1, 2);
            } else {
                self.rows[2].strength.fill(0);
            }
            self.thin(y, (low, high));
            self.rows.rotate_left(1);
        }
        self.follow(width + 2);
        let rows = self.map.chunks_exact(width + 2).skip(1);
        for (to, states) in image.chunks_exact_mut(3 * width).zip(rows) {
            for (pixel, state) in to.as_chunks_mut::<3>().0.iter_mut().zip(&states[1..]) {
                *pixel = [if *state == EDGE { 255 } else { 0 }; 3];
            }
        }
    }

    fn make_room(&mut self, size: Size) {
        if self.size == Some(size) {
            return;
        }
        let Size { width, height } = size;
        for row in &mut self.rows {
            row.dx.resize(width, 0);
            row.dy.resize(width, 0);
            row.strength.clear();
            row.strength.resize(width + 2, 0);
        }
        self.smooth.resize(3 * (width + 2), 0);
        self.change.resize(3 * (width + 2), 0);
        self.map.clear();
        self.map.resize((width + 2) * (height + 2), NO);
        // Each pixel becomes an edge once at most.
        self.open.clear();
        self.open.reserve(size.pixels());
        self.size = Some(size);
    }

    /// Computes the gradients of a row of the picture in that place of the three.
    fn gradients(&mut self, picture: PictureView<'_>, y: usize, place: usize) {
        let Size { width, height } = picture.size;
        let row = |y: usize| &picture.rgb[y * picture.stride..][..3 * width];
        let rows = row(y.saturating_sub(1)).iter().zip(row(y)).zip(row((y + 1).min(height - 1)));
        let (smooth, change) = (&mut self.smooth[..], &mut self.change[..]);
        for (((above, here), below), (smooth, change)) in rows.zip(smooth[3..].iter_mut().zip(&mut change[3..])) {
            let (above, here, below) = (i16::from(*above), i16::from(*here), i16::from(*below));
            *smooth = above + 2 * here + below;
            *change = below - above;
        }
        for values in [&mut *smooth, &mut *change] {
            values.copy_within(3..6, 0);
            values.copy_within(3 * width..3 * (width + 1), 3 * (width + 1));
        }
        let Gradients { dx, dy, strength } = &mut self.rows[place];
        let (smooth, change) = (smooth.as_chunks::<3>().0, change.as_chunks::<3>().0);
        let pixels = smooth.array_windows::<3>().zip(change.array_windows::<3>());
        for ((([left, _, right], [before, here, after]), strength), (dx, dy)) in
            pixels.zip(&mut strength[1..]).zip(dx.iter_mut().zip(dy))
        {
            let colour = |at: usize| {
                let (x, y) = (right[at] - left[at], before[at] + 2 * here[at] + after[at]);
                (x, y, x.abs() + y.abs())
            };
            let stronger = |a: (i16, i16, i16), b: (i16, i16, i16)| if b.2 > a.2 { b } else { a };
            (*dx, *dy, *strength) = stronger(stronger(colour(0), colour(1)), colour(2));
        }
    }

    /// Marks the pixels of a row whose gradient is the strongest along its direction.
    fn thin(&mut self, y: usize, (low, high): (i16, i16)) {
        let Self { rows: [above, here, below], map, open, .. } = self;
        let width = here.dx.len();
        let start = (y + 1) * (width + 2);
        for (x, state) in (1..=width).zip(&mut map[start + 1..]) {
            let strength = here.strength[x];
            *state = NO;
            if strength > low {
                let (dx, dy) = (i32::from(here.dx[x - 1]), i32::from(here.dy[x - 1]));
                let (across, down) = (dx.abs(), dy.abs() << 15);
                let flat = across * TAN_22;
                let is_peak = if down < flat {
                    strength > here.strength[x - 1] && strength >= here.strength[x + 1]
                } else if down > flat + (across << 16) {
                    strength > above.strength[x] && strength >= below.strength[x]
                } else if (dx ^ dy) < 0 {
                    strength > above.strength[x + 1] && strength > below.strength[x - 1]
                } else {
                    strength > above.strength[x - 1] && strength > below.strength[x + 1]
                };
                if is_peak && strength > high {
                    *state = EDGE;
                    open.push((start + x) as u32);
                } else if is_peak {
                    *state = MAYBE;
                }
            }
        }
    }

    /// Makes edges of the pixels that may be ones and touch one.
    fn follow(&mut self, stride: usize) {
        let Self { map, open, .. } = self;
        while let Some(at) = open.pop() {
            for row in [at as usize - stride, at as usize, at as usize + stride] {
                for (neighbour, state) in (row - 1..).zip(&mut map[row - 1..=row + 1]) {
                    if *state == MAYBE {
                        *state = EDGE;
                        open.push(neighbour as u32);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn edges_are_those_of_opencv() {
        let file = include_bytes!("../../tests/data/canny.safetensors");
        let tensors = SafeTensors::deserialize(file).unwrap();
        // One after the other with one room, as a stream whose size changes has it.
        let (mut canny, mut compared) = (Canny::default(), 0);
        for (name, want) in tensors.iter().filter(|(name, _)| name.contains('/')) {
            let (picture, thresholds) = name.split_once('/').unwrap();
            let [low, high] = thresholds.split_once('-').map(|(low, high)| [low, high]).unwrap();
            let picture = tensors.tensor(picture).unwrap();
            let size = Size::new(picture.shape()[1], picture.shape()[0]);
            let mut image = vec![7; 3 * size.pixels()];
            let thresholds = [low, high].map(|text| text.parse().unwrap());
            canny.run(PictureView::packed(size, picture.data()), thresholds, &mut image);
            assert!(image.chunks(3).all(|pixel| pixel.iter().all(|value| *value == pixel[0])), "{name} is grey");
            let have: Vec<u8> = image.iter().step_by(3).copied().collect();
            assert_eq!(have, want.data(), "{name}");
            compared += 1;
        }
        assert_eq!(compared, 7 * 6);
    }

    #[test]
    fn gaps_between_rows_are_no_edges() {
        let size = Size::new(6, 5);
        let stride = 3 * size.width + 7;
        let rgb: Vec<u8> = (0..stride * size.height).map(|at| if at % stride < 18 { 90 } else { 255 }).collect();
        let mut image = vec![7; 3 * size.pixels()];
        Canny::default().run(PictureView { size, stride, rgb: &rgb }, [0, 0], &mut image);
        assert!(image.iter().all(|value| *value == 0));
    }
}
