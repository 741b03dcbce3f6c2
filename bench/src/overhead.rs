//! What everything around the networks costs: frames a second of the whole over those of the bare networks.

use serde::Serialize;

use crate::summary::Spread;

/// The outcome of some rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Overhead {
    /// Median over the rounds of (frames a second of the whole) / (of the bare networks): 1 is no overhead.
    pub ratio: f64,
    /// Spread of that ratio.
    pub ratios: Spread,
    /// Frames a second of the whole.
    pub run_fps: Spread,
    /// Frames a second of the bare networks.
    pub bare_fps: Spread,
    /// Rounds.
    pub rounds: usize,
}

/// Measures in turn: bare, whole, bare. The bare figure of a round is the mean of the two around the whole, so that a
/// machine that grows slower or faster during the round does not favour either.
///
/// # Errors
/// The first error of either measurement.
pub fn measure<E>(
    rounds: usize,
    mut whole: impl FnMut() -> Result<f64, E>,
    mut bare: impl FnMut() -> Result<f64, E>,
) -> Result<Overhead, E> {
    let (mut run_fps, mut bare_fps, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = bare()?;
    for _ in 0..rounds.max(1) {
        let run = whole()?;
        let after = bare()?;
        let around = f64::midpoint(before, after);
        run_fps.push(run);
        bare_fps.push(around);
        ratios.push(run / around);
        before = after;
    }
    let spread = Spread::of(&ratios);
    Ok(Overhead {
        ratio: spread.median,
        ratios: spread,
        run_fps: Spread::of(&run_fps),
        bare_fps: Spread::of(&bare_fps),
        rounds: ratios.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slows_down_does_not_change_the_ratio() {
        // The machine loses 10 fps with each measurement; the whole runs at 0.9 of the bare speed of the moment.
        let speed = std::cell::Cell::new(200.0);
        let next = || {
            speed.set(speed.get() - 10.0);
            speed.get()
        };
        let overhead = measure::<()>(3, || Ok(0.9 * next()), || Ok(next())).unwrap();
        assert!((overhead.ratio - 0.9).abs() < 1e-9);
    }
}
