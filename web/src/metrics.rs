//! What Prometheus reads from `/metrics`.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::STAGES;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of the buckets of stage times, in seconds: from a kernel's microseconds to a large network's seconds.
const BUCKETS: [f64; 14] = [1e-4, 3e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StageLabel {
    stage: &'static str,
}

/// Counters of the whole server.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) frames_in: Counter,
    pub(crate) frames_out: Counter,
    pub(crate) frames_dropped: Counter,
    pub(crate) frames_skipped: Counter,
    pub(crate) errors: Counter,
    pub(crate) sessions: Gauge,
    pub(crate) waiting: Gauge,
    pub(crate) viewers: Gauge,
    memory: Gauge<f64, AtomicU64>,
    stages: Family<StageLabel, Histogram, fn() -> Histogram>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("livediffusion");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::<u64>::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let frames_in = counter("frames_in", "Frames that visitors sent");
        let frames_out = counter("frames_out", "Pictures that were painted");
        let frames_dropped =
            counter("frames_dropped", "Frames and pictures that a newer one replaced, and unreadable ones");
        let frames_skipped = counter("frames_skipped", "Frames that the similarity filter answered");
        let errors = counter("errors", "Frames that failed in the networks");
        let (sessions, waiting, viewers) = (Gauge::<i64>::default(), Gauge::<i64>::default(), Gauge::<i64>::default());
        registry.register("sessions", "Visitors who are painted", sessions.clone());
        registry.register("waiting", "Visitors in line for a session", waiting.clone());
        registry.register("viewers", "Peers that watch a session over WebRTC", viewers.clone());
        let memory = Gauge::<f64, AtomicU64>::default();
        registry.register_with_unit("memory", "Resident memory of the process", Unit::Bytes, memory.clone());
        let stages =
            Family::<StageLabel, Histogram, fn() -> Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register_with_unit("stage", "Time of a frame in a stage", Unit::Seconds, stages.clone());
        Self {
            registry,
            frames_in,
            frames_out,
            frames_dropped,
            frames_skipped,
            errors,
            sessions,
            waiting,
            viewers,
            memory,
            stages,
        }
    }

    pub(crate) fn observe(&self, stage: &'static str, time: Duration) {
        self.stages.get_or_create(&StageLabel { stage }).observe(time.as_secs_f64());
    }

    /// Everything in the text format.
    pub(crate) fn text(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.memory.set(bytes);
        }
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}

/// Resident memory of this process, where the system tells.
pub(crate) fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? * 1024.0)
}

/// How long each stage of a painter took since the last call.
pub(crate) struct StageTimes([Duration; STAGES.len()]);

impl StageTimes {
    pub(crate) fn of(painter: &Painter) -> Self {
        Self(STAGES.map(|(stage, _)| painter.stats().total(stage)))
    }

    /// Gives the times of the frame that was painted since to the metrics.
    pub(crate) fn report(&mut self, painter: &Painter, metrics: &Metrics) {
        let now = Self::of(painter);
        for ((before, after), (_, name)) in self.0.iter().zip(&now.0).zip(STAGES) {
            if after > before {
                metrics.observe(name, after.saturating_sub(*before));
            }
        }
        *self = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_counters_and_histograms() {
        let metrics = Metrics::new();
        metrics.frames_in.inc();
        metrics.observe("denoise", Duration::from_millis(12));
        let text = metrics.text();
        for line in [
            "livediffusion_frames_in_total 1",
            "livediffusion_stage_seconds_bucket{le=\"0.02\",stage=\"denoise\"} 1",
            "livediffusion_sessions 0",
            "livediffusion_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
