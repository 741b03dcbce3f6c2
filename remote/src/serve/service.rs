//! What a server answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use livediffusion_onnx::graph::{DType, Dim, TensorInfo};
use livediffusion_onnx::{Extent, Pack};
use livediffusion_pipeline::batching::SharedDenoiser;
use livediffusion_pipeline::frame::{LatentShape, Size};
use livediffusion_pipeline::model::DenoiseBatch;
use prost::Message;
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::call::{Call, wrong};
use super::prompts::Prompts;
use crate::proto::{
    ModelConfig, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelReadyResponse,
    ModelRequest, OutputTensor, ServerLiveResponse, ServerMetadataResponse, ServerReadyResponse, ServerRequest,
    TensorMetadata, path,
};
use crate::tensor::{datatype_of, put};

/// For a request's frame around its values, and for questions.
const ENVELOPE: usize = 1 << 16;

/// How long a call may take to come: 100 MB of control pictures over a slow network. Those that never come would keep their places.
const READING: Duration = Duration::from_mins(1);

/// What there is to know of the U-Net, and what may be asked of it.
pub(super) struct Facts {
    pub(super) pack: Pack,
    pub(super) name: String,
    pub(super) runs_on: String,
    pub(super) profile: Option<Extent>,
    pub(super) most_rows: usize,
    pub(super) most_side: usize,
}

impl Facts {
    /// Size of the pictures that latents are of.
    pub(super) fn size(&self, shape: LatentShape) -> Size {
        Size::new(shape.width * self.pack.vae_factor, shape.height * self.pack.vae_factor)
    }

    /// Whether a call of that many rows may be of such latents.
    pub(super) fn check(&self, rows: usize, shape: LatentShape) -> Result<(), Status> {
        let LatentShape { channels, height, width } = shape;
        if !(1..=self.most_rows).contains(&rows) {
            return Err(wrong(format!("inference request batch-size must be <= {}, and not {rows}", self.most_rows)));
        }
        if channels != self.pack.latent_channels {
            return Err(wrong(format!("latents of {channels} channels where there are {}", self.pack.latent_channels)));
        }
        let sides = [(height, 2), (width, 3)];
        let most = self.most_side / self.pack.vae_factor;
        let is_side = |(side, axis): (usize, usize)| {
            let is_whole = side.is_multiple_of(self.pack.latent_multiple);
            side > 0 && side <= most && is_whole && self.pack.unet.sample.fixed(axis).is_none_or(|fixed| fixed == side)
        };
        if !sides.into_iter().all(is_side) {
            let multiple = self.pack.latent_multiple;
            return Err(wrong(format!(
                "latents of {height}x{width}: sides of up to {most}, multiples of {multiple}, are taken"
            )));
        }
        self.profile.map_or(Ok(()), |profile| profile.admit(self.size(shape))).map_err(|error| wrong(error.what))
    }

    /// The longest message that can be a call.
    fn most_bytes(&self) -> usize {
        let side = self.most_side.max(self.pack.vae_factor);
        let latent = self.pack.latent_channels * (side / self.pack.vae_factor).pow(2);
        let prompt = self.pack.prompt_length * self.pack.unet_prompt_width();
        let pooled = self.pack.unet.pooled.as_ref().and_then(|info| info.fixed(1)).unwrap_or(0);
        let guidance = self.pack.timestep_cond_width.unwrap_or(0);
        let control = if self.pack.unet.control.is_some() { 3 * side * side } else { 0 };
        // In the widest type that is taken for the one number that is often of it, and in f32 for the others.
        let row = 4 * (latent + prompt + pooled + guidance + control + 6) + 2 * 8;
        // What gRPC's own frame can say.
        (self.most_rows * row + ENVELOPE).min(u32::MAX as usize)
    }

    fn tensor(&self, info: &TensorInfo) -> TensorMetadata {
        let open = |dim: &Dim| if let Dim::Fixed(side) = dim { *side as i64 } else { -1 };
        let mut shape: Vec<i64> = info.dims.iter().flatten().map(open).collect();
        let unet = &self.pack.unet;
        let is_time = info.name == unet.timestep.name;
        if is_time {
            // Whatever the graph says: rows are given a time of their own.
            shape = vec![-1];
        }
        if info.name == unet.tokens.name {
            shape = vec![-1, self.pack.prompt_length as i64, self.pack.unet_prompt_width() as i64];
        }
        // Rows are open in any case.
        if let Some(rows) = shape.first_mut() {
            *rows = -1;
        }
        // Times are fractions for some solvers.
        let dtype = if is_time { DType::F32 } else { on_wire(info.dtype) };
        TensorMetadata { name: info.name.clone(), datatype: datatype_of(dtype).to_owned(), shape }
    }

    fn metadata(&self) -> ModelMetadataResponse {
        let unet = &self.pack.unet;
        ModelMetadataResponse {
            name: self.name.clone(),
            versions: vec!["1".to_owned()],
            platform: self.runs_on.clone(),
            inputs: unet.inputs().into_iter().map(|info| self.tensor(info)).collect(),
            outputs: vec![self.tensor(&unet.out)],
        }
    }
}

/// What is on the wire for a graph's type: the same floats, and f32 for anything else.
fn on_wire(dtype: DType) -> DType {
    if matches!(dtype, DType::F16 | DType::Bf16) { dtype } else { DType::F32 }
}

/// The service, of which each connection has a copy.
#[derive(Clone)]
pub(super) struct Service(Arc<Shared>);

struct Shared {
    unet: SharedDenoiser,
    facts: Facts,
    prompts: Prompts,
    /// What clients must know.
    token: Option<String>,
    /// For the calls that are answered at once.
    places: Arc<Semaphore>,
}

