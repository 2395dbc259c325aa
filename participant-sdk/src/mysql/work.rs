//! What a handler does under a branch.

use super::Mysql;
use super::errors::{self, Failed, Trouble};
use super::session::{self, Line, Over, Session};
use crate::context::Carrier;
use crate::participant::{Attached, Branch, JoinError};
use mysql_async::prelude::{AsQuery, FromRow, Queryable, StatementLike};
use mysql_async::{Conn, Params};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A call's time when it has none of its own.
const LONG: Duration = Duration::from_secs(24 * 3_600);
/// How often work that waits for a connection looks for one that could be given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why work did not join a transaction. Becomes a [`Status`] with `?`. The branch votes rollback,
/// if it was enlisted already.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MysqlJoinError {
    /// It did not join the branch.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Every connection of the work pool was busy for as long as joining may wait.
    #[error("no connection of the work pool was free within {waited_ms} ms")]
    PoolExhausted {
        /// How long it waited.
        waited_ms: u64,
    },
    /// Another handler works under the same branch, for as long as joining may wait.
    #[error("another call works under the same branch")]
    Busy,
    /// An earlier handler was broken off in the middle of a statement.
    #[error("earlier work under the same branch was broken off")]
    BrokenOff,
    /// The database cannot be reached, or did not begin the branch.
    #[error("the database did not begin the branch: {0}")]
    Database(String),
}

impl MysqlJoinError {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Join(error) => error.reason(),
            Self::PoolExhausted { .. } => "POOL_EXHAUSTED",
            Self::Busy => "BRANCH_BUSY",
            Self::BrokenOff => "BROKEN_OFF",
            Self::Database(_) => "DATABASE_UNAVAILABLE",
        }
    }
}

impl From<MysqlJoinError> for Status {
    fn from(error: MysqlJoinError) -> Self {
        let code = match error {
            MysqlJoinError::Join(error) => return error.into(),
            MysqlJoinError::PoolExhausted { .. } => Code::ResourceExhausted,
            MysqlJoinError::Busy | MysqlJoinError::BrokenOff => Code::Aborted,
            MysqlJoinError::Database(_) => Code::Unavailable,
        };
        status(code, error.reason(), &error)
    }
}

/// Why a statement failed. The branch votes rollback. Becomes a [`Status`] with `?`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MysqlError {
    /// The branch was undone, or an earlier statement of this handler was broken off.
    #[error("the branch takes no work any more")]
    Over,
    /// The driver's own.
    #[error(transparent)]
    Statement(#[from] mysql_async::Error),
}

impl MysqlError {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.failed().reason
    }

    fn failed(&self) -> Failed {
        match self {
            Self::Over => Failed { code: Code::Aborted, reason: "NOT_ACTIVE" },
            Self::Statement(error) => errors::statement(error),
        }
    }
}

impl From<MysqlError> for Status {
    fn from(error: MysqlError) -> Self {
        let Failed { code, reason } = error.failed();
        status(code, reason, &error)
    }
}

fn status(code: Code, reason: &'static str, error: &dyn std::error::Error) -> Status {
    let details = ErrorDetails::with_error_info(reason, "unanimous", HashMap::default());
    Status::with_error_details(code, error.to_string(), details)
}

/// Work under a branch, with the rules of a [`Branch`]: until [`MysqlWork::end`] it cannot commit,
/// and one that is dropped before makes it vote rollback. The methods are the driver's.
///
/// Every one fails with [`MysqlError`], and then the branch votes rollback, whatever is done after
/// it. A call that is given up (dropped, or timed out) in the middle of a statement does the same.
#[derive(Debug)]
#[must_use = "work that is dropped votes rollback"]
pub struct MysqlWork {
    // Goes before the branch: who comes next finds the line free.
    line: OwnedMutexGuard<Line>,
    session: Arc<Session>,
    branch: Branch,
}

