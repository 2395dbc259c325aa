//! A wire between the resource and the server that can be cut, or disturbed, at a word.

use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// When the connection is cut that says the word, if it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The server never hears it.
    Before,
    /// The server hears it, and nobody waits for the answer.
    During,
    /// The server has answered, and the answer is lost.
    After,
    /// The server hears another word, that it does not know. Nothing is cut.
    Garbled,
}

#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    plan: Arc<Mutex<Option<(String, When)>>>,
}

impl Proxy {
    pub async fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan: Arc<Mutex<Option<(String, When)>>> = Arc::default();
        let plans = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await {
                    tokio::spawn(relay(client, server, Arc::clone(&plans)));
                }
            }
        });
        Self { port, plan }
    }

    /// The next connection that says the word is cut, once.
    pub fn cut(&self, word: &str, when: When) {
        *self.plan.lock().unwrap() = Some((word.to_owned(), when));
    }

    /// Whether it was said since.
    pub fn has_cut(&self) -> bool {
        self.plan.lock().unwrap().is_none()
    }
}

async fn relay(client: TcpStream, server: TcpStream, plan: Arc<Mutex<Option<(String, When)>>>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let swallows = Arc::new(Notify::new());
    tokio::select! {
        () = hear(from_client, to_server, &plan, &swallows) => {}
        () = answer(from_server, to_client, &swallows) => {}
    }
}

/// Ends when the connection is to be cut.
async fn hear(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    plan: &Mutex<Option<(String, When)>>,
    swallows: &Notify,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let said = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let (word, when) = {
            let mut plan = plan.lock().unwrap();
            let hit = plan.take_if(|(word, _)| said.contains(word.as_str()));
            hit.map_or((String::new(), None), |(word, when)| (word, Some(when)))
        };
        match when {
            Some(When::Before) => return,
            Some(When::After) => swallows.notify_one(),
            Some(When::Garbled) => {
                let at = buffer[..len].windows(word.len()).position(|part| part == word.as_bytes());
                buffer[at.unwrap()..][..word.len()].fill(b'x');
            }
            Some(When::During) | None => {}
        }
        if to.write_all(&buffer[..len]).await.is_err() || when == Some(When::During) {
            return;
        }
    }
}

/// The first answer after the word ends it.
async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, swallows: &Notify) {
    let mut buffer = vec![0; 64 * 1024];
    let mut lost = false;
    loop {
        let read = tokio::select! {
            biased;
            () = swallows.notified(), if !lost => {
                lost = true;
                continue;
            }
            read = from.read(&mut buffer) => read,
        };
        let Ok(len @ 1..) = read else { return };
        if lost || to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
    }
}
