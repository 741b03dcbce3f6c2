//! Servers that go, come back, or never were there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livediffusion_onnx::{ErrorKind, Pack, Timesteps};
use livediffusion_pipeline::model::{DenoiseBatch, Denoiser as _, ModelError};
use livediffusion_remote::{Patience, RemoteUnet, Servers};
use tonic::Status;

use crate::server::Server;
use crate::support::{
    How, PLAIN, SHAPE, TRITON, answer, connect, connect_with, folder, latents, predicted, rows, runtime, serve, state,
    wait,
};

fn failed(unet: &mut RemoteUnet, pack: &Pack) -> ModelError {
    let (rows, sample) = (rows(pack, 1), latents(1));
    let batch = DenoiseBatch { sample: &sample, shape: SHAPE, rows: &rows };
    unet.denoise(&batch, &mut vec![0.0; sample.len()]).unwrap_err()
}

#[test]
fn a_server_that_starts_anew_costs_no_call() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let (pack, mut unet) = connect("tiny-sd15", &[&server]);
    let rows = rows(&pack, 2);
    let before = predicted(&mut unet, &rows);
    let (port, state) = server.stop();
    let caller = std::thread::spawn(move || (predicted(&mut unet, &rows), unet, rows));
    // It is away while somebody asks for it.
    wait(600);
    assert!(!caller.is_finished());
    let server = Server::start_on(port, state);
    let (after, mut unet, rows) = caller.join().unwrap();
    assert!(after == before);
    // Between two calls, too: the connection that breaks then is made again.
    let (port, state) = server.stop();
    let _server = Server::start_on(port, state);
    assert!(predicted(&mut unet, &rows) == before);
}

#[test]
fn the_others_do_the_work_of_one_that_is_away() {
    let Some(runtime) = runtime() else { return };
    let [stays, goes] = [serve(&runtime, "tiny-sd15", TRITON), serve(&runtime, "tiny-sd15", TRITON)];
    let (pack, mut unet) = connect("tiny-sd15", &[&goes, &stays]);
    let rows = rows(&pack, 4);
    let before = predicted(&mut unet, &rows);
    let (port, state) = goes.stop();
    for _ in 0..3 {
        let after = predicted(&mut unet, &rows);
        let most = after.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 1e-5, "off by {most}");
    }
    // It is noticed when it is back.
    let back = Server::start_on(port, state);
    let calls = back.calls().len();
    for _ in 0..200 {
        predicted(&mut unet, &rows);
        if back.calls().len() > calls {
            return;
        }
        wait(50);
    }
    panic!("it is never asked again");
}

#[test]
fn one_that_comes_later_must_have_the_same_model() {
    let Some(runtime) = runtime() else { return };
    let first = serve(&runtime, "tiny-sd15", TRITON);
    // Its port is known, and nobody is there.
    let (port, _) = serve(&runtime, "tiny-sdturbo", TRITON).stop();
    let addresses = [first.address().parse().unwrap(), format!("grpc://127.0.0.1:{port}").parse().unwrap()];
    let servers = Arc::new(Servers::connect(&addresses).unwrap());
    let pack = Pack::open_with(&folder("tiny-sd15"), Some(&servers.unet())).unwrap();
    let mut unet = RemoteUnet::new(servers, &pack, None).unwrap();
    let later = Server::start_on(port, Arc::new(state(&runtime, "tiny-sdturbo", TRITON)));
    let rows = rows(&pack, 2);
    for _ in 0..3000 {
        if later.state.questions.load(Ordering::Relaxed) > 0 {
            break;
        }
        wait(10);
    }
    assert!(later.state.questions.load(Ordering::Relaxed) > 0, "it is never asked");
    for _ in 0..5 {
        predicted(&mut unet, &rows);
        wait(20);
    }
    assert_eq!(later.calls(), [0; 0]);
}

#[test]
fn patience_ends_with_the_reason() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let address = server.address();
    let patience = Patience { all: Duration::from_secs(1), ..Patience::default() };
    let (_servers, pack, mut unet) = connect_with("tiny-sd15", &[&server], patience);
    server.stop();
    let error = failed(&mut unet, &pack);
    let what = &error.what;
    assert!(what.contains("for 1 s") && what.contains(&address) && what.contains("refused"), "{what}");
    assert!(error.hint.is_some() && !what.contains('\n'));
}

