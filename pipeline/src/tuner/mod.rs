//! The thread that turns changed parameters into settings. Prompts are encoded here, so that no frame waits for them, and
//! transitions from one prompt to another are walked through here, step by step.

mod maker;

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::maker::{Maker, apply};
use crate::error::EngineError;
use crate::facts::ModelFacts;
use crate::frame::Size;
use crate::params::{ParameterSpec, Parameters, spec};
use crate::prompts::Prompts;
use crate::settings::Control;
use crate::stats::Clock;

/// The parameter that needs another engine.
const SIZE: &str = "size";

/// Not a parameter of its own: it moves the t_index_list.
const STRENGTH: &str = "strength";

/// Not a parameter either: it stands for several.
const PRESET: &str = "preset";

/// Parameters that go together, as text by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresetValues {
    /// The preset's name.
    pub name: String,
    /// Parameters and their values. What a running stream cannot change is passed over.
    pub values: Vec<(String, String)>,
}

/// Which of some presets is meant by a name: the one that has it, else one that has it but for what people write in names: spaces and
/// capitals where there are hyphens.
pub fn find_preset<'a, P>(presets: &'a [P], name: impl Fn(&P) -> &str, asked: &str) -> Option<&'a P> {
    let plain = |c: char| if matches!(c, ' ' | '_') { '-' } else { c.to_ascii_lowercase() };
    let is_meant = |preset: &&P| name(preset).chars().map(plain).eq(asked.trim().chars().map(plain));
    presets.iter().find(|preset| name(preset) == asked).or_else(|| presets.iter().find(is_meant))
}

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
    tuning: Tuning,
    thread: Option<JoinHandle<()>>,
}

/// Hands changes to the tuner. Cheap to clone.
#[derive(Clone)]
pub struct Tuning {
    mail: Arc<Mail>,
    is_resizable: bool,
    presets: Arc<[PresetValues]>,
}

/// What size of pictures settings are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// This one: the stream cannot change it.
    Fixed(Size),
    /// What the parameters say, and this one where they say none: whoever paints follows.
    Free(Size),
}

impl Tuner {
    /// Starts the thread. It makes settings that a model of these `facts` can do, and stores them in `control`, which nobody else may
    /// change. `clock` times transitions.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        prompts: Prompts,
        facts: ModelFacts,
        sizes: Sizes,
        control: Control,
        clock: impl Clock + 'static,
    ) -> Result<Self, EngineError> {
        let mail = Arc::<Mail>::default();
        let theirs = Arc::clone(&mail);
        let target = control.load().parameters.clone();
        let waiting = BTreeMap::new();
        let (transition, told) = (None, false);
        let mut maker = Maker { prompts, sizes, control, facts, target, waiting, transition, told };
        let thread = std::thread::Builder::new()
            .name("tuner".into())
            .spawn(move || maker.tune(&theirs, &clock))
            .map_err(|error| EngineError::Thread { name: "tuner", what: error.to_string() })?;
        let tuning = Tuning { mail, is_resizable: matches!(sizes, Sizes::Free(_)), presets: Arc::default() };
        Ok(Self { tuning, thread: Some(thread) })
    }

    /// The same, whose handles from here on know `preset` with these values.
    #[must_use]
    pub fn with_presets(mut self, presets: Vec<PresetValues>) -> Self {
        self.tuning.presets = presets.into();
        self
    }

    /// What others ask it for changes with.
    pub fn handle(&self) -> Tuning {
        self.tuning.clone()
    }
}

impl Drop for Tuner {
    fn drop(&mut self) {
        self.tuning.mail.lock().1 = true;
        self.tuning.mail.arrived.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the tuner's thread panicked");
        }
    }
}

impl Tuning {
    /// The presets that there are.
    pub fn presets(&self) -> &[PresetValues] {
        &self.presets
    }

    /// Asks for a change: of a parameter, of `strength` (0 to 1), or to a `preset`. Refused at once: what is no parameter,
    /// not hot, or of a wrong value. What the model cannot do as things stand (a t_index_list that is too long, say) waits for
    /// what goes with it for two seconds, which is said in the log, and then counts for nothing.
    pub fn set(&self, name: &str, text: &str) -> Result<(), String> {
        if name == PRESET {
            return self.take_preset(text);
        }
        let mut scratch = Parameters::default();
        let name = if name == STRENGTH {
            apply(&mut scratch, STRENGTH, text)?;
            STRENGTH
        } else {
            let spec = spec(name).ok_or_else(|| format!("there is no parameter {name:?}"))?;
            if !self.can_change(spec) {
                return Err(format!("{name} cannot change while the stream runs"));
            }
            apply(&mut scratch, spec.name, text)?;
            spec.name
        };
        let mut waiting = self.mail.lock();
        if name == "t-index" {
            // A strength that waits was meant for the list before.
            waiting.0.remove(STRENGTH);
        }
        waiting.0.insert(name, text.to_owned());
        drop(waiting);
        self.mail.arrived.notify_one();
        Ok(())
    }

