//! The progress bar: frames or bytes, how many a second and time left, on stderr when that is a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar, or a counter where the number of frames is not known, or nothing where nobody looks.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn start(frames: Option<u64>) -> Self {
        let template = match frames {
            Some(_) => "{wide_bar} {pos}/{len} frames  {per_sec}  {eta} left",
            None => "{spinner} {pos} frames  {per_sec}  {elapsed}",
        };
        Self::shown(frames, template)
    }

    /// A bar of a download.
    pub(crate) fn bytes(all: u64) -> Self {
        Self::shown(Some(all), "{wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left")
    }

    /// What is waited for, where nobody knows for how long.
    pub(crate) fn waiting(what: String) -> Self {
        let waiting = Self::shown(None, "{spinner} {msg}  {elapsed}");
        waiting.0.set_message(what);
        waiting
    }

    fn shown(length: Option<u64>, template: &str) -> Self {
        let quiet = !tracing::enabled!(tracing::Level::WARN);
        if quiet || !std::io::stderr().is_terminal() {
            return Self::hidden();
        }
        let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(bar)
    }

    pub(crate) fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    pub(crate) fn advance(&self) {
        self.0.inc(1);
    }

    pub(crate) fn set(&self, position: u64) {
        self.0.set_position(position);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
