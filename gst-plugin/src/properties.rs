//! The element's properties: made of the parameter table and the options, and kept as text, as flags and config files have them.

use std::sync::LazyLock;

use gst::glib;
use gst::prelude::*;
use livediffusion_pipeline::params::{Kind, PARAMETERS, ParameterSpec, Parameters, spec};
use livediffusion_session::{Layer, ModelOptions, SessionError};

use crate::FILE;
use crate::options::{Holds, OPTIONS, OptionSpec};

/// Several parameters that the model's maker recommends together.
pub(crate) const PRESET: &str = "preset";

/// What happened so far; it can only be read.
pub(crate) const STATS: &str = "stats";

/// The size of the networks' pictures: hot here, as the frames keep theirs.
pub(crate) const SIZE: &str = "size";
const SIZE_DOC: &str = "Size at which the networks work, while frames keep theirs; auto has the frames' shape and as many pixels as the \
                        model's own";

/// Whether a parameter may change while the element plays.
pub(crate) fn is_hot(spec: &ParameterSpec) -> bool {
    spec.hot || spec.name == SIZE
}

/// Whether the property of that name may.
pub(crate) fn is_hot_name(name: &str) -> bool {
    name == PRESET || spec(name).is_some_and(is_hot)
}

/// Whether a size is left to us.
pub(crate) fn is_auto(size: &str) -> bool {
    matches!(size.trim(), "auto" | "")
}

/// All of them, as GObject has them.
pub(crate) fn all() -> &'static [glib::ParamSpec] {
    static ALL: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
        let preset = glib::ParamSpecString::builder(PRESET)
            .nick(PRESET)
            .blurb(
                "Values that the model recommends together (`livediffusion models presets`): properties that are set win over \
                 them; once the model is loaded, the newest does",
            )
            .mutable_playing()
            .build();
        let stats = glib::ParamSpecBoxed::builder::<gst::Structure>(STATS)
            .nick(STATS)
            .blurb(
                "What happened so far: frames-in, frames-out, frames-skipped, frames-failed, frames-dropped; provider, precision, \
                 lanes, size",
            )
            .read_only()
            .build();
        let parameters = PARAMETERS.iter().map(of_parameter);
        let options = OPTIONS.iter().map(of_option);
        parameters.chain([preset]).chain(options).chain([stats]).collect()
    });
    &ALL
}

/// A text in which flags of the command line are called as the properties of the same name, but for commands: those take flags.
pub(crate) fn without_flags(text: &str) -> String {
    const COMMANDS: [&str; 3] = ["livediffusion ", "optimum-cli ", "tools/"];
    let plain = |text: &str| {
        all().iter().fold(text.to_owned(), |text, property| {
            let name = property.name();
            text.replace(&format!("--{name}"), name)
        })
    };
    let clauses = text.split_inclusive([';', ',']);
    let is_command = |clause: &str| COMMANDS.iter().any(|command| clause.contains(command));
    clauses.map(|clause| if is_command(clause) { clause.to_owned() } else { plain(clause) }).collect()
}

fn of_parameter(spec: &ParameterSpec) -> glib::ParamSpec {
    /// Sets what all kinds of properties have.
    macro_rules! built {
        ($builder:expr, $blurb:expr) => {{
            let builder = $builder.nick(spec.name).blurb($blurb);
            if is_hot(spec) { builder.mutable_playing().build() } else { builder.mutable_ready().build() }
        }};
    }
    // Defaults are texts of a table that parse, which a test of it shows.
    let doc = if spec.name == SIZE { SIZE_DOC.to_owned() } else { spec.doc.replace("--", "") };
    let (default, doc) = (spec.default, &*doc);
    match spec.kind {
        Kind::Integer(low, high) => {
            let builder = glib::ParamSpecUInt64::builder(spec.name).minimum(low).maximum(high);
            built!(builder.default_value(default.parse().unwrap_or(low)), doc)
        }
        Kind::Float(low, high) => {
            let builder = glib::ParamSpecDouble::builder(spec.name).minimum(low).maximum(high);
            built!(builder.default_value(default.parse().unwrap_or(low)), doc)
        }
        Kind::Switch => built!(glib::ParamSpecBoolean::builder(spec.name).default_value(default == "true"), doc),
        _ => {
            let blurb = format!("{doc}: {}", spec.kind.describe());
            built!(glib::ParamSpecString::builder(spec.name).default_value(Some(default)), &*blurb)
        }
    }
}

