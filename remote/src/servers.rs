//! Servers that have the same U-Net.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use livediffusion_onnx::{ErrorKind, UnetElsewhere};
use livediffusion_pipeline::model::ModelError;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use crate::address::Address;
use crate::error::{RemoteError, is_away, is_busy, reason};
use crate::proto::{ModelInferRequest, ModelInferResponse};
use crate::server::{Described, Server};
use crate::tensor::Port;

/// How long is waited for answers.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a server's answer to a call, but for its first, which may take minutes. A call on a card takes milliseconds: a shorter time
    /// gives up a busy server, a longer one freezes the picture for longer where one is gone without a word. Ten times the slowest call so
    /// far, where that is more: of a large model on a CPU, say.
    pub call: Duration,
    /// For any server, while none answers. Longer, and a run whose server is gone for good seems to hang; shorter, and one that is started
    /// anew ends the run.
    pub all: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { call: Duration::from_secs(10), all: Duration::from_mins(1) }
    }
}

/// Before a server that is too busy is asked again. Shorter, and those that wait keep it busy with saying so.
const BUSY: Duration = Duration::from_millis(100);

/// Between two looks at whether it is to be given up: what whoever stops a stream waits.
const LOOK: Duration = Duration::from_millis(100);

/// How long a call under way has to end once nobody waits for servers any more.
const FAREWELL: Duration = Duration::from_secs(3);

/// Servers that a process may be told of.
const MOST_SERVERS: usize = 64;

/// Servers that have the same U-Net, and the thread on which calls wait for them: no other runs async code for them.
pub struct Servers {
    runtime: Background,
    shared: Arc<Shared>,
}

/// A runtime that ends without being waited for: whoever drops it may be within another one, where waiting is not allowed.
struct Background(Option<Runtime>);

impl Background {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.0 {
            runtime.spawn(task);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

struct Shared {
    servers: Vec<Server>,
    described: Described,
    /// The fewest rows that one of them takes in a call; `usize::MAX` where none says.
    most_rows: AtomicUsize,
    /// Where the next call begins to look, so that idle servers take turns.
    turn: AtomicUsize,
    patience: Patience,
    /// A server is back.
    back: Notify,
    /// Nobody wants answers any more.
    over: watch::Sender<bool>,
}

/// An answer that is on its way.
pub(crate) struct Pending(oneshot::Receiver<Result<ModelInferResponse, ModelError>>);

impl Pending {
    /// Waits for it.
    pub(crate) fn wait(self) -> Result<ModelInferResponse, ModelError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(given_up()))
    }
}

/// What calls fail with after [`Servers::give_up`].
pub const GIVEN_UP: &str = "U-Net: a call of its server was given up";

fn given_up() -> ModelError {
    ModelError::new(GIVEN_UP)
}

impl Servers {
    /// Asks servers for the U-Net that they have. One of them has to be there; the others may come later.
    ///
    /// # Errors
    /// None answers, with the first one's reason; one has another model than those before it.
    pub fn connect(addresses: &[Address]) -> Result<Self, RemoteError> {
        Self::with_patience(addresses, Patience::default())
    }

