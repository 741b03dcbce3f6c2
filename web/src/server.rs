//! The server: an accept loop with bounds, TLS where it is asked for, and the routes.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path as UrlPath};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{delete, get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use livediffusion_io::Reach;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::guard::{Guard, MOST_BODY, bounds, guard, worded};
use crate::line::Line;
use crate::metrics::Metrics;
use crate::studio::Studio;
use crate::webrtc::{self, whep, whip};
use crate::{api, page, socket};

/// Connections at a time. Each costs a few kilobytes; those beyond wait in the system's own queue.
const MOST_CONNECTIONS: usize = 512;
/// A client that has not sent its request's head by then holds a place for nothing.
const HEAD: Duration = Duration::from_secs(10);
/// Pause after an error of accept (no file descriptors left, say), so that it does not repeat a million times a second.
const BREATH: Duration = Duration::from_millis(50);

/// How the server is reached.
#[derive(Clone, Debug)]
pub struct Address {
    /// Address and port to bind; port 0 takes a free one.
    pub bind: SocketAddr,
    /// What every request must show.
    pub token: Option<String>,
    /// Where peers over WebRTC learn the address by which this machine is seen: `stun://host:port`.
    pub stun_server: Option<String>,
    /// Certificate chain and private key, as PEM files, for HTTPS.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// The address cannot be bound.
    #[error("cannot listen on {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    /// Certificate or key cannot be used.
    #[error("{0}: {1}")]
    Tls(PathBuf, String),
    /// Beyond this machine without a token.
    #[error("{0} can be reached from other machines, and no token was given")]
    NoToken(SocketAddr),
    /// The runtime of the server's threads could not be made.
    #[error("cannot start the server's threads: {0}")]
    Threads(#[source] io::Error),
}

/// What every request's handler has.
pub(crate) struct Inner {
    pub(crate) studio: Arc<Studio>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) line: Arc<Line>,
    pub(crate) guard: Guard,
    pub(crate) reach: Reach,
    pub(crate) ending: Notify,
}

pub(crate) type Shared = Arc<Inner>;

/// A server that is bound and not yet serving.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Shared,
}

impl Server {
    /// Binds the address. At most `max_sessions` visitors are painted at a time.
    ///
    /// # Errors
    /// An address that is taken or reachable by others without a token, a certificate that cannot be read.
    pub async fn bind(address: &Address, studio: Studio, max_sessions: usize) -> Result<Self, WebError> {
        if !address.bind.ip().is_loopback() && address.token.is_none() {
            return Err(WebError::NoToken(address.bind));
        }
        let tls = address.tls.as_ref().map(|(cert, key)| acceptor(cert, key)).transpose()?;
        let listener = TcpListener::bind(address.bind).await.map_err(|error| WebError::Bind(address.bind, error))?;
        let metrics = Arc::new(Metrics::new());
        let shared = Arc::new(Inner {
            studio: Arc::new(studio),
            line: Line::new(max_sessions, Arc::clone(&metrics)),
            metrics,
            guard: Guard::new(address.token.clone(), address.bind),
            reach: Reach::bound_to(address.bind.ip(), address.stun_server.clone()),
            ending: Notify::new(),
        });
        Ok(Self { listener, tls, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is done, then ends every session.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, shared } = self;
        let router = router(&shared);
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let accepting = async {
            loop {
                // Never closed.
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(BREATH).await;
                        continue;
                    }
                };
                let (router, tls) = (router.clone(), tls.clone());
                tokio::spawn(async move {
                    connection(stream, tls, router).await;
                    drop(place);
                });
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stop => {}
        }
        // Those who wait now are woken; each takes its engine down before its place is free.
        while !shared.line.sessions().is_empty() {
            shared.ending.notify_waiters();
            tokio::time::sleep(BREATH).await;
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    // Pictures are one write each: waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    // A client that goes away in the middle is none of our errors.
    if let Some(tls) = tls {
        if let Ok(Ok(stream)) = timeout(HEAD, tls.accept(stream)).await {
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        }
    } else {
        let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    }
}

/// Every path that there is, as the OpenAPI document has them.
fn router(shared: &Shared) -> Router {
    Router::new()
        .route("/", get(|| async { page::file("index.html") }))
        .route("/page/{file}", get(|UrlPath(file): UrlPath<String>| async move { page::file(&file) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(api::metrics))
        .route("/api/v1/openapi.json", get(api::openapi))
        .route("/api/v1/schema", get(api::schema))
        .route("/api/v1/presets", get(api::presets))
        .route("/api/v1/sessions", get(api::sessions))
        .route("/api/v1/sessions/{id}/parameters", get(api::parameters).patch(api::change_parameters))
        .route("/api/v1/sessions/{id}/prompt", post(api::prompt))
        .route("/api/v1/snapshot", get(api::snapshot))
        .route("/api/v1/stats", get(api::stats))
        .route("/api/v1/stream", get(socket::upgrade))
        .route("/whip", post(whip::publish).options(webrtc::options))
        .route("/whip/{id}", delete(whip::end).options(webrtc::options))
        .route("/whep", post(whep::watch_newest).options(webrtc::options))
        .route("/whep/{id}", post(whep::watch).options(webrtc::options))
        .route("/whep/{id}/{viewer}", delete(whep::end).options(webrtc::options))
        .fallback(api::not_found)
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(from_fn(worded))
        .layer(from_fn(bounds))
        .layer(from_fn_with_state(Arc::clone(shared), guard))
        .with_state(Arc::clone(shared))
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, WebError> {
    let fail = |path: &Path, error: &dyn std::fmt::Display| WebError::Tls(path.to_path_buf(), error.to_string());
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect)
        .map_err(|error| fail(cert, &pem_error(error)))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fail(key, &pem_error(error)))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(cert, &error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| fail(cert, &error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn pem_error(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "the file holds none".into(),
        other => other.to_string(),
    }
}

/// A session's name: short enough to type, too long to guess.
pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}
