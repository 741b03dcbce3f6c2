//! The frame path of a device, on the host in its place: the kernels' source compiled for it, the networks on the CPU provider
//! over the same memory. Its pictures are those of the engine, bit by bit.

#[path = "../../../kernels/tests/it/host/mod.rs"]
pub(crate) mod host;

use livediffusion_kernels::gpu::{Queue, Queues};
use livediffusion_onnx::LoadedPack;
use livediffusion_pipeline::device::{DeviceEngine, DeviceNetworks, DeviceStream as _, refusal};
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::{Stage, StoppedClock};
use livediffusion_pipeline::{Control, Emitted, Prompts, Settings};

use self::host::Host;
use crate::support::{control_pack, load, pack_dir, runtime};

pub(crate) const SIZE: Size = Size::new(64, 32);

/// A device, and how it runs the networks of a pack.
pub(crate) trait Device {
    type Queue: Queue;
    fn queues(&self) -> Queues<Self::Queue>;
    fn networks(&self, pack: &LoadedPack) -> DeviceNetworks<Self::Queue>;
}

impl Device for Host {
    type Queue = Self;

    fn queues(&self) -> Queues<Self> {
        Queues::one(self)
    }

    fn networks(&self, pack: &LoadedPack) -> DeviceNetworks<Self> {
        pack.shared.on_device(self, SIZE).unwrap()
    }
}

/// A pack and everything that streams of it need.
pub(crate) struct Model<D> {
    loaded: LoadedPack,
    facts: ModelFacts,
    prompts: Prompts,
    device: D,
}

/// On the host in a card's place. `None`, and a printed reason, without ONNX Runtime or a C++ compiler.
fn model(dir: &std::path::Path) -> Option<Model<Host>> {
    model_on(Host::new(2)?, dir)
}

/// `None`, and a printed reason, without ONNX Runtime.
pub(crate) fn model_on<D: Device>(device: D, dir: &std::path::Path) -> Option<Model<D>> {
    let runtime = runtime()?;
    let (pack, loaded) = load(&runtime, dir);
    let facts = ModelFacts {
        vae_factor: pack.vae_factor,
        latent_multiple: pack.latent_multiple,
        latent_channels: pack.latent_channels,
        scheduler: serde_json::from_value(pack.scheduler_json.clone()).unwrap(),
        has_controlnet: pack.unet.control.is_some(),
        most_rows: loaded.shared.most_rows(),
    };
    let prompts = Prompts::new(Box::new(loaded.text.clone()), loaded.networks.denoiser.timestep_cond_width());
    Some(Model { loaded, facts, prompts, device })
}

/// A picture that left: its frame, whether it is the one before again, its bytes.
pub(crate) type Left = (u64, bool, Vec<u8>);

fn left(emitted: Emitted<'_>) -> Vec<Left> {
    emitted.iter().map(|picture| (picture.meta.id, picture.repeated, picture.rgb.to_vec())).collect()
}

/// A frame with a gap between its rows. Frames come in pairs that differ little.
fn frame(id: u64, size: Size) -> (Vec<u8>, usize) {
    let stride = 3 * size.width + 5;
    let value = |at: usize| {
        (at / 40 * 7 + (at % stride) / 9 * 13 + (id / 2) as usize * 29 + usize::from(at % 97 < (id % 2) as usize)) % 256
    };
    ((0..stride * size.height).map(|at| value(at) as u8).collect(), stride)
}

