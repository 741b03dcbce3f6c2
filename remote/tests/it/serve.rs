//! The own server: streams through it, calls that are none, and who may ask.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use livediffusion_onnx::{Pack, Runtime, Timesteps, choose_provider, load_networks, load_unet};
use livediffusion_pipeline::batching::BatchCounts;
use livediffusion_remote::proto::{
    ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelReadyResponse,
    ModelRequest, ServerLiveResponse, ServerReadyResponse, ServerRequest, TensorMetadata, path,
};
use livediffusion_remote::serve::{Offer, Stop, UnetServer};
use livediffusion_remote::{RemoteUnet, Servers};
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::support::{folder, predicted, rows, runtime, settings};

struct Running {
    address: String,
    stop: Stop,
    thread: JoinHandle<BatchCounts>,
}

impl Running {
    fn end(self) -> BatchCounts {
        self.stop.stop();
        self.thread.join().unwrap()
    }
}

fn offer(runtime: &Runtime, name: &str) -> Offer {
    let pack = Pack::open(folder(name)).unwrap();
    let loaded = load_unet(runtime, &pack, choose_provider(runtime, &settings()).unwrap(), &settings()).unwrap();
    Offer {
        name: "unet".into(),
        unet: loaded.unet,
        pack,
        runs_on: "cpu f32".into(),
        profile: loaded.profile,
        most_rows: 8,
        most_side: 128,
        token: None,
    }
}

fn start(offer: Offer) -> Running {
    let server = UnetServer::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None).unwrap();
    let (address, stop) = (format!("grpc://{}", server.local_addr()), server.stopper());
    Running { address, stop, thread: std::thread::spawn(|| server.serve(offer).unwrap()) }
}

fn connect(name: &str, address: &str) -> (Pack, RemoteUnet) {
    let servers = Arc::new(Servers::connect(&[address.parse().unwrap()]).unwrap());
    let pack = Pack::open_with(&folder(name), Some(&servers.unet())).unwrap();
    let unet = RemoteUnet::new(servers, &pack, None).unwrap();
    (pack, unet)
}

#[test]
fn predictions_are_those_of_the_network_behind_it() {
    let Some(runtime) = runtime() else { return };
    for name in ["tiny-sd15", "tiny-sdturbo", "tiny-sdxlturbo", "control"] {
        let running = start(offer(&runtime, name));
        let (pack, mut unet) = connect(name, &running.address);
        assert_eq!(unet.timesteps(), Timesteps::PerRow);
        let mut here = load_networks(&runtime, &Pack::open(folder(name)).unwrap(), &settings()).unwrap();
        let rows = rows(&pack, 3);
        assert!(predicted(&mut unet, &rows) == predicted(&mut *here.networks.denoiser, &rows), "{name}");
        // The trial's two calls and this one.
        let counts = running.end();
        assert_eq!((counts.requests, counts.rows), (3, 6));
    }
}

#[test]
fn clients_at_once_get_each_their_own() {
    let Some(runtime) = runtime() else { return };
    let running = start(offer(&runtime, "tiny-sd15"));
    let (pack, mut unet) = connect("tiny-sd15", &running.address);
    let all = rows(&pack, 4);
    let alone: Vec<Vec<f32>> = all.chunks(1).map(|row| predicted(&mut unet, row)).collect();
    std::thread::scope(|scope| {
        for (row, alone) in all.chunks(1).zip(&alone) {
            let address = &running.address;
            scope.spawn(move || {
                let (_, mut unet) = connect("tiny-sd15", address);
                for _ in 0..10 {
                    let have = predicted(&mut unet, row);
                    let most = have.iter().zip(alone).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(most < 1e-5, "off by {most}");
                }
            });
        }
    });
    let counts = running.end();
    // Of each client the trial's two calls, and of all the rows that they had.
    assert_eq!((counts.requests, counts.rows), (2 + 4 + 4 * 12, 3 + 4 + 4 * 13));
}

/// Asks as whoever may.
struct Client {
    runtime: tokio::runtime::Runtime,
    channel: tonic::transport::Channel,
}