impl Attached<Mysql> {
    /// Joins the transaction that a call belongs to, as [`Attached::enlist`] does, for work on this
    /// database. The first handler of a branch takes a connection and begins; a later one waits
    /// until those before it have ended, and works on the same connection.
    ///
    /// # Errors
    /// See [`MysqlJoinError`]. The work must not be done then.
    pub fn join<C: Carrier + ?Sized>(
        &self,
        call: &C,
    ) -> impl Future<Output = Result<MysqlWork, MysqlJoinError>> + Send + use<C> {
        let (enlisting, mysql) = (self.enlist(call), Mysql::clone(self));
        let remaining = call.context().map_or(LONG, |context| context.remaining().min(LONG));
        let ends_at = Instant::now() + remaining;
        async move {
            let branch = enlisting.await?;
            let wait_until = ends_at.min(Instant::now() + mysql.inner.join_wait);
            match mysql.begin(&branch, wait_until).await {
                Ok((session, line)) => Ok(MysqlWork { line, session, branch }),
                Err(error) => {
                    branch.fail(error.to_string());
                    Err(error)
                }
            }
        }
    }
}

impl Mysql {
    async fn begin(
        &self,
        branch: &Branch,
        wait_until: Instant,
    ) -> Result<(Arc<Session>, OwnedMutexGuard<Line>), MysqlJoinError> {
        let undone = || MysqlJoinError::Join(JoinError::Undone);
        let session = self.inner.table.working(branch.id()).ok_or_else(undone)?;
        let waiting = Arc::clone(&session.line).lock_owned();
        let mut line = timeout_at(wait_until, waiting).await.map_err(|_| MysqlJoinError::Busy)?;
        if line.in_statement {
            return Err(MysqlJoinError::BrokenOff);
        }
        if session.is_over() {
            return Err(undone());
        }
        if line.conn.is_none() {
            if let Some(failure) = session.failure() {
                return Err(MysqlJoinError::Database(failure));
            }
            let taken = self.take(wait_until).await;
            let conn = taken.inspect_err(|error| session.fail(error.to_string()))?;
            session.pin(conn.id()).map_err(|Over| undone())?;
            line.conn = Some(conn);
            self.begin_on(&session, &mut line, branch, wait_until).await?;
        }
        Ok((session, line))
    }

    async fn take(&self, wait_until: Instant) -> Result<Conn, MysqlJoinError> {
        let begun = Instant::now();
        let mut getting = pin!(self.inner.work.get_conn());
        loop {
            let look_at = wait_until.min(Instant::now() + LOOK_EVERY);
            if let Ok(got) = timeout_at(look_at, &mut getting).await {
                return got.map_err(|error| MysqlJoinError::Database(error.to_string()));
            }
            if Instant::now() >= wait_until {
                let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Err(MysqlJoinError::PoolExhausted { waited_ms });
            }
            // Its branch is finished from outside.
            if let Some(conn) = self.inner.table.take_of_doubtful() {
                session::discard(conn);
            }
        }
    }

    async fn begin_on(
        &self,
        session: &Session,
        line: &mut Line,
        branch: &Branch,
        wait_until: Instant,
    ) -> Result<(), MysqlJoinError> {
        let Some(conn) = &mut line.conn else { return Err(MysqlJoinError::BrokenOff) };
        line.in_statement = true;
        let late = || Trouble::Broken("the server does not answer".to_owned());
        let begun = timeout_at(wait_until, session::begin(conn, branch.id())).await;
        match begun.unwrap_or_else(|_| Err(late())) {
            Ok(()) => {
                line.in_statement = false;
                Ok(())
            }
            Err(trouble) => {
                let words = session::words(&trouble);
                session.fail(&*words);
                if matches!(trouble, Trouble::Refused(_)) {
                    // It has not begun: nothing of the branch is on this connection.
                    line.in_statement = false;
                    session.unpin();
                    if let Some(conn) = line.conn.take() {
                        session::discard(conn);
                    }
                }
                Err(MysqlJoinError::Database(words))
            }
        }
    }
}

impl MysqlWork {
    /// Does a text query; the rows of its first result.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn query<T, Q>(&mut self, query: Q) -> Result<Vec<T>, MysqlError>
    where
        Q: AsQuery,
        T: FromRow + Send + 'static,
    {
        let done = self.enter()?.query(query).await;
        self.leave(done)
    }

    /// Does a text query; the first row.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn query_first<T, Q>(&mut self, query: Q) -> Result<Option<T>, MysqlError>
    where
        Q: AsQuery,
        T: FromRow + Send + 'static,
    {
        let done = self.enter()?.query_first(query).await;
        self.leave(done)
    }

