//! One server: what it has, and calls of it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::address::Address;
use crate::error::{RemoteError, deepest, reason};
use crate::proto::{
    ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelRequest,
    ServerMetadataResponse, ServerRequest, path,
};
use crate::tensor::Port;

/// For a connection, and for questions that take no work.
const QUESTION: Duration = Duration::from_secs(5);

/// For the first call of a server: what it loads or compiles for that takes minutes on a card.
const FIRST_CALL: Duration = Duration::from_mins(5);

/// How many times the slowest later call so far a call may take, where that is more than is usual.
const TIMES_SLOWEST: u32 = 10;

/// Bytes of answers under way that HTTP/2 lets a server send before we have taken any. Its own 64 kB are a wait for every latent.
const WINDOW: u32 = 4 << 20;

/// For an answer's frame around its values, and for answers without.
const ENVELOPE: usize = 1 << 16;

/// How long a server that is away is left alone before it is asked, the first time and after many times. Shorter, and one that starts anew
/// is asked hundreds of times; longer, and one that is back is noticed late.
const GONE: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(4)];

/// The same of one that took too long for a call: it may answer questions all the time, and each try is a frame that stands still for as
/// long as a call may take.
const HANGING: [Duration; 2] = [Duration::from_secs(15), Duration::from_mins(5)];

/// What a server says of itself and of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The server's name and version: `triton 2.51.0`.
    pub server: String,
    /// What runs the model there: `onnxruntime_onnx`, `tensorrt_plan`, …
    pub platform: String,
    /// The model's versions.
    pub versions: Vec<String>,
    /// Rows that a call may have, where the server says so.
    pub most_rows: Option<usize>,
    pub(crate) inputs: Vec<Port>,
    pub(crate) outputs: Vec<Port>,
}

impl Described {
    /// Whether calls for one are calls for the other.
    pub(crate) fn is_same_model(&self, other: &Self) -> bool {
        (&self.inputs, &self.outputs) == (&other.inputs, &other.outputs)
    }
}

/// Whether a server is there.
#[derive(Clone, Debug, Default)]
struct Presence {
    /// Why it is away.
    away: Option<String>,
    /// The pause before it is asked again, which only a call that it answered makes short.
    pause: Duration,
    /// It may answer questions, and took too long for a call.
    hangs: bool,
    /// That it has another model was said.
    is_other_said: bool,
}

/// A server, connected when it is first asked.
pub(crate) struct Server {
    pub(crate) address: Address,
    endpoint: Endpoint,
    channel: Mutex<Channel>,
    /// Calls that are not answered yet.
    in_flight: AtomicUsize,
    presence: Mutex<Presence>,
    /// It answered a call since it was away.
    has_answered: AtomicBool,
    /// How long the slowest of those behind the first took, in ms.
    slowest: AtomicU64,
}

