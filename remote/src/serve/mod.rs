//! The other end: a U-Net of this machine for streams elsewhere, over the same protocol.

mod call;
mod prompts;
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use livediffusion_onnx::{ErrorKind, Extent, Pack};
use livediffusion_pipeline::batching::{BatchCounts, SharedDenoiser};
use livediffusion_pipeline::model::Denoiser;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, ServerTlsConfig};

use self::service::Service;
use crate::error::RemoteError;

/// Calls of one connection that are read at once. More of them would only hold memory: the network takes one at a time.
const MOST_CALLS_EACH: usize = 8;

/// Calls of all connections that are answered at once, on a thread each that waits. Those beyond are told so, and asked again.
const MOST_CALLS: usize = 32;

/// How long a connection may say nothing before it is asked whether it is there, and how long it has to say so.
const SILENCE: Duration = Duration::from_secs(20);

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
    /// Certificate chain and private key as PEM files, for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// A server that listens.
pub struct UnetServer {
    runtime: Runtime,
    incoming: TcpIncoming,
    service: Service,
    tls: Option<ServerTlsConfig>,
    local: SocketAddr,
    stop: watch::Sender<bool>,
    unet: SharedDenoiser,
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

impl UnetServer {
    /// Listens on `bind`. Calls are answered from [`serve`](Self::serve) on.
    ///
    /// # Errors
    /// The address is taken or not this machine's; a certificate cannot be read.
    pub fn bind(bind: SocketAddr, offer: Offer) -> Result<Self, RemoteError> {
        let failed = |what: String| RemoteError { kind: ErrorKind::Failed, what, hint: None };
        let tls = offer.tls.as_ref().map(|(chain, key)| {
            let read = |file: &PathBuf| {
                std::fs::read(file).map_err(|error| {
                    RemoteError::invalid(format!("{}: {error}", file.display()), "give PEM files that can be read")
                })
            };
            Ok(ServerTlsConfig::new().identity(Identity::from_pem(read(chain)?, read(key)?)))
        });
        let tls = tls.transpose()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(MOST_CALLS)
            .thread_name("unet-server")
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| failed(format!("no threads for the server: {error}")))?;
        let incoming = {
            let _on = runtime.enter();
            TcpIncoming::bind(bind).map_err(|error| {
                RemoteError::invalid(
                    format!("cannot listen on {bind}: {error}"),
                    "give another --bind, or end what listens there",
                )
            })?
        };
        let local = incoming.local_addr().map_err(|error| failed(format!("{bind}: {error}")))?;
        let unet = SharedDenoiser::new(offer.unet, offer.most_rows);
        let rest = service::Facts::new(
            offer.pack,
            offer.name,
            offer.runs_on,
            (offer.profile, offer.most_rows, offer.most_side),
        );
        let service = Service::new(unet.clone(), rest, offer.token, MOST_CALLS);
        Ok(Self {
            runtime,
            incoming: incoming.with_nodelay(Some(true)),
            service,
            tls,
            local,
            stop: watch::Sender::new(false),
            unet,
        })
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
    /// The certificate is none, or the network's part of the system fails.
    pub fn serve(self) -> Result<BatchCounts, RemoteError> {
        let wrong = |error: tonic::transport::Error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            RemoteError { kind: ErrorKind::Failed, what: format!("the server on {}: {why}", self.local), hint: None }
        };
        let mut server = tonic::transport::Server::builder()
            .concurrency_limit_per_connection(MOST_CALLS_EACH)
            .max_concurrent_streams(Some(MOST_CALLS as u32))
            .http2_keepalive_interval(Some(SILENCE))
            .http2_keepalive_timeout(Some(SILENCE));
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).map_err(wrong)?;
        }
        let stopped = |mut stop: watch::Receiver<bool>| async move {
            // Whoever could stop it is this one at least.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let [told, late] = [self.stop.subscribe(), self.stop.subscribe()].map(stopped);
        let router = server.add_service(self.service);
        let served = self.runtime.block_on(async {
            let ended = router.serve_with_incoming_shutdown(self.incoming, told);
            tokio::select! {
                served = ended => served,
                () = async { late.await; sleep(FAREWELL).await } => Ok(()),
            }
        });
        // Not waiting for a call that the network is still at.
        self.runtime.shutdown_background();
        served.map_err(wrong)?;
        Ok(self.unet.counts())
    }
}
