//! One transaction of an application, from its begin to its end.
//!
//! ```text
//!  Begin -- await --> Transaction -- commit / rollback / drop --> Completion
//!        \-- run ---> Handle, while the work runs ------------/
//! ```

mod outcome;
mod synchronization;

pub(crate) use outcome::Escaped;
pub use outcome::{CommitError, Committed, Rollback, RollbackReason, RunError};
pub use synchronization::Completion;

use crate::client::{Client, ResolveError};
use crate::context::Context;
use crate::tally::UnderWay;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use synchronization::Synchronizations;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span};
use unanimous_core::Gtrid;
use unanimous_core::message::Wait;
use unanimous_proto::v1;
use v1::transact_request::Body as Say;

/// Why a commit is not even asked for.
const UNDER_WAY: &str = "a call of the transaction is still under way";

/// How long the error of work that failed is held back for the answer to its rollback.
const GIVE_UP_MAX: Duration = Duration::from_secs(1);

/// What work needs of its transaction; it cannot end it. Clones are the same transaction.
///
/// One that is used after the commit was asked for does no harm, but is of no use: a participant
/// that was not asked yet still lets work join, which ends as the transaction does; afterwards it
/// refuses.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    context: Context,
    /// The same in each repeat of its end.
    request_id: [u8; 16],
    span: Span,
    rollback_only: Mutex<Option<String>>,
    synchronizations: Synchronizations,
}

impl Handle {
    /// The transaction's name.
    #[must_use]
    pub fn gtrid(&self) -> Gtrid {
        self.shared.context.gtrid()
    }

    /// Time until the coordinator rolls it back.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.shared.context.remaining()
    }

    /// What travels with its calls.
    #[must_use]
    pub fn context(&self) -> Context {
        self.shared.context.clone()
    }

    /// Runs a future as part of the transaction: calls in it through a [`crate::ClientLayer`] carry
    /// the transaction by themselves. [`Client::run`] does so with all its work; a task that it
    /// spawns needs this.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.context().scope(work)
    }

    /// A work request that carries the transaction and its remaining time. Its reply is counted by
    /// a [`crate::ClientLayer`] on the way, by [`Handle::call`], or by [`Handle::count`].
    pub fn request<M>(&self, message: M) -> Request<M> {
        self.shared.context.request(message)
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
        self.shared.context.call(message, send).await
    }

    /// Counts the branches that the reply of a [`Handle::request`] tells, where no layer and no
    /// [`Handle::call`] has done so.
    pub fn count(&self, reply: &MetadataMap) {
        self.shared.context.count_reply(reply);
    }

    /// The number of branches, if it is known what every request has brought.
    ///
    /// The commit carries it then: when a reply was lost after its work was done, the transaction
    /// is rolled back instead of being committed by halves. A call that failed has brought none.
    #[must_use]
    pub fn branches(&self) -> Option<u32> {
        self.shared.context.branches_complete()
    }

    /// From now on it can only be rolled back: its commit fails with
    /// [`RollbackReason::Requested`] and the first of these reasons, unless the transaction had
    /// timed out, or a participant had voted, before. Once the commit is sent, this does nothing.
    pub fn set_rollback_only(&self, why: impl Into<String>) {
        self.shared.rollback_only().get_or_insert(why.into());
    }

    /// Runs this before the commit is sent, after those registered before it, as part of the
    /// transaction: what was kept back until now is written out. An error rolls back. One that is
    /// registered after the commit was sent is not run.
    pub fn before_commit<F, Fut, E>(&self, check: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.shared.synchronizations.before_commit(check);
    }

    /// Calls this exactly once with what this process knows of the end, after those registered
    /// before it; at once when it has ended. It must not block. A panic in it is logged.
    pub fn after_completion(&self, hook: impl FnOnce(&Completion) + Send + 'static) {
        self.shared.synchronizations.after_completion(hook);
    }
}

impl Shared {
    fn rollback_only(&self) -> MutexGuard<'_, Option<String>> {
        self.rollback_only.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rollback_message(&self) -> Say {
        let gtrid = self.context.gtrid().as_bytes().to_vec();
        Say::Rollback(v1::Rollback { gtrid, request_id: self.request_id.to_vec() })
    }
}

