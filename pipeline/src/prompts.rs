//! From parameters to settings: prompts are encoded here, off the frame path.

use std::sync::Arc;

use crate::frame::Size;
use crate::guidance_embedding::guidance_embedding;
use crate::model::{Conditioning, ModelError, TextEncoder};
use crate::params::{CfgType, Parameters};
use crate::settings::Settings;
use crate::slot::PromptPair;

/// Makes settings of parameters: what encodes prompts, and the last prompts, which need not be encoded again.
pub struct Prompts {
    text: Box<dyn TextEncoder>,
    timestep_cond_width: Option<usize>,
    /// What was encoded last, and for what.
    last: Option<(Parameters, Size, Arc<PromptPair>)>,
}

impl Prompts {
    /// Prompts encoded by `text` for a U-Net whose `timestep_cond` is so wide
    /// ([`Denoiser::timestep_cond_width`](crate::model::Denoiser::timestep_cond_width)).
    pub fn new(text: Box<dyn TextEncoder>, timestep_cond_width: Option<usize>) -> Self {
        Self { text, timestep_cond_width, last: None }
    }

    /// The parameters as a snapshot with their prompts encoded, for pictures of `size`.
    ///
    /// # Errors
    /// A text encoder that fails.
    pub fn settings(&mut self, mut parameters: Parameters, size: Size) -> Result<Settings, ModelError> {
        // An LCM full model takes the guidance scale as an input: guiding its output as well would guide twice.
        let timestep_cond = self.timestep_cond_width.map(|width| guidance_embedding(parameters.guidance, width));
        if timestep_cond.is_some() {
            parameters.cfg = CfgType::None;
        }
        let is_same = |(old, old_size, _): &&(Parameters, Size, Arc<PromptPair>)| {
            (&old.prompt, &old.negative_prompt, *old_size) == (&parameters.prompt, &parameters.negative_prompt, size)
                && (timestep_cond.is_none() || old.guidance == parameters.guidance)
        };
        if let Some((_, _, prompts)) = self.last.as_ref().filter(is_same) {
            return Ok(Settings { prompts: Arc::clone(prompts), parameters });
        }
        let mut encode = |prompt: &str| -> Result<Arc<Conditioning>, ModelError> {
            let conditioning = self.text.encode(prompt, size)?;
            Ok(Arc::new(Conditioning { timestep_cond: timestep_cond.clone(), ..conditioning }))
        };
        let prompt = encode(&parameters.prompt)?;
        let negative = if parameters.negative_prompt == parameters.prompt {
            Arc::clone(&prompt)
        } else {
            encode(&parameters.negative_prompt)?
        };
        let prompts = Arc::new(PromptPair { prompt, negative });
        self.last = Some((parameters.clone(), size, Arc::clone(&prompts)));
        Ok(Settings { parameters, prompts })
    }
}
