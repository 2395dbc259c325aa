//! The calls of a branch: see [`Resource`].
//!
//! | where the branch is | prepare | commit | commit in one phase | rollback |
//! | --- | --- | --- | --- | --- |
//! | `Working` | marker, prepare | - | marker, commit | undo |
//! | `Preparing` | end the session, look | - | end the session, look | end it, undo |
//! | `OnePhase` | - | - | end the session, look for the marker | - |
//! | `Prepared` | the same vote | commit | commit | undo |
//! | not here | listed? | commit from outside | `recall` | undo from outside |
//!
//! A connection whose last message has no answer is never used again: its session is ended first,
//! then the server is asked what is left ([`super::outside`]).

use super::alone::OnRecord;
use super::errors::{Finishing, Trouble, finishing};
use super::evidence::judge;
use super::outside::{Left, within};
use super::session::{self, Line, Session};
use super::table::{Held, Stage};
use super::xid::Xid;
use super::{Mysql, Server};
use crate::finding::Finding;
use crate::resource::{EndedAlone, Prepared, Resource, Retry, Unfit};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Done, Vote};
use unanimous_core::{BranchId, BranchResult, Decision, Evidence};

/// How long a handler that is in the way of a rollback may take for what it is doing.
const PATIENCE: Duration = Duration::from_millis(200);

/// How a branch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
}

/// What came of an order to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    Out,
    /// It does not list the branch.
    Unlisted,
}

/// What the connection says that a branch was pinned to.
enum Pinned {
    Done,
    /// There is none, or it said anything else.
    Ask,
}

impl Resource for Mysql {
    fn kind(&self) -> &'static str {
        "mysql"
    }

    async fn check(&self) -> Result<(), Unfit> {
        self.examine().await
    }

    async fn findings(&self) -> Result<Vec<Finding>, Retry> {
        Mysql::findings(self).await
    }

    fn joined(&self, branch: &BranchId) {
        self.inner.table.note(branch);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let server = self.server().await?;
        let Some(Held { stage, session, .. }) = self.inner.table.held(branch) else {
            let mut conn = self.outside().await?;
            return match self.lists(&mut conn, branch).await? {
                true => Ok(commit_vote(server)),
                false => Ok(no("no such branch")),
            };
        };
        match stage {
            Stage::Working => self.prepare_work(server, branch, &session).await,
            Stage::Preparing => self.settle_prepare(server, branch, &session).await,
            Stage::Prepared => Ok(commit_vote(server)),
            Stage::OnePhase => Err(Retry::because("its commit in one phase is under way")),
        }
    }

    async fn commit(&self, branch: &BranchId, evidence: Option<&Evidence>) -> Result<Done, Retry> {
        self.finish(branch, End::Commit, evidence).await
    }

    async fn commit_one_phase(&self, branch: &BranchId) -> Result<Done, Retry> {
        let server = self.server().await?;
        let Some(Held { stage, session, .. }) = self.inner.table.held(branch) else {
            return self.recall(branch).await;
        };
        let voted = match stage {
            Stage::OnePhase => return self.settle_one_phase(server, branch, &session).await,
            Stage::Working if server.one_phase => {
                return self.one_phase_work(server, branch, &session).await;
            }
            Stage::Working => self.prepare_work(server, branch, &session).await?,
            Stage::Preparing => self.settle_prepare(server, branch, &session).await?,
            Stage::Prepared => commit_vote(server),
        };
        match voted {
            Vote::Commit { evidence } => self.commit(branch, evidence.as_ref()).await,
            Vote::ReadOnly => {
                self.inner.table.note_read(branch);
                Ok(Done::Done)
            }
            Vote::Rollback { .. } => Ok(Done::RolledBack),
        }
    }

    async fn recall(&self, branch: &BranchId) -> Result<Done, Retry> {
        if self.inner.table.was_read(branch) {
            return Ok(Done::Done);
        }
        self.commit(branch, None).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        if let Some(Held { stage, session, .. }) = self.inner.table.held(branch)
            && stage != Stage::Prepared
        {
            let left = self.undo(branch, &session).await?;
            // After a commit in one phase, the marker tells.
            if left == Left::Nothing && stage != Stage::OnePhase {
                self.inner.table.remove(branch);
                return Ok(Done::Done);
            }
        }
        self.finish(branch, End::Rollback, None).await
    }

    async fn check_alone(&self) -> Result<(), Unfit> {
        self.examine_alone().await
    }

    async fn end_alone(
        &self,
        branch: &BranchId,
        decision: Decision,
        why: &str,
    ) -> Result<Done, Retry> {
        self.decide_alone(branch, decision, why).await
    }

    async fn ended_alone(&self) -> Result<Vec<EndedAlone>, Retry> {
        self.list_alone().await
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), Retry> {
        self.strike(branch).await
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        let server = self.server().await?;
        let mut conn = self.outside().await?;
        let listed = self.list(&mut conn).await?.into_iter();
        let evidence = || Some(server.identity.evidence());
        Ok(listed.map(|branch| Prepared { branch, evidence: evidence() }).collect())
    }

    fn votes_early(&self, branch: &BranchId) -> bool {
        self.inner.table.working(branch).is_some_and(|session| session.changed())
    }

    fn remembers_committed(&self) -> bool {
        true
    }

    fn ended(&self, mark: &EndedMark) {
        self.clean_up_to(mark);
    }
}

