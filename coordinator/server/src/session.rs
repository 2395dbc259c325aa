//! What both kinds of session share: their number, what they tell the driver, and how the driver
//! writes to them.
//!
//! A session is two halves. The reading half is a task: it checks what comes in and hands it to the
//! driver through one bounded queue; when the queue is full it stops reading, and only its own peer
//! waits. The writing half is a bounded queue that the driver fills without ever waiting, so the
//! two can never block each other.

use crate::config::Config;
use crate::connection::{Kill, Via};
use crate::door::Refusals;
use crate::examination::Examined;
use crate::identity::Caller;
use crate::refusal::Refusal;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use unanimous_core::message::Enlistment;
use unanimous_core::{
    BranchId, Event, FrameNumber, InstanceId, Owner, ParticipantName, Request as CoreRequest,
    ResourceId, Response,
};
use unanimous_proto::v1;

/// Names a session in this life of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

/// What a session, or a unary call, tells the driver.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// A participant said hello.
    ParticipantOpened(Box<ParticipantOpened>),
    /// A vote or an acknowledgement, checked to be about a resource of the session's.
    Answered(SessionId, Event),
    /// A branch to be added.
    Enlist(SessionId, Box<Enlistment>),
    /// A branch whose resource is not the session's: told so.
    BadResource(SessionId, BranchId, &'static str),
    /// Branches that are asked about.
    Inquire(SessionId, Vec<BranchId>),
    /// What one of its resources holds.
    Examined(Box<Examined>),
    /// A client said hello.
    ClientOpened(ClientOpened),
    /// A call of a client's session.
    Called(SessionId, u64, Call),
    /// A unary call.
    Unary(CoreRequest, oneshot::Sender<Result<Response, Refusal>>),
    /// The session broke the protocol, in these words: end it.
    Broke(SessionId, &'static str),
    /// The peer is gone.
    Closed(SessionId),
}

/// A client's request after its check.
pub(crate) type Call = Result<CoreRequest, Refusal>;

/// A participant's hello.
#[derive(Debug)]
pub(crate) struct ParticipantOpened {
    pub(crate) session: SessionId,
    pub(crate) name: ParticipantName,
    pub(crate) instance: InstanceId,
    pub(crate) sdk: String,
    pub(crate) resources: Vec<ResourceId>,
    /// It can be asked what its resources hold.
    pub(crate) examines: bool,
    pub(crate) in_doubt: Vec<BranchId>,
    pub(crate) seen: Vec<(Owner, FrameNumber)>,
    pub(crate) outbound: Outbound<v1::ParticipateResponse>,
}

/// A client's hello.
#[derive(Debug)]
pub(crate) struct ClientOpened {
    pub(crate) session: SessionId,
    /// The call number of the hello; the welcome carries it back.
    pub(crate) call: u64,
    pub(crate) client: String,
    pub(crate) outbound: Outbound<v1::TransactResponse>,
}

/// What is written to a session's stream.
pub(crate) type Outgoing<T> = ReceiverStream<Result<T, Status>>;

/// The writing half of a session. Dropping it ends the stream, after what is queued, and the
/// reading half.
#[derive(Debug)]
pub(crate) struct Outbound<T> {
    queue: mpsc::Sender<Result<T, Status>>,
    kill: Kill,
    /// The reading half waits for its end.
    _held: oneshot::Sender<Infallible>,
}

impl<T> Outbound<T> {
    /// Queues a message without waiting, or drops it.
    pub(crate) fn offer(&self, message: T) -> Offered {
        match self.queue.try_send(Ok(message)) {
            Ok(()) => Offered::Queued,
            Err(TrySendError::Full(_)) => Offered::Full,
            Err(TrySendError::Closed(_)) => Offered::Gone,
        }
    }

    /// Closes the whole connection: what is queued for a peer that does not read must not stay in
    /// memory.
    pub(crate) fn disconnect(self) {
        self.kill.kill();
    }
}

/// What became of a message for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It will be written.
    Queued,
    /// Dropped: the peer does not read fast enough.
    Full,
    /// Dropped: there is nobody to read it.
    Gone,
}

/// What every service holds.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) events: mpsc::Sender<Inbound>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    owner: Owner,
    sessions: Arc<Semaphore>,
    last_session: AtomicU64,
    ignored: AtomicU64,
    refusals: Refusals,
}