impl Client {
    fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let uri = address.replace("grpc://", "http://");
        let endpoint = tonic::transport::Endpoint::from_shared(uri).unwrap();
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self { runtime, channel }
    }

    fn ask<Ask, Said>(&self, path: &'static str, ask: Ask) -> Result<Said, Status>
    where
        Ask: prost::Message + Send + Sync + 'static,
        Said: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            grpc.ready().await.unwrap();
            let codec = ProstCodec::<Ask, Said>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            grpc.unary(tonic::Request::new(ask), path, codec).await.map(tonic::Response::into_inner)
        })
    }

    fn infer(&self, ask: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        self.ask(path::MODEL_INFER, ask)
    }
}

/// A call that is answered.
fn call(pack: &Pack) -> ModelInferRequest {
    let tensor = |name: &str, datatype: &str, shape: &[i64]| TensorMetadata {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
    };
    let (length, width) = (pack.prompt_length, pack.prompt_width);
    ModelInferRequest {
        model_name: "unet".into(),
        id: "7".into(),
        inputs: vec![
            tensor("sample", "FP32", &[1, 4, 8, 8]),
            tensor("timestep", "INT64", &[1, 1]),
            tensor("encoder_hidden_states", "FP16", &[1, length as i64, width as i64]),
        ],
        raw_input_contents: vec![
            vec![0; 4 * 256].into(),
            999i64.to_le_bytes().to_vec().into(),
            vec![0; 2 * length * width].into(),
        ],
        ..ModelInferRequest::default()
    }
}

#[test]
fn it_says_what_it_is() {
    let Some(runtime) = runtime() else { return };
    let running = start(offer(&runtime, "tiny-sd15"));
    let client = Client::new(&running.address);
    let live: ServerLiveResponse = client.ask(path::SERVER_LIVE, ServerRequest {}).unwrap();
    let ready: ServerReadyResponse = client.ask(path::SERVER_READY, ServerRequest {}).unwrap();
    let model = |name: &str| ModelRequest { name: name.into(), version: String::new() };
    let has: ModelReadyResponse = client.ask(path::MODEL_READY, model("unet")).unwrap();
    let has_not: ModelReadyResponse = client.ask(path::MODEL_READY, model("other")).unwrap();
    assert_eq!([live.live, ready.ready, has.ready, has_not.ready], [true, true, true, false]);
    let metadata: ModelMetadataResponse = client.ask(path::MODEL_METADATA, model("unet")).unwrap();
    let described: Vec<_> =
        metadata.inputs.iter().map(|t| (t.name.as_str(), t.datatype.as_str(), t.shape.clone())).collect();
    assert_eq!(described[..2], [("sample", "FP32", vec![-1, 4, -1, -1]), ("timestep", "FP32", vec![-1])]);
    assert_eq!(metadata.platform, "cpu f32");
    let config: ModelConfigResponse = client.ask(path::MODEL_CONFIG, model("unet")).unwrap();
    assert_eq!(config.config.unwrap().max_batch_size, 8);
    let unknown: Result<ModelMetadataResponse, _> = client.ask(path::MODEL_METADATA, model("other"));
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let nothing: Result<ServerLiveResponse, _> = client.ask("/inference.GRPCInferenceService/Other", ServerRequest {});
    assert_eq!(nothing.unwrap_err().code(), Code::Unimplemented);
    drop(client);
    running.end();
}

/// What a test does to a call.
type Change = fn(&mut ModelInferRequest);