fn of_option(option: &OptionSpec) -> glib::ParamSpec {
    let OptionSpec { name, doc, .. } = *option;
    match option.holds {
        Holds::Text => glib::ParamSpecString::builder(name).nick(name).blurb(doc).mutable_ready().build(),
        Holds::Count(most) => {
            glib::ParamSpecUInt::builder(name).maximum(most).nick(name).blurb(doc).mutable_ready().build()
        }
        Holds::Switch => glib::ParamSpecBoolean::builder(name).nick(name).blurb(doc).mutable_ready().build(),
    }
}

/// A value as text.
pub(crate) fn text_of(value: &glib::Value) -> String {
    if let Ok(text) = value.get::<Option<String>>() {
        return text.unwrap_or_default();
    }
    let number = value.get::<u64>().map(|number| number.to_string());
    let number = number.or_else(|_| value.get::<u32>().map(|number| number.to_string()));
    let number = number.or_else(|_| value.get::<f64>().map(|number| number.to_string()));
    number.or_else(|_| value.get::<bool>().map(|switch| switch.to_string())).unwrap_or_default()
}

/// Text as a value of a property; the property's default where it means nothing.
fn value_of(text: &str, property: &glib::ParamSpec) -> glib::Value {
    let of_type = property.value_type();
    let value = match of_type {
        glib::Type::STRING => Some(text.to_value()),
        glib::Type::U64 => text.parse::<u64>().ok().map(|number| number.to_value()),
        glib::Type::U32 => text.parse::<u32>().ok().map(|number| number.to_value()),
        glib::Type::F64 => text.parse::<f64>().ok().map(|number| number.to_value()),
        glib::Type::BOOL => Some((text == "true").to_value()),
        _ => None,
    };
    value.unwrap_or_else(|| property.default_value().clone())
}

/// What was set, as text by name, in the order in which it was set; the newest of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    /// With the count of all that were set before it.
    texts: Vec<(String, String, u64)>,
    count: u64,
}

impl Wishes {
    fn get(&self, name: &str) -> Option<&str> {
        self.texts.iter().find(|(known, ..)| known == name).map(|(_, text, _)| text.as_str())
    }

    /// Takes a property up. Whether its value is one shows when the element starts.
    pub(crate) fn set(&mut self, name: &str, text: &str) {
        self.texts.retain(|(known, ..)| known != name);
        self.texts.push((name.to_owned(), text.to_owned(), self.count));
        self.count += 1;
    }

    /// Forgets a property, as something else decides on it now.
    pub(crate) fn forget(&mut self, name: &str) {
        self.texts.retain(|(known, ..)| known != name);
    }

    /// Whether the networks' size is nobody's wish.
    pub(crate) fn follows(&self) -> bool {
        self.get(SIZE).is_none_or(is_auto)
    }

    /// What was set after it was as `before`, in that order.
    pub(crate) fn set_since(&self, before: &Self) -> Vec<(String, String)> {
        let new = self.texts.iter().filter(|(.., count)| *count >= before.count);
        new.map(|(name, text, _)| (name.clone(), text.clone())).collect()
    }

    /// Takes the property back to what it was.
    pub(crate) fn restore(&mut self, name: &str, before: &Self) {
        match before.get(name) {
            Some(text) => self.set(name, text),
            None => self.forget(name),
        }
    }

    /// A property's value: what was set, else what the stream has, else its default.
    pub(crate) fn value(&self, property: &glib::ParamSpec, running: Option<&Parameters>) -> glib::Value {
        let name = property.name();
        let of_stream = || Some((spec(name)?.show)(running?));
        match self.get(name).map(str::to_owned).or_else(of_stream) {
            Some(text) => value_of(&text, property),
            None => property.default_value().clone(),
        }
    }

    /// The preset, if there is one.
    pub(crate) fn preset(&self) -> Option<&str> {
        self.get(PRESET).filter(|name| !name.is_empty())
    }

    /// As [`layer`](Self::layer), but for the size.
    pub(crate) fn layer_without_size(&self) -> Layer {
        let mut layer = self.layer();
        layer.values.retain(|(name, _)| name != SIZE);
        layer
    }

