//! How long the stages of a frame took on the device.

use std::time::Duration;

use livediffusion_kernels::gpu::{GpuError, Mark as _, Queue};

use crate::stats::{Stage, Stats};

/// Marks between the stages of a frame on its way. Made when they are first needed and used again.
pub(super) struct Timeline<Q: Queue> {
    marks: Vec<Q::Mark>,
    /// The stage that ends at the mark of the same place, having begun at the one before; `None` at the first of a queue.
    stages: Vec<Option<Stage>>,
    /// Whether encoder, work and decoder have queues of their own.
    is_apart: bool,
}

impl<Q: Queue> Timeline<Q> {
    pub(super) fn new(is_apart: bool) -> Self {
        Self { marks: Vec::new(), stages: Vec::new(), is_apart }
    }

    /// A new frame begins.
    pub(super) fn begin(&mut self) {
        self.stages.clear();
    }

    /// The first stage in this queue begins here. In one queue for all it begins where the last one ended.
    pub(super) fn start(&mut self, queue: &Q) -> Result<(), GpuError> {
        if self.is_apart || self.stages.is_empty() { self.mark(queue, None) } else { Ok(()) }
    }

    /// A stage ends here.
    pub(super) fn end(&mut self, queue: &Q, stage: Stage) -> Result<(), GpuError> {
        self.mark(queue, Some(stage))
    }

    fn mark(&mut self, queue: &Q, stage: Option<Stage>) -> Result<(), GpuError> {
        if self.marks.len() == self.stages.len() {
            self.marks.push(queue.mark()?);
        }
        queue.record(&self.marks[self.stages.len()])?;
        self.stages.push(stage);
        Ok(())
    }

    /// The frame is done: its times are counted, each stage's calls together.
    pub(super) fn record(&self, stats: &mut Stats) -> Result<(), GpuError> {
        for (at, stage) in self.stages.iter().enumerate() {
            if let Some(stage) = stage {
                let ms = self.marks[at - 1].ms_until(&self.marks[at])?;
                stats.record(*stage, milliseconds(ms));
            }
        }
        Ok(())
    }
}

/// What a device's clock says.
pub(super) fn milliseconds(ms: f32) -> Duration {
    Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3)
}