    fn take_preset(&self, name: &str) -> Result<(), String> {
        let preset = find_preset(&self.presets, |preset| &preset.name, name).ok_or_else(|| {
            let names: Vec<&str> = self.presets.iter().map(|preset| preset.name.as_str()).collect();
            format!("there is no preset {name:?}; there are: {}", names.join(", "))
        })?;
        for (name, text) in &preset.values {
            if spec(name).is_some_and(|spec| self.can_change(spec)) {
                self.set(name, text)?;
            }
        }
        Ok(())
    }

    /// Whether a parameter may change while the stream runs.
    fn can_change(&self, spec: &ParameterSpec) -> bool {
        spec.hot || self.is_resizable && spec.name == SIZE
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
    use std::time::Duration;

    use crate::blend::BlendMethod;
    use crate::fake;
    use crate::model::{Conditioning, ModelError, TextEncoder};
    use crate::params::CfgType;
    use crate::settings::Settings;

    use super::*;

    const SIZE: Size = Size::new(64, 64);

    /// A clock that stands until it is moved.
    #[derive(Clone, Default)]
    struct ManualClock(Arc<AtomicU64>);

    impl Clock for ManualClock {
        fn now(&self) -> Duration {
            Duration::from_millis(self.0.load(Ordering::SeqCst))
        }
    }

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

    fn facts() -> ModelFacts {
        ModelFacts { most_rows: Some(8), ..fake::facts(8) }
    }

    fn start() -> (Tuner, Control, Arc<AtomicUsize>) {
        let calls = Arc::<AtomicUsize>::default();
        let mut prompts = Prompts::new(Box::new(Fake(Arc::clone(&calls))), None);
        let control = Control::new(prompts.settings(Parameters::default(), SIZE).unwrap());
        (
            Tuner::start(prompts, facts(), Sizes::Fixed(SIZE), control.clone(), ManualClock::default()).unwrap(),
            control,
            calls,
        )
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
    fn what_the_model_cannot_do_waits_for_what_goes_with_it_and_holds_nothing_up() {
        let (tuner, control, _) = start();
        let set = |name, text| tuner.handle().set(name, text).unwrap();
        let prompt = |prompt: &'static str| {
            set("prompt", prompt);
            until(&control, |settings| settings.parameters.prompt == prompt).parameters.clone()
        };
        let usual = prompt("a fox");
        // Fewer steps than the list has room in; the list for them has not arrived yet. What else is asked for is seen meanwhile.
        set("steps", "30");
        assert_eq!(prompt("a cat").steps, usual.steps);
        set("t-index", "10,20");
        let shorter = until(&control, |settings| settings.parameters.t_index == [10, 20]).parameters.clone();
        assert_eq!(shorter.steps, 30);
        // More rows than the networks were compiled for; then the guidance that they were meant with.
        set("cfg", "full");
        set("guidance", "1.5");
        until(&control, |settings| settings.parameters.cfg == CfgType::Full && settings.parameters.guidance > 1.4);
        set("t-index", "2,8,14,20,26");
        assert_eq!(prompt("a dog").t_index, [10, 20]);
        set("cfg", "self");
        let wider = until(&control, |settings| settings.parameters.cfg == CfgType::SelfNegative).parameters.clone();
        assert_eq!(wider.t_index, [2, 8, 14, 20, 26]);
        // The newer of two wins, and what was taken waits no more.
        set("t-index", "45");
        prompt("a hen");
        set("t-index", "25");
        until(&control, |settings| settings.parameters.t_index == [25]);
        set("steps", "50");
        assert_eq!(until(&control, |settings| settings.parameters.steps == 50).parameters.t_index, [25]);
    }

    #[test]
    fn what_waits_splits_nothing_keeps_its_strength_and_is_given_up_in_time() {
        let mut prompts = Prompts::new(Box::new(Fake(Arc::default())), None);
        let first = Parameters { guidance: 1.5, ..Parameters::default() };
        let control = Control::new(prompts.settings(first, SIZE).unwrap());
        let clock = ManualClock::default();
        let tuner = Tuner::start(prompts, facts(), Sizes::Fixed(SIZE), control.clone(), clock.clone()).unwrap();
        let set = |name, text| tuner.handle().set(name, text).unwrap();
        let shows = |what: &dyn Fn(&Parameters) -> bool| {
            until(&control, |settings| what(&settings.parameters)).parameters.clone()
        };
        set("t-index", "5,15,25,35");
        shows(&|p| p.t_index.len() == 4);
        // Nine steps wait. A preset's values, which can be had together and not one by one, are taken all the same.
        set("t-index", "5,10,15,20,25,30,35,40,45");
        set("prompt", "a fox");
        shows(&|p| p.prompt == "a fox");
        let values = [("steps", "30"), ("t-index", "5,10,20"), ("cfg", "full"), ("prompt", "a cat")];
        let values = values.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
        let tuner = tuner.with_presets(vec![PresetValues { name: "cat".into(), values }]);
        let set = |name, text| tuner.handle().set(name, text).unwrap();
        set("preset", "cat");
        let cat = shows(&|p| p.prompt == "a cat" && p.steps == 30);
        assert_eq!((cat.t_index, cat.cfg), (vec![5, 10, 20], CfgType::Full));
        // A strength that comes after the list that waits is of the list that is seen, and takes the other's place.
        set("t-index", "2,6,10,14,18");
        set("prompt", "a dog");
        shows(&|p| p.prompt == "a dog");
        set("strength", "1");
        assert_eq!(shows(&|p| p.t_index[0] == 0).t_index.len(), 3);
        set("cfg", "none");
        assert_eq!(shows(&|p| p.cfg == CfgType::None).t_index.len(), 3);
        // What waits is not remembered for ever.
        set("t-index", "1,2,3,4,5,6,7,8,9");
        set("prompt", "a hen");
        shows(&|p| p.prompt == "a hen");
        clock.0.store(10_000, Ordering::SeqCst);
        set("stream-batch", "false");
        assert_eq!(shows(&|p| !p.stream_batch).t_index.len(), 3);
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

    #[test]
    fn a_transition_walks_from_prompt_to_prompt_and_can_be_turned_on_its_way() {
        let mut prompts = Prompts::new(Box::new(Fake(Arc::default())), None);
        let first = Parameters { prompt: "aa".into(), prompt_blend: BlendMethod::Linear, ..Parameters::default() };
        let control = Control::new(prompts.settings(first, SIZE).unwrap());
        let clock = ManualClock::default();
        let tuner = Tuner::start(prompts, facts(), Sizes::Fixed(SIZE), control.clone(), clock.clone()).unwrap();
        let tokens = |settings: &Settings| settings.prompts.prompt.tokens[0];
        tuner.handle().set("transition", "2s").unwrap();
        until(&control, |settings| settings.parameters.transition > 1.0);
        tuner.handle().set("prompt", "bbbb").unwrap();
        tuner.handle().set("seed", "9").unwrap();
        // The clock stands: nothing is to be seen yet, however often it is looked at.
        assert_eq!(tokens(&until(&control, |settings| settings.parameters.seed == 9)), 2.0);
        clock.0.store(500, Ordering::SeqCst);
        let quarter = until(&control, |settings| tokens(settings) > 2.0);
        assert!((tokens(&quarter) - 2.5).abs() < 1e-5);
        assert_eq!(quarter.parameters.seeds, [(2, 0.75), (9, 0.25)]);
        assert_eq!(quarter.parameters.prompt, "\"aa\":0.75 + \"bbbb\":0.25");
        // Another parameter does not disturb it, another prompt begins anew from here.
        tuner.handle().set("delta", "0.5").unwrap();
        let same = until(&control, |settings| settings.parameters.delta < 0.6);
        assert!((tokens(&same) - 2.5).abs() < 1e-5);
        tuner.handle().set("prompt", "cccccccc").unwrap();
        tuner.handle().set("delta", "0.7").unwrap();
        until(&control, |settings| settings.parameters.delta > 0.6);
        clock.0.store(1500, Ordering::SeqCst);
        let turned = until(&control, |settings| tokens(settings) > 2.6);
        clock.0.store(60_000, Ordering::SeqCst);
        let done = until(&control, |settings| tokens(settings) > 7.9);
        assert_eq!((tokens(&done), done.parameters.seed_weights()), (8.0, vec![(9, 1.0)]));
        assert_eq!(done.parameters.prompt, "cccccccc");
        assert!(tokens(&turned) < 8.0);
    }

    #[test]
    fn a_size_is_taken_where_somebody_follows() {
        let start = |sizes| {
            let mut prompts = Prompts::new(Box::new(Fake(Arc::default())), None);
            let control = Control::new(prompts.settings(Parameters::default(), SIZE).unwrap());
            (Tuner::start(prompts, facts(), sizes, control.clone(), ManualClock::default()).unwrap(), control)
        };
        assert!(start(Sizes::Fixed(SIZE)).0.handle().set("size", "128x64").is_err());
        let (tuner, control) = start(Sizes::Free(SIZE));
        tuner.handle().set("size", "128x64").unwrap();
        until(&control, |settings| settings.parameters.size == Some(Size::new(128, 64)));
        assert!(tuner.handle().set("size", "128").is_err());
    }

    #[test]
    fn a_preset_sets_what_can_be_set_and_an_unknown_one_lists_those_there_are() {
        let (tuner, control, _) = start();
        let values = [("prompt", "a fox"), ("guidance", "1.9"), ("frame-buffer", "4"), ("size", "96x96")];
        let values = values.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec();
        let tuner = tuner.with_presets(vec![PresetValues { name: "fox".into(), values }]);
        assert!(tuner.handle().set("preset", "cat").unwrap_err().contains("fox"));
        tuner.handle().set("preset", "fox").unwrap();
        let settings = until(&control, |settings| settings.parameters.guidance > 1.8);
        assert_eq!((settings.parameters.frame_buffer, settings.parameters.size), (1, None));
        until(&control, |settings| settings.parameters.prompt == "a fox");
    }
}
