//! Servers that have the same U-Net.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livediffusion_onnx::UnetElsewhere;
use livediffusion_pipeline::model::ModelError;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status};

use crate::address::Address;
use crate::error::{RemoteError, is_away, reason};
use crate::proto::{ModelInferRequest, ModelInferResponse};
use crate::server::{Described, Server};

/// How long a call is tried while no server answers. Longer, and a run whose server is gone for good seems to hang; shorter, and one that
/// is started anew ends the run.
const PATIENCE: Duration = Duration::from_mins(1);

/// Servers that a process may be told of.
const MOST_SERVERS: usize = 64;

/// Servers that have the same U-Net, and the thread on which calls wait for them: no other runs async code for them.
pub struct Servers {
    runtime: Runtime,
    shared: Arc<Shared>,
}

struct Shared {
    servers: Vec<Server>,
    described: Described,
    /// Where the next call begins to look, so that idle servers take turns.
    turn: AtomicUsize,
    patience: Duration,
}

/// An answer that is on its way.
pub(crate) struct Pending(oneshot::Receiver<Result<ModelInferResponse, ModelError>>);

impl Pending {
    /// Waits for it.
    pub(crate) fn wait(self) -> Result<ModelInferResponse, ModelError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(ModelError::new("U-Net: a call of its server was given up")))
    }
}

impl Servers {
    /// Asks servers for the U-Net that they have. One of them has to be there; the others may come later.
    ///
    /// # Errors
    /// None answers, with the first one's reason; one has no such model, or another one than those before it.
    pub fn connect(addresses: &[Address]) -> Result<Self, RemoteError> {
        Self::with_patience(addresses, PATIENCE)
    }

    /// The same, where a call is given up after `patience` without any server.
    ///
    /// # Errors
    /// As there.
    pub fn with_patience(addresses: &[Address], patience: Duration) -> Result<Self, RemoteError> {
        if addresses.len() > MOST_SERVERS {
            let what = format!("{} servers are named for the U-Net", addresses.len());
            return Err(RemoteError::invalid(what, format!("name at most {MOST_SERVERS}")));
        }
        let no_thread = |error: std::io::Error| RemoteError {
            kind: livediffusion_onnx::ErrorKind::Failed,
            what: format!("no thread for the U-Net's servers: {error}"),
            hint: None,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("unet-servers")
            .enable_io()
            .enable_time()
            .build()
            .map_err(no_thread)?;
        let servers = {
            let _on = runtime.enter();
            addresses.iter().map(Server::new).collect::<Result<Vec<_>, _>>()?
        };
        let described = runtime.block_on(describe_all(&servers))?;
        let shared = Shared { servers, described, turn: AtomicUsize::new(0), patience };
        Ok(Self { runtime, shared: Arc::new(shared) })
    }

    /// What the U-Net is like, as a model pack takes it.
    pub fn unet(&self) -> UnetElsewhere {
        let Described { inputs, outputs, .. } = self.described();
        let infos = |ports: &[crate::tensor::Port]| ports.iter().map(|port| port.info.clone()).collect();
        UnetElsewhere { address: self.to_string(), inputs: infos(inputs), outputs: infos(outputs) }
    }

    /// What the first server says that answered.
    pub fn described(&self) -> &Described {
        &self.shared.described
    }

    /// Servers that are not away as far as that is known; one at least.
    pub(crate) fn ready(&self) -> usize {
        let now = Instant::now();
        self.shared.servers.iter().filter(|server| !server.is_left_alone(now)).count().max(1)
    }

    /// Addresses of servers that gave no answer last time.
    pub fn away(&self) -> Vec<String> {
        let away = self.shared.servers.iter().filter(|server| server.asked_again().is_some());
        away.map(|server| server.address.to_string()).collect()
    }

    /// Sends a call, whose answer has at most `most` bytes of values.
    pub(crate) fn send(&self, request: ModelInferRequest, most: usize) -> Pending {
        let (shared, (sender, receiver)) = (Arc::clone(&self.shared), oneshot::channel());
        self.runtime.spawn(async move {
            // Nobody waits for it any more: then it is not missed.
            let _ = sender.send(shared.answer(&request, most).await);
        });
        Pending(receiver)
    }
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<String> = self.shared.servers.iter().map(|server| server.address.to_string()).collect();
        f.write_str(&addresses.join(", "))
    }
}