fn commit_vote(server: &Server) -> Vote {
    Vote::Commit { evidence: Some(server.identity.evidence()) }
}

fn no(reason: impl Into<String>) -> Vote {
    Vote::Rollback { reason: reason.into() }
}

/// The turn of whoever ends the branch. Handlers have left by then; one whose branch is undone
/// under it may still be at it.
async fn turn(session: &Session) -> Option<OwnedMutexGuard<Line>> {
    timeout(PATIENCE, Arc::clone(&session.line).lock_owned()).await.ok()
}

impl Mysql {
    async fn prepare_work(
        &self,
        server: &Server,
        branch: &BranchId,
        session: &Session,
    ) -> Result<Vote, Retry> {
        let Some(mut line) = turn(session).await else {
            return Err(Retry::because("a handler still works under the branch"));
        };
        session.close();
        // Out of the line while a message is under way: one that is broken off is never used again.
        let (conn, in_statement) = (line.conn.take(), line.in_statement);
        drop(line);
        let why = match (session.failure(), conn) {
            (None, None) if session.connection().is_none() => {
                self.inner.table.remove(branch);
                return Ok(Vote::ReadOnly);
            }
            (None, Some(mut conn)) if !in_statement => {
                match self.prepare_on(branch, session, &mut conn).await {
                    Ok(Vote::ReadOnly) => {
                        self.inner.table.remove(branch);
                        return Ok(Vote::ReadOnly);
                    }
                    Ok(_) => {
                        session.line.lock().await.conn = Some(conn);
                        self.inner.table.enter(branch, Stage::Prepared);
                        return Ok(commit_vote(server));
                    }
                    Err(Trouble::Broken(why)) => {
                        tracing::debug!(why, "a prepare has no answer: looked for");
                        session::discard(conn);
                        return self.settle_prepare(server, branch, session).await;
                    }
                    Err(trouble) => {
                        session.line.lock().await.conn = Some(conn);
                        session::words(&trouble)
                    }
                }
            }
            (failure, conn) => {
                let mut line = session.line.lock().await;
                line.conn = conn;
                failure.unwrap_or_else(|| "a statement of it was broken off".to_owned())
            }
        };
        // Asked again, it says the same, whatever was prepared of it.
        session.fail(&*why);
        self.inner.table.enter(branch, Stage::Working);
        self.undo_for_good(branch, session).await?;
        Ok(no(why))
    }

    /// [`Vote::ReadOnly`], or any other vote for: it is prepared.
    async fn prepare_on(
        &self,
        branch: &BranchId,
        session: &Session,
        conn: &mut Conn,
    ) -> Result<Vote, Trouble> {
        if !session.changed() && session::has_only_read(conn).await? {
            session::end_read(conn, branch).await?;
            return Ok(Vote::ReadOnly);
        }
        // From before the message is sent: if this future is dropped, it is looked for.
        self.inner.table.enter(branch, Stage::Preparing);
        session::prepare(conn, branch, &self.inner.markers.insert(branch)).await?;
        Ok(Vote::Commit { evidence: None })
    }

