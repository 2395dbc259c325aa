//! What a handler does in a database under a branch.

use super::Postgres;
use super::session::{Session, Sessions};
use super::statements;
use super::table::{Pinned, User};
use crate::context::Carrier;
use crate::participant::{Attached, Branch, JoinError};
use deadpool::managed::{Object, PoolError};
use deadpool_postgres::ClientWrapper;
use std::collections::HashMap;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimous_core::BranchId;

/// A branch that is in doubt for longer gives its connection up, if somebody waits for one: its
/// coordinator is away.
const PINNED_MAX: Duration = Duration::from_secs(1);

/// Why work in a database did not join a transaction. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresJoinError {
    /// As with any resource.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Every connection is used by another branch or by reads, until the time was over: try again
    /// later, or let the pool be larger.
    #[error("all {connections_max} connections for work are busy, for {waited_ms} ms")]
    Exhausted {
        /// As many as there may be.
        connections_max: usize,
        /// How long one was waited for.
        waited_ms: u64,
    },
    /// There is no connection, or the block could not be begun on it.
    #[error("the database cannot be used: {0}")]
    Unavailable(String),
}

impl PostgresJoinError {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Join(error) => error.reason(),
            Self::Exhausted { .. } => "POOL_EXHAUSTED",
            Self::Unavailable(_) => "DATABASE_UNAVAILABLE",
        }
    }
}

impl From<PostgresJoinError> for Status {
    fn from(error: PostgresJoinError) -> Self {
        let code = match error {
            PostgresJoinError::Join(error) => return error.into(),
            PostgresJoinError::Exhausted { .. } => Code::ResourceExhausted,
            PostgresJoinError::Unavailable(_) => Code::Unavailable,
        };
        let details =
            ErrorDetails::with_error_info(error.reason(), "unanimous", HashMap::default());
        Self::with_error_details(code, error.to_string(), details)
    }
}

/// The connection of a branch, for somebody who works under it. It derefs to the driver's client;
/// several share it, also at the same time. Only [`PostgresWork`] knows when the work is over.
#[derive(Debug)]
pub struct BranchSession(User);

impl Deref for BranchSession {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        let session: &Session = &self.0.0;
        session
    }
}

/// Work in a database under a branch, with the rules of a [`Branch`]: until [`PostgresWork::end`]
/// it cannot commit, and one that is dropped before makes it vote rollback.
///
/// It derefs to the driver's client. Its statements run in the branch's block: READ COMMITTED by
/// itself; `SET TRANSACTION ISOLATION LEVEL` may be the first statement. A statement that fails
/// dooms the branch, as in any block, unless a savepoint is gone back to. COMMIT and ROLLBACK are
/// the coordinator's: whoever sends one by hand has the branch vote rollback, and keeps what was
/// committed so.
#[derive(Debug)]
#[must_use = "work that is dropped votes rollback"]
pub struct PostgresWork {
    // Before the branch: whoever is told that the work is over finds the connection free.
    session: BranchSession,
    branch: Branch,
}

impl Deref for PostgresWork {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.session
    }
}

impl Attached<Postgres> {
    /// Joins the transaction that a call belongs to, as [`Attached::enlist`] does, for work in this
    /// database. The first call of a branch takes a connection and begins a block on it; later ones
    /// get the same.
    ///
    /// # Errors
    /// See [`PostgresJoinError`]. The work must not be done then, and the branch votes rollback.
    pub fn join<C: Carrier + ?Sized>(
        &self,
        call: &C,
    ) -> impl Future<Output = Result<PostgresWork, PostgresJoinError>> + Send + use<C> {
        let (enlisting, context) = (self.enlist(call), call.context());
        let postgres = Postgres::clone(self);
        async move {
            let branch = enlisting.await?;
            match postgres.session(branch.id(), context?.remaining()).await {
                Ok(session) => Ok(PostgresWork { session, branch }),
                Err(error) => {
                    branch.fail(error.to_string());
                    Err(error)
                }
            }
        }
    }
}

impl PostgresWork {
    /// The branch that it is done under.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// The work is done, and may commit as far as this call is concerned.
    pub fn end(self) {
        drop(self.session);
        self.branch.end();
    }

