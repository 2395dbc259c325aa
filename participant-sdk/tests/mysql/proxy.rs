//! The network between a resource and its server: it loses one message, and the connection with it.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is lost: the next message in this direction, on whichever connection it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Request,
    Reply,
}

#[derive(Clone, Copy)]
struct Cut {
    lost: Lost,
    /// The server does not notice: its side of the connection stays open.
    half_open: bool,
}

/// A proxy to a server's port.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    cut: Arc<Mutex<Option<Cut>>>,
    /// Half-open connections.
    kept: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = Self { port, cut: Arc::default(), kept: Arc::default() };
        let serving = proxy.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let proxy = serving.clone();
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                        proxy.carry(client, server).await;
                    }
                });
            }
        });
        proxy
    }

    pub fn lose(&self, lost: Lost, half_open: bool) {
        *self.cut.lock().unwrap() = Some(Cut { lost, half_open });
    }

    /// Whether the message was lost.
    pub fn has_lost(&self) -> bool {
        self.cut.lock().unwrap().is_none()
    }

    fn cuts(&self, direction: Lost) -> Option<Cut> {
        self.cut.lock().unwrap().take_if(|cut| cut.lost == direction)
    }

    async fn carry(&self, mut client: TcpStream, mut server: TcpStream) {
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        let (cut, mut len_lost) = loop {
            let (direction, len) = tokio::select! {
                read = client.read(&mut up) => (Lost::Request, read.unwrap_or(0)),
                read = server.read(&mut down) => (Lost::Reply, read.unwrap_or(0)),
            };
            if len == 0 {
                return;
            }
            if let Some(cut) = self.cuts(direction) {
                break (cut, len);
            }
            let sent = match direction {
                Lost::Request => server.write_all(&up[..len]).await,
                Lost::Reply => client.write_all(&down[..len]).await,
            };
            if sent.is_err() {
                return;
            }
        };
        // What is lost is the whole reply: the server has carried everything out.
        let mut reply = down;
        while cut.lost == Lost::Reply && !is_whole(&reply[..len_lost]) {
            len_lost += server.read(&mut reply[len_lost..]).await.unwrap();
        }
        if cut.half_open {
            self.kept.lock().unwrap().push(server);
        }
    }
}

/// Whether the reply has its last packet: one that is no error and does not announce another
/// result. Only for replies without rows.
fn is_whole(mut reply: &[u8]) -> bool {
    const MORE_RESULTS: u16 = 0x0008;
    while let [a, b, c, _, rest @ ..] = reply {
        let len = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        let Some((packet, next)) = rest.split_at_checked(len) else { return false };
        // An OK packet: two numbers of one byte each for these statements, then the status.
        let more = matches!(packet, [0, _, _, low, high, ..]
            if u16::from_le_bytes([*low, *high]) & MORE_RESULTS != 0);
        if !more {
            return true;
        }
        reply = next;
    }
    false
}
