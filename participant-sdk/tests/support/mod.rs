//! A coordinator played by the test: it hands over every session, message by message.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several tests")]

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use unanimous_core::{Bqual, BranchId, Gtrid, LogId, Owner};
use unanimous_proto::v1;
use unanimous_sdk::{BranchResult, Done, Vote};
use v1::client_service_server::{ClientService, ClientServiceServer};
use v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
pub use v1::participate_request::Body as Said;
pub use v1::participate_response::Body as Tell;
pub use v1::transact_request::Body as Asked;
pub use v1::transact_response::Body as Reply;

pub const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 7 };
pub const OWNER: Owner = Owner { log: LOG, epoch: 5 };

/// A hang guard, not a measurement.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => unreachable!("did not happen: {what}"),
    }
}

pub fn gtrid(sequence: u64) -> Gtrid {
    Gtrid::new(OWNER, sequence, 0)
}

/// What a resource of these tests does about a branch that it is asked about at the start, and that
/// no coordinator has.
pub fn is_nobodys(branch: &BranchId) -> bool {
    branch.gtrid.owner().log != LOG
}

pub fn no_such_branch() -> Vote {
    Vote::Rollback { reason: "no such branch".to_owned() }
}

pub const HAZARD: Done = Done::Heuristic(BranchResult::Hazard);

pub fn reference(branch: &BranchId) -> Option<v1::BranchRef> {
    let (gtrid, bqual) = (branch.gtrid.as_bytes().to_vec(), branch.bqual.as_bytes().to_vec());
    Some(v1::BranchRef { gtrid, bqual })
}

pub fn id(reference: Option<&v1::BranchRef>) -> BranchId {
    let reference = reference.unwrap();
    BranchId {
        gtrid: Gtrid::from_bytes(&reference.gtrid).unwrap(),
        bqual: Bqual::from_bytes(&reference.bqual).unwrap(),
    }
}

fn owner() -> Option<v1::Owner> {
    Some(v1::Owner {
        cluster: LOG.cluster,
        slot: u32::from(LOG.slot),
        incarnation: LOG.incarnation,
        epoch: OWNER.epoch,
    })
}

/// One session, the coordinator's end. Dropped, it breaks.
pub struct Session<In, Out> {
    inbound: Streaming<In>,
    outbound: mpsc::Sender<Result<Out, Status>>,
}

pub type ParticipantSession = Session<v1::ParticipateRequest, v1::ParticipateResponse>;
pub type ClientSession = Session<v1::TransactRequest, v1::TransactResponse>;

impl<In, Out> Session<In, Out> {
    /// Breaks the stream.
    pub async fn fail(self) {
        self.outbound.send(Err(Status::unavailable("as the test wants"))).await.unwrap();
    }

    /// Ends the stream.
    pub fn end(&mut self) {
        self.outbound = mpsc::channel(1).0;
    }

    pub async fn next(&mut self) -> Option<In> {
        soon("a message", self.inbound.message()).await.ok().flatten()
    }
}

impl ParticipantSession {
    pub async fn said(&mut self) -> Said {
        self.next().await.unwrap().body.unwrap()
    }

    pub async fn tell_as(&self, sender_epoch: u32, body: Tell) {
        self.tell_whole(v1::ParticipateResponse { sender_epoch, ended: None, body: Some(body) })
            .await;
    }

    pub async fn tell(&self, body: Tell) {
        self.tell_as(OWNER.epoch, body).await;
    }

    pub async fn tell_whole(&self, message: v1::ParticipateResponse) {
        self.outbound.send(Ok(message)).await.unwrap();
    }

    pub async fn welcome(&mut self) -> v1::Hello {
        let Said::Hello(hello) = self.said().await else { unreachable!("no hello") };
        let welcome = v1::Welcome { coordinator: owner(), ..v1::Welcome::default() };
        self.tell(Tell::Welcome(welcome)).await;
        hello
    }

    pub async fn enlist(&mut self) -> (BranchId, v1::Enlist) {
        let Said::Enlist(enlist) = self.said().await else { unreachable!("no enlistment") };
        (id(enlist.branch.as_ref()), enlist)
    }

    pub async fn answer_enlist(&self, branch: &BranchId, status: v1::EnlistStatus) {
        self.answer_enlist_for(branch, status, 60_000).await;
    }

    pub async fn answer_enlist_for(
        &self,
        branch: &BranchId,
        status: v1::EnlistStatus,
        remaining_ms: u64,
    ) {
        let enlisted = v1::Enlisted {
            branch: reference(branch),
            status: status.into(),
            remaining_ms,
            detail: String::new(),
        };
        self.tell(Tell::Enlisted(enlisted)).await;
    }

    pub async fn prepare(&self, branch: &BranchId) {
        self.tell(Tell::Prepare(v1::Prepare { branch: reference(branch) })).await;
    }

