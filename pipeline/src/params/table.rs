//! The parameter table.

use super::value::{Kind, Value};
use super::{CfgType, Parameters, PromptPolicy};
use crate::blend::{BlendMethod, seed_text};
use crate::controlnet::Preprocessor;

/// One parameter: everything that a flag, a config key or a slider needs to know of it.
#[derive(Debug)]
pub struct ParameterSpec {
    /// Its name as a flag (`--NAME`) and as a config key.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its default, as text. A pack's `pack.toml` may have another.
    pub default: &'static str,
    /// Unit of the value, empty where it has none.
    pub unit: &'static str,
    /// Whether a change takes effect at the next frame; if not, it needs a new stream.
    pub hot: bool,
    /// One sentence for `--help`.
    pub doc: &'static str,
    /// Its value as text that [`Parameters::set`] reads back.
    pub show: fn(&Parameters) -> String,
    pub(super) apply: fn(&mut Parameters, Value),
}

impl ParameterSpec {
    /// Whether two sets of parameters have the same value of it.
    pub fn is_same(&self, one: &Parameters, other: &Parameters) -> bool {
        (self.show)(one) == (self.show)(other)
    }
}

/// The specification of a parameter by its name; `_` and `-` are the same.
pub fn spec(name: &str) -> Option<&'static ParameterSpec> {
    PARAMETERS.iter().find(|spec| spec.name == name || spec.name.replace('-', "_") == name)
}

/// Sets a field from the value kind that the row's `Kind` gives. Another kind cannot arrive: `Kind::parse` made it.
macro_rules! set {
    ($variant:ident, |$p:ident, $v:ident| $body:expr) => {
        |$p: &mut Parameters, value: Value| {
            if let Value::$variant($v) = value {
                $body;
            }
        }
    };
}

/// The value, or the word for none.
fn or(value: Option<impl ToString>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| value.to_string())
}

