//! What every visitor's session is made of.

use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::SharedText;
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::{PARAMETERS, Parameters, spec};
use livediffusion_pipeline::{Control, EngineError, Prompts, find_preset};

use crate::message::Values;
use crate::refusal::Refusal;

/// Moves the t_index_list; see [`Parameters::set_strength`].
pub(crate) const STRENGTH: &str = "strength";
/// The parameter that takes another engine.
pub(crate) const SIZE: &str = "size";

/// Makes a stream at a size, under the settings of a control, on weights that all streams share.
pub type MakePainter = Box<dyn Fn(Size, Control) -> Result<Painter, EngineError> + Send + Sync>;

/// A loaded model, and what the server tells of it.
pub struct Studio {
    /// Name of the model.
    pub model: String,
    /// What runs its networks.
    pub provider: String,
    /// Their arithmetic.
    pub precision: String,
    /// What sizes and t_index_lists it can do.
    pub facts: ModelFacts,
    /// Size of pictures where the parameters name none.
    pub size: Size,
    /// Longest side that a visitor may ask for. Work and memory grow with its square, and all visitors share the machine.
    pub max_side: usize,
    /// Parameters that a session begins with.
    pub defaults: Parameters,
    /// What the model's maker recommends.
    pub presets: Vec<Preset>,
    /// Prompts to conditionings.
    pub text: SharedText,
    /// See [`Prompts::new`].
    pub timestep_cond_width: Option<usize>,
    /// Makes streams.
    pub make_painter: MakePainter,
}

/// Values that go together.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Preset {
    /// Its name.
    pub name: String,
    /// Its prompt.
    pub prompt: String,
    /// Further parameters by name, as text.
    pub parameters: Values,
}

impl Preset {
    /// All that it sets.
    pub(crate) fn values(&self) -> Values {
        let mut values = self.parameters.clone();
        values.insert("prompt".into(), self.prompt.clone());
        values
    }
}

impl Studio {
    pub(crate) fn prompts(&self) -> Prompts {
        Prompts::new(Box::new(self.text.clone()), self.timestep_cond_width)
    }

    pub(crate) fn size_of(&self, parameters: &Parameters) -> Size {
        parameters.size.unwrap_or(self.size)
    }

    /// `old` with other values: of all of them or, if one may not be, of none.
    pub(crate) fn changed(&self, old: &Parameters, values: &Values) -> Result<Parameters, Refusal> {
        let mut parameters = old.clone();
        for (name, text) in values.iter().filter(|(name, _)| *name != STRENGTH) {
            parameters.set(name, text)?;
            if spec(name).is_some_and(|spec| !spec.hot && spec.name != SIZE && !spec.is_same(old, &parameters)) {
                return Err(Refusal::new(
                    format!("{name} cannot change while the stream runs"),
                    "it is fixed when the server starts",
                ));
            }
        }
        if let Some(text) = values.get(STRENGTH) {
            parameters.set_strength(strength(text)?);
        }
        let size = self.size_of(&parameters);
        if size.width.max(size.height) > self.max_side {
            let hint = format!("up to {} pixels a side", self.max_side);
            return Err(Refusal::new(format!("{SIZE} {size} is larger than this server paints"), hint));
        }
        self.facts.check(&parameters)?;
        Ok(parameters)
    }

    /// The values of a preset.
    pub(crate) fn preset_values(&self, name: &str) -> Result<Values, Refusal> {
        let refusal = || Refusal::new(format!("there is no preset {name:?}"), "GET /api/v1/presets lists them");
        self.preset(name).map(Preset::values).ok_or_else(refusal)
    }

    fn preset(&self, name: &str) -> Option<&Preset> {
        find_preset(&self.presets, |preset| &preset.name, name)
    }
}

/// From 0 to 1.
fn strength(text: &str) -> Result<f64, Refusal> {
    let bad =
        |why| Refusal::new(format!("{STRENGTH} {text:?} {why}"), format!("{STRENGTH} takes a number from 0 to 1"));
    match text.trim().parse::<f64>() {
        Ok(strength) if (0.0..=1.0).contains(&strength) => Ok(strength),
        Ok(strength) if strength.is_finite() => Err(bad("is out of range")),
        _ => Err(bad("is not a number")),
    }
}

/// All parameters as text, by name.
pub(crate) fn shown(parameters: &Parameters) -> Values {
    PARAMETERS.iter().map(|spec| (spec.name.to_owned(), (spec.show)(parameters))).collect()
}