    /// What the parameters are to be, above the pack's and the preset's.
    pub(crate) fn layer(&self) -> Layer {
        // An automatic size is none: the pack's stands.
        let is_one = |name: &str, text: &str| spec(name).is_some() && !(name == SIZE && is_auto(text));
        let parameters = self.texts.iter().filter(|(name, text, _)| is_one(name, text));
        let values = parameters.map(|(name, text, _)| (name.clone(), text.clone())).collect();
        Layer { origin: String::new(), values }
    }

    /// Which model runs on what.
    pub(crate) fn options(&self) -> Result<ModelOptions, SessionError> {
        let mut options = ModelOptions { beside: FILE.get().cloned(), ..ModelOptions::default() };
        for option in OPTIONS {
            if let Some(text) = self.get(option.name) {
                let set = option.set(&mut options, text);
                let hint = "gst-inspect-1.0 livediffusion lists what it takes";
                set.map_err(|what| SessionError::invalid(what, hint))?;
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_and_option_is_a_property_whose_default_is_the_tables() {
        let defaults = Parameters::default();
        for spec in PARAMETERS {
            let property = all().iter().find(|property| property.name() == spec.name).unwrap();
            let mut read_back = Parameters::default();
            read_back.set(spec.name, &text_of(property.default_value())).unwrap();
            assert_eq!(read_back, defaults, "{}", spec.name);
            assert_eq!(property.flags().bits() & gst::PARAM_FLAG_MUTABLE_PLAYING.bits() != 0, is_hot(spec));
        }
        for option in OPTIONS {
            assert!(all().iter().any(|property| property.name() == option.name), "{}", option.name);
        }
        let mut names: Vec<&str> = all().iter().map(glib::ParamSpec::name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
        // Those of the classes above it.
        assert!(["name", "parent", "qos"].iter().all(|taken| !names.contains(taken)));
    }

    #[test]
    fn flags_are_properties_but_in_commands() {
        for (text, plain) in [
            ("use --size 256x256", "use size 256x256"),
            ("`make setup-cuda` fetches one, --ort-lib names one", "`make setup-cuda` fetches one, ort-lib names one"),
            (
                "optimum-cli export onnx --model X; then give --model DIR",
                "optimum-cli export onnx --model X; then give model DIR",
            ),
            ("--prompt-blend, and livediffusion run --prompt x", "prompt-blend, and livediffusion run --prompt x"),
        ] {
            assert_eq!(without_flags(text), plain);
        }
    }

    #[test]
    fn wishes_are_read_back_and_lie_above_what_the_stream_has() {
        let property = |name: &str| all().iter().find(|property| property.name() == name).unwrap();
        let mut wishes = Wishes::default();
        let guidance = |wishes: &Wishes, running| wishes.value(property("guidance"), running).get::<f64>().unwrap();
        assert_eq!(guidance(&wishes, None), 1.2);
        let running = Parameters { guidance: 1.5, ..Parameters::default() };
        assert_eq!(guidance(&wishes, Some(&running)), 1.5);
        wishes.set("guidance", "2.5");
        wishes.set("threads", "3");
        wishes.set("tf32", "true");
        wishes.set("provider", "cpu");
        wishes.set("preset", "neon");
        assert_eq!(guidance(&wishes, Some(&running)), 2.5);
        let options = wishes.options().unwrap();
        assert_eq!((options.threads, options.tf32, options.gpu), (Some(3), true, None));
        assert_eq!(options.provider, "cpu".parse().ok());
        assert_eq!(wishes.preset(), Some("neon"));
        assert_eq!(wishes.layer().values, [("guidance".to_owned(), "2.5".to_owned())]);
        let before = wishes.clone();
        wishes.set("prompt", "a fox");
        // To what it was: also a wish.
        wishes.set("guidance", "2.5");
        let since = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(wishes.set_since(&before), [since("prompt", "a fox"), since("guidance", "2.5")]);
        wishes.restore("prompt", &before);
        assert_eq!(wishes.set_since(&before).len(), 1);
        wishes.forget("guidance");
        assert_eq!(guidance(&wishes, None), 1.2);
        wishes.set("provider", "gpu");
        assert!(wishes.options().unwrap_err().to_string().starts_with("provider: "));
    }
}
