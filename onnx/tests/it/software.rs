//! The frame path of a device on a card in software, whose streams do their work as late or as early as CUDA allows: with the driver's
//! calls as they are made on a real one, and the networks on the CPU in their turn in the stream. Its pictures are those of the
//! engine, bit by bit, under every schedule, or something was not waited for.

use std::sync::{Arc, Mutex};

use livediffusion_kernels::cuda::{Cuda, Stream};
use livediffusion_kernels::gpu::{DType, GpuError, Queues, Tensor, View, ViewMut};
use livediffusion_onnx::LoadedPack;
use livediffusion_pipeline::controlnet::ControlImage;
use livediffusion_pipeline::device::{DeviceDecoder, DeviceDenoiser, DeviceEncoder, DeviceNetworks, Given};
use livediffusion_pipeline::frame::LatentShape;
use livediffusion_pipeline::model::{Decoder, DenoiseBatch, Denoiser, Encoder, ModelError, Networks, Row};

use crate::device::host::software::{NEEDS_CARD, first_card, left, on_host, schedules, under_ptx, under_schedules};
use crate::device::{Device, Event, SIZE, model_on};
use crate::support::{control_pack, pack_dir, runtime};

/// Rows of the largest call here: four steps under full guidance.
const MOST_ROWS: usize = 8;

struct Card {
    cuda: Arc<Cuda>,
    /// Encoder and decoder in streams of their own.
    apart: bool,
    /// The encoder gives a posterior, whose log-variance is a tenth of its mean: no model's, but one to sample.
    samples: bool,
}

/// A network that the host runs, and its tensors on the card.
struct OnCard<N: ?Sized> {
    network: Arc<Mutex<Box<N>>>,
    input: Tensor,
    output: Tensor,
    shape: LatentShape,
    rows: usize,
    samples: bool,
    /// Control images lie behind the samples of the largest call.
    is_controlled: bool,
}

impl Device for Card {
    type Queue = Stream;

    fn queues(&self) -> Queues<Stream> {
        let stream = || self.cuda.stream().unwrap();
        if self.apart { Queues::apart(stream(), stream(), stream()) } else { Queues::one(&stream()) }
    }

    fn networks(&self, pack: &LoadedPack) -> DeviceNetworks<Stream> {
        let Networks { encoder, denoiser, decoder } = pack.shared.fork();
        let shape = LatentShape { channels: 4, height: SIZE.height / 8, width: SIZE.width / 8 };
        let picture = 3 * SIZE.pixels();
        let given = if self.samples { 2 * shape.len() } else { shape.len() };
        let encoder = encoder.map(|encoder| self.network(encoder, (picture, given), shape));
        let rows = MOST_ROWS * shape.len();
        let is_controlled = denoiser.takes_control();
        let shown = if is_controlled { MOST_ROWS * picture } else { 0 };
        let unet = self.network(denoiser, (rows + shown, rows), shape);
        DeviceNetworks {
            encoder: encoder.map(|encoder| Box::new(encoder) as Box<_>),
            denoiser: Box::new(OnCard { is_controlled, ..unet }),
            decoder: Box::new(self.network(decoder, (shape.len(), picture), shape)),
        }
    }
}

impl Card {
    fn network<N: ?Sized>(&self, network: Box<N>, (from, to): (usize, usize), shape: LatentShape) -> OnCard<N> {
        let zeros = |len| self.cuda.zeros(DType::F32, &[len]).unwrap();
        OnCard {
            network: Arc::new(Mutex::new(network)),
            input: zeros(from),
            output: zeros(to),
            shape,
            rows: 0,
            samples: self.samples,
            is_controlled: false,
        }
    }
}

impl<N: ?Sized + Send + 'static> OnCard<N> {
    fn put(
        &self,
        stream: &Stream,
        work: impl FnOnce(&mut N, &[f32], &mut [f32]) -> Result<(), ModelError> + Send + 'static,
    ) {
        let network = Arc::clone(&self.network);
        on_host(stream, (self.input.view(), self.output.view()), move |from, to| {
            work(&mut network.lock().unwrap(), from, to).unwrap();
        });
    }
}

impl DeviceEncoder<Stream> for OnCard<dyn Encoder> {
    fn picture(&mut self) -> ViewMut<'_> {
        self.input.view_mut()
    }

    fn run(&mut self, stream: &Stream) -> Result<(), ModelError> {
        let len = self.shape.len();
        self.put(stream, move |encoder, picture, given| {
            let (mean, log_variance) = given.split_at_mut(len);
            encoder.encode(picture, 1, SIZE, None, mean)?;
            log_variance.iter_mut().zip(mean).for_each(|(log_variance, mean)| *log_variance = *mean / 10.0);
            Ok(())
        });
        Ok(())
    }

    fn given(&self) -> Result<Given<'_>, GpuError> {
        let (given, len) = (self.output.view(), self.shape.len());
        let log_variance = self.samples.then(|| given.part(len, len)).transpose()?;
        Ok(Given { mean: given.part(0, len)?, log_variance, affine: (0.0, 1.0) })
    }
}

