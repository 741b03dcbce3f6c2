//! Whole streams: pictures are those of the same networks here.

use livediffusion_onnx::{
    Elsewhere, LoadedPack, Pack, Provider, Runtime, choose_provider, load_networks, load_networks_with,
};
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_pipeline::{Control, Prompts};

use crate::support::{TRITON, connect, folder, runtime, serve, settings};

const SIZE: Size = Size::new(64, 64);

fn pictures(pack: &Pack, loaded: &LoadedPack, parameters: &Parameters) -> Vec<Vec<u8>> {
    let mut prompts = Prompts::new(Box::new(loaded.text.clone()), loaded.networks.denoiser.timestep_cond_width());
    let facts = ModelFacts {
        vae_factor: pack.vae_factor,
        latent_multiple: pack.latent_multiple,
        latent_channels: pack.latent_channels,
        scheduler: serde_json::from_value(pack.scheduler_json.clone()).unwrap(),
        has_controlnet: pack.unet.control.is_some(),
        most_rows: loaded.shared.most_rows(),
    };
    let control = Control::new(prompts.settings(parameters.clone(), SIZE).unwrap());
    let mut engine =
        Engine::new(loaded.shared.fork(), facts, SIZE, control, Box::new(MonotonicClock::start())).unwrap();
    let mut painted = Vec::new();
    for id in 0..6 {
        let rgb: Vec<u8> =
            (0..3 * SIZE.pixels() as u64).map(|at| ((at * 7 + at / 97 * 31 + id * 53) % 256) as u8).collect();
        let emitted = engine.step(FrameMeta { id, ..FrameMeta::default() }, PictureView::packed(SIZE, &rgb)).unwrap();
        painted.extend(emitted.iter().map(|picture| picture.rgb.to_vec()));
    }
    painted.extend(engine.flush().unwrap().iter().map(|picture| picture.rgb.to_vec()));
    painted
}

fn loaded(runtime: &Runtime, pack: &Pack, elsewhere: Option<Elsewhere>) -> LoadedPack {
    let chosen = choose_provider(runtime, &settings()).unwrap();
    assert_eq!(chosen.provider, Provider::Cpu);
    load_networks_with(runtime, pack, chosen, &settings(), elsewhere).unwrap()
}

#[test]
fn pictures_of_every_mode_are_those_of_the_network_here() {
    let Some(runtime) = runtime() else { return };
    for name in ["tiny-sd15", "tiny-sdxlturbo", "control"] {
        let server = serve(&runtime, name, TRITON);
        let own = Pack::open(folder(name)).unwrap();
        let of_here = load_networks(&runtime, &own, &settings()).unwrap();
        let (pack, unet) = connect(name, &[&server]);
        let timesteps = unet.timesteps();
        let elsewhere = Elsewhere { make: Box::new(move || Box::new(unet.fork())), timesteps };
        let of_there = loaded(&runtime, &pack, Some(elsewhere));
        for texts in [
            &[("prompt", "a fox"), ("t-index", "45")][..],
            &[("prompt", "a fox"), ("t-index", "20,32,45"), ("cfg", "self"), ("guidance", "1.4")],
            &[
                ("prompt", "a fox"),
                ("t-index", "32,45"),
                ("cfg", "full"),
                ("guidance", "1.4"),
                ("negative-prompt", "blurry"),
            ],
            &[("prompt", "a fox"), ("t-index", "32,45"), ("cfg", "initialize"), ("guidance", "1.4")],
            &[("prompt", "a fox"), ("t-index", "32,45"), ("stream-batch", "false")],
        ] {
            let mut parameters = Parameters { size: Some(SIZE), ..Parameters::default() };
            for (name, text) in texts {
                parameters.set(name, text).unwrap();
            }
            let here = pictures(&own, &of_here, &parameters);
            let there = pictures(&pack, &of_there, &parameters);
            assert_eq!(here.len(), 6);
            assert!(here == there, "{name} {texts:?}: other pictures");
        }
    }
}

#[test]
fn a_pack_needs_no_u_net_of_its_own() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let copy = tempfile::tempdir().unwrap();
    for part in ["model_index.json", "scheduler", "text_encoder", "tokenizer", "vae_decoder", "vae_encoder"] {
        std::os::unix::fs::symlink(folder("tiny-sd15").join(part), copy.path().join(part)).unwrap();
    }
    assert!(Pack::open(copy.path()).is_err());
    let (_, unet) = connect("tiny-sd15", &[&server]);
    let servers = livediffusion_remote::Servers::connect(&[server.address().parse().unwrap()]).unwrap();
    let pack = Pack::open_with(copy.path(), Some(&servers.unet())).unwrap();
    let timesteps = unet.timesteps();
    let elsewhere = Elsewhere { make: Box::new(move || Box::new(unet.fork())), timesteps };
    let parameters = Parameters { size: Some(SIZE), ..Parameters::default() };
    let there = pictures(&pack, &loaded(&runtime, &pack, Some(elsewhere)), &parameters);
    let own = Pack::open(folder("tiny-sd15")).unwrap();
    let here = pictures(&own, &load_networks(&runtime, &own, &settings()).unwrap(), &parameters);
    assert!(here == there);
}
