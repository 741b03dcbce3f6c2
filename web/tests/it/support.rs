//! A server on closed-form networks, and visitors of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use livediffusion_pipeline::engine::{Engine, ModelFacts};
use livediffusion_pipeline::fake::{self, LengthText, PointwiseDenoiser};
use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::{Branch, DenoiseBatch, Denoiser, ModelError, SharedText};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::params::Parameters;
use livediffusion_pipeline::stats::MonotonicClock;
use livediffusion_web::message::{HEADER, Header, Kind, Values};
use livediffusion_web::{Address, Preset, Server, Studio};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub(crate) const FACTOR: usize = 4;
pub(crate) const SIZE: Size = Size::new(32, 16);

/// Longest side that visitors may ask for.
pub(crate) const MAX_SIDE: usize = 64;

/// The longest that anything is waited for: a test that gets here has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

fn facts() -> ModelFacts {
    fake::facts(FACTOR)
}

/// Brighter with a longer prompt.
fn unet(x: f32, _: f32, _: usize, _: Branch, prompt: f32) -> f32 {
    0.2 * x - 0.05 * prompt
}

/// Microseconds that a U-Net call takes longer than its arithmetic.
static CALL_US: AtomicU64 = AtomicU64::new(0);

/// Lets every U-Net call take this long from now on: as a network does that is not a closed form.
#[allow(dead_code, reason = "the measurement beside the tests uses it")]
pub(crate) fn slow_down(call: Duration) {
    CALL_US.store(u64::try_from(call.as_micros()).unwrap(), Ordering::Relaxed);
}

/// The closed form, after a pause.
struct Slow;

#[allow(clippy::disallowed_methods, reason = "a network that takes its time is what it stands for")]
impl Denoiser for Slow {
    fn denoise(&mut self, batch: &DenoiseBatch<'_>, out: &mut [f32]) -> Result<(), ModelError> {
        std::thread::sleep(Duration::from_micros(CALL_US.load(Ordering::Relaxed)));
        PointwiseDenoiser(unet).denoise(batch, out)
    }
}

pub(crate) fn studio() -> Studio {
    let mut defaults = Parameters::default();
    for (name, value) in [("t-index", "45"), ("cfg", "none")] {
        defaults.set(name, value).unwrap();
    }
    let preset = |name: &str, prompt: &str, parameters: &[(&str, &str)]| Preset {
        name: name.into(),
        prompt: prompt.into(),
        parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    Studio {
        model: "fake".into(),
        provider: "none".into(),
        precision: "f32".into(),
        facts: facts(),
        size: SIZE,
        max_side: MAX_SIDE,
        defaults,
        presets: vec![preset("short", "a", &[]), preset("long", "a very long prompt", &[("guidance", "1.5")])],
        text: SharedText::new(Box::new(LengthText)),
        timestep_cond_width: None,
        make_painter: Box::new(|size, control| {
            let networks = fake::networks(FACTOR, Slow);
            Ok(Painter::Whole(Engine::new(networks, facts(), size, control, Box::new(MonotonicClock::start()))?))
        }),
    }
}

/// A running server; dropping it ends it.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(max_sessions: usize, token: Option<&str>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), max_sessions, token)
    }

    pub(crate) fn start_at(bind: SocketAddr, max_sessions: usize, token: Option<&str>) -> Self {
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let address = Address { bind, token: token.map(str::to_owned), stun_server: None, tls: None };
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(&address, studio(), max_sessions).await.unwrap();
                tell.send(server.local_addr().unwrap()).unwrap();
                server.serve(stopped.notified()).await;
            });
        });
        Self { address: told.recv().unwrap(), stop, thread: Some(thread) }
    }

    /// One that runs elsewhere.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self { address, stop: Arc::default(), thread: None }
    }

    /// A JSON answer, and its status.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        let (status, bytes) = self.ask_raw(method, path, body, &[]);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) fn ask_raw(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> (u16, Vec<u8>) {
        let mut all = vec![("content-type", "application/json")];
        all.extend(headers);
        let mut answer = self.send(method, path, body, &all);
        (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
    }

    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&str>,
        headers: &[(&str, &str)],
    ) -> ureq::http::Response<ureq::Body> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true);
        let agent: ureq::Agent = config.timeout_global(Some(PATIENCE)).proxy(None).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match body {
            Some(body) => agent.run(request.body(body.to_owned()).unwrap()),
            None => agent.run(request.body(()).unwrap()),
        }
        .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// A page's end of a connection.
