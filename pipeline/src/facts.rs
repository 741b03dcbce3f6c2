//! What is known of a model beside its networks: which sizes, plans and settings a stream of it can have.

use std::sync::Arc;

use crate::error::EngineError;
use crate::frame::{LatentShape, Size};
use crate::params::{PARAMETERS, Parameters};
use crate::plan::Plan;
use crate::schedule::{NoiseSchedule, SchedulerConfig};
use crate::settings::{Control, Settings};
use crate::solver::Solver;

/// What the engine must know of a model beside its networks.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Picture pixels to a latent pixel, per side: 8 for Stable Diffusion's VAE.
    pub vae_factor: usize,
    /// Latent sides are multiples of this, because the U-Net halves them.
    pub latent_multiple: usize,
    /// Latent channels.
    pub latent_channels: usize,
    /// Noise schedule and prediction type.
    pub scheduler: SchedulerConfig,
    /// Whether the U-Net has a ControlNet: without one [`controlnet::PARAMETERS`](crate::controlnet::PARAMETERS) do nothing.
    pub has_controlnet: bool,
    /// Rows that a call of the U-Net may have, where it was compiled for so many ([`Parameters::rows`]); `None` for any number.
    pub most_rows: Option<usize>,
}

impl ModelFacts {
    /// Pixels that both sides of a picture must be multiples of.
    pub fn granularity(&self) -> usize {
        self.vae_factor * self.latent_multiple
    }

    /// The size with about as many pixels as `area` that comes nearest to the shape of `frame` and that the model can do: so that
    /// a frame of another shape is neither cut nor distorted, and takes as long as one of the model's own size.
    pub fn size_like(&self, frame: Size, area: Size) -> Size {
        let unit = self.granularity() as f64;
        let scale = (area.pixels() as f64 / frame.pixels().max(1) as f64).sqrt();
        // Of a line no more than one of the model's own size has room for.
        let most = area.pixels() as f64 / unit;
        let near = |side: f64| ((side * scale).min(most) / unit).round().max(1.0) as usize * self.granularity();
        Size::new(near(frame.width as f64), near(frame.height as f64))
    }

    /// The shape of a latent for a picture size.
    ///
    /// # Errors
    /// A side that is not a multiple of [`granularity`](Self::granularity).
    pub fn latent_shape(&self, size: Size) -> Result<LatentShape, EngineError> {
        let unit = self.granularity();
        if size.width == 0 || size.height == 0 || !size.width.is_multiple_of(unit) || !size.height.is_multiple_of(unit)
        {
            let near = |side: usize| ((side + unit / 2) / unit).max(1) * unit;
            let nearest = Size::new(near(size.width), near(size.height));
            return Err(EngineError::Size { size, unit, nearest });
        }
        let (height, width) = (size.height / self.vae_factor, size.width / self.vae_factor);
        Ok(LatentShape { channels: self.latent_channels, height, width })
    }

    /// Whether a stream could run under these parameters.
    ///
    /// # Errors
    /// A t_index_list, solver or size that the model cannot do, or more rows than its U-Net was compiled for.
    pub fn check(&self, parameters: &Parameters) -> Result<(), EngineError> {
        if let Some(size) = parameters.size {
            self.latent_shape(size)?;
        }
        self.check_rows(parameters)?;
        make_plan(&self.scheduler, &NoiseSchedule::new(&self.scheduler)?, parameters).map(drop)
    }

    /// Whether the slots in flight, with so many steps left each, can finish beside those of frames under `new`: they keep their steps, and
    /// get its guidance.
    pub(crate) fn can_carry(&self, left: &(impl Iterator<Item = usize> + Clone), new: &Parameters) -> bool {
        let Some(most) = self.most_rows else { return true };
        let (steps, frames) = (new.t_index.len().max(1), new.frame_buffer.max(1));
        // At most as many groups of the new are in the call that is so many after this.
        (1..=steps).all(|call| {
            let groups = if new.stream_batch { call } else { 1 };
            new.rows_of(left.clone().filter(|left| *left >= call).count() + groups * frames) <= most
        })
    }

    pub(crate) fn check_rows(&self, parameters: &Parameters) -> Result<(), EngineError> {
        let rows = parameters.rows();
        match self.most_rows {
            Some(most) if rows > most => Err(EngineError::Rows { rows, most }),
            _ => Ok(()),
        }
    }

    /// What `control` holds, with its plan, if it is new since `seen` and a stream under the settings `old` can take it
    /// up. What the model cannot do is refused with a warning, once: the stream goes on under the old settings.
    pub(crate) fn new_settings(
        &self,
        control: &Control,
        seen: &mut Arc<Settings>,
        old: &Settings,
        schedule: &NoiseSchedule,
    ) -> Option<(Arc<Settings>, Plan)> {
        let new = control.load();
        if Arc::ptr_eq(&new, seen) {
            return None;
        }
        *seen = Arc::clone(&new);
        let plan = check_settings(&self.scheduler, schedule, old, &new);
        match plan.and_then(|plan| self.check_rows(&new.parameters).map(|()| plan)) {
            Ok(plan) => Some((new, plan)),
            Err(error) => {
                tracing::warn!(%error, hint = error.hint(), "new settings were refused");
                None
            }
        }
    }
}

