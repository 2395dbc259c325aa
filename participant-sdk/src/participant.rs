//! A service that takes part in transactions: resources under a name, and branches joined for work
//! calls.

use crate::endpoint::{BadAddress, endpoint};
use crate::resource::{AnyResource, Resource};
use crate::runner::{Command, Joining, Left, Registered, Runner, Setup};
use crate::{HEADER_BRANCHES, HEADER_TRANSACTION};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimous_core::id::resource_manager;
use unanimous_core::participant::Times;
use unanimous_core::{BranchId, Gtrid, IdError, ParticipantName, ResourceId};

/// Joins that wait to be taken by the runner; beyond it joining waits.
const JOINS_QUEUED_MAX: usize = 1_024;
/// Bounds of the period of the scan for orphans.
const SCAN_EVERY_MIN: Duration = Duration::from_millis(10);
const SCAN_EVERY_MAX: Duration = Duration::from_secs(3_600);
/// The longest kind of a resource, in bytes.
const KIND_BYTES_MAX: usize = 32;

/// Why a participant did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The participant's name or a resource id breaks its rule.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The coordinator's address cannot be used, or none was given.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// No resource was given.
    #[error("a participant needs at least one resource")]
    NoResource,
    /// A resource id, or its number in branch ids, comes twice.
    #[error("the resource {0} clashes with another one of this participant")]
    ResourceClash(ResourceId),
    /// The kind of a resource is longer than 32 bytes.
    #[error("the kind of resource {0} is longer than {KIND_BYTES_MAX} bytes")]
    KindTooLong(ResourceId),
    /// A resource could not list its prepared branches.
    #[error("resource {resource} cannot list its prepared branches: {why}")]
    Recover {
        /// Which.
        resource: ResourceId,
        /// Its words.
        why: String,
    },
}

/// Why work did not join a transaction. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The call carries no transaction.
    #[error("the call has no header `{HEADER_TRANSACTION}`")]
    NoTransaction,
    /// The call's header is no gtrid.
    #[error("the header `{HEADER_TRANSACTION}` is not readable: {0}")]
    BadTransaction(String),
    /// This participant has no such resource.
    #[error("this participant has no resource {0:?}")]
    NoSuchResource(String),
    /// The transaction is being rolled back.
    #[error("the transaction is rolled back")]
    RolledBack,
    /// The commit was requested already: the work comes too late.
    #[error("the transaction is being committed already")]
    Inactive,
    /// The coordinator does not know the transaction.
    #[error("the coordinator does not know the transaction")]
    UnknownTransaction,
    /// The transaction belongs to another coordinator, or to an earlier life of this one.
    #[error("the transaction belongs to another coordinator, or to an earlier life of it")]
    NotOurs,
    /// The transaction has as many branches as it may have.
    #[error("the transaction has as many branches as it may have")]
    TooManyBranches,
    /// The coordinator does not accept the resource.
    #[error("the coordinator does not accept the resource: {0}")]
    BadResource(String),
    /// Earlier work of this transaction here was undone: it can only roll back.
    #[error("earlier work of the transaction was undone here")]
    Undone,
    /// This participant has as many branches as it may have.
    #[error("the participant has as many branches as it may have; try again later")]
    Overloaded,
    /// The coordinator did not answer in the time given.
    #[error("the coordinator did not answer in time")]
    TimedOut,
    /// Another process has this one's instance id: see [`ParticipantState::Replaced`].
    #[error("the participant was replaced by another process with the same instance id")]
    Replaced,
    /// The participant was stopped.
    #[error("the participant is stopped")]
    Stopped,
}

/// What a participant is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParticipantState {
    /// There is no session; the coordinator is dialled. Joining waits.
    Connecting,
    /// It takes part in transactions.
    Connected,
    /// Another process has said hello with this one's instance id, as after a copy of a running
    /// machine. Two that reconnect in turn would end each other's sessions for ever, so this one
    /// stays away: joining fails, branches without a vote are undone by their time-out, prepared
    /// ones are left to the other process and to the next start. It does not end by itself.
    Replaced,
    /// It was stopped.
    Stopped,
}

