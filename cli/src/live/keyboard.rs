//! Single keys in the terminal while a stream runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use livediffusion_pipeline::Tuning;
use livediffusion_pipeline::params::Parameters;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::desk::Desk;
use super::terminal::{KeyMode, tell};

/// How soon the thread notices that it shall end.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How much `[` and `]` change the strength.
const STRENGTH_STEP: f64 = 0.05;
/// What `?` says.
const HELP: &str = "space freeze · b bypass · s snapshot · 1-9 presets · [ ] strength · q quit · ? this line";

/// The thread that reads keys. Dropping this ends it and gives the terminal back.
pub(crate) struct Keyboard {
    stop: Arc<AtomicBool>,
    _mode: KeyMode,
}

/// What keys act on.
pub(crate) struct Hands {
    pub(crate) desk: Arc<Desk>,
    pub(crate) tuning: Tuning,
    /// Raised by `q`.
    pub(crate) quit: Arc<AtomicBool>,
}

impl Keyboard {
    /// Starts to read keys; `None` where there is no keyboard, or no thread for it.
    pub(crate) fn start(hands: Hands) -> Option<Self> {
        let mode = KeyMode::start()?;
        let stop = Arc::<AtomicBool>::default();
        let flag = Arc::clone(&stop);
        std::thread::Builder::new().name("keyboard".into()).spawn(move || listen(&flag, &hands)).ok()?;
        tell(format_args!("keys: ? lists them"));
        Some(Self { stop, _mode: mode })
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // Not waited for: a terminal that goes away can hold a reader for ever.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn listen(stop: &AtomicBool, hands: &Hands) {
    while !stop.load(Ordering::Relaxed) {
        match key() {
            Ok(Some(key)) if key.kind != KeyEventKind::Release => hands.press(key),
            Ok(_) => {}
            // The terminal has gone; the stream goes on.
            Err(_) => return,
        }
    }
}

/// The next key, if one comes soon.
fn key() -> std::io::Result<Option<KeyEvent>> {
    let stdin = std::io::stdin();
    let mut look = [PollFd::new(&stdin, PollFlags::IN)];
    let soon = Timespec { tv_sec: 0, tv_nsec: LOOK_UP.subsec_nanos().into() };
    let ready = poll(&mut look, Some(&soon))?;
    // crossterm takes a terminal that has hung up for one that always has something to read, and never comes back.
    if look[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        return Err(std::io::ErrorKind::BrokenPipe.into());
    }
    if ready == 0 || !event::poll(Duration::ZERO)? {
        return Ok(None);
    }
    match event::read()? {
        Event::Key(key) => Ok(Some(key)),
        _ => Ok(None),
    }
}

impl Hands {
    fn press(&self, key: KeyEvent) {
        if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
            return;
        }
        let KeyCode::Char(letter) = key.code else { return };
        match letter {
            ' ' => say(if self.desk.toggle_freeze() { "frozen" } else { "going on" }),
            'b' => say(if self.desk.toggle_bypass() { "showing the input" } else { "showing the painted picture" }),
            's' => self.desk.ask_for_snapshot(),
            '[' => self.change_strength(-1.0),
            ']' => self.change_strength(1.0),
            '1'..='9' => self.choose(letter as usize - '1' as usize),
            'q' => self.quit.store(true, Ordering::Relaxed),
            '?' => say(HELP),
            _ => {}
        }
    }

    fn change_strength(&self, direction: f64) {
        let (now, least) = strength(&self.desk.control.load().parameters);
        let strength = (now + direction * least.max(STRENGTH_STEP)).clamp(0.0, 1.0);
        tell(format_args!("strength {strength:.2}"));
        if let Err(error) = self.tuning.set("strength", &strength.to_string()) {
            say(&error);
        }
    }

    fn choose(&self, number: usize) {
        let presets = self.tuning.presets();
        let Some(preset) = presets.get(number) else {
            return tell(format_args!("the model has {} presets", presets.len()));
        };
        tell(format_args!("preset {}", preset.name));
        if let Err(error) = self.tuning.set("preset", &preset.name) {
            say(&error);
        }
    }
}

fn say(line: &str) {
    tell(format_args!("{line}"));
}

/// The share of noise that the first step has, and the least by which it can change.
fn strength(parameters: &Parameters) -> (f64, f64) {
    let last = parameters.steps.saturating_sub(1).max(1) as f64;
    let first = parameters.t_index.first().copied().unwrap_or_default() as f64;
    (1.0 - first / last, 1.0 / last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strength_is_what_sets_the_list() {
        let mut parameters = Parameters::default();
        for wanted in [0.2, 0.5, 0.8] {
            parameters.set_strength(wanted);
            let (now, least) = strength(&parameters);
            assert!((now - wanted).abs() <= least, "{wanted} {now}");
        }
    }
}