/// The reading half's end of a new session.
pub(crate) struct Opening<Req, Res> {
    pub(crate) session: SessionId,
    pub(crate) caller: Caller,
    pub(crate) inbound: Streaming<Req>,
    pub(crate) queue: mpsc::Sender<Result<Res, Status>>,
    pub(crate) kill: Kill,
    /// None: there are as many sessions as there may be.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

impl Gate {
    pub(crate) fn new(
        config: Config,
        owner: Owner,
        events: mpsc::Sender<Inbound>,
        refusals: Refusals,
    ) -> Self {
        let sessions = Arc::new(Semaphore::new(config.sessions_max));
        let (last_session, ignored) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Shared { config, owner, sessions, last_session, ignored, refusals };
        let shared = Arc::new(shared);
        Self { events, shared }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.shared.config
    }

    pub(crate) fn owner(&self) -> Owner {
        self.shared.owner
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.shared.refusals
    }

    /// Takes a place for a session, and makes its stream.
    pub(crate) fn open<Req, Res>(
        &self,
        request: Request<Streaming<Req>>,
    ) -> (Opening<Req, Res>, Outgoing<Res>) {
        let caller = Caller::of(&request);
        let via = request.extensions().get::<Via>();
        let kill = via.map(|via| via.kill.clone()).unwrap_or_default();
        let inbound = request.into_inner();
        let (queue, outgoing) = mpsc::channel(self.config().session_queue);
        let session = SessionId(self.shared.last_session.fetch_add(1, Ordering::Relaxed) + 1);
        let place = Arc::clone(&self.shared.sessions).try_acquire_owned().ok();
        let Caller { name, from, roles, how } = &caller;
        tracing::debug!(session = session.0, ?name, %from, ?roles, ?how, "a session begins");
        (Opening { session, caller, inbound, queue, kill, place }, ReceiverStream::new(outgoing))
    }

    /// Counts a message that was ignored, and says so in the log.
    pub(crate) fn ignore(&self, session: SessionId, peer: &str, what: &'static str) {
        self.shared.ignored.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(session = session.0, ?peer, what, "message ignored");
    }

    /// Messages ignored since the start.
    pub(crate) fn ignored(&self) -> u64 {
        self.shared.ignored.load(Ordering::Relaxed)
    }

    /// Hands something to the driver, waiting for room. False: the driver has ended.
    pub(crate) async fn tell(&self, inbound: Inbound) -> bool {
        self.events.send(inbound).await.is_ok()
    }
}

/// Why a peer was not heard to the end.
pub(crate) enum Hello<T> {
    Said(T),
    /// Nothing acceptable came: these words go with the goodbye.
    Not(&'static str),
    Gone,
}

/// Waits for the first message, not longer than the configuration says.
pub(crate) async fn first_message<T>(gate: &Gate, inbound: &mut Streaming<T>) -> Hello<T> {
    match tokio::time::timeout(gate.config().hello_max(), inbound.message()).await {
        Ok(Ok(Some(message))) => Hello::Said(message),
        Ok(Ok(None)) => Hello::Gone,
        Ok(Err(_)) => Hello::Not("the first message cannot be read"),
        Err(_) => Hello::Not("no hello came in time"),
    }
}

/// The two halves' link: the driver's writing half, and the signal that it has gone.
pub(crate) fn link<T>(
    queue: mpsc::Sender<Result<T, Status>>,
    kill: Kill,
) -> (Outbound<T>, oneshot::Receiver<Infallible>) {
    let (held, ended) = oneshot::channel();
    (Outbound { queue, kill, _held: held }, ended)
}

/// Reads a session to its end. `hear` turns a message into what the driver is told; `None`:
/// nothing.
pub(crate) async fn read<Req>(
    gate: &Gate,
    session: SessionId,
    mut inbound: Streaming<Req>,
    mut ended: oneshot::Receiver<Infallible>,
    mut hear: impl FnMut(Req) -> Option<Inbound>,
) {
    loop {
        let message = tokio::select! {
            biased;
            // The driver has ended the session and forgotten it.
            _ = &mut ended => return,
            message = inbound.message() => message,
        };
        let told = match message {
            Ok(Some(message)) => match hear(message) {
                Some(told) => told,
                None => continue,
            },
            Ok(None) => Inbound::Closed(session),
            // A connection that broke says the same: the words then go nowhere.
            Err(_) => Inbound::Broke(session, "a message cannot be read, or is too long"),
        };
        let over = matches!(told, Inbound::Closed(_) | Inbound::Broke(..));
        if !gate.tell(told).await || over {
            return;
        }
    }
}
