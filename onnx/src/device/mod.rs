//! Networks whose inputs and outputs stay in a device's memory, for [`DeviceEngine`](livediffusion_pipeline::device::DeviceEngine).
//!
//! Each tensor is made once, by the queue that kernels run on, and ONNX Runtime is given its address under the shapes that calls
//! have: nothing is copied and nothing allocated in a call. On the CPU provider the same is done with the host's memory, which is
//! how it is tested where there is no card.

mod bridge;
pub(crate) mod cuda;
mod network;
mod padding;
mod rows;
mod unet;
pub(crate) mod vae;

use livediffusion_kernels::gpu::Queue;
use livediffusion_pipeline::device::DeviceNetworks;
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::ModelError;

pub(crate) use self::padding::Paddings;
use self::unet::DeviceUnet;
use self::vae::{DeviceVaeDecoder, DeviceVaeEncoder};
use crate::unet::OnnxUnet;
use crate::vae::{OnnxDecoder, OnnxEncoder};

/// Networks for one more stream of pictures of `size`, on the sessions of these. `shares_rows`: its calls have the rows of the widest stream,
/// where another number than before is dear.
///
/// # Errors
/// Networks whose inputs a device cannot be given, which says why: a time step for all rows, values in bf16.
pub(crate) fn networks<Q: Queue>(
    (encoder, denoiser, decoder): (Option<&OnnxEncoder>, &OnnxUnet, &OnnxDecoder),
    queue: &Q,
    (size, shares_rows): (Size, bool),
) -> Result<DeviceNetworks<Q>, ModelError> {
    let (channels, factor) = decoder.geometry();
    let shape = LatentShape { channels, height: size.height / factor, width: size.width / factor };
    let encoder = encoder.map(|encoder| DeviceVaeEncoder::new(queue, encoder, shape)).transpose()?;
    Ok(DeviceNetworks {
        encoder: encoder.map(|encoder| Box::new(encoder) as Box<_>),
        denoiser: Box::new(DeviceUnet::new(denoiser, shape, shares_rows)?),
        decoder: Box::new(DeviceVaeDecoder::new(queue, decoder, shape)?),
    })
}
