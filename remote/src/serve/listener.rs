//! Connections: how many there may be, and how long one has to say that it is one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections at once. Those beyond wait where the system keeps them.
const MOST_CONNECTIONS: usize = 128;

/// How long a connection has to begin: with HTTP/2's preface, or TLS's greeting, which clients send at once. Longer, and silent ones keep
/// others waiting for longer than these have patience.
const BEGIN: Duration = Duration::from_secs(3);

/// Bytes of HTTP/2's preface. TLS's greeting is longer.
const PREFACE: usize = 24;

/// After an error of the system, which may have no room for another connection: without a pause it would be asked all the time.
const BREATH: Duration = Duration::from_millis(100);

/// A connection, and its place among those that there may be.
pub(super) struct Connection {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

/// Connections that have begun.
pub(super) fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(MOST_CONNECTIONS);
    tokio::spawn(accept(listener, sender));
    unfold(receiver, |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) })
}

async fn accept(listener: TcpListener, sender: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // It is never closed.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            // The server has ended.
            () = sender.closed() => return,
        };
        match stream {
            Ok((stream, _)) => {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Ok(Ok(())) = timeout(BEGIN, begun(&stream)).await {
                        // It ends with the server that nobody reads from.
                        let _ = sender.send(Connection { stream, _place: place }).await;
                    }
                });
            }
            Err(error) => {
                tracing::debug!("a connection: {error}");
                sleep(BREATH).await;
            }
        }
    }
}

/// Waits until the other end has said as much as every client says first.
async fn begun(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut first, mut before) = ([0; PREFACE], 0);
    loop {
        let have = stream.peek(&mut first).await?;
        if have == PREFACE {
            return Ok(());
        }
        if have == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if have == before {
            // Bytes that are there make it ready at once, all the time.
            sleep(BREATH).await;
        }
        before = have;
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