impl JoinError {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoTransaction => "NO_TRANSACTION",
            Self::BadTransaction(_) => "BAD_TRANSACTION",
            Self::NoSuchResource(_) => "NO_SUCH_RESOURCE",
            Self::RolledBack => "ROLLED_BACK",
            Self::Inactive => "INACTIVE",
            Self::UnknownTransaction => "UNKNOWN_TRANSACTION",
            Self::NotOurs => "NOT_OURS",
            Self::TooManyBranches => "TOO_MANY_BRANCHES",
            Self::BadResource(_) => "BAD_RESOURCE",
            Self::Undone => "UNDONE",
            Self::Overloaded => "OVERLOADED",
            Self::TimedOut => "TIMED_OUT",
            Self::Replaced => "REPLACED",
            Self::Stopped => "STOPPED",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::NoTransaction | Self::BadTransaction(_) => Code::InvalidArgument,
            Self::NoSuchResource(_) | Self::BadResource(_) => Code::Internal,
            Self::RolledBack | Self::Undone => Code::Aborted,
            Self::Inactive | Self::UnknownTransaction | Self::NotOurs => Code::FailedPrecondition,
            Self::TooManyBranches | Self::Overloaded => Code::ResourceExhausted,
            Self::TimedOut => Code::DeadlineExceeded,
            Self::Replaced | Self::Stopped => Code::Unavailable,
        }
    }
}

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Self {
        let details =
            ErrorDetails::with_error_info(error.reason(), "unanimous", HashMap::default());
        Self::with_error_details(error.code(), error.to_string(), details)
    }
}

/// How a participant is set up. Made by [`Participant::builder`].
#[must_use]
pub struct ParticipantBuilder {
    name: String,
    address: String,
    resources: Vec<(String, String, Arc<dyn AnyResource>)>,
    times: Times,
    join_timeout: Duration,
    branches_max: usize,
    session_queue_max: usize,
    scan_every: Duration,
}

