//! From parameters to settings: prompts are encoded and blended here, off the frame path.

use std::sync::Arc;

use crate::blend::{BlendMethod, blend, prompt_parts};
use crate::frame::Size;
use crate::guidance_embedding::guidance_embedding;
use crate::model::{Conditioning, ModelError, TextEncoder};
use crate::params::{CfgType, Parameters};
use crate::settings::Settings;
use crate::slot::PromptPair;

/// Encoded prompts that are kept: a slider that moves a blend's weight, and a prompt that comes back, wait for no encoder.
/// 77 tokens of SDXL are 630 kB each.
const MOST_KEPT: usize = 64;

/// Makes settings of parameters: what encodes prompts, and the prompts of late, which need not be encoded again.
pub struct Prompts {
    text: Box<dyn TextEncoder>,
    timestep_cond_width: Option<usize>,
    /// Encoded prompts, the one used last at the end.
    kept: Vec<(String, Size, Arc<Conditioning>)>,
    /// What was made last, and for what.
    last: Option<(Key, Arc<PromptPair>)>,
}

/// Everything that conditionings depend on.
#[derive(Clone, PartialEq)]
struct Key {
    prompt: String,
    negative: String,
    method: BlendMethod,
    size: Size,
    /// Of a network that takes the guidance scale as an input.
    guidance: Option<f32>,
}

impl Prompts {
    /// Prompts encoded by `text` for a U-Net whose `timestep_cond` is so wide
    /// ([`Denoiser::timestep_cond_width`](crate::model::Denoiser::timestep_cond_width)).
    pub fn new(text: Box<dyn TextEncoder>, timestep_cond_width: Option<usize>) -> Self {
        Self { text, timestep_cond_width, kept: Vec::new(), last: None }
    }

    /// The parameters as a snapshot with their prompts encoded, for pictures of `size`.
    ///
    /// # Errors
    /// A text encoder that fails.
    pub fn settings(&mut self, mut parameters: Parameters, size: Size) -> Result<Settings, ModelError> {
        let guidance = self.timestep_cond_width.map(|_| parameters.guidance);
        if guidance.is_some() {
            // An LCM full model takes the guidance scale as an input: guiding its output as well would guide twice.
            parameters.cfg = CfgType::None;
        }
        let key = Key {
            prompt: parameters.prompt.clone(),
            negative: parameters.negative_prompt.clone(),
            method: parameters.prompt_blend,
            size,
            guidance,
        };
        if let Some((_, prompts)) = self.last.as_ref().filter(|(last, _)| *last == key) {
            return Ok(Settings { prompts: Arc::clone(prompts), parameters });
        }
        let prompt = self.conditioning(&key.prompt, &key)?;
        let negative =
            if key.negative == key.prompt { Arc::clone(&prompt) } else { self.conditioning(&key.negative, &key)? };
        let prompts = Arc::new(PromptPair { prompt, negative });
        self.last = Some((key, Arc::clone(&prompts)));
        Ok(Settings { parameters, prompts })
    }

    /// The conditioning of a prompt or of a blend of some.
    fn conditioning(&mut self, text: &str, key: &Key) -> Result<Arc<Conditioning>, ModelError> {
        let parts = prompt_parts(text);
        let mut encoded = Vec::with_capacity(parts.len());
        for (prompt, weight) in &parts {
            encoded.push((self.encoded(prompt, key.size)?, *weight));
        }
        let of_guidance = key.guidance.zip(self.timestep_cond_width);
        let timestep_cond = of_guidance.map(|(guidance, width)| guidance_embedding(guidance, width));
        if let ([(alone, _)], None) = (&encoded[..], &timestep_cond) {
            return Ok(Arc::clone(alone));
        }
        let parts: Vec<_> = encoded.iter().map(|(conditioning, weight)| (&**conditioning, *weight)).collect();
        let blended = blend(&parts, key.method).ok_or_else(|| {
            ModelError::new("the prompts of a blend have embeddings of different shapes")
                .with_hint("this model's prompts cannot be blended: give one prompt")
        })?;
        Ok(Arc::new(Conditioning { timestep_cond, ..blended }))
    }

