//! The parameters of a stream: one table from which command line flags, config keys and (later) web controls are made.

mod table;
mod value;

use std::fmt;

pub use table::{PARAMETERS, ParameterSpec, spec};
pub use value::{Kind, ParseError};

use crate::blend::BlendMethod;
use crate::controlnet::ControlParameters;
use crate::frame::Size;
use crate::plan::PlanRequest;
use crate::similarity::Metric;
use crate::solver::Solver;
use crate::stream_batch::GuidanceSettings;

/// Which classifier-free guidance runs (paper §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CfgType {
    /// No guidance: one U-Net row a step.
    None,
    /// Classifier-free guidance with the negative prompt at every step: two rows.
    Full,
    /// Self-negative residual CFG: the input frame itself is the negative; no extra row.
    SelfNegative,
    /// One-time-negative residual CFG: the negative prompt at the first step alone; one extra row a frame.
    Initialize,
}

/// When frames in flight take up a new prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptPolicy {
    /// At once, all of them: quickest to see (the reference's way).
    All,
    /// Only frames admitted from now on: no picture mixes two prompts.
    Admitted,
}

/// The parameters as typed values. [`Parameters::set`] changes one by its name in [`PARAMETERS`].
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// What the picture shall be.
    pub prompt: String,
    /// What it shall not be (full and initialize guidance).
    pub negative_prompt: String,
    /// How prompts are blended.
    pub prompt_blend: BlendMethod,
    /// Seconds that a new prompt or seed takes to replace the old one.
    pub transition: f64,
    /// Size of the network's picture; `None` is the pack's own.
    pub size: Option<Size>,
    /// Indices into the table of diffusion times.
    pub t_index: Vec<usize>,
    /// Length of that table (diffusers: `num_inference_steps`).
    pub steps: usize,
    /// The solver; `None` is the pack's own.
    pub scheduler: Option<Solver>,
    /// Guidance type.
    pub cfg: CfgType,
    /// γ: 1 and below turn guidance off.
    pub guidance: f32,
    /// δ: strength of the virtual residual noise.
    pub delta: f32,
    /// Seed of all noise.
    pub seed: u64,
    /// Seeds whose noises are blended in place of `seed`'s, with weights that sum to 1; empty for `seed` alone.
    pub seeds: Vec<(u64, f32)>,
    /// Whether consistency solvers re-noise between steps.
    pub add_noise: bool,
    /// Whether frames at different steps share one U-Net call.
    pub stream_batch: bool,
    /// Frames that enter together.
    pub frame_buffer: usize,
    /// Similarity threshold η; `None` turns the filter off.
    pub similarity: Option<f64>,
    /// Bound on the skips before a frame is processed whatever it looks like.
    pub max_skip: u32,
    /// How likeness is measured.
    pub similarity_metric: Metric,
    /// TCD's stochasticity γ.
    pub eta: f64,
    /// Order of DEIS and GHVB.
    pub order: usize,
    /// GHVB's momentum.
    pub beta: f64,
    /// LCM's and TCD's distillation steps; `None` is the pack's own.
    pub original_inference_steps: Option<usize>,
    /// Frames a second to hold by giving up quality; `None` keeps the quality.
    pub target_fps: Option<f64>,
    /// When frames in flight take up a new prompt.
    pub prompt_policy: PromptPolicy,
    /// Whether a KL VAE's posterior is sampled rather than its mean taken.
    pub vae_sample: bool,
    /// Share of the last picture's latent in what a frame is made of; 0 is none.
    pub feedback: f32,
    /// What a ControlNet is shown, and what it does.
    pub control: ControlParameters,
}

