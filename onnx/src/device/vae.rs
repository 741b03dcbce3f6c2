//! The VAE on a device.

use livediffusion_kernels::gpu::{GpuError, Queue, Tensor, View, ViewMut};
use livediffusion_pipeline::device::{DeviceDecoder, DeviceEncoder, Given};
use livediffusion_pipeline::frame::LatentShape;
use livediffusion_pipeline::model::ModelError;

use super::network::{Call, zeros};
use crate::pack::VaeKind;
use crate::session::Network;
use crate::vae::{OnnxDecoder, OnnxEncoder};

/// A network of one input and one output, with its tensors.
pub(crate) struct Half {
    /// Before the tensors that it lies over.
    call: Call,
    /// Before the network: to drop them waits for the card, and a session must not end under its own work.
    input: Tensor,
    output: Tensor,
    network: Network,
    /// Scale and shift.
    affine: (f32, f32),
}

impl Half {
    /// On a network's session, over tensors of these sides.
    #[allow(unsafe_code, reason = "ONNX Runtime is given addresses")]
    pub(crate) fn new<Q: Queue>(
        queue: &Q,
        network: &Network,
        affine: (f32, f32),
        (input_dims, output_dims): (&[usize], &[usize]),
    ) -> Result<Self, ModelError> {
        let network = network.fork();
        let label = network.label();
        let (inputs, outputs) = network.ports();
        let ([given], [got]) = (&inputs[..], &outputs[..]) else {
            return Err(ModelError::new(format!("{label}: it has several inputs or outputs")));
        };
        let input = zeros(queue, label, &given.info, input_dims)?;
        let output = zeros(queue, label, &got.info, output_dims)?;
        // SAFETY: the call is dropped before the tensors, by the order of the fields; kernels, copies and calls go into one queue.
        let call = unsafe { Call::new(&network, &[(&input, input_dims)], (&output, output_dims)) }?;
        Ok(Self { call, input, output, network, affine })
    }

    /// Runs the network. Where it runs on a card, it has not run when this returns.
    pub(crate) fn run(&mut self) -> Result<(), ModelError> {
        self.call.run(&self.network)
    }

    /// What the network reads.
    pub(crate) fn input(&mut self) -> &mut Tensor {
        &mut self.input
    }
}

/// Sides of one picture.
fn picture(shape: LatentShape, factor: usize) -> [usize; 4] {
    [1, 3, shape.height * factor, shape.width * factor]
}

/// The encoder of a stream.
pub(super) struct DeviceVaeEncoder {
    half: Half,
    kind: VaeKind,
    len: usize,
}

impl DeviceVaeEncoder {
    pub(super) fn new<Q: Queue>(queue: &Q, encoder: &OnnxEncoder, shape: LatentShape) -> Result<Self, ModelError> {
        let (network, affine, factor) = encoder.parts();
        let kind = encoder.kind();
        let given = if kind == VaeKind::Kl { 2 * shape.channels } else { shape.channels };
        let (from, to) = (picture(shape, factor), [1, given, shape.height, shape.width]);
        Ok(Self { half: Half::new(queue, network, affine, (&from, &to))?, kind, len: shape.len() })
    }
}

impl<Q: Queue> DeviceEncoder<Q> for DeviceVaeEncoder {
    fn picture(&mut self) -> ViewMut<'_> {
        self.half.input.view_mut()
    }

    fn run(&mut self, _: &Q) -> Result<(), ModelError> {
        self.half.run()
    }

    fn given(&self) -> Result<Given<'_>, GpuError> {
        let (moments, (scale, shift)) = (self.half.output.view(), self.half.affine);
        let log_variance = (self.kind == VaeKind::Kl).then(|| moments.part(self.len, self.len)).transpose()?;
        Ok(Given { mean: moments.part(0, self.len)?, log_variance, affine: (shift, scale) })
    }
}

/// The decoder of a stream.
pub(super) struct DeviceVaeDecoder(Half);

impl DeviceVaeDecoder {
    pub(super) fn new<Q: Queue>(queue: &Q, decoder: &OnnxDecoder, shape: LatentShape) -> Result<Self, ModelError> {
        let (network, affine, factor) = decoder.parts();
        let (from, to) = ([1, shape.channels, shape.height, shape.width], picture(shape, factor));
        Half::new(queue, network, affine, (&from, &to)).map(Self)
    }
}

impl<Q: Queue> DeviceDecoder<Q> for DeviceVaeDecoder {
    fn latent(&mut self) -> ViewMut<'_> {
        self.0.input.view_mut()
    }

    fn affine(&self) -> (f32, f32) {
        self.0.affine
    }

    fn run(&mut self, _: &Q) -> Result<(), ModelError> {
        self.0.run()
    }

    fn picture(&self) -> View<'_> {
        self.0.output.view()
    }
}
