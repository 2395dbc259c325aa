//! A service that takes part in transactions, and its channel. Any generated service would do: the
//! work is a `Begin`, whose name says what to do.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as Task, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};
use unanimous_proto::v1;
use unanimous_sdk::layer::Outbound;
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Carrier, ClientLayer, Context, Done, Evidence, Gtrid,
    HEADER_BRANCHES, InProcess, Participant, Prepared, Resource, Retry, ServerLayer, Vote,
};
use v1::transaction_service_client::TransactionServiceClient;
use v1::transaction_service_server::{TransactionService, TransactionServiceServer};

/// A hang guard, not a measurement.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => unreachable!("did not happen: {what}"),
    }
}

/// Remembers what was committed.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub committed: Arc<Mutex<BTreeSet<BranchId>>>,
    joined: Arc<Mutex<BTreeSet<BranchId>>>,
    /// While it is set, no branch finishes.
    pub slow: Arc<AtomicBool>,
    /// A branch was told to commit.
    pub told: Arc<Notify>,
}

impl Memory {
    pub fn has(&self, gtrid: Gtrid) -> bool {
        self.committed.lock().unwrap().iter().any(|branch| branch.gtrid == gtrid)
    }
}

impl Resource for Memory {
    fn joined(&self, branch: &BranchId) {
        self.joined.lock().unwrap().insert(*branch);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let joined = self.joined.lock().unwrap().contains(branch);
        let reason = "no such branch".to_owned();
        Ok(if joined { Vote::Commit { evidence: None } } else { Vote::Rollback { reason } })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if !self.joined.lock().unwrap().contains(branch) {
            return Ok(Done::Heuristic(BranchResult::Hazard));
        }
        self.told.notify_one();
        if self.slow.load(Ordering::Relaxed) {
            return Err(Retry { why: "slow".to_owned() });
        }
        self.committed.lock().unwrap().insert(*branch);
        Ok(Done::Done)
    }

    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }
}

/// The participant, as the service's handlers use it.
#[derive(Clone)]
pub struct Member {
    _participant: Participant,
    pub memory: Attached<Memory>,
}

impl Member {
    pub async fn start(coordinator: &InProcess, name: &str) -> Self {
        let mut builder = coordinator.participant(name);
        let memory = builder.attach("memory", Memory::default());
        Self { _participant: builder.start().await.unwrap(), memory }
    }

    pub async fn work(&self, carrier: &impl Carrier) -> Result<(), Status> {
        self.memory.enlist(carrier).await?.end();
        Ok(())
    }
}

/// Work at another service through a layered channel.
pub type Work<S = Channel> = TransactionServiceClient<Outbound<S>>;

/// One service on a port of its own.
pub struct Site {
    pub member: Member,
    pub channel: Channel,
}

impl Site {
    /// `next`: where `forward` sends.
    pub async fn start(coordinator: &InProcess, name: &str, next: Option<&Self>) -> Self {
        let member = Member::start(coordinator, name).await;
        let handlers = Handlers { member: member.clone(), next: next.map(Self::work) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = Server::builder()
            .layer(ServerLayer)
            .add_service(TransactionServiceServer::new(handlers))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        Self { member, channel: Endpoint::from_shared(address).unwrap().connect_lazy() }
    }

    pub fn work(&self) -> Work {
        Work::new(ClientLayer.layer(self.channel.clone()))
    }

    /// Without the layer.
    pub fn bare(&self) -> TransactionServiceClient<Channel> {
        TransactionServiceClient::new(self.channel.clone())
    }
}

/// Does what it is asked to do.
pub fn please(what: &str) -> v1::BeginRequest {
    v1::BeginRequest { name: what.to_owned(), ..v1::BeginRequest::default() }
}

struct Handlers {
    member: Member,
    next: Option<Work>,
}

#[tonic::async_trait]
impl TransactionService for Handlers {
    async fn begin(
        &self,
        request: Request<v1::BeginRequest>,
    ) -> Result<Response<v1::BeginResponse>, Status> {
        let what = request.get_ref().name.clone();
        match (&*what, &self.next) {
            ("nothing", _) => {}
            ("work", _) => self.member.work(&request).await?,
            ("work, then fail", _) => {
                self.member.work(&request).await?;
                return Err(Status::internal("after the work"));
            }
            ("work, and forward", Some(next)) => {
                self.member.work(&request).await?;
                next.clone().begin(please("work")).await?;
            }
            ("tell the context", _) => {
                let context = Context::current().ok_or_else(|| Status::internal("no scope"))?;
                let timeout_ms = u64::try_from(context.remaining().as_millis()).unwrap();
                let gtrid = context.gtrid().to_string();
                return Ok(Response::new(v1::BeginResponse { gtrid, timeout_ms }));
            }
            other => unreachable!("{}", other.0),
        }
        Ok(Response::new(v1::BeginResponse::default()))
    }

    async fn commit(
        &self,
        _: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        unreachable!()
    }

    async fn rollback(
        &self,
        _: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackResponse>, Status> {
        unreachable!()
    }

    async fn get_outcome(
        &self,
        _: Request<v1::GetOutcomeRequest>,
    ) -> Result<Response<v1::GetOutcomeResponse>, Status> {
        unreachable!()
    }
}

/// The network between a caller and a service.
#[derive(Clone)]
pub struct Faulty {
    pub inner: Channel,
    pub fault: Fault,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The reply comes without its header `unanimous-branches`.
    HeaderLost,
    /// The service has done its work, and the reply does not come.
    ReplyLost,
}

impl Service<http::Request<Body>> for Faulty {
    type Response = http::Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, task: &mut Task<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(task).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (call, fault) = (self.inner.call(request), self.fault);
        Box::pin(async move {
            let mut response = call.await?;
            assert_eq!(response.headers()[HEADER_BRANCHES], "1");
            match fault {
                Fault::HeaderLost => response.headers_mut().remove(HEADER_BRANCHES),
                Fault::ReplyLost => return Err("the connection was cut".into()),
            };
            Ok(response)
        })
    }
}
