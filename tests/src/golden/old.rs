//! A release's coordinator, as far as it was recorded: it says to today's SDK what it said then.

use super::Conversation;
use super::conversation::{Entry, hex};
use anyhow::{Context as _, bail, ensure};
use prost::Message;
use std::collections::HashMap;
use std::net::SocketAddr;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use unanimous_proto::v1;
use v1::client_service_server::{ClientService, ClientServiceServer};
use v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use v1::participate_request::Body as Tell;
use v1::transact_request::Body as Ask;

/// More than any conversation says at once.
const QUEUE: usize = 64;

/// The coordinator's end of a session.
#[derive(Debug)]
struct Session<I, O> {
    hello: Option<I>,
    last: Option<I>,
    from: Streaming<I>,
    to: mpsc::Sender<Result<O, Status>>,
}

impl<I: Message + Clone + PartialEq, O> Session<I, O> {
    /// The next message that is no repetition, unless it is of no account.
    async fn hear(&mut self, of_account: impl Fn(&I) -> bool) -> anyhow::Result<I> {
        loop {
            let message = match self.hello.take() {
                Some(hello) => hello,
                None => self.from.message().await?.context("the session has ended")?,
            };
            if self.last.as_ref() != Some(&message) && of_account(&message) {
                self.last = Some(message.clone());
                return Ok(message);
            }
        }
    }

    async fn say(&self, message: O) -> anyhow::Result<()> {
        self.to.send(Ok(message)).await.ok().context("the session has ended")
    }
}

type App = Session<v1::TransactRequest, v1::TransactResponse>;
type Bank = Session<v1::ParticipateRequest, v1::ParticipateResponse>;

#[derive(Debug)]
struct Door {
    apps: mpsc::Sender<App>,
    banks: mpsc::Sender<Bank>,
}

async fn admit<I, O>(
    request: Request<Streaming<I>>,
    to_player: &mpsc::Sender<Session<I, O>>,
) -> Result<Response<ReceiverStream<Result<O, Status>>>, Status> {
    let (to, answers) = mpsc::channel(QUEUE);
    let session = Session { hello: None, last: None, from: request.into_inner(), to };
    let sent = to_player.send(session).await;
    sent.map_err(|_| Status::unavailable("the conversation is over"))?;
    Ok(Response::new(ReceiverStream::new(answers)))
}

#[tonic::async_trait]
impl ClientService for Door {
    type TransactStream = ReceiverStream<Result<v1::TransactResponse, Status>>;

    async fn transact(
        &self,
        request: Request<Streaming<v1::TransactRequest>>,
    ) -> Result<Response<Self::TransactStream>, Status> {
        admit(request, &self.apps).await
    }
}

#[tonic::async_trait]
impl ParticipantService for Door {
    type ParticipateStream = ReceiverStream<Result<v1::ParticipateResponse, Status>>;

    async fn participate(
        &self,
        request: Request<Streaming<v1::ParticipateRequest>>,
    ) -> Result<Response<Self::ParticipateStream>, Status> {
        admit(request, &self.banks).await
    }
}

/// Starts it. It plays the conversation up to the begin of transaction `transactions` (from 0); the
/// task ends there, or with what was said to it otherwise than then.
///
/// # Errors
/// There is no port.
pub async fn start(
    conversation: Conversation,
    transactions: usize,
) -> anyhow::Result<(SocketAddr, JoinHandle<anyhow::Result<()>>)> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (apps, app) = mpsc::channel(QUEUE);
    let (banks, bank) = mpsc::channel(QUEUE);
    let client = ClientServiceServer::new(Door { apps: apps.clone(), banks: banks.clone() });
    let participant = ParticipantServiceServer::new(Door { apps, banks });
    let serving = Server::builder()
        .add_service(client)
        .add_service(participant)
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    let player = Player {
        new_apps: app,
        new_banks: bank,
        app: None,
        banks: HashMap::new(),
        calls: HashMap::new(),
        bquals: Vec::new(),
    };
    Ok((address, tokio::spawn(player.play(conversation, transactions))))
}