/// A transaction that has begun, and whoever holds this may end it. Dropped without
/// [`Transaction::commit`], it is rolled back in the background. What work may do with it is said
/// at [`Handle`], to which it derefs; `tx.handle()` is for work that is done elsewhere.
#[derive(Debug)]
#[must_use = "a transaction that is dropped rolls back"]
pub struct Transaction {
    handle: Handle,
    wait: Wait,
    stage: Stage,
}

/// What has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing that could commit it.
    Open,
    Committing,
    Over,
}

impl Deref for Transaction {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Transaction {
    pub(crate) fn new(client: Client, context: Context, name: &str) -> Self {
        let gtrid = context.gtrid();
        let shared = Shared {
            client,
            context,
            request_id: rand::random(),
            span: tracing::info_span!("transaction", %gtrid, name = ?name),
            rollback_only: Mutex::default(),
            synchronizations: Synchronizations::default(),
        };
        let handle = Handle { shared: Arc::new(shared) };
        Self { handle, wait: Wait::Decided, stage: Stage::Open }
    }

    /// For work that is done elsewhere, and cannot end the transaction.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// When [`Transaction::commit`] returns: as soon as the decision is durable (by itself), or
    /// when every branch has finished. If that takes longer than
    /// [`crate::ClientBuilder::resolve_within`], it is committed all the same, and told so.
    pub fn wait(mut self, wait: Wait) -> Self {
        self.wait = wait;
        self
    }

    /// Commits if every participant agrees: first what was registered with
    /// [`Handle::before_commit`], then the commit itself. Once that is sent, it runs to its end
    /// even if the future is dropped.
    ///
    /// A call of the transaction that still runs then, in a task that was not waited for, rolls
    /// back ([`RollbackReason::Requested`]): its work would be in doubt.
    ///
    /// A session that is lost meanwhile is no outcome: the commit, which is idempotent, is asked
    /// for again on the next one, and so is one that the coordinator refuses for now, as long as
    /// [`crate::ClientBuilder::resolve_within`] says.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn commit(self) -> Result<Committed, CommitError> {
        let span = self.shared.span.clone();
        self.decide().instrument(span).await
    }

    async fn decide(mut self) -> Result<Committed, CommitError> {
        while let Some(check) = self.shared.synchronizations.next_before() {
            if self.shared.rollback_only().is_some() {
                break;
            }
            if let Err(why) = self.scope(async move { check().await }).await {
                self.set_rollback_only(why);
            }
        }
        let only = self.shared.rollback_only().take();
        let committed = match (only, self.shared.context.branches_at_end()) {
            (Some(why), _) => self.refuse(why).await,
            (None, Err(UnderWay)) => self.refuse(UNDER_WAY.to_owned()).await,
            (None, Ok(branches)) => self.ask_commit(branches).await,
        };
        match &committed {
            Ok(committed) => tracing::debug!(completed = committed.completed, "committed"),
            Err(error) => tracing::debug!(error = ?error.to_string(), "not committed"),
        }
        let completion = match &committed {
            Ok(committed) => Completion::Committed(*committed),
            Err(CommitError::RolledBack { rollback, .. }) => {
                Completion::RolledBack(rollback.clone())
            }
            Err(CommitError::CommittedBefore { gtrid }) => {
                Completion::Committed(Committed { gtrid: *gtrid, completed: false })
            }
            Err(CommitError::Heuristic { outcome, .. }) => Completion::Heuristic(*outcome),
            Err(CommitError::Unknown { .. }) => Completion::Unknown,
            // Nothing was changed: the guard rolls back when it is dropped.
            Err(CommitError::Refused { .. } | CommitError::ClientOver { .. }) => {
                self.stage = Stage::Open;
                return committed;
            }
        };
        self.over(completion);
        committed
    }

    async fn ask_commit(&mut self, branches: Option<u32>) -> Result<Committed, CommitError> {
        self.stage = Stage::Committing;
        let gtrid = self.gtrid();
        let wait = match self.wait {
            Wait::Decided => v1::Wait::Decided,
            Wait::Completed => v1::Wait::Completed,
        };
        let commit = v1::Commit {
            gtrid: gtrid.as_bytes().to_vec(),
            request_id: self.shared.request_id.to_vec(),
            expected_branches: branches,
            wait: wait.into(),
        };
        let client = &self.shared.client;
        let resolution = match client.ask_outcome(Say::Commit(commit)).await {
            // Decided long ago, perhaps, and only a branch is slow.
            Err(ResolveError::NoAnswer) if self.wait == Wait::Completed => {
                client.outcome_now(gtrid, branches).await.ok_or(ResolveError::NoAnswer)
            }
            answer => answer,
        };
        match resolution {
            Ok(resolution) => CommitError::of_commit(gtrid, branches, resolution),
            Err(error) => Err(CommitError::from_resolution(gtrid, branches, error)),
        }
    }