    /// The embedding of one prompt, from the text encoder if it is not known from before.
    fn encoded(&mut self, prompt: &str, size: Size) -> Result<Arc<Conditioning>, ModelError> {
        let known = self.kept.iter().position(|(text, of_size, _)| text == prompt && *of_size == size);
        let entry = match known {
            Some(place) => self.kept.remove(place),
            None => (prompt.to_owned(), size, Arc::new(self.text.encode(prompt, size)?)),
        };
        let conditioning = Arc::clone(&entry.2);
        if self.kept.len() == MOST_KEPT {
            self.kept.remove(0);
        }
        self.kept.push(entry);
        Ok(conditioning)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Encodes a prompt as the code of its first letter, and counts.
    struct Letters(Arc<AtomicUsize>);

    impl TextEncoder for Letters {
        fn encode(&mut self, prompt: &str, _: Size) -> Result<Conditioning, ModelError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            let value = f32::from(*prompt.as_bytes().first().unwrap_or(&0));
            Ok(Conditioning { tokens: vec![value, 1.0], length: 1, width: 2, ..Conditioning::default() })
        }
    }

    fn prompts(width: Option<usize>) -> (Prompts, Arc<AtomicUsize>) {
        let calls = Arc::<AtomicUsize>::default();
        (Prompts::new(Box::new(Letters(Arc::clone(&calls))), width), calls)
    }

    const SIZE: Size = Size::new(64, 64);

    fn with(prompt: &str) -> Parameters {
        Parameters { prompt: prompt.into(), prompt_blend: BlendMethod::Linear, ..Parameters::default() }
    }

    #[test]
    fn a_blend_is_between_its_prompts_and_moving_it_encodes_nothing_anew() {
        let (mut prompts, calls) = prompts(None);
        for share in [0.25, 0.5, 0.75] {
            let text = format!("\"a\":{} + \"e\":{share}", 1.0 - share);
            let settings = prompts.settings(with(&text), SIZE).unwrap();
            assert_eq!(settings.prompts.prompt.tokens, [97.0 + 4.0 * share as f32, 1.0]);
        }
        // Both, and the empty negative prompt.
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        let alone = prompts.settings(with("a"), SIZE).unwrap();
        assert_eq!((alone.prompts.prompt.tokens[0], calls.load(Ordering::SeqCst)), (97.0, 3));
        let other_size = prompts.settings(with("a"), Size::new(32, 32)).unwrap();
        assert_eq!((other_size.prompts.prompt.tokens[0], calls.load(Ordering::SeqCst)), (97.0, 5));
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_used_stays() {
        let (mut prompts, calls) = prompts(None);
        for number in 0..200 {
            prompts.settings(with(&format!("prompt {number}")), SIZE).unwrap();
        }
        assert_eq!(prompts.kept.len(), MOST_KEPT);
        // The empty negative prompt was used all the time.
        assert_eq!(calls.load(Ordering::SeqCst), 201);
    }

    #[test]
    fn a_guidance_embedding_goes_with_every_blend() {
        let (mut prompts, _) = prompts(Some(4));
        let settings = prompts.settings(Parameters { guidance: 1.7, ..with("\"a\" + \"b\"") }, SIZE).unwrap();
        assert_eq!(settings.prompts.prompt.timestep_cond, Some(guidance_embedding(1.7, 4)));
        assert_eq!(settings.parameters.cfg, CfgType::None);
        let stronger = prompts.settings(Parameters { guidance: 2.0, ..with("\"a\" + \"b\"") }, SIZE).unwrap();
        assert_ne!(stronger.prompts.prompt.timestep_cond, settings.prompts.prompt.timestep_cond);
    }
}