impl ParticipantBuilder {
    /// Where the coordinator is: `http://host:port`. The name is resolved again with each dial.
    pub fn coordinator(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// Adds a resource. `id` names its data wherever they are reached from; phase two of a branch
    /// may come to any participant of the same name that declares it. `kind` is for people, at most
    /// 32 bytes.
    pub fn resource(
        mut self,
        id: impl Into<String>,
        kind: impl Into<String>,
        resource: impl Resource,
    ) -> Self {
        self.resources.push((id.into(), kind.into(), Arc::new(resource)));
        self
    }

    /// Time-outs and delays of branches.
    pub fn times(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// How long [`Participant::join`] waits for the coordinator. 10 s by itself.
    pub fn join_timeout(mut self, timeout: Duration) -> Self {
        self.join_timeout = timeout;
        self
    }

    /// At most this many branches that were joined and are not finished; beyond it joining fails
    /// with [`JoinError::Overloaded`]. 10,000 by itself.
    pub fn branches_max(mut self, max: usize) -> Self {
        self.branches_max = max;
        self
    }

    /// At most this many messages that the connection has not taken; beyond it messages are
    /// dropped, and sent again when the coordinator repeats its own. 8,192 by itself.
    pub fn session_queue_max(mut self, max: usize) -> Self {
        self.session_queue_max = max.max(1);
        self
    }

    /// The resources are asked for their prepared branches again and again, with this period or up
    /// to half of it less: a prepare may have arrived after its rollback. A branch that nobody here
    /// works on is asked about once it was listed twice. 30 s by itself; 10 ms to an hour.
    pub fn scan_every(mut self, period: Duration) -> Self {
        self.scan_every = period.clamp(SCAN_EVERY_MIN, SCAN_EVERY_MAX);
        self
    }

    /// Asks the resources for their prepared branches, then starts the task that keeps the session.
    /// Does not wait for the coordinator.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing runs then.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(self) -> Result<Participant, StartError> {
        let name = ParticipantName::new(&self.name)?;
        let endpoint = endpoint(&self.address)?;
        let mut resources: Vec<Registered> = Vec::new();
        for (id, kind, resource) in self.resources {
            let id = ResourceId::new(&id)?;
            let number = resource_manager(&name, &id);
            if resources.iter().any(|other| other.number == number || other.id == id) {
                return Err(StartError::ResourceClash(id));
            }
            if kind.len() > KIND_BYTES_MAX {
                return Err(StartError::KindTooLong(id));
            }
            resources.push(Registered { id, kind, number, resource });
        }
        if resources.is_empty() {
            return Err(StartError::NoResource);
        }
        let mut recovered = Vec::new();
        for registered in &resources {
            let listed = Arc::clone(&registered.resource).recover().await;
            let listed = listed.map_err(|retry| StartError::Recover {
                resource: registered.id.clone(),
                why: retry.why,
            })?;
            recovered.extend(listed);
        }
        crate::crash::crash_point("participant.recover.listed");
        let (commands, inbox) = mpsc::channel(JOINS_QUEUED_MAX);
        let (left, lefts) = mpsc::unbounded_channel();
        let names = resources.iter().map(|registered| registered.id.clone()).collect();
        let (state, states) = watch::channel(ParticipantState::Connecting);
        let setup = Setup {
            name,
            resources,
            times: self.times,
            branches_max: self.branches_max,
            session_queue_max: self.session_queue_max,
            scan_every: self.scan_every,
            endpoint,
            left,
            state,
        };
        tokio::spawn(Runner::new(setup, recovered, inbox, lefts).run());
        Ok(Participant { commands, resources: names, states, join_timeout: self.join_timeout })
    }
}

/// A running participant. Clones are the same participant; it ends when the last one is dropped, or
/// with [`Participant::stop`].
#[derive(Clone, Debug)]
pub struct Participant {
    commands: mpsc::Sender<Command>,
    resources: Arc<[ResourceId]>,
    states: watch::Receiver<ParticipantState>,
    join_timeout: Duration,
}

impl Participant {
    /// A participant of this name: 1 to 64 of `a-z 0-9 - _ .`, the first a letter or digit. All
    /// instances of a service share it.
    pub fn builder(name: impl Into<String>) -> ParticipantBuilder {
        ParticipantBuilder {
            name: name.into(),
            address: String::new(),
            resources: Vec::new(),
            times: Times::default(),
            join_timeout: Duration::from_secs(10),
            branches_max: 10_000,
            session_queue_max: 8_192,
            scan_every: Duration::from_secs(30),
        }
    }

    /// What it is able to do now.
    #[must_use]
    pub fn state(&self) -> ParticipantState {
        *self.states.borrow()
    }

    /// Waits until the state is another one than `state`, and returns it. A state that lasts only a
    /// moment may be missed.
    pub async fn changed_from(&self, state: ParticipantState) -> ParticipantState {
        let mut states = self.states.clone();
        let changed = states.wait_for(|now| *now != state).await;
        changed.map_or(ParticipantState::Stopped, |now| *now)
    }

    /// Joins the transaction that a work call's metadata name, with a branch of `resource`. A
    /// second call in the same transaction joins the same branch.
    ///
    /// # Errors
    /// See [`JoinError`]. The work must not be done then.
    pub async fn join(&self, metadata: &MetadataMap, resource: &str) -> Result<Branch, JoinError> {
        let header = metadata.get(HEADER_TRANSACTION).ok_or(JoinError::NoTransaction)?;
        let gtrid = header
            .to_str()
            .map_err(|error| JoinError::BadTransaction(error.to_string()))?
            .parse()
            .map_err(|error: IdError| JoinError::BadTransaction(error.to_string()))?;
        self.join_transaction(gtrid, resource).await
    }

