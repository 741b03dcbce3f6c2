//! The other end: a U-Net of this machine for streams elsewhere, over the same protocol.

mod call;
mod listener;
mod prompts;
mod service;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use livediffusion_onnx::{ErrorKind, Extent, Pack};
use livediffusion_pipeline::batching::{BatchCounts, SharedDenoiser};
use livediffusion_pipeline::model::Denoiser;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::server::Server;
use tonic::transport::{Identity, ServerTlsConfig};

use self::service::{Facts, Service};
use crate::error::{RemoteError, deepest};

/// Calls of one connection that are looked at at once. More of them would only hold memory: the network takes one at a time.
const MOST_CALLS_EACH: usize = 8;

/// Calls of all connections that are read and answered at once, on a thread each that waits. Those beyond are told so, and asked again.
const MOST_CALLS: usize = 32;

/// How long a connection may say nothing before it is asked whether it is there, and how long it has to say so.
const SILENCE: Duration = Duration::from_secs(20);

/// How long TLS may take to begin.
const GREETING: Duration = Duration::from_secs(10);

/// How long clients have at the end for what they asked before. Those that do not answer are not waited for any longer.
const FAREWELL: Duration = Duration::from_secs(3);

/// A U-Net for others.
pub struct Offer {
    /// What clients ask for.
    pub name: String,
    /// The network.
    pub unet: Box<dyn Denoiser>,
    /// The pack that it is of.
    pub pack: Pack,
    /// What runs it, for whoever asks: `cuda f16`.
    pub runs_on: String,
    /// What it was compiled for, where that is all that it takes.
    pub profile: Option<Extent>,
    /// Rows that a call may have, and that those of several clients are put together to.
    pub most_rows: usize,
    /// Longest side of the pictures that a call may be of, in pixels.
    pub most_side: usize,
    /// What a client must know.
    pub token: Option<String>,
}

/// A server that listens, and answers when it is given a U-Net.
pub struct UnetServer {
    runtime: Runtime,
    listener: TcpListener,
    server: Server,
    local: SocketAddr,
    stop: watch::Sender<bool>,
}

/// Ends a server from another thread.
#[derive(Clone)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    /// It takes no more calls, and ends when those that it has are answered, or soon.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

fn failed(what: String) -> RemoteError {
    RemoteError { kind: ErrorKind::Failed, what, hint: None }
}

impl UnetServer {
    /// Listens on `bind`; over TLS, where a certificate chain and its private key are given as PEM files.
    ///
    /// # Errors
    /// The address is taken or not this machine's; a certificate or a key that is none.
    pub fn bind(bind: SocketAddr, tls: Option<(&Path, &Path)>) -> Result<Self, RemoteError> {
        let mut server = Server::builder()
            .concurrency_limit_per_connection(MOST_CALLS_EACH)
            .max_concurrent_streams(Some(MOST_CALLS_EACH as u32))
            .http2_keepalive_interval(Some(SILENCE))
            .http2_keepalive_timeout(Some(SILENCE));
        if let Some((chain, key)) = tls {
            let pem = "give PEM files: a certificate chain and its private key";
            let wrong = |file: &Path, why: String| RemoteError::invalid(format!("{}: {why}", file.display()), pem);
            let read = |file: &Path| std::fs::read(file).map_err(|error| wrong(file, error.to_string()));
            let identity = Identity::from_pem(read(chain)?, read(key)?);
            let config = ServerTlsConfig::new().identity(identity).timeout(GREETING);
            server = server.tls_config(config).map_err(|error| wrong(chain, deepest(&error)))?;
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(MOST_CALLS)
            .thread_name("unet-server")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| failed(format!("no threads for the server: {error}")))?;
        let listener = runtime.block_on(TcpListener::bind(bind)).map_err(|error| {
            let what = format!("cannot listen on {bind}: {error}");
            RemoteError::invalid(what, "give another --bind, or end what listens there")
        })?;
        let local = listener.local_addr().map_err(|error| failed(format!("{bind}: {error}")))?;
        Ok(Self { runtime, listener, server, local, stop: watch::Sender::new(false) })
    }

    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What ends it.
    pub fn stopper(&self) -> Stop {
        Stop(self.stop.clone())
    }

    /// Answers calls until it is stopped. Says how many there were.
    ///
    /// # Errors
    /// The network's part of the system fails.
    pub fn serve(self, offer: Offer) -> Result<BatchCounts, RemoteError> {
        let Self { runtime, listener, mut server, local, stop } = self;
        let Offer { name, unet, pack, runs_on, profile, most_rows, most_side, token } = offer;
        let unet = SharedDenoiser::new(unet, most_rows);
        let facts = Facts { pack, name, runs_on, profile, most_rows, most_side };
        let service = Service::new(unet.clone(), facts, token, MOST_CALLS);
        let stopped = |mut stop: watch::Receiver<bool>| async move {
            // Whoever could stop it is this one at least.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let [told, late] = [stop.subscribe(), stop.subscribe()].map(stopped);
        let served = runtime.block_on(async {
            let connections = listener::connections(listener);
            let ended = server.add_service(service).serve_with_incoming_shutdown(Box::pin(connections), told);
            tokio::select! {
                served = ended => served,
                () = async { late.await; sleep(FAREWELL).await } => Ok(()),
            }
        });
        // A call that the network is still at has another moment: it would be cut off in its libraries.
        runtime.shutdown_timeout(FAREWELL);
        served.map_err(|error| failed(format!("the server on {local}: {}", deepest(&error))))?;
        Ok(unet.counts())
    }
}