impl DeviceDenoiser<Stream> for OnCard<dyn Denoiser> {
    fn samples(&mut self, _: &Stream, rows: usize) -> Result<ViewMut<'_>, ModelError> {
        let len = rows * self.shape.len();
        Ok(self.input.view_mut().part(0, len)?)
    }

    fn run(&mut self, stream: &Stream, rows: &[Row]) -> Result<(), ModelError> {
        self.rows = rows.len();
        let (mut rows, shape) = (rows.to_vec(), self.shape);
        self.put(stream, move |denoiser, sample, prediction| {
            let len = rows.len() * shape.len();
            let shown = sample[MOST_ROWS * shape.len()..].chunks_exact(3 * SIZE.pixels());
            for (row, chw) in rows.iter_mut().zip(shown).filter(|(row, _)| row.control_scale > 0.0) {
                row.control = Some(Arc::new(image_of(chw)));
            }
            let batch = DenoiseBatch { sample: &sample[..len], shape, rows: &rows };
            denoiser.denoise(&batch, &mut prediction[..len])
        });
        Ok(())
    }

    fn takes_control(&self) -> bool {
        self.is_controlled
    }

    fn controls(&mut self) -> Option<ViewMut<'_>> {
        let (at, len) = (MOST_ROWS * self.shape.len(), MOST_ROWS * 3 * SIZE.pixels());
        self.is_controlled.then(|| self.input.view_mut().part(at, len).unwrap())
    }

    fn predictions(&self) -> Result<View<'_>, GpuError> {
        self.output.view().part(0, self.rows * self.shape.len())
    }
}

/// The bytes that planes in [0, 1] were made of.
fn image_of(chw: &[f32]) -> ControlImage {
    let (mut image, plane) = (ControlImage::new(SIZE), SIZE.pixels());
    for (at, byte) in image.rgb_mut().iter_mut().enumerate() {
        *byte = (255.0 * chw[at % 3 * plane + at / 3]).round() as u8;
    }
    image
}

impl DeviceDecoder<Stream> for OnCard<dyn Decoder> {
    fn latent(&mut self) -> ViewMut<'_> {
        self.input.view_mut()
    }

    fn affine(&self) -> (f32, f32) {
        (1.0, 0.0)
    }

    fn run(&mut self, stream: &Stream) -> Result<(), ModelError> {
        let shape = self.shape;
        self.put(stream, move |decoder, latent, picture| decoder.decode(latent, 1, shape, picture));
        Ok(())
    }

    fn picture(&self) -> View<'_> {
        self.output.view()
    }
}

#[test]
fn the_frame_path_waits_for_enough() {
    if runtime().is_none() {
        return;
    }
    let part = ["--exact", "software::every_stream_on_one_schedule", "--ignored"];
    under_schedules(&part, 0..schedules(3));
}

/// Five streams have 243 schedules: the extremes, and all at random.
#[test]
fn the_frame_path_waits_for_enough_where_encoder_and_decoder_have_streams_of_their_own() {
    if runtime().is_none() {
        return;
    }
    let part = ["--exact", "software::every_stream_apart_on_one_schedule", "--ignored"];
    let is_extreme = |schedule: &u32| (0..5).all(|stream| schedule / schedules(stream) % 3 != 1);
    under_schedules(&part, (0..schedules(5)).filter(is_extreme).chain([schedules(5) / 2]));
}

/// Five streams, each as late or as early as can be: any two of them in all four ways, which takes eight schedules of 32.
#[test]
fn a_controlnet_is_waited_for() {
    if runtime().is_none() {
        return;
    }
    let part = ["--exact", "software::a_controlnet_on_one_schedule", "--ignored"];
    let of_stream = |schedule: u32, stream| schedule / schedules(stream) % 3;
    let is_extreme = |schedule: &u32| (0..5).all(|stream| of_stream(*schedule, stream) != 1);
    let is_early = |schedule: u32, stream| of_stream(schedule, stream) == 2;
    let is_chosen = |schedule: &u32| {
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|stream| is_early(*schedule, stream));
        d == (a ^ b) && e == (a ^ c)
    };
    under_schedules(&part, (0..schedules(5)).filter(is_extreme).filter(is_chosen));
}

