//! What the tuner's thread does: takes changes up, walks through transitions, makes settings of what is to be seen.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use super::{Mail, STRENGTH, Sizes};
use crate::blend::{between, prompt_parts, prompt_text};
use crate::controlnet;
use crate::error::EngineError;
use crate::facts::ModelFacts;
use crate::frame::Size;
use crate::params::Parameters;
use crate::prompts::Prompts;
use crate::settings::Control;
use crate::stats::Clock;

/// Time between two steps of a transition: thirty a second are as many as a viewer sees.
const STEP: Duration = Duration::from_millis(33);

/// How long a value that the model cannot do waits for what it was meant with: a list of steps and their number arrive one after the other.
/// Longer, and it would surprise somebody who has given it up.
const PATIENCE: Duration = Duration::from_secs(2);

/// The list that the strength moves.
const T_INDEX: &str = "t-index";

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
    /// What was asked for, and when, that cannot be as things stand.
    pub(super) waiting: BTreeMap<&'static str, (String, Duration)>,
    pub(super) transition: Option<Transition>,
    /// Whether it was said that the model has no ControlNet.
    pub(super) told: bool,
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

    /// The target with changes and all that waits; else with the changes together; else with whichever of all these can be had, while the
    /// rest wait. Whether anything was taken.
    fn take(&mut self, changes: &BTreeMap<&'static str, String>, now: Duration) -> bool {
        self.waiting.retain(|_, (_, since)| now.saturating_sub(*since) < PATIENCE);
        // The newer of a list and of what moves it: neither was meant with the other.
        match (changes.contains_key(T_INDEX), changes.contains_key(STRENGTH)) {
            (true, false) => drop(self.waiting.remove(STRENGTH)),
            (false, true) => drop(self.waiting.remove(T_INDEX)),
            _ => {}
        }
        let mut all = changes.clone();
        for (name, (text, _)) in &self.waiting {
            all.entry(name).or_insert_with(|| text.clone());
        }
        if self.accept(&all).is_ok() {
            return true;
        }
        if self.accept(changes).is_ok() {
            return true;
        }
        // One that is taken may make room for another. A list goes with the strength that came with it.
        let (mut is_any, mut rest) = (false, all);
        loop {
            let before = rest.len();
            for name in rest.keys().copied().collect::<Vec<_>>() {
                let with: &[&str] = match name {
                    T_INDEX => &[T_INDEX, STRENGTH],
                    STRENGTH if rest.contains_key(T_INDEX) => continue,
                    _ => &[name],
                };
                let some =
                    rest.iter().filter(|(name, _)| with.contains(*name)).map(|(name, text)| (*name, text.clone()));
                if self.accept(&some.collect()).is_ok() {
                    rest.retain(|name, _| !with.contains(name));
                    is_any = true;
                }
            }
            if rest.len() == before {
                break;
            }
        }
        for (name, text) in rest.into_iter().filter(|(name, _)| changes.contains_key(name)) {
            let told = self.waiting.get(name).is_some_and(|(before, _)| *before == text);
            if !told && let Err(error) = self.with(&BTreeMap::from([(name, text.clone())])) {
                tracing::warn!(hint = error.hint(), "{name} = {text:?} waits for what goes with it: {error}");
            }
            self.waiting.insert(name, (text, now));
        }
        is_any
    }

    /// Takes changes, if the model can do all of them.
    fn accept(&mut self, changes: &BTreeMap<&'static str, String>) -> Result<(), EngineError> {
        self.target = self.with(changes)?;
        for (name, text) in changes {
            self.waiting.remove(name);
            tracing::info!("{name} = {text:?}");
        }
        Ok(())
    }

    /// Takes up changes. What cannot be made into settings changes nothing.
    fn change(&mut self, changes: &BTreeMap<&'static str, String>, now: Duration) {
        let unused = changes.keys().find(|name| controlnet::PARAMETERS.contains(name));
        if let Some(name) = unused.filter(|_| !self.facts.has_controlnet && !self.told) {
            self.told = true;
            controlnet::warn_without_effect(&[name]);
        }
        let (before, waited) = (self.target.clone(), self.waiting.clone());
        if !self.take(changes, now) {
            if self.transition.is_some() {
                self.show(now);
            }
            return;
        }
        // All that the transition needs is encoded first: a prompt that fails must not fail half-way.
        if let Err(error) = self.prompts.settings(self.target.clone(), self.size(&self.target)) {
            tracing::warn!("the change was refused: {error}");
            (self.target, self.waiting) = (before, waited);
            return;
        }
        let what = |p: &Parameters| (p.prompt.clone(), p.negative_prompt.clone(), p.seed_weights());
        if what(&self.target) != what(&before) {
            // From what is shown now, which may lie on the way to somewhere else.
            let from = self.control.load().parameters.clone();
            self.transition = (self.target.transition > 0.0).then_some(Transition { from, began: now });
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
