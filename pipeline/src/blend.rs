//! Blends: of prompts by weight (`"pencil sketch":0.7 + "neon":0.3`), of the embeddings that they stand for, and of seeds.

use std::fmt::Write as _;

use crate::model::Conditioning;

/// Parts of a blend at most. Each costs the text encoder a prompt when it is first seen; a transition out of another
/// transition adds parts, of which the lightest are left out.
pub const MOST_PARTS: usize = 16;

/// Vectors closer than this (cosine) are blended linearly: the arc between them is a line then, and its formula divides by
/// nearly nothing. Tokens that two prompts share, such as the start token, are.
const PARALLEL: f32 = 0.9995;

/// Largest weight that is read. Only ratios matter, so that more would say nothing.
const MOST_WEIGHT: f32 = 1e6;

/// How embeddings between two prompts are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlendMethod {
    /// The weighted mean.
    Linear,
    /// Along the arc between the directions of each token's vectors (Shoemake 1985), with the mean of their lengths: a mean
    /// of different directions is shorter than either, which makes pictures pale.
    #[default]
    Slerp,
}

/// The prompts of a text and their weights, which sum to 1. A text that is no blend is one prompt, itself.
///
/// A blend is `"text":weight` or `"text"` (weight 1), joined by `+`; `\"` and `\\` stand for a quote and a backslash.
pub fn prompt_parts(text: &str) -> Vec<(String, f32)> {
    parse_blend(text).unwrap_or_else(|| vec![(text.to_owned(), 1.0)])
}

/// Whether a text that is no blend was probably meant as one: quotes before a weight, or parts joined by `+` that end in weights.
pub fn is_nearly_a_blend(text: &str) -> bool {
    let ends_in_weight =
        |part: &str| part.rsplit_once(':').is_some_and(|(_, weight)| weight.trim().parse::<f32>().is_ok());
    let parts: Vec<&str> = text.split('+').collect();
    let is_joined = parts.len() > 1 && parts.iter().all(|part| ends_in_weight(part));
    let is_unclosed = text.trim_start().starts_with('"') && text.matches('"').count() == 1;
    parse_blend(text).is_none() && (is_joined || is_unclosed || text.contains("\":"))
}

fn parse_blend(text: &str) -> Option<Vec<(String, f32)>> {
    let mut rest = text.trim();
    let mut parts = Vec::new();
    loop {
        let (prompt, behind) = quoted(rest)?;
        let (weight, behind) = match behind.trim_start().strip_prefix(':') {
            Some(number) => {
                let end = number.find('+').unwrap_or(number.len());
                let weight = number[..end].trim().parse().ok();
                (weight.filter(|weight| (0.0..=MOST_WEIGHT).contains(weight))?, &number[end..])
            }
            None => (1.0, behind.trim_start()),
        };
        parts.push((prompt, weight));
        if behind.is_empty() {
            break;
        }
        rest = behind.strip_prefix('+')?.trim_start();
        if parts.len() == MOST_PARTS {
            return None;
        }
    }
    normalised(parts)
}

/// The text of a blend that [`prompt_parts`] reads back; a single prompt is itself where that cannot be mistaken.
pub fn prompt_text(parts: &[(String, f32)]) -> String {
    if let [(prompt, _)] = parts
        && parse_blend(prompt).is_none()
    {
        return prompt.clone();
    }
    let mut text = String::new();
    for (prompt, weight) in parts {
        let prompt = prompt.replace('\\', "\\\\").replace('"', "\\\"");
        // Writing into a string cannot fail.
        let _ = write!(text, "{}\"{prompt}\":{weight}", if text.is_empty() { "" } else { " + " });
    }
    text
}

/// The text between the quotes that `text` begins with, and what comes after them.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut letters = text.strip_prefix('"')?.char_indices();
    let mut prompt = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((prompt, &text[at + 2..])),
            '\\' => prompt.push(letters.next()?.1),
            _ => prompt.push(letter),
        }
    }
    None
}

/// Seeds with weights that sum to 1, as `SEED:WEIGHT + SEED:WEIGHT`; a seed without a weight has 1. `None` for another text.
pub(crate) fn seed_parts(text: &str) -> Option<Vec<(u64, f32)>> {
    let part = |part: &str| {
        let (seed, weight) = part.split_once(':').unwrap_or((part, "1"));
        let weight = weight.trim().parse().ok().filter(|weight| (0.0..=MOST_WEIGHT).contains(weight))?;
        Some((seed.trim().parse().ok()?, weight))
    };
    let parts: Vec<(u64, f32)> = text.split('+').map(part).collect::<Option<_>>()?;
    if parts.len() > MOST_PARTS { None } else { normalised(parts) }
}

/// The text that [`seed_parts`] reads back; `off` for none.
pub(crate) fn seed_text(parts: &[(u64, f32)]) -> String {
    let text: Vec<String> = parts.iter().map(|(seed, weight)| format!("{seed}:{weight}")).collect();
    if text.is_empty() { "off".into() } else { text.join(" + ") }
}

