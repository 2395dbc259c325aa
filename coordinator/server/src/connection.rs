//! TCP connections: accepted up to a limit, encrypted if that is asked for, and closable from our
//! side.
//!
//! tonic's own accept loop spins when the process has no file descriptors left, and a peer that
//! does not read its stream holds what is queued for it as long as it likes; nor does anything end
//! a connection that never speaks HTTP/2 at all. Hence a loop and a connection of our own.

use crate::access::Certificate;
use crate::config::Config;
use crate::crash;
use crate::door::Door;
use crate::handshake::{Unshaken, shake};
use crate::identity::Caller;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
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
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// How long the accept loop rests after an error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What is known of the connection a request came over. Found in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Via {
    pub(crate) kill: Kill,
    pub(crate) peer: SocketAddr,
    pub(crate) proof: Proof,
}

/// What the connection itself says of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// It is not encrypted.
    Plain,
    /// It is, and the peer has shown no certificate.
    Encrypted,
    /// It is, and the peer has this certificate.
    Certificate(Arc<Certificate>),
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
    stream: Wire,
    via: Via,
    /// Until the peer has sent its preface: what is missing, and how long it may take.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Wire {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

/// The same call to whichever it is.
macro_rules! either {
    ($wire:expr, $call:ident($($argument:expr),*)) => {
        match $wire {
            Wire::Plain(stream) => Pin::new(stream).$call($($argument),*),
            Wire::Encrypted(stream) => Pin::new(stream.as_mut()).$call($($argument),*),
        }
    };
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
        let read = either!(&mut self.stream, poll_read(cx, buf));
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
        let written = either!(&mut self.stream, poll_write(cx, buf));
        crash::written(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(&mut self.stream, poll_write_vectored(cx, bufs));
        crash::written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Encrypted(stream) => stream.is_write_vectored(),
        }
    }
}

/// What connections are accepted by.
pub(crate) struct Incoming {
    listener: TcpListener,
    /// At the limit no more are accepted.
    connections_max: usize,
    /// One that has not sent its preface by then is closed. A handshake comes before it.
    preface_max: Duration,
    door: Door,
}

impl Incoming {
    pub(crate) fn new(listener: TcpListener, config: &Config, door: Door) -> Self {
        let (connections_max, preface_max) = (config.connections_max, config.hello_max());
        Self { listener, connections_max, preface_max, door }
    }
}

/// Accepts connections for ever.
pub(crate) fn incoming(incoming: Incoming) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(incoming.connections_max));
    let acceptor = Acceptor { incoming, places, handshakes: FuturesUnordered::new() };
    futures_util::stream::unfold(acceptor, |mut acceptor| async move {
        let connection = acceptor.next().await?;
        Some((Ok(connection), acceptor))
    })
}

struct Acceptor {
    incoming: Incoming,
    places: Arc<Semaphore>,
    /// Each has a place, and ends by itself: a slow peer keeps nobody waiting.
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Connection>>>,
}

impl Acceptor {
    async fn next(&mut self) -> Option<Connection> {
        loop {
            let (stream, peer, place) = tokio::select! {
                accepted = accept(&self.incoming.listener, &self.places) => accepted?,
                Some(shaken) = self.handshakes.next() => match shaken {
                    Some(connection) => return Some(connection),
                    None => continue,
                },
            };
            let deadline = Instant::now() + self.incoming.preface_max;
            let Some(rules) = self.incoming.door.access.rules() else {
                let wire = Wire::Plain(stream);
                return Some(Connection::new(wire, peer, Proof::Plain, deadline, place));
            };
            let refusals = self.incoming.door.refusals.clone();
            self.handshakes.push(Box::pin(async move {
                match shake(stream, rules, deadline).await {
                    Ok((stream, certificate)) => {
                        let proof = certificate.map_or(Proof::Encrypted, |certificate| {
                            Proof::Certificate(Arc::new(certificate))
                        });
                        let wire = Wire::Encrypted(Box::new(stream));
                        Some(Connection::new(wire, peer, proof, deadline, place))
                    }
                    Err(Unshaken::Gone) => None,
                    Err(Unshaken::Refused(why)) => {
                        refusals.no_handshake(&Caller::nobody(peer.to_string()), &why);
                        None
                    }
                }
            }));
        }
    }
}

impl Connection {
    fn new(
        stream: Wire,
        peer: SocketAddr,
        proof: Proof,
        deadline: Instant,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let deadline = Box::pin(tokio::time::sleep_until(deadline));
        let via = Via { kill: Kill::default(), peer, proof };
        Self { stream, via, preface: Some((PREFACE_BYTES, deadline)), _place: place }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "TCP_NODELAY was not set");
                }
                return Some((stream, peer, place));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