impl Service {
    pub(super) fn new(unet: SharedDenoiser, facts: Facts, token: Option<String>, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self(Arc::new(Shared { unet, facts, prompts: Prompts::default(), token, places }))
    }
}

impl NamedService for Service {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { Ok(shared.answer(request).await) })
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: http::Request<Body>) -> http::Response<Body> {
        // Before anything of the message is read.
        let said = request.headers().get("authorization").and_then(|said| said.to_str().ok()?.split_once(' '));
        let said = said.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let is_known =
            |token: &String| said.is_some_and(|(_, said)| bool::from(said.as_bytes().ct_eq(token.as_bytes())));
        if !self.token.iter().all(is_known) {
            return Status::unauthenticated("a bearer token is needed").into_http();
        }
        let facts = &self.facts;
        match request.uri().path() {
            path::SERVER_LIVE => unary(request, |_: ServerRequest| Ok(ServerLiveResponse { live: true })).await,
            path::SERVER_READY => unary(request, |_: ServerRequest| Ok(ServerReadyResponse { ready: true })).await,
            path::SERVER_METADATA => {
                let (name, version) = ("livediffusion".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
                let answer = ServerMetadataResponse { name, version };
                unary(request, move |_: ServerRequest| Ok(answer.clone())).await
            }
            path::MODEL_READY => {
                unary(request, |ask: ModelRequest| Ok(ModelReadyResponse { ready: self.has(&ask.name).is_ok() })).await
            }
            path::MODEL_METADATA => {
                unary(request, |ask: ModelRequest| self.has(&ask.name).map(|()| facts.metadata())).await
            }
            path::MODEL_CONFIG => {
                let config = ModelConfig { name: facts.name.clone(), max_batch_size: facts.most_rows as i32 };
                let answer = ModelConfigResponse { config: Some(config) };
                unary(request, |ask: ModelRequest| self.has(&ask.name).map(|()| answer.clone())).await
            }
            path::MODEL_INFER => self.infer(request).await,
            other => Status::unimplemented(format!("there is no call {other}")).into_http(),
        }
    }

    fn has(&self, name: &str) -> Result<(), Status> {
        let own = &self.facts.name;
        let named = short(name);
        let what = || Status::not_found(format!("Request for unknown model: '{named}' is not found; there is '{own}'"));
        if name == own { Ok(()) } else { Err(what()) }
    }

    /// A call has a place before anything of it is read, and a while to be read.
    async fn infer(self: Arc<Self>, request: http::Request<Body>) -> http::Response<Body> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Status::resource_exhausted("too many calls at once").into_http();
        };
        let (place, is_read) = (Arc::new(place), Arc::new(Notify::new()));
        let most = self.facts.most_bytes();
        let service = tower::service_fn(|request: Request<ModelInferRequest>| {
            is_read.notify_one();
            let (shared, place) = (Arc::clone(&self), Arc::clone(&place));
            async move {
                let ask = request.into_inner();
                shared.has(&ask.model_name)?;
                // On a thread that may wait: for the network, and for other clients' calls, with which it is put together.
                let done = tokio::task::spawn_blocking(move || {
                    let _place = place;
                    shared.run(&ask)
                });
                done.await.unwrap_or_else(|_| Err(Status::internal("the call panicked"))).map(Response::new)
            }
        });
        let codec = ProstCodec::<ModelInferResponse, ModelInferRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(most).max_encoding_message_size(usize::MAX);
        let late = async {
            if timeout(READING, is_read.notified()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            answer = grpc.unary(service, request) => answer,
            () = late => Status::deadline_exceeded("the call did not come whole").into_http(),
        }
    }

    fn run(&self, ask: &ModelInferRequest) -> Result<ModelInferResponse, Status> {
        let Call { sample, shape, rows } = Call::read(ask, &self.facts, &self.prompts)?;
        let mut out = vec![0.0; sample.len()];
        let batch = DenoiseBatch { sample: &sample, shape, rows: &rows };
        self.unet.handle().denoise(&batch, &mut out).map_err(|error| {
            let hint = error.hint.map_or_else(String::new, |hint| format!("; {hint}"));
            Status::internal(format!("{}{hint}", error.what))
        })?;
        let info = &self.facts.pack.unet.out;
        let dtype = on_wire(info.dtype);
        let mut bytes = BytesMut::new();
        put(dtype, &out, &mut bytes);
        let shape = [rows.len(), shape.channels, shape.height, shape.width].map(|side| side as i64).to_vec();
        Ok(ModelInferResponse {
            model_name: ask.model_name.clone(),
            model_version: "1".to_owned(),
            id: ask.id.clone(),
            outputs: vec![OutputTensor {
                name: info.name.clone(),
                datatype: datatype_of(dtype).to_owned(),
                shape,
                contents: None,
            }],
            raw_output_contents: vec![bytes.freeze()],
        })
    }
}

/// The beginning of what a client wrote.
pub(super) fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A call that is answered at once.
async fn unary<Ask, Said>(
    request: http::Request<Body>,
    answer: impl Fn(Ask) -> Result<Said, Status> + Send,
) -> http::Response<Body>
where
    Ask: Message + Default + 'static,
    Said: Message + Default + 'static,
{
    let service = tower::service_fn(|request: Request<Ask>| {
        let said = answer(request.into_inner()).map(Response::new);
        async move { said }
    });
    let codec = ProstCodec::<Said, Ask>::default();
    Grpc::new(codec).max_decoding_message_size(ENVELOPE).unary(service, request).await
}
