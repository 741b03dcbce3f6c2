//! Frames in memory: those of a clip, and clips made of a frame.

use livediffusion_pipeline::frame::Size;

#[cfg(not(feature = "media"))]
pub(crate) use super::stills::frames;
#[cfg(feature = "media")]
pub(crate) use super::video::frames;

/// The same frame again and again.
pub(crate) fn still(frame: &[u8], count: usize) -> Vec<Vec<u8>> {
    vec![frame.to_vec(); count]
}

/// A frame of which a ninth of the height and width in its middle moves like a mouth: the rows of that region roll by a
/// few pixels, out and back over eight frames, and rest for eight.
pub(crate) fn talking(frame: &[u8], size: Size, count: usize) -> Vec<Vec<u8>> {
    let (width, height) = (size.width / 3, size.height / 3);
    let (left, top) = (width, height);
    (0..count)
        .map(|index| {
            let mut picture = frame.to_vec();
            let phase = index % 16;
            let shift = if phase < 8 { phase.min(8 - phase) * size.height.div_ceil(64) } else { 0 };
            for row in 0..height {
                let from = 3 * ((top + (row + shift) % height) * size.width + left);
                let to = 3 * ((top + row) * size.width + left);
                picture[to..to + 3 * width].copy_from_slice(&frame[from..from + 3 * width]);
            }
            picture
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use livediffusion_bench::frames::patterns;

    use super::*;

    #[test]
    fn a_talking_head_moves_in_its_middle_alone_and_rests_in_between() {
        let size = Size::new(96, 96);
        let frame = patterns(size).remove(0);
        let clip = talking(&frame, size, 16);
        assert!(clip[8..].iter().all(|picture| *picture == frame) && clip[0] == frame);
        assert_ne!(clip[4], frame);
        let changed = clip[4].iter().zip(&frame).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at / 3);
        for pixel in changed {
            assert!((32..64).contains(&(pixel % 96)) && (32..64).contains(&(pixel / 96)), "{pixel}");
        }
    }
}