    pub async fn decide(&self, branch: &BranchId, decision: v1::Decision) {
        let decide = v1::Decide {
            branch: reference(branch),
            decision: decision.into(),
            frame: 7,
            evidence: None,
        };
        self.tell(Tell::Decide(decide)).await;
    }

    pub async fn vote(&mut self) -> v1::Vote {
        match self.said().await {
            Said::Vote(vote) => vote,
            other => unreachable!("no vote: {other:?}"),
        }
    }

    pub async fn acknowledged(&mut self) -> v1::Acknowledged {
        match self.said().await {
            Said::Acknowledged(acknowledged) => acknowledged,
            other => unreachable!("no acknowledgement: {other:?}"),
        }
    }

    /// The participant says nothing more and ends the stream.
    pub async fn ended(&mut self) -> bool {
        self.next().await.is_none()
    }
}

impl ClientSession {
    pub async fn asked(&mut self) -> (u64, Asked) {
        let message = self.next().await.unwrap();
        (message.call, message.body.unwrap())
    }

    pub async fn reply(&self, call: u64, body: Reply) {
        let message = v1::TransactResponse { call, body: Some(body) };
        self.outbound.send(Ok(message)).await.unwrap();
    }

    pub async fn welcome(&mut self) -> v1::ClientHello {
        let (call, Asked::Hello(hello)) = self.asked().await else { unreachable!("no hello") };
        let timeout_ms_max = 60_000;
        let welcome = v1::ClientWelcome { coordinator: owner(), timeout_ms_max };
        self.reply(call, Reply::Welcome(welcome)).await;
        hello
    }

    /// Answers a begin with this transaction.
    pub async fn begun(&mut self, sequence: u64) -> v1::Begin {
        let (call, Asked::Begin(begin)) = self.asked().await else { unreachable!("no begin") };
        let gtrid = gtrid(sequence).as_bytes().to_vec();
        self.reply(call, Reply::Begun(v1::Begun { gtrid, timeout_ms: 5_000 })).await;
        begin
    }

    pub async fn ended(&self, call: u64, outcome: v1::Outcome) {
        let result = v1::Result { outcome: outcome.into(), ..v1::Result::default() };
        self.ended_with(call, result).await;
    }

    pub async fn ended_with(&self, call: u64, result: v1::Result) {
        let ended = v1::Ended { gtrid: vec![], result: Some(result) };
        self.reply(call, Reply::Ended(ended)).await;
    }
}

/// Listens on a port of its own.
pub struct Coordinator {
    pub address: String,
    participants: mpsc::Receiver<ParticipantSession>,
    clients: mpsc::Receiver<ClientSession>,
}

impl Coordinator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (participant, participants) = mpsc::channel(8);
        let (client, clients) = mpsc::channel(8);
        let serving = Server::builder()
            .add_service(ParticipantServiceServer::new(Hall(participant)))
            .add_service(ClientServiceServer::new(Hall(client)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { address, participants, clients }
    }

    pub async fn participant(&mut self) -> ParticipantSession {
        soon("a participant", self.participants.recv()).await.unwrap()
    }

    /// Nobody has dialled since.
    pub fn nobody_dialled(&mut self) -> bool {
        self.participants.try_recv().is_err()
    }

    pub async fn client(&mut self) -> ClientSession {
        soon("a client", self.clients.recv()).await.unwrap()
    }
}

struct Hall<S>(mpsc::Sender<S>);

impl<In, Out> Hall<Session<In, Out>> {
    async fn enter(
        &self,
        request: Request<Streaming<In>>,
    ) -> Result<Response<ReceiverStream<Result<Out, Status>>>, Status> {
        let (outbound, queue) = mpsc::channel(64);
        let session = Session { inbound: request.into_inner(), outbound };
        self.0.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

#[tonic::async_trait]
impl ParticipantService for Hall<ParticipantSession> {
    type ParticipateStream = ReceiverStream<Result<v1::ParticipateResponse, Status>>;

    async fn participate(
        &self,
        request: Request<Streaming<v1::ParticipateRequest>>,
    ) -> Result<Response<Self::ParticipateStream>, Status> {
        self.enter(request).await
    }
}

#[tonic::async_trait]
impl ClientService for Hall<ClientSession> {
    type TransactStream = ReceiverStream<Result<v1::TransactResponse, Status>>;

    async fn transact(
        &self,
        request: Request<Streaming<v1::TransactRequest>>,
    ) -> Result<Response<Self::TransactStream>, Status> {
        self.enter(request).await
    }
}

struct Written;

static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        WRITTEN.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// From here on the lines of this process are kept. One subscriber for all of its tests: those of
/// single threads race with what other threads know of a callsite.
pub fn keep_log() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(|| Written)
        .finish();
    // Another test may have been first.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// What was logged so far, by all tests.
pub fn log() -> String {
    String::from_utf8(WRITTEN.lock().unwrap().clone()).unwrap()
}