#[test]
fn what_is_no_call_is_refused_and_the_next_one_answered() {
    let Some(runtime) = runtime() else { return };
    let running = start(offer(&runtime, "tiny-sd15"));
    let client = Client::new(&running.address);
    let pack = Pack::open(folder("tiny-sd15")).unwrap();
    let good = call(&pack);
    let answer = client.infer(good.clone()).unwrap();
    assert_eq!((answer.id.as_str(), answer.raw_output_contents[0].len()), ("7", 4 * 256));
    let changes: [(Change, &str); 17] = [
        (|ask| ask.inputs.clear(), "missing inference input 'sample'"),
        (|ask| drop(ask.inputs.remove(1)), "missing inference input 'timestep'"),
        (|ask| ask.inputs[0].name = "other".into(), "unexpected inference input 'other'"),
        (|ask| ask.raw_input_contents.clear(), "no values"),
        (|ask| ask.raw_input_contents.truncate(2), "no values"),
        (|ask| ask.raw_input_contents[0].truncate(4 * 255), "1020 bytes"),
        (|ask| ask.raw_input_contents[0].truncate(4 * 256 - 1), "1023 bytes"),
        (|ask| ask.inputs[0].datatype = "FP64".into(), "FP64"),
        (|ask| ask.inputs[0].shape = vec![1, 256], "needs four"),
        (|ask| ask.inputs[0].shape = vec![-1, 4, 8, 8], "-1"),
        (|ask| ask.inputs[0].shape = vec![i64::MAX, i64::MAX, 8, 8], "bytes are not"),
        (|ask| ask.inputs[0].shape = vec![1, 8, 8, 4], "8 channels"),
        (|ask| ask.inputs[0].shape = vec![1, 4, 1, 64], "1x64"),
        (|ask| ask.inputs[0].shape = vec![0, 4, 8, 8], "bytes are not"),
        (|ask| ask.inputs[1].shape = vec![1, 1, 1], "needs [1]"),
        (|ask| ask.inputs[2].shape.swap(1, 2), "encoder_hidden_states"),
        (
            |ask| {
                ask.inputs[0].shape = vec![9, 4, 8, 8];
                ask.raw_input_contents[0] = vec![0; 9 * 4 * 256].into();
            },
            "<= 8",
        ),
    ];
    for (change, says) in changes {
        let mut ask = good.clone();
        change(&mut ask);
        let status = client.infer(ask).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert!(status.message().contains(says), "{says}: {}", status.message());
    }
    // No latents of 1024 a side were asked for: they are not even read.
    let mut large = good.clone();
    large.raw_input_contents[0] = vec![0; 64 << 20].into();
    assert!(client.infer(large).is_err());
    let mut large = good.clone();
    (large.inputs[0].shape, large.raw_input_contents[0]) = (vec![1, 4, 24, 24], vec![0; 4 * 4 * 24 * 24].into());
    assert!(client.infer(large).unwrap_err().message().contains("up to 16"));
    let mut other = good.clone();
    other.model_name = "other".into();
    assert_eq!(client.infer(other).unwrap_err().code(), Code::NotFound);
    assert!(client.infer(good).unwrap() == answer);
    drop(client);
    running.end();
}

#[test]
fn whoever_does_not_know_the_token_learns_nothing() {
    let Some(runtime) = runtime() else { return };
    let running = start(Offer { token: Some("s3cret".into()), ..offer(&runtime, "tiny-sd15") });
    let host = running.address.strip_prefix("grpc://").unwrap();
    for before in ["", "other@", "s3cre@", "s3crets@"] {
        let error = Servers::connect(&[format!("grpc://{before}{host}").parse().unwrap()]).err().unwrap();
        assert!(error.what.contains("token") && error.hint.unwrap().contains("TOKEN@HOST"), "{before}");
    }
    let (pack, mut unet) = connect("tiny-sd15", &format!("grpc://s3cret@{host}"));
    predicted(&mut unet, &rows(&pack, 1));
    running.end();
}

#[test]
fn connections_that_say_nothing_keep_nobody_away() {
    let Some(runtime) = runtime() else { return };
    let running = start(offer(&runtime, "tiny-sd15"));
    let host = running.address.strip_prefix("grpc://").unwrap();
    // More than there may be; some have begun to say something.
    let silent: Vec<TcpStream> = (0..200)
        .map(|index| {
            let mut stream = TcpStream::connect(host).unwrap();
            stream.write_all(&b"PRI * HTTP/2.0"[..index % 14]).unwrap();
            stream
        })
        .collect();
    // Their time is up sooner than that of whoever asks; on a machine that is busy perhaps only the next time.
    let address = running.address.parse().unwrap();
    let found = (0..5).find_map(|_| Servers::connect(std::slice::from_ref(&address)).ok()).unwrap();
    assert!(found.away().is_empty());
    drop(silent);
    running.end();
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = UnetServer::bind(address, None).err().unwrap();
    assert!(error.what.contains(&address.to_string()) && error.hint.is_some(), "{error}");
}
