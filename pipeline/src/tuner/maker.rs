//! What the tuner's thread does: takes changes up, walks through transitions, makes settings of what is to be seen.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::{Mail, STRENGTH, Sizes};
use crate::blend::{between, prompt_parts, prompt_text};
use crate::error::EngineError;
use crate::facts::ModelFacts;
use crate::frame::Size;
use crate::params::Parameters;
use crate::prompts::Prompts;
use crate::settings::Control;
use crate::stats::Clock;

/// Time between two steps of a transition: thirty a second are as many as a viewer sees.
const STEP: Duration = Duration::from_millis(33);

pub(super) fn apply(parameters: &mut Parameters, name: &str, text: &str) -> Result<(), String> {
    if name != STRENGTH {
        return parameters.set(name, text).map_err(|error| error.to_string());
    }
    let strength = text.trim().parse().ok().filter(|strength: &f64| (0.0..=1.0).contains(strength));
    let strength = strength.ok_or_else(|| format!("strength {text:?} is not a number from 0 to 1"))?;
    parameters.set_strength(strength);
    Ok(())
}

/// What the thread makes settings with.
pub(super) struct Maker {
    pub(super) prompts: Prompts,
    pub(super) sizes: Sizes,
    pub(super) control: Control,
    /// What the model can do.
    pub(super) facts: ModelFacts,
    /// What was asked for and can be; where a transition is under way, its end.
    pub(super) target: Parameters,
    /// What was asked for and cannot be as things stand. It may be meant for what comes next: a list of steps and their number arrive one
    /// after the other.
    pub(super) waiting: BTreeMap<&'static str, String>,
    pub(super) transition: Option<Transition>,
}

/// A way from prompts and seeds to others.
pub(super) struct Transition {
    from: Parameters,
    began: Duration,
}

impl Maker {
    pub(super) fn tune(&mut self, mail: &Mail, clock: &dyn Clock) {
        loop {
            let mut waiting = mail.lock();
            while waiting.0.is_empty() && !waiting.1 {
                if self.transition.is_none() {
                    waiting = mail.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let (woken, result) = mail.arrived.wait_timeout(waiting, STEP).unwrap_or_else(PoisonError::into_inner);
                waiting = woken;
                if result.timed_out() {
                    break;
                }
            }
            if waiting.1 {
                return;
            }
            let changes = std::mem::take(&mut waiting.0);
            drop(waiting);
            if changes.is_empty() {
                self.show(clock.now());
            } else {
                self.change(&changes, clock.now());
            }
        }
    }

    /// The target with changes, if the model can do that.
    fn with(&self, changes: &BTreeMap<&'static str, String>) -> Result<Parameters, EngineError> {
        let mut target = self.target.clone();
        // The strength last: it moves the list that came before it.
        let (strength, others): (Vec<_>, Vec<_>) = changes.iter().partition(|(name, _)| **name == STRENGTH);
        for (name, text) in others.into_iter().chain(strength) {
            if let Err(error) = apply(&mut target, name, text) {
                tracing::warn!("{error}");
            }
        }
        // A size that cannot be had keeps nothing else from being taken, and is told of by whoever follows it.
        self.facts.check(&Parameters { size: None, ..target.clone() }).map(|()| target)
    }

    /// The target with changes and all that waits; else with those of the changes that the model can do, one after the other, while the
    /// rest wait. Whether there is anything to be seen of it.
    fn take(&mut self, changes: &BTreeMap<&'static str, String>) -> bool {
        let mut all = std::mem::take(&mut self.waiting);
        // Of two for one parameter, the newer.
        all.extend(changes.iter().map(|(name, text)| (*name, text.clone())));
        if let Ok(target) = self.with(&all) {
            self.target = target;
            for (name, text) in all {
                tracing::info!("{name} = {text:?}");
            }
            return true;
        }
        // What is new first, of that the strength last; then what has waited, for which there may be room now.
        let mut order: Vec<&'static str> = all.keys().copied().collect();
        order.sort_by_key(|name| (!changes.contains_key(name), *name == STRENGTH));
        let mut is_any = false;
        for name in order {
            let Some(change) = all.remove_entry(name) else { continue };
            match self.with(&BTreeMap::from([change.clone()])) {
                Ok(target) => {
                    self.target = target;
                    is_any = true;
                    tracing::info!("{name} = {:?}", change.1);
                }
                Err(error) => {
                    if changes.contains_key(name) {
                        tracing::warn!(
                            hint = error.hint(),
                            "{name} = {:?} waits for what goes with it: {error}",
                            change.1
                        );
                    }
                    self.waiting.insert(name, change.1);
                }
            }
        }
        is_any
    }

    /// Takes up changes. What cannot be made into settings changes nothing.
    fn change(&mut self, changes: &BTreeMap<&'static str, String>, now: Duration) {
        let before = self.target.clone();
        if !self.take(changes) {
            return;
        }
        let what = |p: &Parameters| (p.prompt.clone(), p.negative_prompt.clone(), p.seed_weights());
        let shown = self.control.load().parameters.clone();
        let under_way = self.transition.take();
        if what(&self.target) == what(&before) {
            self.transition = under_way;
        } else if self.target.transition > 0.0 {
            // From what is shown now, which may lie on the way to somewhere else.
            self.transition = Some(Transition { from: shown, began: now });
        }
        // All that the transition needs is encoded first: a prompt that fails must not fail half-way.
        if let Err(error) = self.prompts.settings(self.target.clone(), self.size(&self.target)) {
            tracing::warn!("the change was refused: {error}");
            self.target = before;
            if self.transition.as_ref().is_some_and(|transition| transition.began == now) {
                self.transition = None;
            }
            return;
        }
        self.show(now);
    }

    /// Makes settings of what is to be seen now.
    fn show(&mut self, now: Duration) {
        let mut shown = self.target.clone();
        if let Some(Transition { from, began }) = &self.transition {
            let passed = now.saturating_sub(*began).as_secs_f64();
            let share = if self.target.transition > 0.0 { passed / self.target.transition } else { 1.0 };
            if share >= 1.0 {
                self.transition = None;
            } else {
                let mix = |a: &str, b: &str| prompt_text(&between(&prompt_parts(a), &prompt_parts(b), share as f32));
                shown.prompt = mix(&from.prompt, &self.target.prompt);
                shown.negative_prompt = mix(&from.negative_prompt, &self.target.negative_prompt);
                shown.seeds = between(&from.seed_weights(), &self.target.seed_weights(), share as f32);
            }
        }
        let size = self.size(&shown);
        match self.prompts.settings(shown, size) {
            Ok(settings) => self.control.store(settings),
            Err(error) => {
                tracing::warn!("the transition was given up: {error}");
                self.transition = None;
            }
        }
    }

    fn size(&self, parameters: &Parameters) -> Size {
        match self.sizes {
            Sizes::Fixed(size) => size,
            Sizes::Free(size) => parameters.size.unwrap_or(size),
        }
    }
}
