//! What servers are given, and what their answers become.

use livediffusion_onnx::{Pack, Timesteps, load_networks};
use livediffusion_pipeline::model::Denoiser as _;
use livediffusion_remote::{RemoteUnet, Servers};

use crate::server::{Server, State};
use crate::support::{How, PLAIN, SHAPE, TRITON, connect, folder, predicted, rows, runtime, serve, settings, state};

#[test]
fn predictions_are_those_of_the_same_network_here() {
    let Some(runtime) = runtime() else { return };
    let typed = How { typed: true, ..PLAIN };
    for (name, how) in [
        ("tiny-sd15", PLAIN),
        ("tiny-sd15", TRITON),
        ("tiny-sd15", typed),
        ("tiny-sdturbo", TRITON),
        ("tiny-sdxlturbo", TRITON),
        ("control", TRITON),
    ] {
        let server = serve(&runtime, name, how);
        let (pack, mut unet) = connect(name, &[&server]);
        assert_eq!((unet.timesteps(), unet.takes_control()), (Timesteps::PerRow, name == "control"));
        let own = Pack::open(folder(name)).unwrap();
        let mut here = load_networks(&runtime, &own, &settings()).unwrap();
        let rows = rows(&pack, 3);
        let (there, here) = (predicted(&mut unet, &rows), predicted(&mut *here.networks.denoiser, &rows));
        assert!(there == here, "{name} {how:?}: other predictions");
        // Rows of their own: another order is another answer.
        let other = predicted(&mut unet.fork(), &[rows[1].clone(), rows[0].clone(), rows[2].clone()]);
        assert!(other[..SHAPE.len()] != there[..SHAPE.len()], "{name}");
        // The trial's two and one, and these.
        assert_eq!(server.calls(), [2, 1, 3, 3]);
    }
}

#[test]
fn in_f16_they_are_rounded_once() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", How { half: true, ..TRITON });
    let (pack, mut unet) = connect("tiny-sd15", &[&server]);
    let mut here = load_networks(&runtime, &Pack::open(folder("tiny-sd15")).unwrap(), &settings()).unwrap();
    let rows = rows(&pack, 2);
    let (there, here) = (predicted(&mut unet, &rows), predicted(&mut *here.networks.denoiser, &rows));
    // Inputs were taken from f16's numbers: what differs is the answer's last bit.
    let rounded: Vec<f32> = here.iter().map(|&value| half::f16::from_f32(value).to_f32()).collect();
    assert!(there == rounded);
}

#[test]
fn rows_that_are_too_many_for_a_call_are_several() {
    let Some(runtime) = runtime() else { return };
    let whole = serve(&runtime, "tiny-sd15", PLAIN);
    let parts = serve(&runtime, "tiny-sd15", How { most_rows: Some(2), ..TRITON });
    let (pack, mut unet) = connect("tiny-sd15", &[&whole]);
    let (_, mut split) = connect("tiny-sd15", &[&parts]);
    let rows = rows(&pack, 5);
    let (one, several) = (predicted(&mut unet, &rows), predicted(&mut split, &rows));
    let most = one.iter().zip(&several).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "off by {most}");
    // They are under way at once, and come in any order.
    let mut calls = parts.calls()[2..].to_vec();
    calls.sort_unstable();
    assert_eq!(calls, [1, 2, 2]);
}

#[test]
fn several_servers_share_the_rows_of_a_call() {
    let Some(runtime) = runtime() else { return };
    let servers = [serve(&runtime, "tiny-sd15", TRITON), serve(&runtime, "tiny-sd15", TRITON)];
    let (pack, mut unet) = connect("tiny-sd15", &[&servers[0], &servers[1]]);
    let (_, mut alone) = connect("tiny-sd15", &[&servers[0]]);
    let before: Vec<usize> = servers.iter().map(|server| server.calls().len()).collect();
    let rows = rows(&pack, 4);
    let shared = predicted(&mut unet, &rows);
    for (server, before) in servers.iter().zip(before) {
        assert_eq!(server.calls()[before..], [2]);
    }
    let whole = predicted(&mut alone, &rows);
    let most = whole.iter().zip(&shared).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "off by {most}");
}

#[test]
fn a_time_step_for_all_rows_makes_each_a_call() {
    let Some(runtime) = runtime() else { return };
    let mut state = state(&runtime, "tiny-sd15", PLAIN);
    for tensor in &mut state.metadata.inputs {
        if tensor.name == "timestep" {
            tensor.shape = vec![1];
        }
    }
    let server = Server::start(state);
    let (pack, mut unet) = connect("tiny-sd15", &[&server]);
    assert_eq!(unet.timesteps(), Timesteps::SlotBySlot);
    let mut here = load_networks(&runtime, &Pack::open(folder("tiny-sd15")).unwrap(), &settings()).unwrap();
    let rows = rows(&pack, 3);
    let (there, here) = (predicted(&mut unet, &rows), predicted(&mut *here.networks.denoiser, &rows));
    let most = there.iter().zip(&here).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "off by {most}");
    assert_eq!(server.calls(), [1, 1, 1]);
}

/// What a test does to a server's model.
type Change = fn(&mut State);

#[test]
fn what_a_model_lacks_is_said_before_a_frame() {
    let Some(runtime) = runtime() else { return };
    let with = |change: Change| {
        let mut state = state(&runtime, "tiny-sd15", PLAIN);
        change(&mut state);
        Server::start(state)
    };
    let error = |server: &Server| {
        let servers = std::sync::Arc::new(Servers::connect(&[server.address().parse().unwrap()]).unwrap());
        match Pack::open_with(&folder("tiny-sd15"), Some(&servers.unet())) {
            Err(error) => error.what,
            Ok(pack) => RemoteUnet::new(servers, &pack, None).err().unwrap().what,
        }
    };
    let cases: [(Change, &str); 4] = [
        (|state| drop(state.metadata.inputs.remove(1)), "no input timestep"),
        (|state| state.metadata.inputs[0].shape = vec![-1, 9, 8, 8], "channels"),
        (|state| state.metadata.inputs[2].datatype = "BYTES".into(), "encoder_hidden_states is of type BYTES"),
        (|state| state.metadata.outputs.clear(), "no output"),
    ];
    for (change, what) in cases {
        let server = with(change);
        let said = error(&server);
        assert!(said.contains(what) && said.contains(&server.address()), "{what}: {said}");
    }
}