    /// As [`PostgresWork::end`], and the last work of the transaction here: see [`Branch::vote`].
    pub fn vote(self) {
        drop(self.session);
        self.branch.vote();
    }

    /// The work failed: the branch votes rollback, with these words.
    pub fn fail(self, why: impl Into<String>) {
        drop(self.session);
        self.branch.fail(why);
    }
}

impl Postgres {
    /// The connection of a branch that was joined ([`Attached::enlist`]), for work without
    /// [`Attached::join`]: the first one takes it from the pool and begins the block. Waits for at
    /// most `remaining`, and no longer than [`super::PostgresBuilder::join_wait`]. It must be
    /// dropped before the branch is left.
    ///
    /// # Errors
    /// See [`PostgresJoinError`]; [`JoinError::Undone`] if the branch is not joined, or over.
    pub async fn session(
        &self,
        branch: &BranchId,
        remaining: Duration,
    ) -> Result<BranchSession, PostgresJoinError> {
        let undone = PostgresJoinError::Join(JoinError::Undone);
        let at_most = self.join_wait.min(remaining);
        let Some(cell) = self.table().cell(branch) else { return Err(undone) };
        let beginning = cell.get_or_try_init(|| self.begin(branch));
        let pinned = match timeout(at_most, beginning).await {
            Ok(begun) => begun?,
            Err(_) => return Err(self.waited(at_most)),
        };
        self.table().user(branch, pinned).map(BranchSession).ok_or(undone)
    }

    /// Why there was no connection in time.
    fn waited(&self, at_most: Duration) -> PostgresJoinError {
        let status = self.work.status();
        if status.size < status.max_size || status.available > 0 {
            return PostgresJoinError::Unavailable(format!("no answer in {at_most:?}"));
        }
        let waited_ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        PostgresJoinError::Exhausted { connections_max: status.max_size, waited_ms }
    }

    async fn begin(&self, branch: &BranchId) -> Result<Arc<Pinned>, PostgresJoinError> {
        let gid = statements::gid(branch);
        let mut why = String::new();
        // Connections may have died in the pool, all of them at once if the server was restarted.
        for _ in 0..=self.work.status().max_size {
            let object = self.connection().await?;
            // Closed unless everything is well, and when this is broken off.
            let pinned = Pinned::new(object);
            let begin = statements::begin(&gid, pinned.access());
            // The work follows at once, and the guard of its end sees that the block was begun: a
            // message there and back is saved. What the work does without a block changes nothing.
            if pinned.is_fresh() && pinned.send(&begin).await {
                return Ok(Arc::new(pinned));
            }
            match pinned.say(&begin, self.join_wait).await {
                Ok(said) if said.nested => {
                    "somebody has left a block open on a connection".clone_into(&mut why);
                    tracing::warn!("{why}: it is closed");
                }
                Ok(_) => return Ok(Arc::new(pinned)),
                Err(failed) => failed.words().clone_into(&mut why),
            }
        }
        Err(PostgresJoinError::Unavailable(why))
    }

    /// A connection for work. While there is none, branches that are in doubt give up theirs.
    async fn connection(&self) -> Result<Object<Sessions>, PostgresJoinError> {
        let mut getting = pin!(self.work.get());
        let got = loop {
            match timeout(PINNED_MAX, &mut getting).await {
                Ok(got) => break got,
                Err(_) => {
                    let unpinned = self.table().unpin(PINNED_MAX);
                    unpinned.iter().for_each(|pinned| pinned.release());
                }
            }
        };
        got.map_err(|error| match error {
            PoolError::Backend(error) => PostgresJoinError::Unavailable(error.to_string()),
            error => PostgresJoinError::Unavailable(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_error_becomes_a_status_that_names_its_reason() {
        let exhausted = PostgresJoinError::Exhausted { connections_max: 2, waited_ms: 50 };
        for (error, code, reason) in [
            (exhausted, Code::ResourceExhausted, "POOL_EXHAUSTED"),
            (
                PostgresJoinError::Unavailable("down".to_owned()),
                Code::Unavailable,
                "DATABASE_UNAVAILABLE",
            ),
            (JoinError::Undone.into(), Code::Aborted, "UNDONE"),
        ] {
            let status = Status::from(error);
            let info = status.get_details_error_info().unwrap();
            assert_eq!((status.code(), &*info.reason), (code, reason));
        }
    }
}
