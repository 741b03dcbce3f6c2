//! The summary at the end of a run.

use std::time::Duration;

use livediffusion_pipeline::adaptive::Quality;
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::stats::{STAGES, Stage, Stats};
use serde_json::{Value, json};

use super::stream::Counts;
use crate::units::{milliseconds, peak_rss_mb, round};

/// What a run did.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) input: String,
    pub(crate) outputs: Vec<String>,
    pub(crate) model: String,
    pub(crate) provider: String,
    pub(crate) precision: String,
    pub(crate) size: Size,
    /// Frames worked on at once.
    pub(crate) lanes: usize,
    /// What was done to hold a frame rate, where one was asked for.
    pub(crate) quality: Option<Quality>,
    pub(crate) elapsed: Duration,
    pub(crate) stats: Stats,
    pub(crate) counts: Counts,
}

/// A count in words.
fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

impl Report {
    pub(crate) fn of(stats: &Stats, counts: &Counts) -> Self {
        Self {
            input: String::new(),
            outputs: Vec::new(),
            model: String::new(),
            provider: String::new(),
            precision: String::new(),
            size: Size::new(0, 0),
            lanes: 1,
            quality: None,
            elapsed: Duration::ZERO,
            stats: stats.clone(),
            counts: *counts,
        }
    }

    /// Pictures a second while the stream ran, start-up not counted.
    pub(crate) fn fps(&self) -> f64 {
        let seconds = self.counts.streaming.as_secs_f64();
        if seconds > 0.0 { self.stats.frames_out as f64 / seconds } else { 0.0 }
    }

    pub(crate) fn time_to_first_frame_ms(&self) -> Option<f64> {
        self.counts.time_to_first_frame.map(milliseconds)
    }

    /// A text, or a list where there are several.
    fn output(&self) -> Value {
        match self.outputs.as_slice() {
            [one] => Value::from(one.as_str()),
            several => Value::from(several),
        }
    }

    /// One object; the names are the interface of scripts.
    pub(crate) fn to_json(&self) -> Value {
        let stage = |stage: Stage| {
            json!({
                "count": self.stats.count(stage),
                "mean_ms": round(milliseconds(self.stats.mean(stage))),
                "p50_ms": round(milliseconds(self.stats.quantile(stage, 0.50))),
                "p95_ms": round(milliseconds(self.stats.quantile(stage, 0.95))),
                "p99_ms": round(milliseconds(self.stats.quantile(stage, 0.99))),
            })
        };
        let stages: serde_json::Map<String, Value> =
            STAGES.iter().map(|(which, name)| ((*name).to_owned(), stage(*which))).collect();
        json!({
            "input": self.input,
            "output": self.output(),
            "model": self.model,
            "size": self.size.to_string(),
            "provider": self.provider,
            "precision": self.precision,
            "lanes": self.lanes,
            "quality": self.quality.map(|quality| json!({
                "size": quality.size.to_string(),
                "steps": quality.steps,
                "changes": quality.changes,
                "frames_repeated": quality.repeated,
            })),
            "fps": round(self.fps()),
            "frames_in": self.stats.frames_in,
            "frames_out": self.stats.frames_out,
            "frames_skipped": self.stats.frames_skipped,
            "frames_dropped": self.counts.dropped,
            "frames_corrupt": self.counts.corrupt,
            "frames_failed": self.stats.frames_failed,
            "source_losses": self.counts.losses,
            "loops": self.counts.passes_ended,
            "time_to_first_frame_ms": self.time_to_first_frame_ms().map(round),
            "saved_by_skipping_ms": round(self.saved_by_skipping_ms()),
            "elapsed_ms": round(milliseconds(self.elapsed)),
            "peak_rss_mb": peak_rss_mb().map(round),
            "stopped": self.counts.stopped,
            "stages": stages,
        })
    }

    /// Time that the skipped frames would have taken in the networks, at the mean of those that were not skipped. Lanes
    /// would have worked on as many of them at once.
    fn saved_by_skipping_ms(&self) -> f64 {
        let networks = [Stage::Encode, Stage::Denoise, Stage::Advance, Stage::Decode, Stage::Postprocess];
        let total = |stage: Stage| milliseconds(self.stats.mean(stage)) * self.stats.count(stage) as f64;
        let spent: f64 = networks.iter().map(|stage| total(*stage)).sum();
        let processed = self.stats.frames_in.saturating_sub(self.stats.frames_skipped).max(1);
        spent / processed as f64 * self.stats.frames_skipped as f64 / self.lanes.max(1) as f64
    }

    pub(crate) fn print_table(&self) {
        let Counts { dropped, corrupt, .. } = self.counts;
        let Stats { frames_in, frames_out, frames_skipped, frames_failed, .. } = self.stats;
        say!("{} -> {}", self.input, self.outputs.join(", "));
        let lanes = if self.lanes > 1 { format!(", {} frames at once", self.lanes) } else { String::new() };
        say!("model     {} at {} on {} {}{lanes}", self.model, self.size, self.provider, self.precision);
        say!("frames    {frames_in} in, {frames_out} out, {frames_skipped} skipped, {dropped} dropped");
        if corrupt + frames_failed > 0 {
            say!("losses    {corrupt} frames decoded badly, {frames_failed} came broken out of the networks");
        }
        if let Some(quality) = self.quality {
            let Quality { size, steps, changes, repeated } = quality;
            let steps = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
            say!("quality   {size} in {steps} at the end, {changes} changes, {repeated} pictures shown again");
        }
        if self.counts.losses > 0 {
            say!("source    lost {}", times(self.counts.losses));
        }
        if self.counts.passes_ended > 0 {
            say!("loop      the input began again {}", times(self.counts.passes_ended));
        }
        if frames_skipped > 0 {
            say!("saved     {:.1} s of network time by skipping", self.saved_by_skipping_ms() / 1e3);
        }
        let first = self.time_to_first_frame_ms().map_or("none".into(), |ms| format!("{ms:.0} ms"));
        let memory = peak_rss_mb().map_or("unknown".into(), |mb| format!("{mb:.0} MB"));
        say!("speed     {:.1} fps, first frame after {first}, peak memory {memory}", self.fps());
        say!("{:<10}{:>9}{:>9}{:>9} ms", "stage", "p50", "p95", "p99");
        for (stage, name) in STAGES {
            if self.stats.count(stage) > 0 {
                let quantile = |q| milliseconds(self.stats.quantile(stage, q));
                say!("{name:<10}{:>9.2}{:>9.2}{:>9.2}", quantile(0.50), quantile(0.95), quantile(0.99));
            }
        }
    }
}

pub(crate) fn print_json(report: &Report) {
    say!("{:#}", report.to_json());
}