pub(crate) struct Visitor {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    frames: u64,
}

/// What a visitor hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Text(Value),
    Binary(Kind, u64, u64, Vec<u8>),
    Closed(String),
}

impl Visitor {
    pub(crate) async fn connect(server: &Running) -> Self {
        Self::connect_to(&format!("ws://{}/api/v1/stream", server.address), &[]).await.unwrap()
    }

    pub(crate) async fn connect_to(address: &str, headers: &[(&'static str, &str)]) -> Result<Self, String> {
        let mut request = address.into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, _) = connect_async(request).await.map_err(|error| error.to_string())?;
        Ok(Self { socket, frames: 0 })
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("nothing was heard");
            match message {
                Some(Ok(Message::Text(text))) => return Heard::Text(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Binary(bytes))) => {
                    let kinds = [Kind::Picture, Kind::Thumbnail, Kind::Dropped, Kind::Taken];
                    let kind = kinds.into_iter().find(|kind| *kind as u8 == bytes[3]).expect("a kind for pages");
                    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
                    return Heard::Binary(kind, number(4), number(12), bytes[HEADER..].to_vec());
                }
                Some(Ok(Message::Close(why))) => {
                    return Heard::Closed(why.map(|why| why.reason.to_string()).unwrap_or_default());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Heard::Closed(error.to_string()),
                None => return Heard::Closed(String::new()),
            }
        }
    }

    /// The next text of a type; what comes before it is passed over.
    pub(crate) async fn text(&mut self, kind: &str) -> Value {
        loop {
            match self.hear().await {
                Heard::Text(text) if text["type"] == kind => return text,
                Heard::Closed(why) => panic!("closed while waiting for {kind}: {why}"),
                _ => {}
            }
        }
    }

    /// The next binary message of a kind: id, time and payload.
    pub(crate) async fn binary(&mut self, kind: Kind) -> (u64, u64, Vec<u8>) {
        loop {
            match self.hear().await {
                Heard::Binary(heard, id, time, payload) if heard == kind => return (id, time, payload),
                Heard::Closed(why) => panic!("closed while waiting for {kind:?}: {why}"),
                Heard::Text(text) if text["type"] == "error" => panic!("{text}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn say(&mut self, value: &Value) {
        self.socket.send(Message::Text(value.to_string().into())).await.unwrap();
    }

    pub(crate) async fn send_binary(&mut self, bytes: impl Into<bytes::Bytes>) -> Result<(), String> {
        self.socket.send(Message::Binary(bytes.into())).await.map_err(|error| error.to_string())
    }

    /// Sends a frame and gives its id.
    pub(crate) async fn frame(&mut self, encoded: &[u8]) -> u64 {
        let id = self.frames;
        self.frames += 1;
        let header = Header { kind: Kind::Frame, id, time_us: 1_000 + id };
        self.send_binary(header.message(encoded)).await.unwrap();
        id
    }

    /// Sends a frame, waits for its picture and acknowledges it: the mean of its bytes.
    pub(crate) async fn painted(&mut self, encoded: &[u8]) -> f64 {
        let id = self.frame(encoded).await;
        loop {
            let (heard, time, payload) = self.binary(Kind::Picture).await;
            self.say(&json!({ "type": "ack", "id": heard })).await;
            if heard == id {
                assert_eq!(time, 1_000 + id);
                return mean(&payload);
            }
        }
    }

    pub(crate) async fn close(mut self) {
        let _ = self.socket.close(None).await;
    }
}

/// The mean of a picture's bytes.
pub(crate) fn mean(encoded: &[u8]) -> f64 {
    let rgb = image::load_from_memory(encoded).unwrap().into_rgb8();
    rgb.as_raw().iter().map(|value| f64::from(*value)).sum::<f64>() / rgb.as_raw().len() as f64
}

/// A flat grey frame, as a camera's JPEG.
pub(crate) fn grey(level: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut out, 90);
    encoder.encode(&vec![level; 3 * 64 * 48], 64, 48, jpeg_encoder::ColorType::Rgb).unwrap();
    out
}

pub(crate) fn values(pairs: &[(&str, &str)]) -> Values {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