struct Player {
    new_apps: mpsc::Receiver<App>,
    new_banks: mpsc::Receiver<Bank>,
    app: Option<App>,
    banks: HashMap<String, Bank>,
    /// What the SDK numbers its calls, by their numbers then.
    calls: HashMap<u64, u64>,
    /// What the SDK calls its branches, by their names then.
    bquals: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Player {
    async fn play(mut self, conversation: Conversation, transactions: usize) -> anyhow::Result<()> {
        let mut begun = 0;
        for (index, entry) in conversation.entries.iter().enumerate() {
            let call = conversation.call(entry)?;
            let place = format!("entry {}, {}", index + 1, call.name);
            let played = if call.path.ends_with("/Transact") {
                if !entry.from_coordinator && is_begin(&entry.bytes) {
                    begun += 1;
                    if begun > transactions {
                        return Ok(());
                    }
                }
                self.play_app(entry).await
            } else {
                self.play_bank(&call.name, entry).await
            };
            played.context(place)?;
        }
        bail!("the conversation has fewer transactions")
    }

    async fn play_app(&mut self, entry: &Entry) -> anyhow::Result<()> {
        if self.app.is_none() {
            self.app = self.new_apps.recv().await;
        }
        let app = self.app.as_mut().context("nobody connects")?;
        if entry.from_coordinator {
            let mut response = v1::TransactResponse::decode(entry.bytes.as_slice())?;
            response.call = self.calls.get(&response.call).copied().unwrap_or(response.call);
            return app.say(response).await;
        }
        let then = v1::TransactRequest::decode(entry.bytes.as_slice())?;
        let now = app.hear(|_| true).await?;
        self.calls.insert(then.call, now.call);
        let same = match (&then.body, &now.body) {
            (Some(Ask::Hello(then)), Some(Ask::Hello(now))) => {
                then.protocol_version == now.protocol_version
            }
            (Some(Ask::Begin(then)), Some(Ask::Begin(now))) => {
                (&then.name, then.timeout_ms) == (&now.name, now.timeout_ms)
            }
            (Some(Ask::Commit(then)), Some(Ask::Commit(now))) => then.gtrid == now.gtrid,
            _ => false,
        };
        ensure!(same, "then {then:?}\nnow {now:?}");
        Ok(())
    }

    async fn play_bank(&mut self, name: &str, entry: &Entry) -> anyhow::Result<()> {
        while !self.banks.contains_key(name) {
            let mut bank = self.new_banks.recv().await.context("nobody connects")?;
            let hello = bank.hear(|_| true).await?;
            let Some(Tell::Hello(words)) = &hello.body else { bail!("no hello: {hello:?}") };
            let name = words.participant.clone();
            (bank.hello, bank.last) = (Some(hello), None);
            self.banks.insert(name, bank);
        }
        let bank = self.banks.get_mut(name).context("nobody connects")?;
        if entry.from_coordinator {
            let mut bytes = entry.bytes.clone();
            for (then, now) in &self.bquals {
                let places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(then));
                for at in places.collect::<Vec<_>>() {
                    bytes[at..at + now.len()].copy_from_slice(now);
                }
            }
            return bank.say(v1::ParticipateResponse::decode(bytes.as_slice())?).await;
        }
        let then = v1::ParticipateRequest::decode(entry.bytes.as_slice())?;
        let now = bank.hear(|m| !matches!(m.body, Some(Tell::Inquire(_)))).await?;
        let gtrid = |branch: &Option<v1::BranchRef>| branch.as_ref().map(|b| hex(&b.gtrid));
        let same = match (&then.body, &now.body) {
            (Some(Tell::Hello(then)), Some(Tell::Hello(now))) => {
                then.protocol_version == now.protocol_version && then.resources == now.resources
            }
            (Some(Tell::Enlist(then)), Some(Tell::Enlist(now))) => {
                if let (Some(then), Some(now)) = (&then.branch, &now.branch) {
                    self.bquals.retain(|(known, _)| *known != then.bqual);
                    self.bquals.push((then.bqual.clone(), now.bqual.clone()));
                }
                gtrid(&then.branch) == gtrid(&now.branch) && then.resource_id == now.resource_id
            }
            (Some(Tell::Vote(then)), Some(Tell::Vote(now))) => {
                (gtrid(&then.branch), then.ballot, &then.reason)
                    == (gtrid(&now.branch), now.ballot, &now.reason)
            }
            (Some(Tell::Acknowledged(then)), Some(Tell::Acknowledged(now))) => {
                (gtrid(&then.branch), then.done) == (gtrid(&now.branch), now.done)
            }
            _ => false,
        };
        ensure!(same, "then {then:?}\nnow {now:?}");
        Ok(())
    }
}

fn is_begin(bytes: &[u8]) -> bool {
    let request = v1::TransactRequest::decode(bytes);
    request.is_ok_and(|request| matches!(request.body, Some(Ask::Begin(_))))
}
