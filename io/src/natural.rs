//! The order in which people number files: `2.png` before `10.png`.

use std::cmp::Ordering;

/// Compares runs of digits by value and everything else by character.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let (x, y) = (number(a), number(b));
        if let (Some((x, rest_a)), Some((y, rest_b))) = (x, y) {
            // Longer runs are larger numbers once the zeros in front are gone, so no run can overflow.
            let order = x.len().cmp(&y.len()).then_with(|| x.cmp(y));
            if order != Ordering::Equal {
                return order;
            }
            (a, b) = (rest_a, rest_b);
            continue;
        }
        let (mut chars_a, mut chars_b) = (a.chars(), b.chars());
        match (chars_a.next(), chars_b.next()) {
            (None, None) => return Ordering::Equal,
            (x, y) if x != y => return x.cmp(&y),
            _ => (a, b) = (chars_a.as_str(), chars_b.as_str()),
        }
    }
}

/// The digits at the start of `text` without zeros in front, and what follows them.
fn number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].trim_start_matches('0'), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn numbers_count_by_value() {
        let mut names = vec!["f10.png", "f2.png", "f1.png", "a", "f002b.png", "f99999999999999999999999.png"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(names, ["a", "f1.png", "f2.png", "f002b.png", "f10.png", "f99999999999999999999999.png"]);
    }
}
