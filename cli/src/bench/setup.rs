//! What most measurements begin with: networks in memory, parameters, pictures.

use livediffusion_bench::frames::Subject;
use livediffusion_bench::record::Context;
use livediffusion_onnx::{Pack, physical_cores};
use livediffusion_pipeline::Control;
use livediffusion_pipeline::Settings;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::params::{CfgType, Parameters};
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_session::{ModelOptions, OpenPack, Session};

use super::args::SetupArgs;
use super::context::context;
use crate::config::{self, ConfigFile};
use crate::failure::Outcome;
use crate::parameter_args::ParameterArgs;

/// Guidance scale where guidance is measured and the pack's own is 1, which turns it off: the reference's.
const GUIDANCE: f32 = 1.2;

/// What streams on the same networks come to have, for providers that compile for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) steps: usize,
    /// That enter together.
    pub(crate) frames: usize,
}

impl Default for Reach {
    fn default() -> Self {
        Self { steps: 1, frames: 1 }
    }
}

impl Reach {
    /// The most of some numbers of steps.
    pub(crate) fn steps(steps: impl IntoIterator<Item = u8>) -> Self {
        Self { steps: steps.into_iter().max().map_or(1, usize::from), ..Self::default() }
    }
}

/// Loaded networks and what is run on them.
pub(crate) struct Setup {
    pub(crate) session: Session,
    pub(crate) size: Size,
    /// The pack's own parameters.
    pub(crate) parameters: Parameters,
    pub(crate) context: Context,
    pub(crate) clock: MonotonicClock,
}

impl Setup {
    /// Loads networks that work on `lanes` frames at once.
    pub(crate) fn load(args: &SetupArgs, lanes: usize) -> Outcome<Self> {
        Self::load_for(args, lanes, Reach::default())
    }

    /// The same for streams of many steps.
    pub(crate) fn load_for(args: &SetupArgs, lanes: usize, reach: Reach) -> Outcome<Self> {
        Self::load_sized(&args.model, args.size, lanes, reach)
    }

    pub(crate) fn load_sized(model: &ModelOptions, size: Option<Size>, lanes: usize, reach: Reach) -> Outcome<Self> {
        let mut open = OpenPack::open(model)?;
        let parameters = config::parameters(&open.pack, &ConfigFile::default(), &ParameterArgs::default())?;
        let size = size.unwrap_or_else(|| open.size(&parameters));
        open.facts.latent_shape(size)?;
        open.expect(&parameters, size);
        open.expect_up_to(reach.steps, reach.frames);
        let session = Session::load(model, open, lanes)?;
        let context = context(&session, model, size)?;
        Ok(Self { session, size, parameters, context, clock: MonotonicClock::start() })
    }

    /// The pack's settings with that many steps and that guidance.
    pub(crate) fn settings(&mut self, steps: usize, cfg: CfgType) -> Outcome<Settings> {
        let parameters = steps_and_guidance(&self.parameters, steps, cfg);
        Ok(self.session.settings(parameters, self.size)?)
    }

    /// A stream with that many steps and that guidance.
    pub(crate) fn subject(&mut self, steps: usize, cfg: CfgType) -> Outcome<Subject> {
        let settings = self.settings(steps, cfg)?;
        self.subject_with(settings)
    }

    /// A stream under these settings.
    pub(crate) fn subject_with(&self, settings: Settings) -> Outcome<Subject> {
        // Several are measured by turns, as if each were the only one.
        self.session.loaded.shared.keep_rows_apart();
        Ok(Subject::new(self.session.painter(self.size, Control::new(settings))?, self.size))
    }
}

/// The pack's parameters with other steps and guidance.
pub(crate) fn steps_and_guidance(pack: &Parameters, steps: usize, cfg: CfgType) -> Parameters {
    let guidance = if pack.guidance > 1.0 { pack.guidance } else { GUIDANCE };
    // Spread evenly over the table of times: which times they are does not change how long they take.
    let t_index = (0..steps).map(|step| (2 * step + 1) * pack.steps / (2 * steps)).collect();
    // An empty negative prompt would be the prompt itself, where that is empty too, and be encoded once for both.
    Parameters { t_index, cfg, guidance, prompt: "oil painting".into(), ..pack.clone() }
}

/// Frames at once where throughput is measured: as `run` has for files.
pub(crate) fn file_lanes(model: &ModelOptions, pack: &Pack, parameters: &Parameters) -> usize {
    model.lanes_for(pack, parameters, model.provider.unwrap_or_default(), false)
}

/// Frames at once that use every core.
pub(crate) fn all_cores(model: &ModelOptions) -> usize {
    model.threads.map_or_else(physical_cores, usize::from)
}

/// The word of a guidance type.
pub(crate) fn cfg_name(cfg: CfgType) -> &'static str {
    match cfg {
        CfgType::None => "none",
        CfgType::Full => "full",
        CfgType::SelfNegative => "self",
        CfgType::Initialize => "initialize",
    }
}