/// Weights that sum to 1; `None` where all are 0.
fn normalised<T>(mut parts: Vec<(T, f32)>) -> Option<Vec<(T, f32)>> {
    let sum: f32 = parts.iter().map(|(_, weight)| weight).sum();
    for (_, weight) in &mut parts {
        *weight /= sum;
    }
    (sum > 0.0).then_some(parts)
}

/// What lies between two blends: `t` = 0 is the first, 1 the second. Parts of both are added up; those that weigh least are
/// left out where there are too many.
pub fn between<T: Clone + PartialEq>(from: &[(T, f32)], to: &[(T, f32)], t: f32) -> Vec<(T, f32)> {
    let t = t.clamp(0.0, 1.0);
    let mut parts: Vec<(T, f32)> = Vec::new();
    for (blend, share) in [(from, 1.0 - t), (to, t)] {
        for (value, weight) in blend {
            match parts.iter_mut().find(|(known, _)| known == value) {
                Some((_, known)) => *known += share * weight,
                None => parts.push((value.clone(), share * weight)),
            }
        }
    }
    while parts.len() > MOST_PARTS {
        let lightest = (0..parts.len()).min_by(|&a, &b| parts[a].1.total_cmp(&parts[b].1)).unwrap_or(0);
        parts.remove(lightest);
    }
    parts.retain(|(_, weight)| *weight > 0.0);
    normalised(parts).unwrap_or_else(|| to.to_vec())
}

/// Blends embeddings of one shape with weights that sum to 1; `None` where shapes differ or there are none.
///
/// More than two are blended one after the other, each with the share that it has of those before it and itself.
pub(crate) fn blend(parts: &[(&Conditioning, f32)], method: BlendMethod) -> Option<Conditioning> {
    let ((first, weight), rest) = parts.split_first()?;
    let (mut blended, mut sum) = ((*first).clone(), *weight);
    for (next, weight) in rest {
        let shape = |c: &Conditioning| (c.length, c.width, c.tokens.len(), c.pooled.as_ref().map(Vec::len));
        if shape(&blended) != shape(next) {
            return None;
        }
        sum += weight;
        let share = if sum > 0.0 { weight / sum } else { 0.0 };
        let width = blended.width.max(1);
        for (into, from) in blended.tokens.chunks_mut(width).zip(next.tokens.chunks(width)) {
            mix(into, from, share, method);
        }
        if let (Some(into), Some(from)) = (&mut blended.pooled, &next.pooled) {
            mix(into, from, share, method);
        }
        if blended.unused.is_empty() {
            blended.unused.clone_from(&next.unused);
        }
    }
    Some(blended)
}

