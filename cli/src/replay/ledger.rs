//! What a replay found: the worst error and where, bytes that differ, decisions that differ.

use std::collections::BTreeMap;

/// How far the pictures of two runs are apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bytes {
    pub(super) compared: u64,
    pub(super) differing: u64,
    pub(super) largest: u8,
    /// Of all differences.
    pub(super) sum: u64,
}

/// Collects comparisons. Shared between the engine's networks (which see the U-Net's inputs) and the loop around it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    worst: BTreeMap<String, f64>,
    pub(super) compared: u64,
    pub(super) bytes: Bytes,
    pub(super) decisions_differ: u64,
    pub(super) decisions: u64,
    /// Outputs that a defect of the reference reaches, ours and the recorded one.
    pub(super) deviating: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Ledger {
    /// Compares two tensors: the largest absolute difference over the recorded one's peak, or over 1 if that is smaller.
    pub(super) fn compare(&mut self, name: impl Into<String>, got: &[f32], recorded: &[f32]) -> f64 {
        let peak = recorded.iter().fold(1.0_f64, |peak, value| peak.max(f64::from(value.abs())));
        let error = if got.len() == recorded.len() {
            let differences = got.iter().zip(recorded).map(|(a, b)| f64::from((a - b).abs()));
            // NaN must not hide behind max, which prefers the number.
            differences.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) }) / peak
        } else {
            f64::INFINITY
        };
        self.compared += 1;
        let entry = self.worst.entry(name.into()).or_insert(0.0);
        *entry = entry.max(error);
        error
    }

    /// Compares two 8-bit pictures.
    pub(super) fn compare_bytes(&mut self, got: &[u8], recorded: &[f32]) {
        self.bytes.compared += recorded.len() as u64;
        if got.len() != recorded.len() {
            self.bytes.differing += recorded.len() as u64;
            self.bytes.largest = u8::MAX;
            self.bytes.sum += u64::from(u8::MAX) * recorded.len() as u64;
            return;
        }
        for (got, recorded) in got.iter().zip(recorded) {
            let difference = got.abs_diff(*recorded as u8);
            self.bytes.differing += u64::from(difference > 0);
            self.bytes.largest = self.bytes.largest.max(difference);
            self.bytes.sum += u64::from(difference);
        }
    }

    /// The largest error and its tensor.
    pub(super) fn worst(&self) -> (f64, &str) {
        let worst = self.worst.iter().max_by(|a, b| a.1.total_cmp(b.1));
        worst.map_or((0.0, "nothing was compared"), |(name, error)| (*error, name.as_str()))
    }

    /// Share of the compared bytes that differ.
    pub(super) fn byte_share(&self) -> f64 {
        self.bytes.differing as f64 / self.bytes.compared.max(1) as f64
    }

    /// Mean difference of the compared bytes.
    pub(super) fn byte_mean(&self) -> f64 {
        self.bytes.sum as f64 / self.bytes.compared.max(1) as f64
    }
}
