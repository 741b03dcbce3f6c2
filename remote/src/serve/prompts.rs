//! Prompts that calls come with: most come again and again, and a network that sees the same one keeps what it has of it.

use std::sync::{Arc, Mutex, PoisonError};

use livediffusion_pipeline::model::Conditioning;

/// Prompts that are kept. Beyond a few streams' own, which change seldom, more are only compared.
const MOST: usize = 16;

/// Prompts of the last calls, the newest at the end.
#[derive(Default)]
pub(super) struct Prompts(Mutex<Vec<Arc<Conditioning>>>);

impl Prompts {
    /// The one that is kept, if it is equal, else this one from now on.
    pub(super) fn same(&self, conditioning: Conditioning) -> Arc<Conditioning> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match kept.iter().position(|kept| **kept == conditioning) {
            Some(at) => kept.remove(at),
            None => Arc::new(conditioning),
        };
        if kept.len() == MOST {
            kept.remove(0);
        }
        kept.push(Arc::clone(&found));
        found
    }
}