#[test]
fn nobody_waits_once_it_is_given_up() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let (servers, pack, mut unet) = connect_with("tiny-sd15", &[&server], Patience::default());
    server.stop();
    let stop = Arc::new(AtomicBool::new(false));
    servers.give_up_at(Arc::clone(&stop));
    let waits = std::thread::spawn(move || failed(&mut unet, &pack));
    wait(300);
    assert!(!waits.is_finished());
    stop.store(true, Ordering::Relaxed);
    // At once, where there is patience for a minute.
    assert!(waits.join().unwrap().what.contains("given up"));
}

#[test]
fn one_that_says_nothing_is_left_for_another() {
    let Some(runtime) = runtime() else { return };
    let [answers, hangs] = [serve(&runtime, "tiny-sd15", TRITON), serve(&runtime, "tiny-sd15", TRITON)];
    let patience = Patience { call: Duration::from_millis(500), ..Patience::default() };
    let (servers, pack, mut unet) = connect_with("tiny-sd15", &[&answers, &hangs], patience);
    let rows = rows(&pack, 2);
    let before = predicted(&mut unet, &rows);
    *hangs.state.model.lock().unwrap() = Box::new(|_| {
        loop {
            std::thread::park();
        }
    });
    let after = predicted(&mut unet, &rows);
    let most = after.iter().zip(&before).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "off by {most}");
    assert_eq!(servers.away(), [hangs.address()]);
    // Frames do not wait for it any more.
    let asked = hangs.calls().len();
    predicted(&mut unet, &rows);
    assert_eq!((hangs.calls().len(), servers.away().len()), (asked, 1));
}

#[test]
fn what_some_have_holds_for_all() {
    let Some(runtime) = runtime() else { return };
    // One takes fewer rows in a call.
    let [many, few] =
        [serve(&runtime, "tiny-sd15", TRITON), serve(&runtime, "tiny-sd15", How { most_rows: Some(2), ..TRITON })];
    let (pack, mut unet) = connect("tiny-sd15", &[&many, &few]);
    predicted(&mut unet, &rows(&pack, 8));
    assert!(many.calls().iter().chain(&few.calls()).all(|&rows| rows <= 2));
    // One has the first row's time for all of them.
    let shared = serve(&runtime, "tiny-sd15", TRITON);
    let mut model =
        std::mem::replace(&mut *shared.state.model.lock().unwrap(), Box::new(|_| Err(Status::internal(""))));
    *shared.state.model.lock().unwrap() = Box::new(move |ask| {
        let mut ask = ask.clone();
        let (at, rows) = (1, ask.inputs[0].shape[0] as usize);
        let first = ask.raw_input_contents[at].slice(..ask.raw_input_contents[at].len() / rows);
        ask.raw_input_contents[at] = first.repeat(rows).into();
        model(&ask)
    });
    let (pack, mut unet) = connect("tiny-sd15", &[&many, &shared]);
    assert_eq!(unet.timesteps(), Timesteps::SlotBySlot);
    let (_, mut whole) = connect("tiny-sd15", &[&many]);
    let rows = rows(&pack, 3);
    let (have, want) = (predicted(&mut unet, &rows), predicted(&mut whole, &rows));
    let most = have.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(most < 1e-5, "off by {most}");
}

#[test]
fn some_may_come_later() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let ports = [0; 2].map(|_| serve(&runtime, "tiny-sd15", TRITON).stop().0);
    let addresses: Vec<_> = [ports[0], server.port, ports[1]]
        .iter()
        .map(|port| format!("grpc://127.0.0.1:{port}").parse().unwrap())
        .collect();
    let servers = Servers::connect(&addresses).unwrap();
    assert_eq!(servers.away(), [addresses[0].to_string(), addresses[2].to_string()]);
    let later = Server::start_on(ports[1], Arc::new(state(&runtime, "tiny-sd15", TRITON)));
    for _ in 0..1000 {
        if servers.away() == [addresses[0].to_string()] {
            return drop(later);
        }
        wait(10);
    }
    panic!("it is not noticed: {:?}", servers.away());
}

#[test]
fn they_may_be_asked_and_dropped_where_async_code_runs() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let address = server.address().parse().unwrap();
    let nobody = format!("grpc://127.0.0.1:{}", serve(&runtime, "tiny-sd15", TRITON).stop().0).parse().unwrap();
    let outer = tokio::runtime::Builder::new_current_thread().build().unwrap();
    outer.block_on(async {
        let servers = Servers::connect(&[address]).unwrap();
        assert!(servers.away().is_empty());
        drop(servers);
        assert!(Servers::connect(&[nobody]).is_err());
    });
}

