//! How many rows a call has where another number than in the call before is dear.

/// Calls in a row that may have fewer rows than they are given, before they get their own number. A stream that skips frames goes up
/// and down all the time; one that was told to take fewer steps pays for the rest for so long, which is a second or two.
const PATIENCE: u32 = 32;

/// Keeps a call at the rows of those before it for a while. What is in the rows behind its own is of earlier calls, and what the
/// network makes of it is not read.
#[derive(Debug, Default)]
pub(super) struct Padding {
    rows: usize,
    /// Calls in a row that had fewer, and the most of them.
    fewer: (u32, usize),
}

impl Padding {
    /// Rows for a call that has `wanted` of its own.
    pub(super) fn rows(&mut self, wanted: usize) -> usize {
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
