//! TCP connections: accepted up to a limit, and closable from our side.
//!
//! tonic's own accept loop spins when the process has no file descriptors left, and a peer that
//! does not read its stream holds what is queued for it as long as it likes; nor does anything end
//! a connection that never speaks HTTP/2 at all. Hence a loop and a connection of our own.

use crate::crash;
use futures_util::task::AtomicWaker;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// How long the accept loop rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What is known of the connection a request came over. Found in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pub(crate) kill: Kill,
    pub(crate) peer: SocketAddr,
}

/// Closes one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kill(Arc<KillState>);

#[derive(Debug, Default)]
struct KillState {
    killed: AtomicBool,
    reader: AtomicWaker,
}

impl Kill {
    pub(crate) fn kill(&self) {
        self.0.killed.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        if self.0.killed.load(Ordering::Acquire) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the server"));
        }
        Ok(())
    }
}

/// The bytes with which every HTTP/2 connection begins.
const PREFACE_BYTES: usize = 24;

/// An accepted connection, in a place of its own.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    via: Via,
    /// Until the peer has sent its preface: what is missing, and how long it may take.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Via;

    fn connect_info(&self) -> Via {
        self.via.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.via.kill.0.reader.register(cx.waker());
        self.via.kill.check()?;
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((missing, deadline)) = &mut self.preface {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.preface = None;
            } else if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        crash::written(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        crash::written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Accepts connections for ever, at most `connections_max` at a time; one that has not sent its
/// preface after `preface_max` is closed.
pub(crate) fn incoming(
    listener: TcpListener,
    connections_max: usize,
    preface_max: Duration,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(connections_max));
    futures_util::stream::unfold((listener, places), move |(listener, places)| async move {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let connection = accept(&listener, place, preface_max).await;
        Some((Ok(connection), (listener, places)))
    })
}

async fn accept(
    listener: &TcpListener,
    place: OwnedSemaphorePermit,
    preface_max: Duration,
) -> Connection {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "TCP_NODELAY was not set");
                }
                let deadline = Box::pin(tokio::time::sleep(preface_max));
                let preface = Some((PREFACE_BYTES, deadline));
                let via = Via { kill: Kill::default(), peer };
                return Connection { stream, via, preface, _place: place };
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
