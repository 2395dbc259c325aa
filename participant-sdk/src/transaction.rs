//! One transaction of an application, from its begin to its end.

use crate::HEADER_TRANSACTION;
use crate::client::{Client, Resolution, ResolveError};
use crate::participant::branches_in;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Response, Status};
use unanimous_core::message::Wait;
use unanimous_core::{Gtrid, Outcome};
use unanimous_proto::v1;
use v1::transact_request::Body as Say;

/// The transaction is committed: durably, everywhere or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The transaction.
    pub gtrid: Gtrid,
    /// Every branch is known to have finished.
    pub completed: bool,
}

/// Why a transaction was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The cause.
    pub reason: RollbackReason,
    /// The participant that voted rollback, or empty.
    pub participant: String,
    /// Its words. Untrusted text.
    pub detail: String,
}

impl fmt::Display for Rollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.reason)?;
        if !self.participant.is_empty() || !self.detail.is_empty() {
            // Escaped: it comes from elsewhere.
            write!(f, " ({:?}: {:?})", self.participant, self.detail)?;
        }
        Ok(())
    }
}

/// The cause of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RollbackReason {
    /// The client, or a person, asked for it.
    Requested,
    /// The time-out passed before a decision.
    TimedOut,
    /// A participant voted rollback.
    Voted,
    /// Another number of branches was enlisted than the work replies told.
    BranchCount,
    /// The coordinator stopped before a decision.
    Presumed,
    /// The client's lease was lost.
    LeaseLost,
    /// The coordinator has no space to record a decision. Trying again later may help.
    LogFull,
    /// A cause that this version does not know.
    Other,
}

impl From<i32> for RollbackReason {
    fn from(reason: i32) -> Self {
        match v1::RollbackReason::try_from(reason) {
            Ok(v1::RollbackReason::Requested) => Self::Requested,
            Ok(v1::RollbackReason::TimedOut) => Self::TimedOut,
            Ok(v1::RollbackReason::Voted) => Self::Voted,
            Ok(v1::RollbackReason::BranchCount) => Self::BranchCount,
            Ok(v1::RollbackReason::Presumed) => Self::Presumed,
            Ok(v1::RollbackReason::LeaseLost) => Self::LeaseLost,
            Ok(v1::RollbackReason::LogFull) => Self::LogFull,
            Ok(v1::RollbackReason::Unspecified) | Err(_) => Self::Other,
        }
    }
}

/// Why a transaction is not (known to be) ended as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// It is rolled back, with all its work.
    #[error("the transaction {gtrid} is rolled back: {rollback}")]
    RolledBack {
        /// The transaction.
        gtrid: Gtrid,
        /// Why.
        rollback: Rollback,
    },
    /// It is committed, although a rollback was asked for: that came too late.
    #[error("the transaction {gtrid} was committed before")]
    CommittedBefore {
        /// The transaction.
        gtrid: Gtrid,
    },
    /// Nobody can tell now whether it is committed or rolled back. [`Client::resolve`] asks again.
    #[error("the outcome of transaction {gtrid} is unknown")]
    Unknown {
        /// The transaction.
        gtrid: Gtrid,
    },
    /// Branches ended otherwise than decided. It is on the operator's list.
    #[error("the transaction {gtrid} ended with a heuristic outcome: {outcome:?}")]
    Heuristic {
        /// The transaction.
        gtrid: Gtrid,
        /// How.
        outcome: Outcome,
    },
    /// The coordinator refused the request, which changed nothing: the transaction will time out.
    #[error("the coordinator refused to end transaction {gtrid}: {reason} ({detail:?})")]
    Refused {
        /// The transaction.
        gtrid: Gtrid,
        /// Upper snake case.
        reason: String,
        /// For people. Untrusted text.
        detail: String,
    },
}

/// A transaction that has begun. Dropped without [`Transaction::commit`], it is rolled back in the
/// background.
#[derive(Debug)]
#[must_use = "a transaction that is dropped rolls back"]
pub struct Transaction {
    client: Client,
    gtrid: Gtrid,
    /// The same in each repeat of its end.
    request_id: [u8; 16],
    /// When it times out.
    ends_at: Option<Instant>,
    wait: Wait,
    /// Requests made for it, those whose replies were counted, and the branches counted in them.
    requests: AtomicU32,
    counted: AtomicU32,
    branches: AtomicU32,
    ended: bool,
}

impl Transaction {
    pub(crate) fn new(client: Client, gtrid: Gtrid, ends_at: Option<Instant>) -> Self {
        Self {
            client,
            gtrid,
            request_id: rand::random(),
            ends_at,
            wait: Wait::Decided,
            requests: AtomicU32::new(0),
            counted: AtomicU32::new(0),
            branches: AtomicU32::new(0),
            ended: false,
        }
    }