    /// As [`Participant::join`], for calls that carry the transaction in another way.
    ///
    /// # Errors
    /// See [`JoinError`]. The work must not be done then.
    pub async fn join_transaction(
        &self,
        gtrid: Gtrid,
        resource: &str,
    ) -> Result<Branch, JoinError> {
        let index = self
            .resources
            .iter()
            .position(|id| id.as_str() == resource)
            .ok_or_else(|| JoinError::NoSuchResource(resource.to_owned()))?;
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let joining = Joining { gtrid, resource: index, reply };
            self.commands.send(Command::Join(joining)).await.map_err(|_| JoinError::Stopped)?;
            answer.await.map_err(|_| JoinError::Stopped)?
        };
        tokio::time::timeout(self.join_timeout, asked).await.map_err(|_| JoinError::TimedOut)?
    }

    /// Ends the participant: calls of the resources under way return first (a few seconds at most),
    /// then the session is closed. Branches that have not voted are undone by the coordinator's
    /// time-out; prepared ones stay so.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop(reply)).await.is_ok() {
            let _ = stopped.await;
        }
    }
}

/// Work under a branch. Until [`Branch::end`] the branch cannot commit: a handle that is dropped
/// before (an error, a panic, a cancelled call) makes it vote rollback.
#[derive(Debug)]
#[must_use = "a branch that is dropped votes rollback"]
pub struct Branch {
    id: BranchId,
    /// This call has enlisted it.
    new: bool,
    left: Option<mpsc::UnboundedSender<Left>>,
}

impl Branch {
    pub(crate) fn new(id: BranchId, new: bool, left: mpsc::UnboundedSender<Left>) -> Self {
        Self { id, new, left: Some(left) }
    }

    /// The branch, for the resource's own calls.
    #[must_use]
    pub fn id(&self) -> &BranchId {
        &self.id
    }

    /// Adds the branch to the reply's header `unanimous-branches`, if this call has enlisted it:
    /// the client counts them, so that a lost branch rolls back instead of committing half.
    pub fn announce(&self, reply: &mut MetadataMap) {
        let before = branches_in(reply);
        let count = before.saturating_add(u32::from(self.new));
        reply.insert(HEADER_BRANCHES, MetadataValue::from(count));
    }

    /// The work is done, and may commit as far as this call is concerned.
    pub fn end(mut self) {
        self.leave(None);
    }

    /// The work failed: the branch votes rollback, with these words.
    pub fn fail(mut self, why: impl Into<String>) {
        self.leave(Some(why.into()));
    }

    /// Ends without a verdict: nobody has seen the handle.
    pub(crate) fn disarm(mut self) {
        self.leave(None);
    }

    fn leave(&mut self, failure: Option<String>) {
        if let Some(left) = self.left.take() {
            // Without a runner there is nobody to prepare the branch either.
            let _ = left.send(Left { branch: self.id, failure });
        }
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.leave(Some("its work was broken off".to_owned()));
    }
}

/// The number in a reply's header `unanimous-branches`; 0 if there is none or it is not readable.
pub(crate) fn branches_in(metadata: &MetadataMap) -> u32 {
    let header = metadata.get(HEADER_BRANCHES).and_then(|value| value.to_str().ok());
    header.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_announced_in_one_reply_add_up() {
        let (left, _keep) = mpsc::unbounded_channel();
        let log = unanimous_core::LogId { cluster: 1, slot: 1, incarnation: 1 };
        let owner = unanimous_core::Owner { log, epoch: 1 };
        let id = BranchId {
            gtrid: Gtrid::new(owner, 0, 0),
            bqual: unanimous_core::Bqual::new(1, 1, owner),
        };
        let mut reply = MetadataMap::new();
        assert_eq!(branches_in(&reply), 0);
        for (new, sum) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
            let branch = Branch::new(id, new, left.clone());
            branch.announce(&mut reply);
            branch.end();
            assert_eq!(branches_in(&reply), sum);
        }
        reply.insert(HEADER_BRANCHES, "many".parse().unwrap());
        assert_eq!(branches_in(&reply), 0);
    }

    #[test]
    fn a_join_error_becomes_a_status_that_names_its_reason() {
        let status = Status::from(JoinError::Inactive);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("INACTIVE", "unanimous"));
    }
}
