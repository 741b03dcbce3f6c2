//! The networks of a replay on a device: what goes into the U-Net and the decoder is copied back and compared.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use livediffusion_kernels::f16;
use livediffusion_kernels::gpu::{DType, GpuError, Mark as _, Queue, View, ViewMut};
use livediffusion_pipeline::device::{DeviceDecoder, DeviceDenoiser, DeviceNetworks};
use livediffusion_pipeline::model::{ModelError, Row};

use super::case::Case;
use super::networks::{SharedLedger, WatchedRows};
use crate::lock;

/// Clean latents in the order in which they were decoded.
#[derive(Clone, Default)]
pub(super) struct Latents(Arc<Mutex<VecDeque<Vec<f32>>>>);

impl Latents {
    /// That of the next picture.
    pub(super) fn next(&self) -> Option<Vec<f32>> {
        lock(&self.0).pop_front()
    }

    fn push(&self, latent: Vec<f32>) {
        lock(&self.0).push_back(latent);
    }
}

/// The same networks, watched, and the latents that they will decode.
pub(super) fn networks<Q: Queue>(
    case: &Arc<Case>,
    real: DeviceNetworks<Q>,
    ledger: &SharedLedger,
) -> (DeviceNetworks<Q>, Latents) {
    let latents = Latents::default();
    let networks = DeviceNetworks {
        encoder: real.encoder,
        denoiser: Box::new(WatchedDenoiser { real: real.denoiser, rows: WatchedRows::of(case, ledger) }),
        decoder: Box::new(WatchedDecoder { real: real.decoder, latents: latents.clone() }),
    };
    (networks, latents)
}

/// Copies values to the host, and waits for them.
fn read<Q: Queue>(queue: &Q, from: View<'_>) -> Result<Vec<f32>, GpuError> {
    let mut to = queue.pinned(from.dtype(), &[from.len()])?;
    queue.download(from, &mut to)?;
    let mark = queue.mark()?;
    queue.record(&mark)?;
    mark.synchronize()?;
    match to.dtype() {
        DType::F16 => Ok(to.as_slice::<f16>()?.iter().map(|value| value.to_f32()).collect()),
        _ => Ok(to.as_slice::<f32>()?.to_vec()),
    }
}

struct WatchedDenoiser<Q> {
    real: Box<dyn DeviceDenoiser<Q>>,
    rows: WatchedRows,
}

impl<Q: Queue> DeviceDenoiser<Q> for WatchedDenoiser<Q> {
    fn samples(&mut self, queue: &Q, rows: usize) -> Result<ViewMut<'_>, ModelError> {
        self.real.samples(queue, rows)
    }

    fn takes_control(&self) -> bool {
        self.real.takes_control()
    }

    fn controls(&mut self) -> Option<ViewMut<'_>> {
        self.real.controls()
    }

    fn run(&mut self, queue: &Q, rows: &[Row]) -> Result<(), ModelError> {
        // The same place again, in which they lie by now.
        let samples = read(queue, self.real.samples(queue, rows.len())?.as_view())?;
        self.rows.look_at(rows, &samples)?;
        self.real.run(queue, rows)
    }

    fn predictions(&self) -> Result<View<'_>, GpuError> {
        self.real.predictions()
    }
}

struct WatchedDecoder<Q> {
    real: Box<dyn DeviceDecoder<Q>>,
    latents: Latents,
}

impl<Q: Queue> DeviceDecoder<Q> for WatchedDecoder<Q> {
    fn latent(&mut self) -> ViewMut<'_> {
        self.real.latent()
    }

    fn affine(&self) -> (f32, f32) {
        self.real.affine()
    }

    fn run(&mut self, queue: &Q) -> Result<(), ModelError> {
        let (scale, shift) = self.real.affine();
        let mut latent = read(queue, self.real.latent().as_view())?;
        for value in &mut latent {
            *value = (*value - shift) * scale;
        }
        self.latents.push(latent);
        self.real.run(queue)
    }

    fn picture(&self) -> View<'_> {
        self.real.picture()
    }
}