/// What happens to a stream before a frame.
pub(crate) type Event = (u64, &'static [(&'static str, &'static str)]);

impl<D: Device> Model<D> {
    fn settings(&mut self, pairs: &[(&str, &str)]) -> Settings {
        let mut parameters = Parameters::default();
        for (name, value) in pairs {
            parameters.set(name, value).unwrap();
        }
        self.prompts.settings(parameters, SIZE).unwrap()
    }

    /// What leaves the device of nine frames, with `lanes` of them on their way.
    pub(crate) fn painted(&mut self, pairs: &[(&str, &str)], lanes: usize) -> Vec<Left> {
        let control = Control::new(self.settings(pairs));
        let networks = self.device.networks(&self.loaded);
        let of = (self.facts.clone(), SIZE);
        let queues = self.device.queues();
        let mut device = DeviceEngine::new(queues, networks, of, control, lanes, Box::new(StoppedClock)).unwrap();
        let mut all = Vec::new();
        for id in 0..9 {
            let (rgb, stride) = frame(id, SIZE);
            let meta = FrameMeta { id, ..FrameMeta::default() };
            all.extend(left(device.step(meta, PictureView { size: SIZE, stride, rgb: &rgb }).unwrap()));
        }
        all.extend(left(device.flush().unwrap()));
        all
    }

    /// The same frames through the engine and through the device with `lanes` frames on their way; from noise if `generates`.
    pub(crate) fn compare(
        &mut self,
        what: &str,
        pairs: &[(&str, &str)],
        events: &[Event],
        lanes: usize,
        generates: bool,
    ) {
        let settings = self.settings(pairs);
        assert_eq!(refusal(&settings.parameters), None);
        let changes: Vec<(u64, Settings)> = events
            .iter()
            .map(|(at, more)| (*at, self.settings(&pairs.iter().chain(more.iter()).copied().collect::<Vec<_>>())))
            .collect();
        let (ours, theirs) = (Control::new(settings.clone()), Control::new(settings));
        let networks = self.device.networks(&self.loaded);
        let of = (self.facts.clone(), SIZE);
        let mut device =
            DeviceEngine::new(self.device.queues(), networks, of, ours.clone(), lanes, Box::new(StoppedClock)).unwrap();
        let networks = self.loaded.shared.fork();
        let mut engine =
            Engine::new(networks, self.facts.clone(), SIZE, theirs.clone(), Box::new(StoppedClock)).unwrap();
        let (mut have, mut want) = (Vec::new(), Vec::new());
        for id in 0..9 {
            for (_, settings) in changes.iter().filter(|(at, _)| *at == id) {
                ours.store(settings.clone());
                theirs.store(settings.clone());
            }
            let meta = FrameMeta { id, pts_ns: Some(id * 40), duration_ns: None };
            if generates {
                have.extend(left(device.generate(meta).unwrap()));
                want.extend(left(engine.generate(meta).unwrap()));
            } else {
                let (rgb, stride) = frame(id, SIZE);
                let picture = PictureView { size: SIZE, stride, rgb: &rgb };
                have.extend(left(device.step(meta, picture).unwrap()));
                want.extend(left(engine.step(meta, picture).unwrap()));
            }
            if lanes == 1 {
                assert_eq!(have.len(), want.len(), "{what}: the picture of frame {id} is waited for");
            }
        }
        if events.is_empty() && device.stats().frames_skipped == 0 {
            // Nobody waited for a picture that need not be there yet.
            assert_eq!(want.len() - have.len(), lanes - 1, "{what}: pictures on their way when a step returned");
        }
        have.extend(left(device.flush().unwrap()));
        want.extend(left(engine.flush().unwrap()));
        let ids = |all: &[Left]| all.iter().map(|(id, repeated, _)| (*id, *repeated)).collect::<Vec<_>>();
        assert_eq!(ids(&have), ids(&want), "{what}");
        let off = have.iter().zip(&want).find(|(have, want)| have.2 != want.2).map(|(have, want)| {
            let largest = have.2.iter().zip(&want.2).map(|(a, b)| a.abs_diff(*b)).max();
            (have.0, largest)
        });
        assert_eq!(off, None, "{what}: frame, and by how many levels it is off");
        assert!(have.iter().any(|(_, _, rgb)| rgb != &have[0].2), "{what}: one picture for all frames says nothing");
        let (have, want) = (device.stats(), engine.stats());
        let counts = |stats: &livediffusion_pipeline::stats::Stats| {
            (stats.frames_in, stats.frames_out, stats.frames_skipped, stats.frames_failed, stats.unet_rows)
        };
        assert_eq!(counts(have), counts(want), "{what}");
        assert_eq!(have.count(Stage::Denoise), want.count(Stage::Denoise), "{what}");
    }
}

#[test]
fn every_guidance_and_number_of_steps_is_the_engines() {
    let Some(mut model) = model(&pack_dir("tiny-sd15")) else { return };
    for cfg in ["none", "self", "initialize", "full"] {
        for t_index in ["45", "32,45", "10,20,30,40"] {
            let pairs = [("cfg", cfg), ("guidance", "1.4"), ("t-index", t_index), ("prompt", "oil painting")];
            model.compare(&format!("{cfg} {t_index}"), &pairs, &[], 1, false);
        }
    }
}

#[test]
fn solvers_with_a_memory_sequential_denoising_and_frames_on_their_way_change_nothing() {
    let Some(mut model) = model(&pack_dir("tiny-sd15")) else { return };
    let steps = ("t-index", "5,20,35,45");
    for scheduler in ["lcm", "turbo", "ddim", "tcd", "dpmpp-2m", "deis", "ghvb"] {
        model.compare(scheduler, &[("scheduler", scheduler), steps], &[], 3, false);
    }
    model.compare(
        "sequential",
        &[("stream-batch", "false"), ("cfg", "full"), ("guidance", "1.5"), steps],
        &[],
        2,
        false,
    );
    model.compare("without noise", &[("add-noise", "false"), steps], &[], 2, false);
}

#[test]
fn settings_change_between_frames_as_in_the_engine() {
    let Some(mut model) = model(&pack_dir("tiny-sd15")) else { return };
    let pairs = [("cfg", "self"), ("guidance", "1.3"), ("t-index", "20,30,45"), ("prompt", "oil painting")];
    let events: [Event; 5] = [
        (2, &[("prompt", "pencil sketch")]),
        // Fewer steps: frames catch up, and several leave at once.
        (4, &[("t-index", "45")]),
        (5, &[("t-index", "5,15,25,45"), ("cfg", "initialize")]),
        (6, &[("seed", "7"), ("t-index", "5,15,25,45")]),
        (7, &[("cfg", "full"), ("prompt-policy", "all"), ("prompt", "watercolor")]),
    ];
    for lanes in [1, 3] {
        model.compare("changes", &pairs, &events, lanes, false);
    }
}

#[test]
fn the_last_picture_comes_in_again_as_in_the_engine() {
    let Some(mut model) = model(&pack_dir("tiny-sd15-kl")) else { return };
    let pairs = [("cfg", "self"), ("guidance", "1.3"), ("t-index", "20,45"), ("feedback", "0.3")];
    let events: [Event; 4] = [
        (4, &[("feedback", "0.1"), ("t-index", "45")]),
        (5, &[("feedback", "0"), ("similarity", "0.9")]),
        (6, &[("feedback", "0.5"), ("similarity", "0.9")]),
        (8, &[("vae-sample", "true"), ("similarity", "0.9")]),
    ];
    for lanes in [1, 3] {
        model.compare("feedback", &pairs, &events, lanes, false);
    }
    assert!(model.painted(&pairs, 1) != model.painted(&pairs[..3], 1), "it does nothing");
}

#[test]
fn skipped_frames_keep_their_place() {
    let Some(mut model) = model(&pack_dir("tiny-sd15")) else { return };
    for t_index in ["45", "30,45"] {
        for lanes in [1, 2] {
            let pairs = [("similarity", "0.9"), ("t-index", t_index), ("seed", "3")];
            model.compare("similarity", &pairs, &[], lanes, false);
        }
    }
}

#[test]
fn a_kl_vae_is_sampled_alike_and_noise_becomes_pictures() {
    let Some(mut model) = model(&pack_dir("tiny-sd15-kl")) else { return };
    model.compare("mean", &[("t-index", "32,45")], &[], 2, false);
    model.compare("sample", &[("t-index", "32,45"), ("vae-sample", "true")], &[], 2, false);
    model.compare("txt2img", &[("t-index", "0,16,32,45"), ("cfg", "self"), ("guidance", "1.4")], &[], 3, true);
}

#[test]
fn other_families_are_the_engines_too() {
    for name in ["tiny-sdturbo", "tiny-sdxlturbo"] {
        let Some(mut model) = model(&pack_dir(name)) else { return };
        model.compare(name, &[("t-index", "35,45"), ("scheduler", "turbo")], &[], 1, false);
        let guided = [("t-index", "35,45"), ("cfg", "full"), ("guidance", "1.4"), ("negative-prompt", "blurry")];
        model.compare(name, &guided, &[(4, &[("prompt", "a fox")])], 3, false);
    }
}

#[test]
fn a_controlnet_is_shown_what_the_engines_is() {
    let Some(mut model) = model(&control_pack()) else { return };
    let steps = ("t-index", "10,20,45");
    for (lanes, preprocessor) in [(1, "canny"), (2, "gray"), (3, "passthrough")] {
        let pairs =
            [steps, ("preprocessor", preprocessor), ("cfg", "full"), ("guidance", "1.4"), ("similarity", "0.9")];
        let events: [Event; 3] = [
            (3, &[("control-scale", "0.3")]),
            (5, &[("preprocessor", "canny"), ("canny-low", "20"), ("canny-high", "60"), ("show-control", "true")]),
            (7, &[("t-index", "5,15,25,45"), ("control-scale", "2")]),
        ];
        model.compare(preprocessor, &pairs, &events, lanes, false);
    }
    model.compare("noise", &[steps], &[], 2, true);
    let scales = ["0", "1"].map(|scale| model.painted(&[steps, ("control-scale", scale)], 2));
    assert!(scales[0] != scales[1], "the ControlNet does nothing");
}

#[test]
fn the_default_pack_is_the_engines_too() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/default");
    let Some(mut model) = model(&dir) else { return };
    model.compare("default", &[("t-index", "45"), ("prompt", "oil painting")], &[], 3, false);
}
