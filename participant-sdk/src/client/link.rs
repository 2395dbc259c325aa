//! The task behind a client: matches answers to calls by number.

use crate::endpoint::Dial;
use crate::session::{Session, SessionEvent, Wire};
use crate::{PROTOCOL_VERSION, SDK, wire};
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use unanimous_core::Owner;
use unanimous_proto::v1;
use v1::client_service_client::ClientServiceClient;
use v1::transact_request::Body as Say;
use v1::transact_response::Body as Heard;

/// How long the last words of a client that is dropped may take.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The session ended before the answer.
    Lost,
    /// The task behind the client has ended with its runtime; the call was not made.
    Over,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) say: Say,
    /// Dropped without an answer when the session ends.
    pub(crate) reply: Option<oneshot::Sender<Heard>>,
}

struct ClientWire;

impl Wire for ClientWire {
    type Out = v1::TransactRequest;
    type In = v1::TransactResponse;

    fn call(
        channel: Channel,
        outbound: Request<ReceiverStream<Self::Out>>,
    ) -> BoxFuture<'static, Result<Streaming<Self::In>, Status>> {
        Box::pin(async move {
            Ok(ClientServiceClient::new(channel).transact(outbound).await?.into_inner())
        })
    }

    fn welcome(first: Self::In) -> Result<Owner, String> {
        match first.body {
            Some(Heard::Welcome(welcome)) => wire::owner(welcome.coordinator.as_ref())
                .ok_or_else(|| "the welcome names no coordinator".to_owned()),
            Some(Heard::Closing(closing)) => Err(format!("closing: {:?}", closing.detail)),
            Some(Heard::Refused(refused)) => {
                Err(format!("refused: {:?} ({:?})", refused.reason, refused.detail))
            }
            _ => Err("the first message was no welcome".to_owned()),
        }
    }
}

pub(crate) struct Link {
    name: String,
    instance: [u8; 16],
    session: Session<ClientWire>,
    /// Calls without an answer.
    open: HashMap<u64, Option<oneshot::Sender<Heard>>>,
    calls_max: usize,
    last_call: u64,
    /// It has been told that there is no session.
    lost: bool,
    inbox: mpsc::Receiver<Ask>,
}

impl Link {
    pub(crate) fn new(
        dial: Dial,
        name: String,
        calls_max: usize,
        inbox: mpsc::Receiver<Ask>,
    ) -> Self {
        Self {
            name,
            instance: rand::random(),
            // Room for every open call, the hello, and rollbacks of begins that nobody waits for.
            session: Session::new(dial, calls_max.saturating_mul(2) + 1, rand::random()),
            open: HashMap::new(),
            calls_max,
            last_call: 0,
            lost: false,
            inbox,
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            let connected = self.session.coordinator().is_some();
            // Without a session calls wait in the queue, as long as their callers do.
            let takes = connected && self.open.len() < self.calls_max;
            // Last words that find no session are dropped: the time-out rolls back.
            if self.inbox.is_closed() && (self.inbox.is_empty() || !connected) {
                return self.last_words().await;
            }
            tokio::select! {
                asked = self.inbox.recv(), if takes => match asked {
                    Some(ask) => self.ask(ask),
                    None => return self.last_words().await,
                },
                event = self.session.next() => self.on_session(event),
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        let Ask { say, reply } = ask;
        if reply.as_ref().is_some_and(oneshot::Sender::is_closed) {
            return;
        }
        self.last_call += 1;
        let call = self.last_call;
        // Not taken: the reply is dropped, which is the news that the session is lost.
        if self.session.send(v1::TransactRequest { call, body: Some(say) }).is_ok() {
            self.open.insert(call, reply);
        }
    }

    fn on_session(&mut self, event: SessionEvent<v1::TransactResponse>) {
        match event {
            SessionEvent::Due => {
                let hello = v1::ClientHello {
                    protocol_version: PROTOCOL_VERSION,
                    client: self.name.clone(),
                    instance: self.instance.to_vec(),
                    sdk: SDK.to_owned(),
                };
                let body = Some(Say::Hello(hello));
                self.session.dial(v1::TransactRequest { call: 0, body });
            }
            SessionEvent::Opened => {
                self.lost = false;
                tracing::debug!(client = ?self.name, "the session is open");
            }
            SessionEvent::Message(message) => self.on_message(message),
            // Once, however often it is dialled in vain.
            SessionEvent::Lost(why) if self.lost => {
                tracing::debug!(client = ?self.name, ?why, "still no session");
            }
            SessionEvent::Lost(why) => {
                self.lost = true;
                tracing::warn!(client = ?self.name, ?why, "no session with the coordinator");
                self.open.clear();
            }
        }
    }

    fn on_message(&mut self, message: v1::TransactResponse) {
        match message.body {
            // What is open may still be answered until the stream ends.
            Some(Heard::Closing(closing)) => {
                tracing::debug!(client = ?self.name, detail = ?closing.detail, "closing");
            }
            Some(body) => {
                let Some(Some(reply)) = self.open.remove(&message.call) else { return };
                if let Err(Heard::Begun(begun)) = reply.send(body) {
                    // Nobody waits for it any more.
                    let rollback = v1::Rollback { gtrid: begun.gtrid, request_id: Vec::new() };
                    self.ask(Ask { say: Say::Rollback(rollback), reply: None });
                }
            }
            None => {}
        }
    }

    /// All handles are gone: rollbacks under way are delivered if that is quick.
    async fn last_words(&mut self) {
        if self.session.coordinator().is_none() {
            return;
        }
        let answered = async {
            while !self.open.is_empty() {
                match self.session.next().await {
                    SessionEvent::Message(message) => self.on_message(message),
                    _ => return,
                }
            }
        };
        let _ = timeout(LAST_WORDS_PATIENCE, answered).await;
        self.session.finish(LAST_WORDS_PATIENCE).await;
    }
}
