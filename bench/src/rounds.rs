//! Measuring several variants in turn, so that a machine that changes meanwhile changes all of them alike.

use crate::summary::Spread;

/// A variant: called once a round, it gives the round's measurement.
pub type Variant<'a, T, E> = Box<dyn FnMut() -> Result<T, E> + 'a>;

/// Calls every variant once to warm it up, then `rounds` times in turn: forwards in one round, backwards in the next, so
/// that a steady drift of the machine cancels. Gives the measurements of each variant in the order of the rounds.
///
/// # Errors
/// The first error of a variant.
pub fn alternate<T, E>(rounds: usize, variants: &mut [Variant<'_, T, E>]) -> Result<Vec<Vec<T>>, E> {
    for variant in variants.iter_mut() {
        variant()?;
    }
    let mut measured: Vec<Vec<T>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds.max(1) {
        for place in 0..variants.len() {
            let index = if round % 2 == 0 { place } else { variants.len() - 1 - place };
            measured[index].push(variants[index]()?);
        }
    }
    Ok(measured)
}

/// Spread of the ratios `numerator[i] / denominator[i]` of rounds that were measured next to each other; `None` where
/// there are none.
pub fn ratios(numerator: &[f64], denominator: &[f64]) -> Option<Spread> {
    let ratios: Vec<f64> =
        numerator.iter().zip(denominator).map(|(a, b)| a / b).filter(|ratio| ratio.is_finite()).collect();
    (!ratios.is_empty()).then(|| Spread::of(&ratios))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_take_turns_forwards_and_backwards() {
        let order = std::cell::RefCell::new(Vec::new());
        let variant = |name: char| -> Variant<'_, usize, ()> {
            let order = &order;
            Box::new(move || {
                order.borrow_mut().push(name);
                Ok(order.borrow().len())
            })
        };
        let measured = alternate(2, &mut [variant('a'), variant('b')]).unwrap();
        assert_eq!(*order.borrow(), ['a', 'b', 'a', 'b', 'b', 'a']);
        assert_eq!(measured, [[3, 6], [4, 5]]);
        let failing: Variant<'_, (), &str> = Box::new(|| Err("broken"));
        assert_eq!(alternate(1, &mut [failing]), Err("broken"));
    }

    #[test]
    fn ratios_are_of_neighbours_not_of_medians() {
        // The machine is three times slower in the second round.
        let spread = ratios(&[2.0, 6.0, 2.0], &[1.0, 3.0, 1.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (2.0, 2.0, 2.0));
        assert_eq!(ratios(&[], &[]), None);
        assert_eq!(ratios(&[1.0], &[0.0]), None);
    }
}
