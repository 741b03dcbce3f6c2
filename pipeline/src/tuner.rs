//! The thread that turns changed parameters into settings. Prompts are encoded here, so that no frame waits for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::error::EngineError;
use crate::frame::Size;
use crate::params::{Parameters, spec};
use crate::prompts::Prompts;
use crate::settings::Control;

/// Not a parameter of its own: it moves the t_index_list.
const STRENGTH: &str = "strength";

/// Changes that wait. One for each parameter at most: of two, the newer wins.
#[derive(Default)]
struct Mail {
    changes: Mutex<(BTreeMap<&'static str, String>, bool)>,
    arrived: Condvar,
}

impl Mail {
    fn lock(&self) -> MutexGuard<'_, (BTreeMap<&'static str, String>, bool)> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owner of the thread that makes settings of changed parameters. Dropping it ends the thread.
pub struct Tuner {
    mail: Arc<Mail>,
    thread: Option<JoinHandle<()>>,
}

/// Hands changes to the tuner. Cheap to clone.
#[derive(Clone)]
pub struct Tuning(Arc<Mail>);

impl Tuner {
    /// Starts the thread. It makes settings for pictures of `size` and stores them in `control`.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(prompts: Prompts, size: Size, control: Control) -> Result<Self, EngineError> {
        let mail = Arc::<Mail>::default();
        let theirs = Arc::clone(&mail);
        let thread = std::thread::Builder::new()
            .name("tuner".into())
            .spawn(move || tune(&theirs, prompts, size, &control))
            .map_err(|error| EngineError::Thread { name: "tuner", what: error.to_string() })?;
        Ok(Self { mail, thread: Some(thread) })
    }

    /// What others ask it for changes with.
    pub fn handle(&self) -> Tuning {
        Tuning(Arc::clone(&self.mail))
    }
}

impl Drop for Tuner {
    fn drop(&mut self) {
        self.mail.lock().1 = true;
        self.mail.arrived.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the tuner's thread panicked");
        }
    }
}

impl Tuning {
    /// Asks for a change. Refused at once: what is no parameter, not hot, or of a wrong value. Whether the model can do it
    /// (a t_index_list that is too long, say) shows at the next frame.
    pub fn set(&self, name: &str, text: &str) -> Result<(), String> {
        let mut scratch = Parameters::default();
        let name = if name == STRENGTH {
            apply(&mut scratch, STRENGTH, text)?;
            STRENGTH
        } else {
            let spec = spec(name).ok_or_else(|| format!("there is no parameter {name:?}"))?;
            if !spec.hot {
                return Err(format!("{name} cannot change while the stream runs"));
            }
            apply(&mut scratch, spec.name, text)?;
            spec.name
        };
        let mut waiting = self.0.lock();
        if name == "t-index" {
            // A strength that waits was meant for the list before.
            waiting.0.remove(STRENGTH);
        }
        waiting.0.insert(name, text.to_owned());
        drop(waiting);
        self.0.arrived.notify_one();
        Ok(())
    }
}

fn apply(parameters: &mut Parameters, name: &str, text: &str) -> Result<(), String> {
    if name != STRENGTH {
        return parameters.set(name, text).map_err(|error| error.to_string());
    }
    let strength = text.trim().parse().ok().filter(|strength: &f64| (0.0..=1.0).contains(strength));
    let strength = strength.ok_or_else(|| format!("strength {text:?} is not a number from 0 to 1"))?;
    parameters.set_strength(strength);
    Ok(())
}