#[test]
fn the_frame_path_paints_the_same_with_what_nvrtc_makes_of_the_kernels() {
    if runtime().is_none() {
        return;
    }
    // Machine code of cards that NVRTC treats alike comes of one text.
    under_ptx(&["--exact", "software::every_stream_on_one_schedule", "--ignored"], &[89]);
}

#[test]
#[ignore = "a part of the_frame_path_waits_for_enough"]
fn every_stream_on_one_schedule() {
    on_one_schedule(false);
}

#[test]
#[ignore = "a part of the_frame_path_waits_for_enough_where_encoder_and_decoder_have_streams_of_their_own"]
fn every_stream_apart_on_one_schedule() {
    on_one_schedule(true);
}

#[test]
#[ignore = "a part of a_controlnet_is_waited_for"]
fn a_controlnet_on_one_schedule() {
    assert!(std::env::var_os(NEEDS_CARD).is_some(), "it is started by another test");
    let card = Card { cuda: first_card().unwrap(), apart: true, samples: false };
    let mut model = model_on(card, &control_pack()).unwrap();
    let shown = [("t-index", "20,45"), ("cfg", "full"), ("guidance", "1.3"), ("control-scale", "0.8")];
    let events: [Event; 3] = [
        (3, &[("preprocessor", "passthrough"), ("control-scale", "1.5")]),
        (5, &[("preprocessor", "passthrough"), ("show-control", "true")]),
        (7, &[("preprocessor", "gray")]),
    ];
    model.compare("a ControlNet", &shown, &events, 3, false);
}

fn on_one_schedule(apart: bool) {
    assert!(std::env::var_os(NEEDS_CARD).is_some(), "it is started by another test");
    let cuda = first_card().unwrap();
    let before = left().unwrap();
    let card = |samples| Card { cuda: Arc::clone(&cuda), apart, samples };
    let mut model = model_on(card(false), &pack_dir("tiny-sd15")).unwrap();
    let guided = [("cfg", "self"), ("guidance", "1.4"), ("t-index", "32,45"), ("prompt", "oil painting")];
    for lanes in if apart { 3..4 } else { 1..4 } {
        model.compare(&format!("{lanes} at once"), &guided, &[], lanes, false);
    }
    if !apart {
        let full = [("cfg", "full"), ("guidance", "1.4"), ("t-index", "10,20,30,40")];
        model.compare("full guidance", &full, &[], 3, false);
    }
    model.compare("similarity", &[("similarity", "0.9"), ("t-index", "30,45"), ("seed", "3")], &[], 3, false);
    let events: [Event; 3] = [
        (2, &[("prompt", "pencil sketch"), ("t-index", "45")]),
        (4, &[("t-index", "5,15,25,45"), ("cfg", "initialize")]),
        (6, &[("seed", "7"), ("t-index", "5,15,25,45"), ("scheduler", "dpmpp-2m")]),
    ];
    // As a transition between seeds has it: another noise with each frame, in memory that others have just used.
    let seeds: [Event; 7] = [
        (1, &[("seeds", "1:0.9+2:0.1")]),
        (2, &[("seeds", "1:0.7+2:0.3")]),
        (3, &[("seeds", "1:0.5+2:0.5")]),
        (4, &[("seeds", "1:0.3+2:0.7")]),
        (5, &[("seeds", "1:0.1+2:0.9")]),
        (6, &[("seeds", "2:1")]),
        (7, &[("seeds", "2:0.5+3:0.5")]),
    ];
    model.compare("seeds", &[("t-index", "20,45"), ("seed", "1")], &seeds, 3, false);
    let changing = [("cfg", "self"), ("guidance", "1.3"), ("t-index", "20,45"), ("feedback", "0.2")];
    model.compare("changes", &changing, &events, 3, false);
    model.compare("noise", &[("t-index", "16,45"), ("cfg", "self"), ("guidance", "1.4")], &[], 3, true);
    drop(model);
    // With one frame on its way everything is waited for.
    let mut model = model_on(card(true), &pack_dir("tiny-sd15")).unwrap();
    let sampled = [("vae-sample", "true"), ("t-index", "32,45"), ("seed", "5")];
    let one = model.painted(&sampled, 1);
    assert!(
        one == model.painted(&sampled, 3),
        "a posterior is sampled in another way with several frames on their way"
    );
    drop(model);
    let after = left().unwrap();
    assert!(after.done > 1000, "{after:?}");
    // Streams of each of them were as the schedule says, and not of the first alone.
    assert!(after.rounds >= before.rounds + 6, "{after:?}");
    assert_eq!((after.blocks, after.streams, after.events), (before.blocks, before.streams, before.events));
}