    /// The transaction's name.
    #[must_use]
    pub fn gtrid(&self) -> Gtrid {
        self.gtrid
    }

    /// Time until the coordinator rolls it back.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.ends_at.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }

    /// When [`Transaction::commit`] returns: as soon as the decision is durable (by itself), or
    /// when every branch has finished.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// A work request that carries the transaction and its remaining time. [`Transaction::count`]
    /// the reply, or use [`Transaction::call`], which does.
    pub fn request<M>(&self, message: M) -> Request<M> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = Request::new(message);
        if let Ok(value) = AsciiMetadataValue::try_from(self.gtrid.to_string()) {
            request.metadata_mut().insert(HEADER_TRANSACTION, value);
        }
        // A time of zero would mean none.
        if self.ends_at.is_some() {
            request.set_timeout(self.remaining().max(Duration::from_millis(1)));
        }
        request
    }

    /// Counts the branches that a work reply tells. Once every request's reply is counted, the
    /// commit carries their number: a branch that got lost on the way rolls the transaction back
    /// instead of committing half.
    pub fn count(&self, reply: &MetadataMap) {
        self.branches.fetch_add(branches_in(reply), Ordering::Relaxed);
        self.counted.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes a work call: `send` gets the request to send, the reply is counted.
    ///
    /// # Errors
    /// The call's own.
    pub async fn call<M, R, F>(
        &self,
        message: M,
        send: impl FnOnce(Request<M>) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let reply = send(self.request(message)).await?;
        self.count(reply.metadata());
        Ok(reply)
    }

    /// The number of branches, if the reply of every request was counted.
    #[must_use]
    pub fn branches(&self) -> Option<u32> {
        let requests = self.requests.load(Ordering::Relaxed);
        let complete = requests > 0 && requests == self.counted.load(Ordering::Relaxed);
        complete.then(|| self.branches.load(Ordering::Relaxed))
    }

    /// Commits if every participant agrees. Once called, the commit runs to its end even if the
    /// future is dropped.
    ///
    /// A session that is lost meanwhile is no outcome: the commit, which is idempotent, is asked
    /// for again on the next one, as long as [`crate::ClientBuilder::resolve_within`] says. One
    /// that the coordinator refuses is not: its transaction is rolled back by the time-out.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(mut self) -> Result<Committed, CommitError> {
        self.ended = true;
        let gtrid = self.gtrid;
        let wait = match self.wait {
            Wait::Decided => v1::Wait::Decided,
            Wait::Completed => v1::Wait::Completed,
        };
        let commit = v1::Commit {
            gtrid: gtrid.as_bytes().to_vec(),
            request_id: self.request_id.to_vec(),
            expected_branches: self.branches(),
            wait: wait.into(),
        };
        match self.client.ask_outcome(Say::Commit(commit)).await {
            Ok(Resolution::Committed { completed }) => Ok(Committed { gtrid, completed }),
            Ok(Resolution::RolledBack(rollback)) => {
                Err(CommitError::RolledBack { gtrid, rollback })
            }
            Ok(Resolution::Heuristic(outcome)) => Err(CommitError::Heuristic { gtrid, outcome }),
            Ok(Resolution::Unknown) | Err(ResolveError::NoAnswer) => {
                Err(CommitError::Unknown { gtrid })
            }
            Err(ResolveError::Refused { reason, detail }) => {
                Err(CommitError::Refused { gtrid, reason, detail })
            }
        }
    }

    /// Rolls back and waits until that is decided.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] if the coordinator cannot be asked (the time-out rolls back then)
    /// or has no record, and what else [`CommitError`] says.
    pub async fn rollback(mut self) -> Result<Rollback, CommitError> {
        self.ended = true;
        let gtrid = self.gtrid;
        match self.client.ask_outcome(Say::Rollback(self.rollback_message())).await {
            Ok(Resolution::RolledBack(rollback)) => Ok(rollback),
            Ok(Resolution::Committed { .. }) => Err(CommitError::CommittedBefore { gtrid }),
            Ok(Resolution::Heuristic(outcome)) => Err(CommitError::Heuristic { gtrid, outcome }),
            Ok(Resolution::Unknown) | Err(ResolveError::NoAnswer) => {
                Err(CommitError::Unknown { gtrid })
            }
            Err(ResolveError::Refused { reason, detail }) => {
                Err(CommitError::Refused { gtrid, reason, detail })
            }
        }
    }

    fn rollback_message(&self) -> v1::Rollback {
        v1::Rollback { gtrid: self.gtrid.as_bytes().to_vec(), request_id: self.request_id.to_vec() }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.ended {
            self.client.tell(Say::Rollback(self.rollback_message()));
        }
    }
}