    /// A prepare was sent, and its answer did not come.
    async fn settle_prepare(
        &self,
        server: &Server,
        branch: &BranchId,
        session: &Session,
    ) -> Result<Vote, Retry> {
        self.close_line(session).await;
        match self.terminate(branch, session.connection()).await? {
            Left::Prepared => {
                self.inner.table.enter(branch, Stage::Prepared);
                Ok(commit_vote(server))
            }
            Left::Nothing => {
                self.inner.table.remove(branch);
                Ok(no("its connection broke before it was prepared"))
            }
        }
    }

    async fn one_phase_work(
        &self,
        server: &Server,
        branch: &BranchId,
        session: &Session,
    ) -> Result<Done, Retry> {
        let Some(mut line) = turn(session).await else {
            return Err(Retry::because("a handler still works under the branch"));
        };
        session.close();
        let (conn, in_statement) = (line.conn.take(), line.in_statement);
        match (session.failure(), conn) {
            (None, None) if session.connection().is_none() => {
                self.inner.table.note_read(branch);
                self.inner.table.remove(branch);
                Ok(Done::Done)
            }
            (None, Some(mut conn)) if !in_statement => {
                drop(line);
                if self.one_phase_on(branch, session, &mut conn).await.is_ok() {
                    self.inner.table.remove(branch);
                    return Ok(Done::Done);
                }
                // Whatever it was: the marker knows.
                session::discard(conn);
                self.settle_one_phase(server, branch, session).await
            }
            (_, conn) => {
                line.conn = conn;
                drop(line);
                session.fail("a statement of it was broken off");
                self.undo_for_good(branch, session).await?;
                Ok(Done::RolledBack)
            }
        }
    }

    async fn one_phase_on(
        &self,
        branch: &BranchId,
        session: &Session,
        conn: &mut Conn,
    ) -> Result<(), Trouble> {
        let only_read = !session.changed() && session::has_only_read(conn).await?;
        self.inner.table.enter(branch, Stage::OnePhase);
        if only_read {
            session::end_read(conn, branch).await?;
            self.inner.table.note_read(branch);
            return Ok(());
        }
        session::commit_one_phase(conn, branch, &self.inner.markers.insert(branch)).await
    }

    /// A commit in one phase was sent, or failed: once its session is gone, the marker is there, or
    /// never will be.
    async fn settle_one_phase(
        &self,
        server: &Server,
        branch: &BranchId,
        session: &Session,
    ) -> Result<Done, Retry> {
        self.close_line(session).await;
        if self.terminate(branch, session.connection()).await? == Left::Prepared {
            // By the work itself, behind our back. This answer is the decision.
            self.finish_outside(branch, End::Rollback, None).await?;
        }
        let mut conn = self.outside().await?;
        let look = self.look(&mut conn, server, branch).await?;
        self.inner.table.remove(branch);
        // Another table than the one that the marker would be in proves nothing.
        Ok(match judge(&look, Some(&server.identity.evidence())) {
            Done::Heuristic(BranchResult::RolledBack) => Done::RolledBack,
            done => done,
        })
    }

    /// Takes the connection from whoever has it. What was under way on it goes on at the server.
    pub(super) async fn close_line(&self, session: &Session) {
        session.close();
        if let Some(mut line) = turn(session).await
            && let Some(conn) = line.conn.take()
        {
            session::discard(conn);
        }
    }

    /// Undoes a branch that was not prepared, as far as this process knows, with all its locks.
    async fn undo(&self, branch: &BranchId, session: &Session) -> Result<Left, Retry> {
        session.close();
        let line = turn(session).await;
        if session.connection().is_none() {
            // Closed before: nothing will ever be begun.
            return Ok(Left::Nothing);
        }
        if let Some(mut line) = line
            && let Some(mut conn) = line.conn.take()
        {
            if !line.in_statement && session::roll_back(&mut conn, branch).await.is_ok() {
                return Ok(Left::Nothing);
            }
            session::discard(conn);
        }
        self.terminate(branch, session.connection()).await
    }

    /// As [`Mysql::undo`], and what was prepared behind our back is undone, too.
    async fn undo_for_good(&self, branch: &BranchId, session: &Session) -> Result<(), Retry> {
        if self.undo(branch, session).await? == Left::Prepared {
            self.finish_outside(branch, End::Rollback, None).await?;
        }
        self.inner.table.remove(branch);
        Ok(())
    }

