//! A network that fails, between real processes: a TCP proxy that can be told to.

use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

const CHUNK_BYTES: usize = 16 << 10;
const FRAME_HEAD_BYTES: usize = 9;

/// A direction, seen from the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Requests.
    Server,
    /// Replies.
    Client,
}

/// What becomes of the bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They wait until this changes.
    Hold,
    /// Each piece passes so much later.
    Delay(Duration),
    /// One byte at a time, each so much after the one before.
    Trickle(Duration),
}

/// A frame that the proxy sends in a peer's name, between two of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// The connection takes no more streams.
    GoAway,
    /// The stream that was heard of last is over.
    ResetStream,
}

impl Injected {
    fn frame(self, stream: u32) -> Vec<u8> {
        let (kind, stream, payload): (u8, u32, &[u8]) = match self {
            // The highest stream there can be, and no error.
            Self::GoAway => (7, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            // CANCEL.
            Self::ResetStream => (3, stream, &[0, 0, 0, 8]),
        };
        let length = u8::try_from(payload.len()).unwrap_or(u8::MAX);
        let mut frame = vec![0, 0, length, kind, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }
}

/// Where in a direction's frames its bytes have got to.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    /// Bytes of the present frame that have not come yet.
    left: usize,
    stream: u32,
    /// What comes before the first frame of a client.
    preface: usize,
}

impl Frames {
    fn new(to: To) -> Self {
        Self { preface: if to == To::Server { 24 } else { 0 }, ..Self::default() }
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        let skipped = self.preface.min(bytes.len());
        self.preface -= skipped;
        bytes = &bytes[skipped..];
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            if self.left == 0 {
                let taken = (FRAME_HEAD_BYTES - self.head.len()).min(bytes.len());
                self.head.extend(&bytes[..taken]);
                bytes = &bytes[taken..];
                if let Ok(head) = <[u8; FRAME_HEAD_BYTES]>::try_from(&*self.head) {
                    self.left = usize::from(head[0]) << 16
                        | usize::from(head[1]) << 8
                        | usize::from(head[2]);
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    if stream > 0 {
                        self.stream = stream;
                    }
                    self.head.clear();
                }
            }
        }
    }

    fn between_two(&self) -> bool {
        self.left == 0 && self.head.is_empty() && self.preface == 0 && self.stream > 0
    }
}

/// Both ends of a connection, and what ends it.
#[derive(Debug, Default)]
struct Connection {
    cut: Notify,
    dead: watch::Sender<[bool; 2]>,
}

#[derive(Debug, Default)]
struct Shared {
    flows: watch::Sender<[Flow; 2]>,
    connections: Mutex<Vec<Arc<Connection>>>,
    /// So many pieces of replies may still pass, the next one is lost and cuts. Negative: all.
    replies_left: AtomicI64,
    cuts: AtomicU64,
    injected: Mutex<Option<(To, Injected)>>,
    injections: AtomicU64,
}

impl Shared {
    fn connections(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn injection(&self, to: To) -> Option<Injected> {
        let mut asked = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, injected) = asked.take_if(|(wanted, _)| *wanted == to)?;
        self.injections.fetch_add(1, Ordering::Relaxed);
        Some(injected)
    }
}

/// Listens, and carries what comes to the server and back. Ends when this goes.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