    /// Does a text query and maps every row.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn query_map<T, F, Q, U>(&mut self, query: Q, map: F) -> Result<Vec<U>, MysqlError>
    where
        Q: AsQuery,
        T: FromRow + Send + 'static,
        F: FnMut(T) -> U + Send,
        U: Send,
    {
        let done = self.enter()?.query_map(query, map).await;
        self.leave(done)
    }

    /// Does a text query.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn query_drop<Q: AsQuery>(&mut self, query: Q) -> Result<(), MysqlError> {
        let done = self.enter()?.query_drop(query).await;
        self.leave(done)
    }

    /// Executes a prepared statement; the rows of its first result.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn exec<T, S, P>(&mut self, statement: S, params: P) -> Result<Vec<T>, MysqlError>
    where
        S: StatementLike,
        P: Into<Params> + Send,
        T: FromRow + Send + 'static,
    {
        let done = self.enter()?.exec(statement, params).await;
        self.leave(done)
    }

    /// Executes a prepared statement; the first row.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn exec_first<T, S, P>(
        &mut self,
        statement: S,
        params: P,
    ) -> Result<Option<T>, MysqlError>
    where
        S: StatementLike,
        P: Into<Params> + Send,
        T: FromRow + Send + 'static,
    {
        let done = self.enter()?.exec_first(statement, params).await;
        self.leave(done)
    }

    /// Executes a prepared statement and maps every row.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn exec_map<T, S, P, F, U>(
        &mut self,
        statement: S,
        params: P,
        map: F,
    ) -> Result<Vec<U>, MysqlError>
    where
        S: StatementLike,
        P: Into<Params> + Send,
        T: FromRow + Send + 'static,
        F: FnMut(T) -> U + Send,
        U: Send,
    {
        let done = self.enter()?.exec_map(statement, params, map).await;
        self.leave(done)
    }

    /// Executes a prepared statement.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn exec_drop<S, P>(&mut self, statement: S, params: P) -> Result<(), MysqlError>
    where
        S: StatementLike,
        P: Into<Params> + Send,
    {
        let done = self.enter()?.exec_drop(statement, params).await;
        self.leave(done)
    }

    /// Executes a prepared statement for each of the parameters.
    ///
    /// # Errors
    /// See [`MysqlWork`].
    pub async fn exec_batch<S, P, I>(&mut self, statement: S, params: I) -> Result<(), MysqlError>
    where
        S: StatementLike,
        I: IntoIterator<Item = P> + Send,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        let done = self.enter()?.exec_batch(statement, params).await;
        self.leave(done)
    }

    /// Rows that the last statement has changed.
    #[must_use]
    pub fn affected_rows(&self) -> u64 {
        self.line.conn.as_ref().map_or(0, Conn::affected_rows)
    }

    /// The number that the last statement has given to a row, if it has.
    #[must_use]
    pub fn last_insert_id(&self) -> Option<u64> {
        self.line.conn.as_ref().and_then(Conn::last_insert_id)
    }

    /// The branch that it is done under.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// The work is done, and may commit as far as this call is concerned.
    pub fn end(self) {
        drop(self.line);
        self.branch.end();
    }

    /// As [`MysqlWork::end`], and the last work of the transaction here: see [`Branch::vote`].
    pub fn vote(self) {
        drop(self.line);
        self.branch.vote();
    }

    /// The work failed: the branch votes rollback, with these words.
    pub fn fail(self, why: impl Into<String>) {
        drop(self.line);
        self.branch.fail(why);
    }

    fn enter(&mut self) -> Result<&mut Conn, MysqlError> {
        if self.session.is_over() || self.line.in_statement {
            return Err(MysqlError::Over);
        }
        let line = &mut *self.line;
        let conn = line.conn.as_mut().ok_or(MysqlError::Over)?;
        line.in_statement = true;
        Ok(conn)
    }

    fn leave<T>(&mut self, done: mysql_async::Result<T>) -> Result<T, MysqlError> {
        self.line.in_statement = false;
        match done {
            Ok(value) => {
                if self.affected_rows() > 0 {
                    self.session.note_change();
                }
                Ok(value)
            }
            Err(error) => {
                self.session.fail(format!("a statement failed: {error}"));
                Err(error.into())
            }
        }
    }
}