/// Counts a call for as long as somebody waits for it.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Within a tokio runtime, which the connection lives on.
    pub(crate) fn new(address: &Address) -> Result<Self, RemoteError> {
        let scheme = if address.is_secure { "https" } else { "http" };
        let wrong = |error: tonic::transport::Error| {
            RemoteError::invalid(
                format!("{address}: {}", deepest(&error)),
                "check the address, and for grpcs:// the system's certificates",
            )
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", address.host)).map_err(wrong)?;
        let mut endpoint = endpoint
            .connect_timeout(QUESTION)
            .tcp_nodelay(true)
            // gRPC's own pings are refused by servers that get more than one in five minutes.
            .tcp_keepalive(Some(QUESTION))
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        if address.is_secure {
            endpoint = endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(wrong)?;
        }
        Ok(Self {
            address: address.clone(),
            channel: Mutex::new(endpoint.connect_lazy()),
            endpoint,
            in_flight: AtomicUsize::new(0),
            presence: Mutex::default(),
            has_answered: AtomicBool::new(false),
            slowest: AtomicU64::new(0),
        })
    }

    /// What it has.
    pub(crate) async fn describe(&self) -> Result<Described, Status> {
        let ask = ModelRequest { name: self.address.model.clone(), version: self.address.version.clone() };
        let most = 16 * ENVELOPE;
        let model: ModelMetadataResponse = self.call(path::MODEL_METADATA, ask.clone(), QUESTION, most).await?;
        let server: Result<ServerMetadataResponse, Status> =
            self.call(path::SERVER_METADATA, ServerRequest {}, QUESTION, most).await;
        let server =
            server.map_or_else(|_| "unnamed".to_owned(), |server| format!("{} {}", server.name, server.version));
        // Triton's own, which others have not.
        let config: Result<ModelConfigResponse, Status> = self.call(path::MODEL_CONFIG, ask, QUESTION, most).await;
        let config = config.ok().and_then(|answer| answer.config);
        let most_rows = config.and_then(|config| usize::try_from(config.max_batch_size).ok()).filter(|&most| most > 0);
        let ports = |tensors: &[_]| tensors.iter().map(Port::of).collect();
        let (inputs, outputs) = (ports(&model.inputs), ports(&model.outputs));
        let ModelMetadataResponse { versions, platform, .. } = model;
        Ok(Described { server: server.trim().to_owned(), platform, versions, most_rows, inputs, outputs })
    }

    /// Runs the model. The answer has at most `most` bytes of values, and is waited for so long at least.
    pub(crate) async fn infer(
        &self,
        request: &ModelInferRequest,
        most: usize,
        patience: Duration,
    ) -> Result<ModelInferResponse, Status> {
        let Address { model, version, .. } = &self.address;
        let request =
            ModelInferRequest { model_name: model.clone(), model_version: version.clone(), ..request.clone() };
        let is_first = !self.has_answered.load(Ordering::Relaxed);
        let slowest = Duration::from_millis(self.slowest.load(Ordering::Relaxed));
        let deadline = if is_first { FIRST_CALL } else { patience.max(TIMES_SLOWEST * slowest).min(FIRST_CALL) };
        let begin = Instant::now();
        let counted = InFlight::begin(&self.in_flight);
        let answer = self.call(path::MODEL_INFER, request, deadline, most + ENVELOPE).await;
        drop(counted);
        if answer.is_ok() {
            self.has_answered.store(true, Ordering::Relaxed);
            if !is_first {
                let took = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                self.slowest.fetch_max(took, Ordering::Relaxed);
            }
            let mut presence = lock(&self.presence);
            (presence.pause, presence.hangs) = (Duration::ZERO, false);
        }
        answer
    }

    async fn call<Ask, Answer>(
        &self,
        path: &'static str,
        ask: Ask,
        deadline: Duration,
        most: usize,
    ) -> Result<Answer, Status>
    where
        Ask: Message + 'static,
        Answer: Message + Default + 'static,
    {
        let mut request = Request::new(ask);
        if let Some(token) = &self.address.token {
            let bearer = MetadataValue::try_from(format!("Bearer {token}"));
            let mut bearer = bearer.map_err(|_| Status::new(Code::InvalidArgument, "the token has odd characters"))?;
            bearer.set_sensitive(true);
            request.metadata_mut().insert("authorization", bearer);
        }
        let channel = lock(&self.channel).clone();
        let answer = async {
            let mut grpc = Grpc::new(channel).max_decoding_message_size(most);
            grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
            let codec = ProstCodec::<Ask, Answer>::default();
            grpc.unary(request, PathAndQuery::from_static(path), codec).await
        };
        if let Ok(answer) = timeout(deadline, answer).await {
            return answer.map(tonic::Response::into_inner);
        }
        // Perhaps the other end is gone without a word, and the connection waits for it.
        *lock(&self.channel) = self.endpoint.connect_lazy();
        Err(Status::new(Code::DeadlineExceeded, format!("no answer within {:.1} s", deadline.as_secs_f32())))
    }

    /// Calls that are not answered yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn is_away(&self) -> bool {
        lock(&self.presence).away.is_some()
    }

    pub(crate) fn why_away(&self) -> Option<String> {
        lock(&self.presence).away.clone()
    }

    /// It gave no answer to a call: it is away from here on. Says whether it was there before.
    pub(crate) fn leave(&self, status: &Status) -> bool {
        let why = reason(status);
        tracing::debug!("{}: {why}", self.address);
        let hangs = status.code() == Code::DeadlineExceeded;
        if !hangs {
            // What starts anew loads and compiles anew.
            self.has_answered.store(false, Ordering::Relaxed);
            self.slowest.store(0, Ordering::Relaxed);
        }
        let mut presence = lock(&self.presence);
        presence.hangs |= hangs;
        presence.away.replace(why).is_none()
    }

    /// It does not answer a question either: then it does not hang at calls, but is gone.
    pub(crate) fn stay_away(&self, status: &Status) {
        let why = reason(status);
        tracing::debug!("{} is still away: {why}", self.address);
        let mut presence = lock(&self.presence);
        (presence.away, presence.hangs) = (Some(why), false);
    }

    /// The next pause before it is asked again.
    pub(crate) fn pause(&self) -> Duration {
        let mut presence = lock(&self.presence);
        let [first, longest] = if presence.hangs { HANGING } else { GONE };
        presence.pause = (2 * presence.pause).clamp(first, longest);
        presence.pause
    }

    /// It answered.
    pub(crate) fn come_back(&self) {
        lock(&self.presence).away = None;
        tracing::warn!("the U-Net's server {} is back", self.address);
    }

    pub(crate) fn say_away(&self, status: &Status) {
        let why = reason(status);
        tracing::warn!("the U-Net's server {} is away, and asked again until it is back: {why}", self.address);
    }

    /// It is there with another model: said once.
    pub(crate) fn say_other(&self) {
        if !std::mem::replace(&mut lock(&self.presence).is_other_said, true) {
            tracing::warn!("the U-Net on {} has other inputs or outputs than the first: it is left out", self.address);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