#[test]
fn what_a_server_refuses_is_not_tried_again() {
    let Some(runtime) = runtime() else { return };
    for (status, says) in [
        (Status::internal("CUDA failure 700\n  at node x"), "CUDA failure 700 at node x"),
        (Status::invalid_argument("unexpected shape"), "unexpected shape"),
    ] {
        let server = serve(&runtime, "tiny-sd15", TRITON);
        let (pack, mut unet) = connect("tiny-sd15", &[&server]);
        *server.state.model.lock().unwrap() = Box::new(move |_| Err(status.clone()));
        let before = server.calls().len();
        let error = failed(&mut unet, &pack);
        assert!(error.what.contains(says) && error.what.contains(&server.address()), "{error}");
        assert_eq!(server.calls().len(), before + 1);
    }
}

#[test]
fn a_busy_server_is_asked_again() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let (pack, mut unet) = connect("tiny-sd15", &[&server]);
    let rows = rows(&pack, 1);
    let before = predicted(&mut unet, &rows);
    let mut model = std::mem::replace(
        &mut *server.state.model.lock().unwrap(),
        Box::new(|_| Err(Status::resource_exhausted("Exceeds maximum queue size"))),
    );
    let mut refusals = 2;
    *server.state.model.lock().unwrap() = Box::new(move |ask| {
        if refusals > 0 {
            refusals -= 1;
            return Err(Status::resource_exhausted("Exceeds maximum queue size"));
        }
        model(ask)
    });
    assert!(predicted(&mut unet, &rows) == before);
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    let Some(runtime) = runtime() else { return };
    let sides = [1, 4, 8, 8];
    let values = vec![0.5; SHAPE.len()];
    let half = How { half: true, ..PLAIN };
    for (said, says) in [
        (answer("out_sample", &sides, &values[1..], PLAIN), "255 values in out_sample where 256 are expected"),
        (answer("other", &sides, &values, PLAIN), "no out_sample"),
        (answer("out_sample", &sides, &values, half), "FP16"),
    ] {
        let server = serve(&runtime, "tiny-sd15", TRITON);
        let (pack, mut unet) = connect("tiny-sd15", &[&server]);
        *server.state.model.lock().unwrap() = Box::new(move |_| Ok(said.clone()));
        let error = failed(&mut unet, &pack);
        assert!(error.what.contains(says), "{says}: {error}");
    }
}

#[test]
fn a_server_that_never_was_there_is_an_error_at_the_start() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let connect = |address: &str| Servers::connect(&[address.parse().unwrap()]).err();
    let unknown = connect(&format!("grpc://127.0.0.1:{}/other", server.port)).unwrap();
    assert!(unknown.what.contains("unknown model: 'other'") && unknown.hint.unwrap().contains("MODEL"));
    assert_eq!(unknown.kind, ErrorKind::Invalid);
    let (port, _) = server.stop();
    let nobody = connect(&format!("grpc://127.0.0.1:{port}")).unwrap();
    assert!(nobody.what.contains("refused") && nobody.hint.is_some(), "{nobody}");
    assert_eq!(nobody.kind, ErrorKind::Missing);
    // Another protocol's server.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::Write as _;
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let other = connect(&format!("grpc://127.0.0.1:{port}")).unwrap();
    assert!(!other.what.contains('\n') && other.hint.is_some(), "{other}");
}

#[test]
fn a_token_goes_with_every_call_and_nowhere_else() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let address = format!("grpc://s3cret@127.0.0.1:{}", server.port);
    let servers = Arc::new(Servers::connect(&[address.parse().unwrap()]).unwrap());
    let pack = Pack::open_with(&folder("tiny-sd15"), Some(&servers.unet())).unwrap();
    let mut unet = RemoteUnet::new(Arc::clone(&servers), &pack, None).unwrap();
    predicted(&mut unet, &rows(&pack, 1));
    // Three questions, the trial's two calls and this one.
    let tokens = server.state.tokens.lock().unwrap();
    assert_eq!(tokens.iter().collect::<Vec<_>>(), [(&"Bearer s3cret".to_owned(), &6)]);
    assert!(
        !servers.to_string().contains("s3cret")
            && !pack.parts.iter().any(|part| format!("{part:?}").contains("s3cret"))
    );
}