    /// It may only be rolled back. Without a request to commit it never commits, so the answer is
    /// certain before the coordinator's.
    async fn refuse(&self, why: String) -> Result<Committed, CommitError> {
        let gtrid = self.gtrid();
        match self.give_up(Duration::MAX).await {
            // Somebody else, who knows the transaction's name, was faster.
            Some(Err(
                error @ (CommitError::CommittedBefore { .. } | CommitError::Heuristic { .. }),
            )) => Err(error),
            Some(Ok(mut rollback)) => {
                if !matches!(rollback.reason, RollbackReason::TimedOut | RollbackReason::Voted) {
                    rollback = requested(why);
                } else if rollback.detail.is_empty() {
                    rollback.detail = why;
                }
                Err(CommitError::RolledBack { gtrid, rollback })
            }
            Some(Err(_)) | None => {
                self.shared.client.tell(self.shared.rollback_message());
                Err(CommitError::RolledBack { gtrid, rollback: requested(why) })
            }
        }
    }

    /// Rolls back, and waits for the answer so long, but no longer than the transaction could live.
    async fn give_up(&self, within: Duration) -> Option<Result<Rollback, CommitError>> {
        timeout(within.min(self.remaining()), self.ask_rollback()).await.ok()
    }

    async fn ask_rollback(&self) -> Result<Rollback, CommitError> {
        let (gtrid, branches) = (self.gtrid(), self.branches());
        match self.shared.client.ask_outcome(self.shared.rollback_message()).await {
            Ok(resolution) => CommitError::of_rollback(gtrid, branches, resolution),
            Err(error) => Err(CommitError::from_resolution(gtrid, branches, error)),
        }
    }

    /// Rolls back and waits until that is decided.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] if the coordinator cannot be asked (the time-out rolls back then)
    /// or has no record, and what else [`CommitError`] says.
    pub async fn rollback(mut self) -> Result<Rollback, CommitError> {
        let span = self.shared.span.clone();
        let rolled_back = self.ask_rollback().instrument(span).await;
        self.rolled_back(rolled_back.as_ref());
        rolled_back
    }

    /// What is not certain yet is left to the drop.
    fn rolled_back(&mut self, answer: Result<&Rollback, &CommitError>) {
        match answer {
            Ok(rollback) => self.over(Completion::RolledBack(rollback.clone())),
            Err(CommitError::CommittedBefore { gtrid }) => {
                self.over(Completion::Committed(Committed { gtrid: *gtrid, completed: false }));
            }
            Err(CommitError::Heuristic { outcome, .. }) => {
                self.over(Completion::Heuristic(*outcome));
            }
            Err(_) => {}
        }
    }

    fn over(&mut self, completion: Completion) {
        self.stage = Stage::Over;
        self.shared.synchronizations.complete(completion);
    }

    /// See [`Client::run`].
    pub(crate) async fn run<T, E, F, Fut>(mut self, work: F) -> Result<T, RunError<E>>
    where
        F: FnOnce(Handle) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let (handle, span) = (self.handle(), self.shared.span.clone());
        let worked = self.scope(async move { work(handle).await }).instrument(span.clone()).await;
        match worked {
            Ok(value) => {
                self.commit().await?;
                Ok(value)
            }
            Err(error) => {
                // The drop tells it again.
                if let Some(answer) = self.give_up(GIVE_UP_MAX).instrument(span).await {
                    self.rolled_back(answer.as_ref());
                }
                Err(RunError::Work(error))
            }
        }
    }
}

fn requested(why: String) -> Rollback {
    Rollback { reason: RollbackReason::Requested, participant: String::new(), detail: why }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let completion = match self.stage {
            Stage::Over => return,
            Stage::Committing => Completion::Unknown,
            Stage::Open => {
                self.shared.client.tell(self.shared.rollback_message());
                Completion::Abandoned
            }
        };
        self.shared.synchronizations.complete(completion);
    }
}
