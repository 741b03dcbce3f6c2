//! Servers that go, come back, or never were there.

use std::sync::Arc;
use std::time::Duration;

use livediffusion_onnx::{ErrorKind, Pack};
use livediffusion_pipeline::model::{DenoiseBatch, Denoiser as _, ModelError};
use livediffusion_remote::{RemoteUnet, Servers};
use tonic::Status;

use crate::server::Server;
use crate::support::{PLAIN, SHAPE, TRITON, answer, connect, folder, latents, predicted, rows, runtime, serve, state};

fn failed(unet: &mut RemoteUnet, pack: &Pack) -> ModelError {
    let (rows, sample) = (rows(pack, 1), latents(1));
    let batch = DenoiseBatch { sample: &sample, shape: SHAPE, rows: &rows };
    unet.denoise(&batch, &mut vec![0.0; sample.len()]).unwrap_err()
}

#[test]
fn a_server_that_starts_anew_costs_no_call() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let (pack, mut unet) = connect("tiny-sd15", &[&server], 60);
    let rows = rows(&pack, 2);
    let before = predicted(&mut unet, &rows);
    let (port, state) = server.stop();
    let caller = std::thread::spawn(move || (predicted(&mut unet, &rows), unet, rows));
    // It is away while somebody asks for it.
    std::thread::park_timeout(Duration::from_millis(600));
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
    let (pack, mut unet) = connect("tiny-sd15", &[&goes, &stays], 60);
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
        std::thread::park_timeout(Duration::from_millis(50));
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
    let mut unet = RemoteUnet::new(servers, &pack).unwrap();
    let later = Server::start_on(port, Arc::new(state(&runtime, "tiny-sdturbo", TRITON)));
    let rows = rows(&pack, 2);
    for _ in 0..20 {
        predicted(&mut unet, &rows);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(later.calls(), [0; 0]);
}

#[test]
fn patience_ends_with_the_reason() {
    let Some(runtime) = runtime() else { return };
    let server = serve(&runtime, "tiny-sd15", TRITON);
    let address = server.address();
    let (pack, mut unet) = connect("tiny-sd15", &[&server], 1);
    server.stop();
    let error = failed(&mut unet, &pack);
    let what = &error.what;
    assert!(what.contains("for 1 s") && what.contains(&address) && what.contains("refused"), "{what}");
    assert!(error.hint.is_some() && !what.contains('\n'));
}

#[test]
fn what_a_server_refuses_is_not_tried_again() {
    let Some(runtime) = runtime() else { return };
    for (status, says) in [
        (Status::internal("CUDA failure 700\n  at node x"), "CUDA failure 700 at node x"),
        (Status::invalid_argument("unexpected shape"), "unexpected shape"),
    ] {
        let server = serve(&runtime, "tiny-sd15", TRITON);
        let (pack, mut unet) = connect("tiny-sd15", &[&server], 60);
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
    let (pack, mut unet) = connect("tiny-sd15", &[&server], 60);
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
    let half = crate::support::How { half: true, ..PLAIN };
    for (said, says) in [
        (answer("out_sample", &sides, &values[1..], PLAIN), "255 values in out_sample where 256 are expected"),
        (answer("other", &sides, &values, PLAIN), "no out_sample"),
        (answer("out_sample", &sides, &values, half), "FP16"),
    ] {
        let server = serve(&runtime, "tiny-sd15", TRITON);
        let (pack, mut unet) = connect("tiny-sd15", &[&server], 60);
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
    let mut unet = RemoteUnet::new(Arc::clone(&servers), &pack).unwrap();
    predicted(&mut unet, &rows(&pack, 1));
    // Three questions, the trial's two calls and this one.
    let tokens = server.state.tokens.lock().unwrap();
    assert_eq!(tokens.iter().collect::<Vec<_>>(), [(&"Bearer s3cret".to_owned(), &6)]);
    assert!(
        !servers.to_string().contains("s3cret")
            && !pack.parts.iter().any(|part| format!("{part:?}").contains("s3cret"))
    );
}