/// `into` := the vector at `share` of the way from `into` to `from`.
fn mix(into: &mut [f32], from: &[f32], share: f32, method: BlendMethod) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let (a, b) = (dot(into, into).sqrt(), dot(from, from).sqrt());
    let cosine = if a > 0.0 && b > 0.0 { dot(into, from) / (a * b) } else { 1.0 };
    let (of_into, of_from) = if method == BlendMethod::Slerp && cosine.abs() < PARALLEL {
        let angle = cosine.acos();
        let length = a + share * (b - a);
        let part = |share: f32| (share * angle).sin() / angle.sin() * length;
        (part(1.0 - share) / a, part(share) / b)
    } else {
        (1.0 - share, share)
    };
    into.iter_mut().zip(from).for_each(|(into, from)| *into = of_into * *into + of_from * from);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Vec<(String, f32)> {
        prompt_parts(text)
    }

    #[test]
    fn what_was_meant_as_a_blend_is_told_from_what_was_not() {
        for text in [r#""pencil sketch":0.7 +"#, r#""a":abc"#, r#""a":-1 + "b":2"#, r#""unclosed:0.5"#, "a:0.7 + b:0.3"]
        {
            assert!(is_nearly_a_blend(text), "{text}");
        }
        for text in
            ["oil painting", r#""a":0.7 + "b":0.3"#, r#"a sign that says "no""#, "16:9", "1 + 1", r#""quoted" words"#]
        {
            assert!(!is_nearly_a_blend(text), "{text}");
        }
    }

    #[test]
    fn texts_of_blends() {
        let expected = vec![("pencil sketch".to_owned(), 0.7), ("neon".to_owned(), 0.3)];
        for text in [
            r#""pencil sketch":0.7 + "neon":0.3"#,
            r#"  "pencil sketch" : 7+"neon":3"#,
            r#""pencil sketch":1.4 + "neon":6e-1"#,
        ] {
            for (got, expected) in parts(text).iter().zip(&expected) {
                assert!(got.0 == expected.0 && (got.1 - expected.1).abs() < 1e-6, "{text}: {got:?}");
            }
        }
        assert_eq!(parts(r#""a" + "b""#), [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)]);
        assert_eq!(parts(r#""say \"a\" \\ +":2"#), [("say \"a\" \\ +".to_owned(), 1.0)]);
    }

    #[test]
    fn what_is_no_blend_is_a_prompt() {
        for text in [
            "",
            "a fox",
            "\"quoted\" and more",
            "\"a\":0.5 + ",
            "\"a\":x",
            "\"a\":-1 + \"b\":1",
            "\"a\":0",
            "\"a\":nan",
            "\"open",
            "a + b",
        ] {
            assert_eq!(parts(text), [(text.to_owned(), 1.0)], "{text:?}");
        }
        assert_eq!(parts(&vec!["\"a\":1"; MOST_PARTS + 1].join("+")).len(), 1);
    }

    #[test]
    fn a_blend_as_text_is_read_back() {
        for text in ["a fox", "\"a\":0.25 + \"b\":0.75", r#""\"x\":1":0.5 + "\\":0.5"#, "\"alone\":1"] {
            let blend = parts(text);
            assert_eq!(parts(&prompt_text(&blend)), blend, "{text}");
        }
        // A prompt that reads like a blend keeps its quotes as one part of one.
        let odd = vec![("\"a\":1".to_owned(), 1.0)];
        assert_eq!(parts(&prompt_text(&odd)), odd);
    }

    #[test]
    fn seeds_with_weights() {
        assert_eq!(seed_parts("2:3 + 9:1"), Some(vec![(2, 0.75), (9, 0.25)]));
        assert_eq!(seed_parts("18446744073709551615"), Some(vec![(u64::MAX, 1.0)]));
        for text in ["", "2:", "2:0", "-1:1", "2:1 +", "a:1", "2:inf", "2:1:1"] {
            assert_eq!(seed_parts(text), None, "{text:?}");
        }
        for text in ["2:0.75 + 9:0.25", "off"] {
            assert_eq!(seed_text(&seed_parts(text).unwrap_or_default()), text);
        }
    }

    #[test]
    fn between_two_blends_weights_move_and_stay_few() {
        let (a, b) = (parts("\"x\":1 + \"y\":1"), parts("\"y\":1 + \"z\":3"));
        assert_eq!((between(&a, &b, 0.0), between(&a, &b, 1.0)), (a.clone(), b.clone()));
        let half = between(&a, &b, 0.5);
        assert_eq!(half, [("x".to_owned(), 0.25), ("y".to_owned(), 0.375), ("z".to_owned(), 0.375)]);
        let many: Vec<(usize, f32)> = (0..MOST_PARTS).map(|i| (i, (1 + i) as f32 / 136.0)).collect();
        let mixed = between(&many, &[(100, 1.0)], 0.5);
        assert!(mixed.len() == MOST_PARTS && mixed.iter().all(|(value, _)| *value != 0));
        assert!((mixed.iter().map(|(_, weight)| weight).sum::<f32>() - 1.0).abs() < 1e-5);
    }

    fn conditioning(tokens: &[f32]) -> Conditioning {
        let length = tokens.len() / 2;
        Conditioning {
            tokens: tokens.to_vec(),
            length,
            width: 2,
            pooled: Some(tokens[..2].to_vec()),
            ..Default::default()
        }
    }

    #[test]
    fn slerp_keeps_the_length_that_a_mean_loses() {
        let (a, b) = (conditioning(&[1.0, 0.0, 3.0, 0.0]), conditioning(&[0.0, 1.0, 3.0, 0.0]));
        let pair = [(&a, 0.5), (&b, 0.5)];
        let root = 0.5_f32.sqrt();
        for (method, x) in [(BlendMethod::Linear, 0.5), (BlendMethod::Slerp, root)] {
            let blended = blend(&pair, method).unwrap();
            let expected = [x, x, 3.0, 0.0];
            for (got, expected) in blended.tokens.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-6, "{method:?}: {got}");
            }
            assert!((blended.pooled.unwrap()[0] - x).abs() < 1e-6);
        }
        // Opposite directions have no arc between them; nothing is divided by 0.
        let (c, d) = (conditioning(&[1.0, 0.0]), conditioning(&[-1.0, 0.0]));
        assert!(blend(&[(&c, 0.5), (&d, 0.5)], BlendMethod::Slerp).unwrap().tokens.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn three_prompts_weigh_as_told_and_shapes_must_agree() {
        let (a, b, c) = (conditioning(&[6.0, 0.0]), conditioning(&[0.0, 6.0]), conditioning(&[6.0, 6.0]));
        let blended = blend(&[(&a, 0.5), (&b, 0.25), (&c, 0.25)], BlendMethod::Linear).unwrap();
        assert!(blended.tokens.iter().zip([4.5, 3.0]).all(|(got, expected)| (got - expected).abs() < 1e-5));
        assert!(blend(&[(&a, 0.5), (&conditioning(&[1.0, 1.0, 2.0, 2.0]), 0.5)], BlendMethod::Slerp).is_none());
        assert!(blend(&[], BlendMethod::Slerp).is_none());
    }
}