/// All parameters, in the order in which `--help` shows them.
pub static PARAMETERS: &[ParameterSpec] = &[
    ParameterSpec {
        name: "prompt",
        kind: Kind::Text(10_000),
        default: "",
        unit: "",
        hot: true,
        doc: "What the picture shall become",
        show: |p| p.prompt.clone(),
        apply: set!(Text, |p, v| p.prompt = v),
    },
    ParameterSpec {
        name: "negative-prompt",
        kind: Kind::Text(10_000),
        default: "",
        unit: "",
        hot: true,
        doc: "What it shall not be (with --cfg full or initialize)",
        show: |p| p.negative_prompt.clone(),
        apply: set!(Text, |p, v| p.negative_prompt = v),
    },
    ParameterSpec {
        name: "prompt-blend",
        kind: Kind::Choice(&["slerp", "linear"]),
        default: "slerp",
        unit: "",
        hot: true,
        doc: "How prompts such as '\"pencil sketch\":0.7 + \"neon\":0.3' are blended: along the arc between their embeddings, or \
              by their weighted mean",
        show: |p| if p.prompt_blend == BlendMethod::Slerp { "slerp".into() } else { "linear".into() },
        apply: set!(Text, |p, v| {
            p.prompt_blend = if v == "linear" { BlendMethod::Linear } else { BlendMethod::Slerp };
        }),
    },
    ParameterSpec {
        name: "transition",
        kind: Kind::Seconds(600.0),
        default: "0s",
        unit: "",
        hot: true,
        doc: "Time over which a new prompt or seed takes the place of the old one, such as 2s",
        show: |p| format!("{}s", p.transition),
        apply: set!(Float, |p, v| p.transition = v),
    },
    ParameterSpec {
        name: "size",
        kind: Kind::Size,
        default: "auto",
        unit: "pixels",
        hot: false,
        doc: "Size of the repainted picture; auto is the model's own",
        show: |p| or(p.size, "auto"),
        apply: set!(Size, |p, v| p.size = v),
    },
    ParameterSpec {
        name: "t-index",
        kind: Kind::Indices,
        default: "32,45",
        unit: "",
        hot: true,
        doc: "Denoising steps as indices into the table of --steps times; lower starts from more noise and changes more",
        show: |p| p.t_index.iter().map(usize::to_string).collect::<Vec<_>>().join(","),
        apply: set!(Indices, |p, v| p.t_index = v),
    },
    ParameterSpec {
        name: "steps",
        kind: Kind::Integer(1, 1000),
        default: "50",
        unit: "steps",
        hot: true,
        doc: "Length of the table of diffusion times that --t-index picks from (num_inference_steps)",
        show: |p| p.steps.to_string(),
        apply: set!(Integer, |p, v| p.steps = v as usize),
    },
    ParameterSpec {
        name: "scheduler",
        kind: Kind::Choice(&["auto", "lcm", "turbo", "ddim", "tcd", "dpmpp-2m", "deis", "ghvb", "euler"]),
        default: "auto",
        unit: "",
        hot: true,
        doc: "Solver; auto is the one that the model's scheduler configuration asks for",
        show: |p| or(p.scheduler, "auto"),
        apply: set!(Text, |p, v| p.scheduler = v.parse().ok()),
    },
    ParameterSpec {
        name: "cfg",
        kind: Kind::Choice(&["none", "self", "initialize", "full"]),
        default: "self",
        unit: "",
        hot: true,
        doc: "Guidance: none, full (twice the work), or residual: self (no extra work), initialize (one row a frame)",
        show: |p| p.cfg.to_string(),
        apply: set!(Text, |p, v| {
            p.cfg = match v.as_str() {
                "full" => CfgType::Full,
                "self" => CfgType::SelfNegative,
                "initialize" => CfgType::Initialize,
                _ => CfgType::None,
            }
        }),
    },
    ParameterSpec {
        name: "guidance",
        kind: Kind::Float(0.0, 30.0),
        default: "1.2",
        unit: "",
        hot: true,
        doc: "Guidance scale γ; 1 and below turn guidance off",
        show: |p| p.guidance.to_string(),
        apply: set!(Float, |p, v| p.guidance = v as f32),
    },
    ParameterSpec {
        name: "delta",
        kind: Kind::Float(0.0, 4.0),
        default: "1.0",
        unit: "",
        hot: true,
        doc: "Strength δ of the virtual residual noise of self and initialize; lower is softer",
        show: |p| p.delta.to_string(),
        apply: set!(Float, |p, v| p.delta = v as f32),
    },
    ParameterSpec {
        name: "seed",
        kind: Kind::Integer(0, u64::MAX),
        default: "2",
        unit: "",
        hot: true,
        doc: "Seed of all noise: the same seed gives the same picture",
        show: |p| p.seed.to_string(),
        apply: set!(Integer, |p, v| p.seed = v),
    },
    ParameterSpec {
        name: "seeds",
        kind: Kind::Seeds,
        default: "off",
        unit: "",
        hot: true,
        doc: "Seeds whose noises are blended in place of --seed's, with weights, such as 2:0.7 + 9:0.3",
        show: |p| seed_text(&p.seeds),
        apply: set!(Seeds, |p, v| p.seeds = v),
    },
    ParameterSpec {
        name: "add-noise",
        kind: Kind::Switch,
        default: "true",
        unit: "",
        hot: true,
        doc: "Whether lcm, turbo and tcd add noise again between steps (do_add_noise)",
        show: |p| p.add_noise.to_string(),
        apply: set!(Switch, |p, v| p.add_noise = v),
    },
    ParameterSpec {
        name: "stream-batch",
        kind: Kind::Switch,
        default: "true",
        unit: "",
        hot: true,
        doc: "Whether frames at different steps share one U-Net call; false finishes each frame before the next, as lanes do",
        show: |p| p.stream_batch.to_string(),
        apply: set!(Switch, |p, v| p.stream_batch = v),
    },
    ParameterSpec {
        name: "frame-buffer",
        kind: Kind::Integer(1, 64),
        default: "1",
        unit: "frames",
        hot: false,
        doc: "Frames that enter together",
        show: |p| p.frame_buffer.to_string(),
        apply: set!(Integer, |p, v| p.frame_buffer = v as usize),
    },
    ParameterSpec {
        name: "similarity",
        kind: Kind::OptionalFloat(0.0, 1.0),
        default: "off",
        unit: "",
        hot: true,
        doc: "Threshold η of the similarity filter, such as 0.98: frames that look like the last one repeat its picture",
        show: |p| or(p.similarity, "off"),
        apply: set!(OptionalFloat, |p, v| p.similarity = v),
    },
    ParameterSpec {
        name: "max-skip",
        kind: Kind::Integer(0, 1_000_000),
        default: "10",
        unit: "frames",
        hot: true,
        doc: "After more skips than this the similarity filter lets a frame through (the reference's count: N + 1 in all)",
        show: |p| p.max_skip.to_string(),
        apply: set!(Integer, |p, v| p.max_skip = v as u32),
    },
    ParameterSpec {
        name: "similarity-metric",
        kind: Kind::Choice(&["difference", "cosine"]),
        default: "difference",
        unit: "",
        hot: true,
        doc: "How likeness is measured: cosine is the paper's, difference also works on dark and flat scenes",
        show: |p| p.similarity_metric.to_string(),
        apply: set!(Text, |p, v| {
            if let Ok(metric) = v.parse() {
                p.similarity_metric = metric;
            }
        }),
    },
    ParameterSpec {
        name: "eta",
        kind: Kind::Float(0.0, 1.0),
        default: "0.3",
        unit: "",
        hot: true,
        doc: "Stochasticity γ of tcd: 0 is deterministic",
        show: |p| p.eta.to_string(),
        apply: set!(Float, |p, v| p.eta = v),
    },
    ParameterSpec {
        name: "order",
        kind: Kind::Integer(0, 4),
        default: "2",
        unit: "",
        hot: true,
        doc: "Order of deis (0 to 3) and ghvb (1 to 4)",
        show: |p| p.order.to_string(),
        apply: set!(Integer, |p, v| p.order = v as usize),
    },
    ParameterSpec {
        name: "beta",
        kind: Kind::Float(0.01, 1.0),
        default: "0.8",
        unit: "",
        hot: true,
        doc: "Momentum β of ghvb: lower damps the artefacts of strong guidance",
        show: |p| p.beta.to_string(),
        apply: set!(Float, |p, v| p.beta = v),
    },
    ParameterSpec {
        name: "original-inference-steps",
        kind: Kind::OptionalInteger(1, 1000),
        default: "auto",
        unit: "steps",
        hot: true,
        doc: "Steps that a consistency model was distilled on; auto is the model's own",
        show: |p| or(p.original_inference_steps, "auto"),
        apply: set!(OptionalInteger, |p, v| p.original_inference_steps = v.map(|v| v as usize)),
    },
    ParameterSpec {
        name: "target-fps",
        kind: Kind::OptionalFloat(1.0, 240.0),
        default: "off",
        unit: "frames/s",
        hot: false,
        doc: "Hold this rate on a machine that is too slow or busy: by a smaller network input, then fewer steps, then showing \
              the last picture again",
        show: |p| or(p.target_fps, "off"),
        apply: set!(OptionalFloat, |p, v| p.target_fps = v),
    },
    ParameterSpec {
        name: "prompt-policy",
        kind: Kind::Choice(&["all", "admitted"]),
        default: "all",
        unit: "",
        hot: true,
        doc: "Whether a new prompt reaches all frames in flight at once or only those admitted after it, as with several lanes",
        show: |p| p.prompt_policy.to_string(),
        apply: set!(Text, |p, v| {
            p.prompt_policy = if v == "admitted" { PromptPolicy::Admitted } else { PromptPolicy::All };
        }),
    },
    ParameterSpec {
        name: "vae-sample",
        kind: Kind::Switch,
        default: "false",
        unit: "",
        hot: true,
        doc: "Whether a KL VAE's posterior is sampled (seeded) in place of taking its mean",
        show: |p| p.vae_sample.to_string(),
        apply: set!(Switch, |p, v| p.vae_sample = v),
    },
    ParameterSpec {
        name: "feedback",
        kind: Kind::Float(0.0, 1.0),
        default: "0.0",
        unit: "",
        hot: true,
        doc: "Share of the last picture in what each frame is made of (latent feedback), such as 0.2: calmer, then smeared. Frames of \
              a file are painted one after the other then",
        show: |p| p.feedback.to_string(),
        apply: set!(Float, |p, v| p.feedback = v as f32),
    },
    ParameterSpec {
        name: "control-scale",
        kind: Kind::Float(0.0, 2.0),
        default: "1.0",
        unit: "",
        hot: true,
        doc: "How strictly a model with a ControlNet keeps the structure of the frame (conditioning_scale); 0 is without",
        show: |p| p.control.scale.to_string(),
        apply: set!(Float, |p, v| p.control.scale = v as f32),
    },
    ParameterSpec {
        name: "preprocessor",
        kind: Kind::Choice(Preprocessor::NAMES),
        default: "canny",
        unit: "",
        hot: true,
        doc: "What a ControlNet is shown of a frame: its edges, its lightness, or itself. It has to be what the network was trained on",
        show: |p| p.control.preprocessor.to_string(),
        apply: set!(Text, |p, v| {
            if let Ok(preprocessor) = v.parse() {
                p.control.preprocessor = preprocessor;
            }
        }),
    },
    ParameterSpec {
        name: "canny-low",
        kind: Kind::Integer(0, 1000),
        default: "100",
        unit: "",
        hot: true,
        doc: "Gradient over which what touches an edge is one too, for canny: lower draws longer lines",
        show: |p| p.control.canny_low.to_string(),
        apply: set!(Integer, |p, v| p.control.canny_low = v as u32),
    },
    ParameterSpec {
        name: "canny-high",
        kind: Kind::Integer(0, 1000),
        default: "200",
        unit: "",
        hot: true,
        doc: "Gradient over which there is an edge, for canny: lower finds more of them",
        show: |p| p.control.canny_high.to_string(),
        apply: set!(Integer, |p, v| p.control.canny_high = v as u32),
    },
    ParameterSpec {
        name: "show-control",
        kind: Kind::Switch,
        default: "false",
        unit: "",
        hot: true,
        doc: "Show what the ControlNet is shown in place of the pictures: to find the preprocessor and its values",
        show: |p| p.control.is_shown.to_string(),
        apply: set!(Switch, |p, v| p.control.is_shown = v),
    },
];