/// What the servers have, of which those that are there must have the same.
async fn describe_all(servers: &[Server]) -> Result<Described, RemoteError> {
    let mut found: Option<(&Address, Described)> = None;
    let mut first_away = None;
    for server in servers {
        let address = &server.address;
        match server.describe().await {
            Ok(described) => {
                match &found {
                    Some((other, known)) if !known.is_same_model(&described) => return Err(differs(address, other)),
                    Some(_) => {}
                    None => found = Some((address, described)),
                }
                server.is_known.store(true, Ordering::Relaxed);
            }
            Err(status) if is_away(&status) => first_away = first_away.or(Some((server, status))),
            Err(status) => return Err(refused(address, &status)),
        }
    }
    match (found, first_away) {
        (Some((_, described)), away) => {
            if let Some((server, status)) = away {
                server.is_away(&status);
            }
            Ok(described)
        }
        (None, Some((server, status))) => {
            let what = format!("the U-Net's server {} does not answer: {}", server.address, reason(&status));
            Err(RemoteError::missing(what, "start it, or check the address and what lies between"))
        }
        (None, None) => {
            Err(RemoteError::invalid("no server is named for the U-Net", "name one: grpc://HOST:PORT/MODEL"))
        }
    }
}

fn differs(address: &Address, other: &Address) -> RemoteError {
    let what = format!("the U-Net on {address} has other inputs or outputs than that on {other}");
    RemoteError::invalid(what, "serve the same model on both")
}

/// A server that says no.
fn refused(address: &Address, status: &Status) -> RemoteError {
    let what = format!("the U-Net's server {address} refuses: {}", reason(status));
    let hint = match status.code() {
        Code::NotFound => "the model's name is what follows the port: grpc://HOST:PORT/MODEL",
        Code::Unauthenticated | Code::PermissionDenied => "a bearer token goes before the host: grpcs://TOKEN@HOST",
        Code::Unimplemented => "it has to speak KServe v2 over gRPC, as Triton does on port 8001",
        _ => "its own log says more",
    };
    RemoteError::invalid(what, hint)
}

impl Shared {
    /// The answer of whichever server gives one first. Servers that are away are tried again.
    async fn answer(&self, request: &ModelInferRequest, most: usize) -> Result<ModelInferResponse, ModelError> {
        let mut last = None;
        let tries = async {
            loop {
                let server = self.next().await;
                match self.ask(server, request, most).await {
                    Ok(answer) => {
                        server.is_there();
                        return Ok(answer);
                    }
                    Err(status) if is_away(&status) || is_loading(&status) => {
                        server.is_away(&status);
                        last = Some((server, status));
                    }
                    Err(status) => return Err(refused(&server.address, &status).into()),
                }
            }
        };
        let answered = timeout(self.patience, tries).await;
        answered.unwrap_or_else(|_| {
            let seconds = self.patience.as_secs();
            let why = last.map_or_else(
                || "they do not answer".to_owned(),
                |(server, status)| format!("{}: {}", server.address, reason(&status)),
            );
            Err(ModelError::new(format!("no server of the U-Net was there for {seconds} s: {why}"))
                .with_hint("start it anew; what was painted so far is kept"))
        })
    }

    /// One call of one server. What one has that was not there at the start is looked at before.
    async fn ask(
        &self,
        server: &Server,
        request: &ModelInferRequest,
        most: usize,
    ) -> Result<ModelInferResponse, Status> {
        if !server.is_known.load(Ordering::Relaxed) {
            let described = server.describe().await?;
            if !self.described.is_same_model(&described) {
                // Left alone like one that does not answer: the others go on.
                return Err(Status::new(
                    Code::Unavailable,
                    "its U-Net has other inputs or outputs than the first one's",
                ));
            }
            server.is_known.store(true, Ordering::Relaxed);
        }
        let Address { model, version, .. } = &server.address;
        let request =
            ModelInferRequest { model_name: model.clone(), model_version: version.clone(), ..request.clone() };
        server.infer(request, most).await
    }

    /// The least busy of the servers that are not left alone; once all are, the one whose time ends first.
    async fn next(&self) -> &Server {
        let (turn, count) = (self.turn.fetch_add(1, Ordering::Relaxed), self.servers.len());
        let in_turn = || (0..count).map(move |at| &self.servers[(turn.wrapping_add(at)) % count]);
        let now = Instant::now();
        let there = in_turn().filter(|server| !server.is_left_alone(now));
        if let Some(server) = there.min_by_key(|server| server.in_flight.load(Ordering::Relaxed)) {
            return server;
        }
        let soonest = in_turn().min_by_key(|server| server.asked_again());
        let server = soonest.unwrap_or(&self.servers[0]);
        if let Some(at) = server.asked_again() {
            sleep_until(at).await;
        }
        server
    }
}

/// Whether a server that had the model says that it has not: it starts anew.
fn is_loading(status: &Status) -> bool {
    status.code() == Code::NotFound
}
