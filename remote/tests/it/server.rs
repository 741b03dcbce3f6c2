//! A server that speaks KServe v2, in this process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use livediffusion_remote::proto::{
    ModelConfig, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelRequest,
    ServerMetadataResponse, ServerRequest, path,
};
use tokio::runtime::{Builder, Runtime};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What runs the model.
pub(crate) type Model = Box<dyn FnMut(&ModelInferRequest) -> Result<ModelInferResponse, Status> + Send>;

/// What a server has, and what was asked of it.
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) metadata: ModelMetadataResponse,
    /// `None`: it knows no such call.
    pub(crate) most_rows: Option<i32>,
    pub(crate) model: Mutex<Model>,
    /// Rows of each call.
    pub(crate) calls: Mutex<Vec<usize>>,
    /// How often it was asked what it has.
    pub(crate) questions: AtomicUsize,
    /// What came as `authorization`, with how often.
    pub(crate) tokens: Mutex<BTreeMap<String, usize>>,
}

/// A running server. It ends when it is dropped, with all connections.
pub(crate) struct Server {
    pub(crate) state: Arc<State>,
    pub(crate) port: u16,
    runtime: Option<Runtime>,
}

impl Server {
    /// On a port that is free.
    pub(crate) fn start(state: State) -> Self {
        Self::start_on(0, Arc::new(state))
    }

    /// On that port.
    pub(crate) fn start_on(port: u16, state: Arc<State>) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (service, address) = (Service(Arc::clone(&state)), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let port = runtime.block_on(async {
            let incoming = TcpIncoming::bind(address).unwrap();
            let port = incoming.local_addr().unwrap().port();
            let router: Router = tonic::transport::Server::builder().add_service(service);
            tokio::spawn(router.serve_with_incoming(incoming));
            port
        });
        Self { state, port, runtime: Some(runtime) }
    }

    pub(crate) fn address(&self) -> String {
        format!("grpc://127.0.0.1:{}/{}", self.port, self.state.name)
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.state.calls.lock().unwrap().clone()
    }

    /// Ends it, so that the port is free.
    pub(crate) fn stop(mut self) -> (u16, Arc<State>) {
        self.end();
        (self.port, Arc::clone(&self.state))
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A model that hangs is left behind.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Clone)]
struct Service(Arc<State>);

impl NamedService for Service {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            if let Some(token) = request.headers().get("authorization") {
                *state.tokens.lock().unwrap().entry(token.to_str().unwrap().to_owned()).or_default() += 1;
            }
            let path = request.uri().path().to_owned();
            Ok(match path.as_str() {
                path::SERVER_METADATA => {
                    unary(request, |_: ServerRequest| {
                        Ok(ServerMetadataResponse { name: "test".into(), version: "1".into() })
                    })
                    .await
                }
                path::MODEL_METADATA => {
                    unary(request, |ask: ModelRequest| state.has(&ask).map(|()| state.metadata.clone())).await
                }
                path::MODEL_CONFIG => {
                    unary(request, |_: ModelRequest| {
                        let most = state.most_rows.ok_or_else(|| Status::unimplemented("no such call"))?;
                        Ok(ModelConfigResponse {
                            config: Some(ModelConfig { name: state.name.clone(), max_batch_size: most }),
                        })
                    })
                    .await
                }
                path::MODEL_INFER => unary(request, |ask| state.infer(&ask)).await,
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}

impl State {
    fn has(&self, ask: &ModelRequest) -> Result<(), Status> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if ask.name == self.name { Ok(()) } else { Err(Status::not_found(format!("unknown model: '{}'", ask.name))) }
    }

    fn infer(&self, ask: &ModelInferRequest) -> Result<ModelInferResponse, Status> {
        self.has(&ModelRequest { name: ask.model_name.clone(), version: String::new() })?;
        let rows = ask.inputs[0].shape[0];
        if let Some(most) = self.most_rows.filter(|&most| most > 0 && rows > i64::from(most)) {
            return Err(Status::invalid_argument(format!("batch-size must be <= {most}")));
        }
        self.calls.lock().unwrap().push(rows as usize);
        let mut model = self.model.lock().unwrap();
        model(ask)
    }
}

async fn unary<Ask, Said>(
    request: http::Request<Body>,
    answer: impl Fn(Ask) -> Result<Said, Status> + Send,
) -> http::Response<Body>
where
    Ask: prost::Message + Default + 'static,
    Said: prost::Message + Default + 'static,
{
    let codec = ProstCodec::<Said, Ask>::default();
    let service = tower::service_fn(|request: Request<Ask>| {
        let said = answer(request.into_inner()).map(Response::new);
        async move { said }
    });
    Grpc::new(codec).max_decoding_message_size(1 << 28).unary(service, request).await
}