impl Default for Parameters {
    /// The table's defaults.
    fn default() -> Self {
        let mut parameters = Self {
            prompt: String::new(),
            negative_prompt: String::new(),
            prompt_blend: BlendMethod::Slerp,
            transition: 0.0,
            size: None,
            t_index: Vec::new(),
            steps: 1,
            scheduler: None,
            cfg: CfgType::None,
            guidance: 1.0,
            delta: 1.0,
            seed: 0,
            seeds: Vec::new(),
            add_noise: true,
            stream_batch: true,
            frame_buffer: 1,
            similarity: None,
            max_skip: 0,
            similarity_metric: Metric::Difference,
            eta: 0.0,
            order: 1,
            beta: 1.0,
            original_inference_steps: None,
            target_fps: None,
            prompt_policy: PromptPolicy::All,
            vae_sample: false,
            feedback: 0.0,
            control: ControlParameters::default(),
        };
        for spec in PARAMETERS {
            let set = parameters.set(spec.name, spec.default);
            debug_assert!(set.is_ok(), "the default of {} does not parse", spec.name);
        }
        parameters
    }
}

impl Parameters {
    /// Sets a parameter from text, as a flag, a config file or a web control has it.
    ///
    /// # Errors
    /// No such parameter, or a value of another kind or out of range; nothing is changed then.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), ParseError> {
        let spec = spec(name).ok_or_else(|| ParseError::unknown(name))?;
        let value = spec.kind.parse(spec, text)?;
        (spec.apply)(self, value);
        Ok(())
    }

    /// Rows of the U-Net in a call under these parameters: steps × frame buffer, one of them at a time without the stream batch, and those
    /// of the negative prompt, which are as many for full guidance and the frames that enter for `initialize`.
    pub fn rows(&self) -> usize {
        let steps = if self.stream_batch { self.t_index.len().max(1) } else { 1 };
        self.rows_of(steps * self.frame_buffer.max(1))
    }

    /// Guidance and control as they are for a call.
    pub(crate) fn guidance_settings(&self) -> GuidanceSettings {
        GuidanceSettings { cfg: self.cfg, scale: self.guidance, delta: self.delta, control: self.control.scale }
    }

    /// Rows of a call over so many slots.
    pub(crate) fn rows_of(&self, slots: usize) -> usize {
        let negative = match self.guidance_settings().effective() {
            CfgType::Full => slots,
            CfgType::Initialize => self.frame_buffer.max(1),
            CfgType::None | CfgType::SelfNegative => 0,
        };
        slots + negative
    }

    /// Moves the t_index_list so that its first step has `strength` (0 to 1, clamped) of all noise: 1 is index 0, pure noise;
    /// 0 leaves the least that the list's length allows. The steps after it keep their places in what is left, so that
    /// the list still ends as near to the clean picture as it did.
    pub fn set_strength(&mut self, strength: f64) {
        let (count, last) = (self.t_index.len(), self.steps.saturating_sub(1));
        let Some(&old_first) = self.t_index.first() else { return };
        if count > self.steps {
            return;
        }
        let first = ((1.0 - strength.clamp(0.0, 1.0)) * last as f64).round() as usize;
        let first = first.min(self.steps - count);
        let (old_room, room) = (last.saturating_sub(old_first).max(1) as f64, (last - first) as f64);
        let mut least = first;
        for (place, index) in self.t_index.iter_mut().enumerate() {
            let wanted = first as f64 + index.saturating_sub(old_first) as f64 * room / old_room;
            // Ascending, with room for those that follow.
            *index = (wanted.round() as usize).clamp(least, self.steps - count + place);
            least = *index + 1;
        }
    }

    /// The seeds that noise is made of, with weights that sum to 1.
    pub fn seed_weights(&self) -> Vec<(u64, f32)> {
        if self.seeds.is_empty() { vec![(self.seed, 1.0)] } else { self.seeds.clone() }
    }

    /// What the plan of newly admitted frames is made from. `pack_solver` stands in where no scheduler is set.
    pub fn plan_request(&self, pack_solver: Solver) -> PlanRequest {
        PlanRequest {
            solver: self.scheduler.unwrap_or(pack_solver),
            t_index_list: self.t_index.clone(),
            num_inference_steps: self.steps,
            add_noise: self.add_noise,
            eta: self.eta,
            order: self.order,
            beta: self.beta,
        }
    }
}

