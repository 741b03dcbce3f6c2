//! What is refused, in words for pages and programs: they have no command line.

use livediffusion_pipeline::EngineError;
use livediffusion_pipeline::params::{PARAMETERS, ParseError};

/// What may not be: one line, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) what: String,
    pub(crate) hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: Some(hint.into()) }
    }

    /// Without anything to do about it.
    pub(crate) fn bare(what: impl Into<String>) -> Self {
        Self { what: what.into(), hint: None }
    }

    /// Several as one.
    pub(crate) fn joined(refusals: &[Self]) -> Self {
        match refusals {
            [one] => one.clone(),
            several => Self::bare(several.iter().map(|one| one.what.as_str()).collect::<Vec<_>>().join("; ")),
        }
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        Self::new(without_flags(&error.what), without_flags(&error.hint))
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        let hint = match &error {
            // Other networks are for whoever runs the server to choose.
            EngineError::NotFinite { .. } => Some("a lower guidance may help; this model may need f32".into()),
            error => error.hint().map(|hint| without_flags(&hint)),
        };
        Self { what: without_flags(&error.to_string()), hint }
    }
}

/// A text of the command line with parameters by their names, where it has them as flags.
pub(crate) fn without_flags(text: &str) -> String {
    let text = text.replace("livediffusion run --help", "GET /api/v1/schema");
    PARAMETERS.iter().fold(text, |text, spec| text.replace(&format!("--{}", spec.name), spec.name))
}

#[cfg(test)]
mod tests {
    use livediffusion_pipeline::params::Parameters;

    use super::*;

    #[test]
    fn nobody_hears_of_flags() {
        let mut parameters = Parameters::default();
        let mut refusal = |name, text| Refusal::from(parameters.set(name, text).unwrap_err());
        assert_eq!(refusal("guidance", "99").hint.as_deref(), Some("guidance takes a number from 0 to 30"));
        assert_eq!(refusal("nonsense", "1").hint.as_deref(), Some("GET /api/v1/schema lists them"));
        assert_eq!(without_flags("blended in place of --seed's, or --seeds"), "blended in place of seed's, or seeds");
        assert!(PARAMETERS.iter().all(|spec| !without_flags(spec.doc).contains("--")));
    }

    #[test]
    fn several_are_told_in_one_line() {
        let (a, b) = (Refusal::new("a is bad", "a takes b"), Refusal::bare("b is worse"));
        assert_eq!(Refusal::joined(std::slice::from_ref(&a)), a);
        assert_eq!(Refusal::joined(&[a, b]), Refusal::bare("a is bad; b is worse"));
    }
}
