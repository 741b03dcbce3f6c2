//! Kinds of parameter values and how they are read from text.

use super::table::ParameterSpec;
use crate::blend::seed_parts;
use crate::frame::Size;

/// What values a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Text of at most this many characters.
    Text(usize),
    /// A whole number from the first to the second.
    Integer(u64, u64),
    /// As `Integer`, or `auto`.
    OptionalInteger(u64, u64),
    /// A number from the first to the second.
    Float(f64, f64),
    /// As `Float`, or `off`.
    OptionalFloat(f64, f64),
    /// A time from 0 to that many seconds, such as `2s`, `0.5` or `300ms`.
    Seconds(f64),
    /// `true` or `false`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Ascending whole numbers, separated by commas.
    Indices,
    /// `WxH`, or `auto`.
    Size,
    /// Whole numbers with weights, or `off`.
    Seeds,
}

/// A parsed value, handed to the parameter's setter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Of [`Kind::Text`] and [`Kind::Choice`].
    Text(String),
    /// Of [`Kind::Integer`].
    Integer(u64),
    /// Of [`Kind::OptionalInteger`].
    OptionalInteger(Option<u64>),
    /// Of [`Kind::Float`] and [`Kind::Seconds`].
    Float(f64),
    /// Of [`Kind::OptionalFloat`].
    OptionalFloat(Option<f64>),
    /// Of [`Kind::Switch`].
    Switch(bool),
    /// Of [`Kind::Indices`].
    Indices(Vec<usize>),
    /// Of [`Kind::Size`].
    Size(Option<Size>),
    /// Of [`Kind::Seeds`]; empty for `off`. Weights sum to 1.
    Seeds(Vec<(u64, f32)>),
}

/// A parameter that was not set, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ParseError {
    /// Parameter and value.
    pub what: String,
    /// What it takes.
    pub hint: String,
}

impl ParseError {
    pub(super) fn unknown(name: &str) -> Self {
        Self { what: format!("there is no parameter {name:?}"), hint: "livediffusion run --help lists them".into() }
    }
}

/// Longest side of a picture that is believed: larger ones are typing mistakes that would only run out of memory.
const MAX_SIDE: usize = 8192;

impl Kind {
    /// What a value looks like, for `--help` and for error hints.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(limit) => format!("text of up to {limit} characters"),
            Self::Integer(low, high) => format!("a whole number from {low} to {high}"),
            Self::OptionalInteger(low, high) => format!("a whole number from {low} to {high}, or auto"),
            Self::Float(low, high) => format!("a number from {low} to {high}"),
            Self::OptionalFloat(low, high) => format!("a number from {low} to {high}, or off"),
            Self::Seconds(most) => format!("a time up to {most}s, such as 2s, 0.5 or 300ms"),
            Self::Switch => "true or false".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Indices => "ascending whole numbers separated by commas, such as 32,45".into(),
            Self::Size => "WxH in pixels, such as 512x288, or auto".into(),
            Self::Seeds => "seeds with weights, such as 2:0.7 + 9:0.3, or off".into(),
        }
    }

    /// A short placeholder for `--help`.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Self::Text(_) => "TEXT",
            Self::Integer(..) | Self::OptionalInteger(..) => "N",
            Self::Float(..) | Self::OptionalFloat(..) => "X",
            Self::Seconds(_) => "TIME",
            Self::Switch => "true|false",
            Self::Choice(_) => "NAME",
            Self::Indices => "I,J,…",
            Self::Size => "WxH",
            Self::Seeds => "SEED:W+…",
        }
    }

    pub(super) fn parse(&self, spec: &ParameterSpec, text: &str) -> Result<Value, ParseError> {
        let trimmed = text.trim();
        let shown: String = text.chars().take(60).collect();
        let bad = |why: &str| ParseError {
            what: format!("{} {shown:?} {why}", spec.name),
            hint: format!("--{} takes {}", spec.name, self.describe()),
        };
        let integer = |text: &str, low: u64, high: u64| match text.parse::<u64>() {
            Ok(value) if (low..=high).contains(&value) => Ok(value),
            Ok(_) => Err(bad("is out of range")),
            Err(_) => Err(bad("is not a whole number")),
        };
        let float = |text: &str, low: f64, high: f64| match text.parse::<f64>() {
            Ok(value) if (low..=high).contains(&value) => Ok(value),
            Ok(value) if value.is_finite() => Err(bad("is out of range")),
            _ => Err(bad("is not a number")),
        };
        Ok(match *self {
            Self::Text(limit) => {
                if text.chars().count() > limit {
                    return Err(bad("is too long"));
                }
                Value::Text(text.to_owned())
            }
            Self::Integer(low, high) => Value::Integer(integer(trimmed, low, high)?),
            Self::OptionalInteger(..) if trimmed == "auto" => Value::OptionalInteger(None),
            Self::OptionalInteger(low, high) => Value::OptionalInteger(Some(integer(trimmed, low, high)?)),
            Self::Float(low, high) => Value::Float(float(trimmed, low, high)?),
            Self::OptionalFloat(..) if trimmed == "off" => Value::OptionalFloat(None),
            Self::OptionalFloat(low, high) => Value::OptionalFloat(Some(float(trimmed, low, high)?)),
            Self::Seconds(most) => {
                let (number, unit) = match (trimmed.strip_suffix("ms"), trimmed.strip_suffix('s')) {
                    (Some(number), _) => (number, 1e-3),
                    (None, Some(number)) => (number, 1.0),
                    (None, None) => (trimmed, 1.0),
                };
                Value::Float(float(number.trim(), 0.0, most / unit)? * unit)
            }
            Self::Switch => Value::Switch(match trimmed {
                "true" | "yes" | "on" | "1" => true,
                "false" | "no" | "off" | "0" => false,
                _ => return Err(bad("is neither true nor false")),
            }),
            Self::Choice(words) => {
                if !words.contains(&trimmed) {
                    return Err(bad("is not known"));
                }
                Value::Text(trimmed.to_owned())
            }
            Self::Indices => {
                let indices: Result<Vec<usize>, _> = trimmed.split(',').map(|part| part.trim().parse()).collect();
                let indices = indices.map_err(|_| bad("is not a list of whole numbers"))?;
                if indices.windows(2).any(|pair| pair[0] >= pair[1]) {
                    return Err(bad("is not ascending"));
                }
                Value::Indices(indices)
            }
            Self::Seeds if trimmed == "off" => Value::Seeds(Vec::new()),
            Self::Seeds => {
                Value::Seeds(seed_parts(trimmed).ok_or_else(|| bad("is no list of seeds with weights over 0"))?)
            }
            Self::Size if trimmed == "auto" => Value::Size(None),
            Self::Size => {
                let sides = trimmed.split_once(['x', 'X', '×']);
                let sides = sides.and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
                let (width, height) = sides.ok_or_else(|| bad("is not a size"))?;
                if width == 0 || height == 0 || width > MAX_SIDE || height > MAX_SIDE {
                    return Err(bad("is out of range"));
                }
                Value::Size(Some(Size::new(width, height)))
            }
        })
    }
}
