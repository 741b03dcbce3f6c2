//! How many rows a call has where another number than in the call before is dear.
//!
//! What is planned for a number of rows is the session's, which all streams share: one with a single step beside one with four, or the
//! thumbnails of a page beside its picture, would have everything planned anew in every call. The price is that all streams of a size
//! reckon with the rows of the widest.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Calls in a row, of any stream, that may have fewer rows than they are given, before they get their own number. A stream that skips
/// frames goes up and down all the time; one that was told to take fewer steps, or that another has left, pays for the rest for so long:
/// a second at 30 frames a second.
const PATIENCE: u32 = 32;

/// The rows of a session's calls, by height and width of the latents: for another size all is planned anew anyhow.
#[derive(Debug, Default)]
pub(crate) struct Paddings(Mutex<BTreeMap<[usize; 2], Padding>>);

impl Paddings {
    /// Rows for a call of some stream that has `wanted` of its own.
    pub(super) fn rows(&self, size: [usize; 2], wanted: usize) -> usize {
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.entry(size).or_default().rows(wanted)
    }
}

/// Keeps a call at the rows of those before it for a while. What is in the rows behind its own is of earlier calls or
/// zeros, and what the network makes of it is not read.
#[derive(Debug, Default)]
struct Padding {
    rows: usize,
    /// Calls in a row that had fewer, and the most of them.
    fewer: (u32, usize),
}

impl Padding {
    /// Rows for a call that has `wanted` of its own.
    fn rows(&mut self, wanted: usize) -> usize {
        let (calls, most) = self.fewer;
        if wanted >= self.rows {
            *self = Self { rows: wanted, fewer: (0, 0) };
        } else if calls >= PATIENCE {
            *self = Self { rows: most.max(wanted), fewer: (0, 0) };
        } else {
            self.fewer = (calls + 1, most.max(wanted));
        }
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_size_have_the_rows_of_the_widest() {
        let paddings = Paddings::default();
        let (small, large) = ([8, 8], [16, 8]);
        assert_eq!(
            [(small, 1), (small, 4), (small, 1), (large, 1)].map(|(size, rows)| paddings.rows(size, rows)),
            [1, 4, 4, 1]
        );
    }

    #[test]
    fn rows_grow_at_once_and_shrink_when_they_stay_fewer() {
        let mut padding = Padding::default();
        assert_eq!([1, 4, 3, 4, 1].map(|wanted| padding.rows(wanted)), [1, 4, 4, 4, 4]);
        // A stream that skips frames.
        assert!((0..100).all(|at| padding.rows(if at % 3 == 0 { 4 } else { 2 }) == 4));
        // Two steps from now on, of which now and then one is skipped.
        let later: Vec<usize> = (0..40).map(|at| padding.rows(1 + at % 2)).collect();
        let change = later.iter().position(|rows| *rows == 2).unwrap();
        assert!(
            later[..change].iter().all(|rows| *rows == 4) && later[change..].iter().all(|rows| *rows == 2),
            "{later:?}"
        );
        assert!((20..40).contains(&change), "{later:?}");
    }
}