impl Proxy {
    /// Starts one that lets everything pass. It dials the server anew for each connection.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        shared.replies_left.store(-1, Ordering::Relaxed);
        let carried = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // A server that is down is a connection that ends at once.
                let Ok(far) = TcpStream::connect(server).await else { continue };
                tokio::spawn(carry(near, far, Arc::clone(&carried)));
            }
        });
        Ok(Self { address, shared, accepting: accepting.abort_handle() })
    }

    /// Where to connect instead of the server.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, on every connection.
    pub fn set(&self, to: To, flow: Flow) {
        self.shared.flows.send_modify(|flows| flows[to as usize] = flow);
    }

    /// Ends every connection with a reset, to both sides.
    pub fn cut(&self) {
        for connection in self.shared.connections() {
            connection.cut.notify_one();
        }
    }

    /// Nothing passes any more in this direction on the connections that are there now, and neither
    /// side is told. New ones are not concerned.
    pub fn lose(&self, to: To) {
        for connection in self.shared.connections() {
            connection.dead.send_modify(|dead| dead[to as usize] = true);
        }
    }

    /// Neither direction any more, as [`Proxy::lose`].
    pub fn half_open(&self) {
        self.lose(To::Server);
        self.lose(To::Client);
    }

    /// Lets so many pieces of replies pass; the next one is dropped and its connection reset, so
    /// that the request was written and the reply is lost. Once; `None`: not any more.
    pub fn cut_after_replies(&self, pieces: Option<u32>) {
        let left = pieces.map_or(-1, i64::from);
        self.shared.replies_left.store(left, Ordering::Relaxed);
    }

    /// How often [`Proxy::cut_after_replies`] has cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Sends this frame after the next one in that direction. Forgets an injection that was not
    /// made yet.
    pub fn inject(&self, to: To, frame: Injected) {
        let mut asked = self.shared.injected.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = Some((to, frame));
    }

    /// How many frames have been injected.
    #[must_use]
    pub fn injections(&self) -> u64 {
        self.shared.injections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// Until one side ends it, or the proxy does.
async fn carry(mut near: TcpStream, mut far: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let connection = Arc::<Connection>::default();
    let all = || shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
    all().push(Arc::clone(&connection));
    let ended = {
        let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
        let requests = pump(To::Server, near_in, far_out, &shared, &connection);
        let replies = pump(To::Client, far_in, near_out, &shared, &connection);
        tokio::select! {
            ended = requests => ended,
            ended = replies => ended,
            () = connection.cut.notified() => Err(anyhow::anyhow!("cut")),
        }
    };
    if ended.is_err() {
        // Both hear a reset instead of an end.
        near.set_zero_linger()?;
        far.set_zero_linger()?;
    }
    all().retain(|other| !Arc::ptr_eq(other, &connection));
    Ok(())
}

/// Carries one direction until its end.
async fn pump(
    to: To,
    mut from: ReadHalf<'_>,
    mut into: WriteHalf<'_>,
    shared: &Shared,
    connection: &Connection,
) -> anyhow::Result<()> {
    let (mut flows, mut dead) = (shared.flows.subscribe(), connection.dead.subscribe());
    let (mut buffer, mut frames) = (vec![0; CHUNK_BYTES], Frames::new(to));
    let passes = |flows: &[Flow; 2]| flows[to as usize] != Flow::Hold;
    loop {
        let is_dead = async { drop(dead.wait_for(|dead| dead[to as usize]).await) };
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = is_dead => std::future::pending().await,
        };
        let bytes = match read {
            Ok(0) | Err(_) if connection.dead.borrow().contains(&true) => {
                std::future::pending().await
            }
            read => &buffer[..read?],
        };
        if bytes.is_empty() {
            return Ok(());
        }
        flows.wait_for(passes).await.context("the proxy is gone")?;
        if to == To::Client && lost(shared) {
            anyhow::bail!("the reply is lost");
        }
        let flow = flows.borrow()[to as usize];
        match flow {
            Flow::Pass | Flow::Hold => {}
            Flow::Delay(delay) => tokio::time::sleep(delay).await,
            Flow::Trickle(pause) => {
                for byte in bytes {
                    tokio::time::sleep(pause).await;
                    into.write_all(&[*byte]).await?;
                }
                frames.pass(bytes);
                continue;
            }
        }
        into.write_all(bytes).await?;
        frames.pass(bytes);
        if frames.between_two()
            && let Some(injected) = shared.injection(to)
        {
            into.write_all(&injected.frame(frames.stream)).await?;
        }
    }
}

/// Whether this piece of a reply is the one that is lost.
fn lost(shared: &Shared) -> bool {
    let counted = |left: i64| (left >= 0).then(|| left - 1);
    let before = shared.replies_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted);
    let lost = before == Ok(0);
    shared.cuts.fetch_add(u64::from(lost), Ordering::Relaxed);
    lost
}
