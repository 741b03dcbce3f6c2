//! Prompts as the server takes them: they stay the same for many calls, so that they are not converted at each.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use livediffusion_pipeline::model::{Conditioning, ModelError};

use crate::tensor::{Port, put};

/// Prompts that are kept for an input at most. Those of a call's rows are a few: of a frame on its way each, and a negative one. Beyond
/// them they are converted at each call.
const MOST: usize = 8;

/// Which part of a prompt an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Tokens,
    Pooled,
    TimeIds,
    Guidance,
}

impl Takes {
    fn of(self, conditioning: &Conditioning) -> Option<&[f32]> {
        match self {
            Self::Tokens => Some(&conditioning.tokens),
            Self::Pooled => conditioning.pooled.as_deref(),
            Self::TimeIds => conditioning.time_ids.as_ref().map(|ids| &ids[..]),
            Self::Guidance => conditioning.timestep_cond.as_deref(),
        }
    }
}

struct Kept {
    conditioning: Arc<Conditioning>,
    takes: Takes,
    bytes: Bytes,
}

/// Prompts in the server's types, the ones used last at the end.
#[derive(Default)]
pub(crate) struct Prompts(Vec<Kept>);

impl Prompts {
    /// What an input takes of a prompt.
    ///
    /// # Errors
    /// The prompt has no such part.
    pub(crate) fn bytes(
        &mut self,
        conditioning: &Arc<Conditioning>,
        (takes, port): (Takes, &Port),
    ) -> Result<Bytes, ModelError> {
        // It is kept alive here, so that an equal address is the same prompt.
        let is_it = |kept: &Kept| kept.takes == takes && Arc::ptr_eq(&kept.conditioning, conditioning);
        let kept = if let Some(at) = self.0.iter().position(is_it) {
            self.0.remove(at)
        } else {
            let values = takes.of(conditioning);
            let name = &port.info.name;
            let values = values.ok_or_else(|| ModelError::new(format!("U-Net: the conditioning has no {name}")))?;
            let mut bytes = BytesMut::new();
            put(port.info.dtype, values, &mut bytes);
            // Of the parts that others take there are as many.
            let of_these = |kept: &Kept| kept.takes == takes;
            if self.0.iter().filter(|kept| of_these(kept)).count() == MOST
                && let Some(oldest) = self.0.iter().position(of_these)
            {
                self.0.remove(oldest);
            }
            Kept { conditioning: Arc::clone(conditioning), takes, bytes: bytes.freeze() }
        };
        let bytes = kept.bytes.clone();
        self.0.push(kept);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::TensorMetadata;

    #[test]
    fn a_prompt_is_converted_once_and_few_are_kept() {
        let tensor = TensorMetadata { name: "tokens".into(), datatype: "FP16".into(), shape: vec![-1, 1, 2] };
        let port = Port::of(&tensor);
        let prompt = |value| Arc::new(Conditioning { tokens: vec![value; 2], ..Conditioning::default() });
        let mut prompts = Prompts::default();
        let one = prompt(1.0);
        let first = prompts.bytes(&one, (Takes::Tokens, &port)).unwrap();
        assert_eq!(&first[..], [0, 0x3c, 0, 0x3c]);
        for value in 0..100 {
            prompts.bytes(&prompt(value as f32), (Takes::Tokens, &port)).unwrap();
            assert_eq!(prompts.bytes(&one, (Takes::Tokens, &port)).unwrap().as_ptr(), first.as_ptr());
        }
        assert_eq!(prompts.0.len(), MOST);
        let error = prompts.bytes(&one, (Takes::Pooled, &port)).unwrap_err();
        assert!(error.what.contains("tokens"), "{error}");
    }
}