    /// The same, with other patience.
    ///
    /// # Errors
    /// As there.
    pub fn with_patience(addresses: &[Address], patience: Patience) -> Result<Self, RemoteError> {
        if addresses.is_empty() || addresses.len() > MOST_SERVERS {
            let what = format!("{} servers are named for the U-Net", addresses.len());
            return Err(RemoteError::invalid(what, format!("name one, and at most {MOST_SERVERS}")));
        }
        let failed = |what: String| RemoteError { kind: ErrorKind::Failed, what, hint: None };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("unet-servers")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| failed(format!("no thread for the U-Net's servers: {error}")))?;
        let runtime = Background(Some(runtime));
        let (sender, receiver) = oneshot::channel();
        let addresses = addresses.to_vec();
        // On the runtime's own thread: whoever calls may be within another runtime.
        runtime.spawn(async move {
            let _ = sender.send(Shared::connect(&addresses, patience).await);
        });
        let shared = std::thread::scope(|scope| scope.spawn(|| receiver.blocking_recv()).join());
        let gone = || failed("asking the U-Net's servers was given up".to_owned());
        let shared = shared.map_err(|_| gone())?.map_err(|_| gone())?;
        let this = Self { runtime, shared: Arc::new(shared?) };
        for index in 0..this.shared.servers.len() {
            if this.shared.servers[index].is_away() {
                this.runtime.spawn(Arc::clone(&this.shared).look_after(index));
            }
        }
        Ok(this)
    }

    /// What the U-Net is like, as a model pack takes it.
    pub fn unet(&self) -> UnetElsewhere {
        let Described { inputs, outputs, .. } = self.described();
        let infos = |ports: &[Port]| ports.iter().map(|port| port.info.clone()).collect();
        UnetElsewhere { address: self.to_string(), inputs: infos(inputs), outputs: infos(outputs) }
    }

    /// What the first server says that answered.
    pub fn described(&self) -> &Described {
        &self.shared.described
    }

    /// Addresses of servers that are away.
    pub fn away(&self) -> Vec<String> {
        let away = self.shared.servers.iter().filter(|server| server.is_away());
        away.map(|server| server.address.to_string()).collect()
    }

    /// Ends all waiting for servers that are away or busy, now and from here on. Calls under way have a moment to end.
    pub fn give_up(&self) {
        self.shared.over.send_replace(true);
    }

    /// [Gives up](Self::give_up) once `stop` is raised, which a signal's handler may do.
    pub fn give_up_at(&self, stop: Arc<AtomicBool>) {
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                sleep(LOOK).await;
            }
            shared.over.send_replace(true);
        });
    }

    /// Servers that are there, by their numbers.
    pub(crate) fn there(&self) -> impl Iterator<Item = usize> {
        (0..self.shared.servers.len()).filter(|&index| self.is_there(index))
    }

    /// Whether that server is there.
    pub(crate) fn is_there(&self, server: usize) -> bool {
        !self.shared.servers[server].is_away()
    }

    /// Rows that a call may have, whichever server answers it.
    pub(crate) fn most_rows(&self) -> usize {
        self.shared.most_rows.load(Ordering::Relaxed)
    }

    /// Sends a call, whose answer has at most `most` bytes of values, to whoever has the least to do.
    pub(crate) fn send(&self, request: ModelInferRequest, most: usize) -> Pending {
        let (shared, (sender, receiver)) = (Arc::clone(&self.shared), oneshot::channel());
        self.runtime.spawn(async move {
            // Nobody waits for it any more: then it is not missed.
            let _ = sender.send(shared.answer(&request, most).await);
        });
        Pending(receiver)
    }

    /// Sends a call to one server. One that gives no answer is away from then on.
    pub(crate) fn send_to(&self, server: usize, request: ModelInferRequest, most: usize) -> Pending {
        let (shared, (sender, receiver)) = (Arc::clone(&self.shared), oneshot::channel());
        self.runtime.spawn(async move {
            let mut over = shared.over.subscribe();
            let answer = tokio::select! {
                answer = shared.answer_of(server, &request, most) => answer,
                _ = over.wait_for(|over| *over) => Err(given_up()),
            };
            let _ = sender.send(answer);
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
    /// Asks all servers at once. Those that are there must have the same.
    async fn connect(addresses: &[Address], patience: Patience) -> Result<Self, RemoteError> {
        let servers = addresses.iter().map(Server::new).collect::<Result<Vec<_>, _>>()?;
        let answers = join_all(servers.iter().map(Server::describe)).await;
        let mut found: Option<(&Address, Described)> = None;
        let (mut refusal, mut most_rows) = (None, usize::MAX);
        for (server, answer) in servers.iter().zip(&answers) {
            let address = &server.address;
            match (answer, &found) {
                (Ok(described), Some((other, known))) if !known.is_same_model(described) => {
                    let what = format!("the U-Net on {address} has other inputs or outputs than that on {other}");
                    return Err(RemoteError::invalid(what, "serve the same model on both"));
                }
                (Ok(described), known) => {
                    most_rows = most_rows.min(described.most_rows.unwrap_or(usize::MAX));
                    if known.is_none() {
                        found = Some((address, described.clone()));
                    }
                }
                (Err(status), _) => {
                    server.leave(status);
                    refusal = refusal.or(Some((address, status)));
                }
            }
        }
        let Some((_, described)) = found else {
            return Err(match refusal {
                Some((address, status)) if is_away(status) || is_busy(status) => RemoteError::missing(
                    format!("the U-Net's server {address} is not there: {}", reason(status)),
                    "start it, or check the address and what lies between",
                ),
                Some((address, status)) => refused(address, status),
                None => RemoteError::invalid("no server is named for the U-Net", "name one: grpc://HOST:PORT/MODEL"),
            });
        };
        for (server, answer) in servers.iter().zip(&answers) {
            if let Err(status) = answer {
                server.say_away(status);
            }
        }
        Ok(Self {
            servers,
            described,
            most_rows: AtomicUsize::new(most_rows),
            turn: AtomicUsize::new(0),
            patience,
            back: Notify::new(),
            over: watch::Sender::new(false),
        })
    }

    /// The answer of whichever server gives one first. Those that are away are left alone; once all are, one that comes back is waited for,
    /// as long as there is patience.
    async fn answer(
        self: &Arc<Self>,
        request: &ModelInferRequest,
        most: usize,
    ) -> Result<ModelInferResponse, ModelError> {
        let mut over = self.over.subscribe();
        let given_up_soon = async {
            // A call under way may end, so that the last frames of a stream are painted.
            let _ = over.wait_for(|over| *over).await;
            sleep(FAREWELL).await;
        };
        tokio::select! {
            answer = self.tried(request, most) => answer,
            () = given_up_soon => Err(given_up()),
        }
    }

    async fn tried(
        self: &Arc<Self>,
        request: &ModelInferRequest,
        most: usize,
    ) -> Result<ModelInferResponse, ModelError> {
        let mut over = self.over.subscribe();
        // Since when nobody could answer this call, and who had too much to do for it. A call under way may take its time.
        let (mut since, mut busy) = (None, None);
        loop {
            // Before looking, so that none that comes back meanwhile is missed.
            let back = self.back.notified();
            let Some(index) = self.next(busy) else {
                let until = *since.get_or_insert_with(Instant::now) + self.patience.all;
                tokio::select! {
                    waited = timeout_at(until, back) => if waited.is_err() {
                        return Err(self.out_of_patience(None));
                    },
                    _ = over.wait_for(|over| *over) => return Err(given_up()),
                }
                continue;
            };
            let server = &self.servers[index];
            match server.infer(request, most, self.patience.call).await {
                Ok(answer) => return Ok(answer),
                Err(status) if is_busy(&status) => {
                    if since.get_or_insert_with(Instant::now).elapsed() >= self.patience.all {
                        return Err(self.out_of_patience(Some((server, &status))));
                    }
                    // Another one first, if there is one.
                    if busy.is_some() || self.next(Some(index)) == Some(index) {
                        tokio::select! {
                            () = sleep(BUSY) => {}
                            _ = over.wait_for(|over| *over) => return Err(given_up()),
                        }
                        busy = None;
                    } else {
                        busy = Some(index);
                    }
                }
                // "No such model" is what servers say too that stop, or have not loaded it yet.
                Err(status) if is_away(&status) || status.code() == Code::NotFound => self.missed(index, &status),
                Err(status) => return Err(refused(&server.address, &status).into()),
            }
        }
    }

    /// The answer of one server, which may be busy for a while.
    async fn answer_of(
        self: &Arc<Self>,
        index: usize,
        request: &ModelInferRequest,
        most: usize,
    ) -> Result<ModelInferResponse, ModelError> {
        let (server, since) = (&self.servers[index], Instant::now());
        loop {
            match server.infer(request, most, self.patience.call).await {
                Ok(answer) => return Ok(answer),
                Err(status) if is_busy(&status) && since.elapsed() < self.patience.all => sleep(BUSY).await,
                Err(status) => {
                    if is_away(&status) || status.code() == Code::NotFound {
                        self.missed(index, &status);
                    }
                    return Err(refused(&server.address, &status).into());
                }
            }
        }
    }

    /// A server gave no answer: it is looked after from here on.
    fn missed(self: &Arc<Self>, index: usize, status: &Status) {
        let server = &self.servers[index];
        if server.leave(status) {
            server.say_away(status);
            tokio::spawn(Arc::clone(self).look_after(index));
        }
    }

    fn out_of_patience(&self, busy: Option<(&Server, &Status)>) -> ModelError {
        let why =
            busy.map_or_else(|| self.why_away(), |(server, status)| format!("{}: {}", server.address, reason(status)));
        ModelError::new(format!("no server of the U-Net answered for {} s: {why}", self.patience.all.as_secs()))
            .with_hint("start it anew, and run this again")
    }

    fn why_away(&self) -> String {
        let away = self.servers.iter().find_map(|server| Some((server, server.why_away()?)));
        away.map_or_else(|| "they are away".to_owned(), |(server, why)| format!("{}: {why}", server.address))
    }

    /// Asks a server that is away, with pauses that grow, until it answers and has the model of the others. No frame waits for that.
    async fn look_after(self: Arc<Self>, index: usize) {
        let server = &self.servers[index];
        loop {
            sleep(server.pause()).await;
            match server.describe().await {
                Ok(described) if self.described.is_same_model(&described) => {
                    if let Some(most) = described.most_rows {
                        self.most_rows.fetch_min(most, Ordering::Relaxed);
                    }
                    server.come_back();
                    self.back.notify_waiters();
                    return;
                }
                Ok(_) => server.say_other(),
                Err(status) => server.stay_away(&status),
            }
        }
    }

    /// The least busy of the servers that are there; the one that is named only if there is no other.
    fn next(&self, except: Option<usize>) -> Option<usize> {
        let (turn, count) = (self.turn.fetch_add(1, Ordering::Relaxed), self.servers.len());
        let in_turn = (0..count).map(|at| turn.wrapping_add(at) % count);
        let there = in_turn.filter(|&index| !self.servers[index].is_away());
        there.min_by_key(|&index| (except == Some(index), self.servers[index].in_flight()))
    }
}