    /// Commits or undoes a branch that may be prepared.
    async fn finish(
        &self,
        branch: &BranchId,
        end: End,
        evidence: Option<&Evidence>,
    ) -> Result<Done, Retry> {
        let held = self.inner.table.held(branch);
        let done = match self.carry_out(branch, end, held.as_ref()).await? {
            Carried::Out => {
                self.inner.table.remove(branch);
                // The order has won over a decision that is on record and has had no effect. A
                // fresh branch is on nobody's: the usual path pays nothing.
                if held.is_none_or(|held| held.may_be_on_record()) {
                    self.strike(branch).await?;
                }
                return Ok(Done::Done);
            }
            Carried::Unlisted => self.find_out(branch, end, evidence).await?,
        };
        self.inner.table.remove(branch);
        Ok(done)
    }

    /// Ends a branch that may be prepared, on its own connection or from outside.
    pub(super) async fn carry_out(
        &self,
        branch: &BranchId,
        end: End,
        held: Option<&Held>,
    ) -> Result<Carried, Retry> {
        let mut connection = None;
        if let Some(Held { session, .. }) = held {
            connection = session.connection();
            if matches!(self.finish_pinned(branch, end, session).await, Pinned::Done) {
                return Ok(Carried::Out);
            }
        }
        self.finish_outside(branch, end, connection).await
    }

    /// On the connection that has prepared it, which nobody else uses any more.
    async fn finish_pinned(&self, branch: &BranchId, end: End, session: &Session) -> Pinned {
        session.close();
        let Some(mut line) = turn(session).await else { return Pinned::Ask };
        let Some(mut conn) = line.conn.take() else { return Pinned::Ask };
        let sent = match line.in_statement {
            true => Err(Trouble::Broken("a statement was broken off".to_owned())),
            false => session::send(&mut conn, &statement(branch, end)).await,
        };
        match sent {
            Ok(()) => {
                session::warn_not_undone(&mut conn).await;
                Pinned::Done
            }
            Err(trouble) => {
                tracing::debug!(%trouble, "a branch was not finished on its own connection");
                session::discard(conn);
                Pinned::Ask
            }
        }
    }

    async fn finish_outside(
        &self,
        branch: &BranchId,
        end: End,
        connection: Option<u32>,
    ) -> Result<Carried, Retry> {
        let mut conn = self.outside().await?;
        if let Some(connection) = connection {
            // While it lives, MariaDB lets nobody else finish the branch.
            self.end_session(&mut conn, connection).await?;
        }
        match within(conn.query_drop(statement(branch, end))).await {
            Ok(()) => return Ok(Carried::Out),
            Err(Trouble::Broken(why)) => return Err(Retry::because(why)),
            Err(Trouble::Refused(error)) => match finishing(error.code) {
                Finishing::Look => {}
                Finishing::Later(words) => {
                    session::discard(conn);
                    tracing::warn!(%error, "a branch waits: {words}");
                    return Err(Retry::because(format!("{words}: {error}")));
                }
            },
        }
        if self.lists(&mut conn, branch).await? {
            return Err(Retry::because("another session has the branch"));
        }
        Ok(Carried::Unlisted)
    }

    /// What to say of a branch that the server does not list. First the list, then the record and
    /// the marker: a branch that is committed in between is seen.
    async fn find_out(
        &self,
        branch: &BranchId,
        end: End,
        evidence: Option<&Evidence>,
    ) -> Result<Done, Retry> {
        let server = self.server().await?;
        let mut conn = self.outside().await?;
        let record = self.on_record(&mut conn, branch).await?;
        if let OnRecord::Ended(result) = record {
            return Ok(Done::Heuristic(result));
        }
        let look = self.look(&mut conn, server, branch).await?;
        Ok(match end {
            End::Commit => judge(&look, evidence),
            // A marker is seen only if the branch was committed, and while the coordinator needs it
            // no rollback follows an order to commit: somebody has done it by hand.
            End::Rollback if look.marker => Done::Heuristic(BranchResult::Committed),
            End::Rollback if record == OnRecord::Unproven => Done::Heuristic(BranchResult::Hazard),
            End::Rollback => Done::Done,
        })
    }
}

fn statement(branch: &BranchId, end: End) -> String {
    let verb = match end {
        End::Commit => "COMMIT",
        End::Rollback => "ROLLBACK",
    };
    format!("XA {verb} {}", Xid(branch))
}