/// The plan of new settings, if a running stream can take them up.
fn check_settings(
    scheduler: &SchedulerConfig,
    schedule: &NoiseSchedule,
    old: &Settings,
    new: &Settings,
) -> Result<Plan, EngineError> {
    for spec in PARAMETERS.iter().filter(|spec| !spec.hot) {
        if !spec.is_same(&old.parameters, &new.parameters) {
            let value = (spec.show)(&old.parameters);
            return Err(EngineError::NeedsRestart { parameter: spec.name, value });
        }
    }
    make_plan(scheduler, schedule, &new.parameters)
}

/// The plan that the parameters ask for.
pub(crate) fn make_plan(
    scheduler: &SchedulerConfig,
    schedule: &NoiseSchedule,
    parameters: &Parameters,
) -> Result<Plan, EngineError> {
    let request = parameters.plan_request(Solver::from_scheduler_class(&scheduler.class_name));
    let mut config = scheduler.clone();
    if let Some(steps) = parameters.original_inference_steps {
        config.original_inference_steps = steps;
    }
    Ok(Plan::new(&config, schedule, &request)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use crate::model::Conditioning;
    use crate::params::CfgType;
    use crate::slot::PromptPair;

    #[test]
    fn more_rows_than_were_compiled_for_are_refused_and_the_stream_goes_on() {
        let facts = ModelFacts { most_rows: Some(8), ..fake::facts(8) };
        let with = |steps: usize, cfg| {
            let t_index = (0..steps).map(|step| 40 + step).collect();
            Parameters { t_index, cfg, guidance: 1.5, ..Parameters::default() }
        };
        for (parameters, rows) in [
            (with(8, CfgType::None), 8),
            (with(8, CfgType::SelfNegative), 8),
            (with(7, CfgType::Initialize), 8),
            (with(4, CfgType::Full), 8),
        ] {
            assert_eq!(parameters.rows(), rows);
            facts.check(&parameters).unwrap();
        }
        // Where guidance does nothing there is no negative prompt, and without the stream batch one step at a time.
        for alone in [
            Parameters { guidance: 1.0, ..with(8, CfgType::Full) },
            Parameters { stream_batch: false, ..with(9, CfgType::Full) },
        ] {
            facts.check(&alone).unwrap();
        }
        // Frames on their way keep their steps, and get the new guidance.
        let can_carry = |left: &[usize], new: &Parameters| facts.can_carry(&left.iter().copied(), new);
        assert!(can_carry(&[1, 2, 3, 4, 5, 6, 7], &with(4, CfgType::None)));
        assert!(can_carry(&[1, 2, 3], &with(4, CfgType::Full)) && !can_carry(&[1, 2, 3, 4], &with(4, CfgType::Full)));
        // One alone, which is still there when there are as many of the new as there may be.
        assert!(can_carry(&[3], &with(4, CfgType::Full)) && !can_carry(&[4], &with(4, CfgType::Full)));
        let sequential = Parameters { stream_batch: false, ..with(2, CfgType::Full) };
        assert!(can_carry(&[], &sequential) && !can_carry(&[1, 2, 3, 4, 5, 6, 7], &sequential));
        let error = facts.check(&with(5, CfgType::Full)).unwrap_err();
        assert_eq!(error.to_string(), "10 rows in a call of the U-Net, which was compiled for at most 8");
        assert!(error.hint().is_some_and(|hint| hint.contains("--t-index")));
        let prompt = Arc::new(Conditioning::default());
        let prompts = Arc::new(PromptPair { prompt: Arc::clone(&prompt), negative: prompt });
        let settings = |parameters| Settings { parameters, prompts: Arc::clone(&prompts) };
        let old = settings(with(1, CfgType::None));
        let control = Control::new(old.clone());
        let (mut seen, schedule) = (control.load(), NoiseSchedule::new(&facts.scheduler).unwrap());
        control.store(settings(with(9, CfgType::None)));
        assert!(facts.new_settings(&control, &mut seen, &old, &schedule).is_none(), "nine steps");
        control.store(settings(with(8, CfgType::None)));
        assert!(facts.new_settings(&control, &mut seen, &old, &schedule).is_some(), "eight");
    }

    #[test]
    fn a_size_like_another_has_its_shape_and_the_models_pixels() {
        let facts = ModelFacts { latent_multiple: 4, ..fake::facts(8) };
        let area = Size::new(256, 256);
        for (frame, like) in [
            (Size::new(256, 256), Size::new(256, 256)),
            (Size::new(1920, 1080), Size::new(352, 192)),
            (Size::new(1080, 1920), Size::new(192, 352)),
            (Size::new(640, 480), Size::new(288, 224)),
            (Size::new(16, 16), Size::new(256, 256)),
            // Lines: no longer than what as many pixels make.
            (Size::new(8192, 1), Size::new(2048, 32)),
            (Size::new(1, 8192), Size::new(32, 2048)),
        ] {
            assert_eq!(facts.size_like(frame, area), like, "{frame}");
            assert!(facts.latent_shape(like).is_ok());
        }
    }
}