fn tune(mail: &Mail, mut prompts: Prompts, size: Size, control: &Control) {
    loop {
        let mut waiting = mail.lock();
        while waiting.0.is_empty() && !waiting.1 {
            waiting = mail.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.1 {
            return;
        }
        let changes = std::mem::take(&mut waiting.0);
        drop(waiting);
        let mut parameters = control.load().parameters.clone();
        // The strength last: it moves the list that came before it.
        let (strength, others): (Vec<_>, Vec<_>) = changes.iter().partition(|(name, _)| **name == STRENGTH);
        for (name, text) in others.into_iter().chain(strength) {
            match apply(&mut parameters, name, text) {
                Ok(()) => tracing::info!("{name} = {text:?}"),
                Err(error) => tracing::warn!("{error}"),
            }
        }
        match prompts.settings(parameters, size) {
            Ok(settings) => control.store(settings),
            Err(error) => tracing::warn!("the change was refused: {}", error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use crate::model::{Conditioning, ModelError, TextEncoder};
    use crate::params::CfgType;
    use crate::settings::Settings;

    use super::*;

    const SIZE: Size = Size::new(64, 64);

    /// Encodes a prompt as its length; one word makes it fail.
    struct Fake(Arc<AtomicUsize>);

    impl TextEncoder for Fake {
        fn encode(&mut self, prompt: &str, _: Size) -> Result<Conditioning, ModelError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            if prompt == "fail" {
                return Err(ModelError::new("no memory"));
            }
            Ok(Conditioning { tokens: vec![prompt.len() as f32], length: 1, width: 1, ..Conditioning::default() })
        }
    }

    fn start() -> (Tuner, Control, Arc<AtomicUsize>) {
        let calls = Arc::<AtomicUsize>::default();
        let mut prompts = Prompts::new(Box::new(Fake(Arc::clone(&calls))), None);
        let control = Control::new(prompts.settings(Parameters::default(), SIZE).unwrap());
        (Tuner::start(prompts, SIZE, control.clone()).unwrap(), control, calls)
    }

    /// Waits until the settings are as wanted.
    fn until(control: &Control, wanted: impl Fn(&Settings) -> bool) -> Arc<Settings> {
        let (_sender, never) = std::sync::mpsc::sync_channel::<()>(1);
        for _ in 0..3000 {
            let settings = control.load();
            if wanted(&settings) {
                return settings;
            }
            let _ = never.recv_timeout(Duration::from_millis(10));
        }
        panic!("the change never came");
    }

    #[test]
    fn changes_arrive_with_their_prompts_encoded_and_what_did_not_change_is_not_encoded_again() {
        let (tuner, control, calls) = start();
        tuner.handle().set("prompt", "a fox").unwrap();
        let settings = until(&control, |settings| settings.parameters.prompt == "a fox");
        assert_eq!(settings.prompts.prompt.tokens, [5.0]);
        let encoded = calls.load(Ordering::SeqCst);
        tuner.handle().set("guidance", "1.7").unwrap();
        tuner.handle().set("cfg", "self").unwrap();
        let after = until(&control, |s| s.parameters.guidance > 1.6 && s.parameters.cfg == CfgType::SelfNegative);
        assert!(Arc::ptr_eq(&settings.prompts, &after.prompts));
        assert_eq!(calls.load(Ordering::SeqCst), encoded);
    }

    #[test]
    fn what_cannot_be_is_refused_at_once_and_a_failing_encoder_changes_nothing() {
        let (tuner, control, _) = start();
        let before = control.load();
        for (name, text) in
            [("nonsense", "1"), ("guidance", "-1"), ("frame-buffer", "2"), ("strength", "1.2"), ("strength", "x")]
        {
            assert!(tuner.handle().set(name, text).is_err(), "{name} {text}");
        }
        tuner.handle().set("prompt", "fail").unwrap();
        // The next change is made of the settings in force, without the one that failed.
        tuner.handle().set("delta", "0.4").unwrap();
        tuner.handle().set("prompt", "a cat").unwrap();
        let after = until(&control, |settings| settings.parameters.prompt == "a cat");
        assert_eq!(after.parameters.guidance, before.parameters.guidance);
    }

    #[test]
    fn strength_moves_the_t_index_list() {
        let (tuner, control, _) = start();
        tuner.handle().set("t-index", "32,45").unwrap();
        until(&control, |settings| settings.parameters.t_index == [32, 45]);
        tuner.handle().set("strength", "1").unwrap();
        until(&control, |settings| settings.parameters.t_index[0] == 0);
        tuner.handle().set("strength", "0").unwrap();
        until(&control, |settings| settings.parameters.t_index == [48, 49]);
        // At once: the strength is of the list that came before it.
        tuner.handle().set("t-index", "10,20,30").unwrap();
        tuner.handle().set("strength", "1").unwrap();
        until(&control, |s| s.parameters.t_index.len() == 3 && s.parameters.t_index[0] == 0);
    }
}