impl fmt::Display for CfgType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Full => "full",
            Self::SelfNegative => "self",
            Self::Initialize => "initialize",
        })
    }
}

impl fmt::Display for PromptPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::All { "all" } else { "admitted" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_parses_and_names_are_unique() {
        let mut parameters = Parameters::default();
        for (index, spec) in PARAMETERS.iter().enumerate() {
            assert!(parameters.set(spec.name, spec.default).is_ok(), "{}", spec.name);
            assert!(PARAMETERS[..index].iter().all(|other| other.name != spec.name), "{} twice", spec.name);
            assert!(spec.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", spec.name);
            assert!(!spec.doc.is_empty());
        }
        assert_eq!(parameters, Parameters::default());
    }

    #[test]
    fn values_out_of_range_change_nothing_and_say_the_range() {
        let mut parameters = Parameters::default();
        for (name, text, word) in [
            ("guidance", "-1", "0"),
            ("guidance", "nan", "number"),
            ("steps", "0", "1"),
            ("t-index", "32,x", "x"),
            ("t-index", "45,32", "ascending"),
            ("cfg", "fuller", "initialize"),
            ("size", "256", "WxH"),
            ("similarity", "1.5", "off"),
            ("strange", "1", "strange"),
            ("prompt", &"x".repeat(20_000), "10000"),
        ] {
            let error = parameters.set(name, text).unwrap_err();
            assert!(format!("{error} {}", error.hint).contains(word), "{name}={text}: {error} {}", error.hint);
        }
        assert_eq!(parameters, Parameters::default());
    }

    #[test]
    fn strength_moves_the_list_and_keeps_it_ascending_and_in_range() {
        let list = |t_index: &str, strength| {
            let mut parameters = Parameters::default();
            parameters.set("t-index", t_index).unwrap();
            parameters.set_strength(strength);
            parameters.t_index
        };
        assert_eq!(list("45", 1.0), [0]);
        assert_eq!(list("45", 0.0), [49]);
        assert_eq!(list("45", 0.5), [25]);
        assert_eq!(list("32,45", 1.0), [0, 37]);
        assert_eq!(list("32,45", 0.0), [48, 49]);
        assert_eq!(list("0,16,32,45", 0.3), [34, 39, 44, 48]);
        for strength in 0..=20 {
            for t_index in ["0", "49", "0,1,2", "47,48,49", "10,11,48"] {
                let moved = list(t_index, f64::from(strength) / 20.0);
                assert!(moved.windows(2).all(|pair| pair[0] < pair[1]) && moved[moved.len() - 1] < 50, "{moved:?}");
            }
        }
    }

    #[test]
    fn texts_of_every_kind() {
        let mut parameters = Parameters::default();
        for (name, text) in [
            ("prompt", "a fox"),
            ("t-index", "16, 32 ,45"),
            ("size", "512x288"),
            ("similarity", "0.98"),
            ("cfg", "self"),
            ("add-noise", "false"),
            ("scheduler", "dpmpp-2m"),
            ("seeds", "3:1 + 4:3"),
            ("prompt-blend", "linear"),
            ("transition", "2s"),
            ("seed", "18446744073709551615"),
        ] {
            assert!(parameters.set(name, text).is_ok(), "{name}");
        }
        assert_eq!(parameters.t_index, [16, 32, 45]);
        assert_eq!(parameters.size, Some(Size::new(512, 288)));
        assert_eq!((parameters.similarity, parameters.seed), (Some(0.98), u64::MAX));
        assert_eq!((parameters.cfg, parameters.scheduler), (CfgType::SelfNegative, Some(Solver::Dpmpp2M)));
        assert!(!parameters.add_noise);
        // Every value shown as text is read back as itself.
        let mut copy = Parameters::default();
        for spec in PARAMETERS {
            assert!(copy.set(spec.name, &(spec.show)(&parameters)).is_ok(), "{}", spec.name);
        }
        assert_eq!(copy, parameters);
    }
}
