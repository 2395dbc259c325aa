//! The resource's calls. Whatever is sent is noted in the table first; an answer that is lost is
//! never guessed at: the server process is seen gone, then the server is asked.

use super::Postgres;
use super::alone;
use super::check;
use super::errors::{Meaning, Operation, exhausts, meaning, spoils};
use super::evidence::{Proof, Xact};
use super::server::{ANSWER_MAX, unreadable};
use super::session::{Backend, Failed, Said, is_on};
use super::statements;
use super::table::{Held, Pinned, Stage};
use crate::finding::Finding;
use crate::resource::{EndedAlone, Prepared, Resource, Retry, Unfit};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use unanimous_core::message::{Done, Vote};
use unanimous_core::{BranchId, BranchResult, Decision, Evidence};

/// How long a rollback waits for a statement of the work that still runs, before the server process
/// is ended.
const ROLLBACK_MAX: Duration = Duration::from_secs(1);
/// Longer words are of no use in a vote.
const REASON_CHARS_MAX: usize = 200;

fn no(why: &str) -> Vote {
    Vote::Rollback { reason: why.chars().take(REASON_CHARS_MAX).collect() }
}

impl Resource for Postgres {
    fn kind(&self) -> &'static str {
        "postgresql"
    }

    async fn check(&self) -> Result<(), Unfit> {
        check::check(self).await
    }

    async fn findings(&self) -> Result<Vec<Finding>, Retry> {
        Postgres::findings(self).await
    }

    fn joined(&self, branch: &BranchId) {
        self.table().join(branch);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let stage = self.table().stage(branch);
        match stage {
            None => Ok(no("no work of this branch is known here")),
            Some(Stage::Open(cell)) => match cell.get() {
                None => {
                    self.table().remove(branch);
                    Ok(Vote::ReadOnly)
                }
                Some(pinned) => self.complete(branch, Arc::clone(pinned)).await,
            },
            Some(Stage::Undoing(backend)) => {
                self.server.end(backend).await?;
                self.table().remove(branch);
                Ok(no("it was being undone"))
            }
            Some(Stage::Preparing(backend)) => {
                self.look(branch, backend, "the answer to PREPARE TRANSACTION was lost").await
            }
            Some(Stage::Prepared(held)) => {
                if self.is_gone_alone(branch, held.since).await? {
                    self.table().remove(branch);
                    return Ok(no("it was decided alone"));
                }
                self.vote(branch).await
            }
        }
    }

    async fn commit(&self, branch: &BranchId, evidence: Option<&Evidence>) -> Result<Done, Retry> {
        let (stage, remembered) = {
            let table = self.table();
            (table.stage(branch), table.remembered(branch))
        };
        let (mut replicated, mut known, mut since) = (true, remembered, None);
        match stage {
            Some(Stage::Prepared(held)) => {
                (replicated, since) = (held.replicated, Some(held.since));
                known = held.xact.or(known);
            }
            Some(Stage::Preparing(backend)) => self.server.end(backend).await?,
            _ => {}
        }
        let gid = statements::gid(branch);
        match self.finish(branch, &statements::commit_prepared(&gid)).await {
            Ok(said) => {
                // Not done, the next call finds no branch, and proves as much before it says so.
                if !replicated || said.unreplicated {
                    self.server.replicate().await?;
                }
                self.overrule(&gid, since).await?;
                self.table().end(branch);
                Ok(Done::Done)
            }
            Err(failed) => match meaning(Operation::Finish, &failed) {
                (Meaning::Absent, _) => {
                    self.absent(branch, evidence.and_then(Xact::of).or(known)).await
                }
                (meaning, words) => Err(self.later(&gid, meaning, words).await),
            },
        }
    }

    /// Prepared and committed, although nobody else takes part. The answer to a plain COMMIT could
    /// not be found out once it is lost: a transaction id that was not in the forced log is given
    /// to somebody else after a crash of the server, whose success would then pass for this one's.
    async fn commit_one_phase(&self, branch: &BranchId) -> Result<Done, Retry> {
        if self.stage(branch).is_none() {
            return self.recall(branch).await;
        }
        match self.prepare(branch).await? {
            Vote::Commit { evidence } => {
                let done = self.commit(branch, evidence.as_ref()).await?;
                self.decided(branch, done).await
            }
            Vote::ReadOnly => Ok(Done::Done),
            Vote::Rollback { .. } => Ok(Done::RolledBack),
        }
    }

    async fn recall(&self, branch: &BranchId) -> Result<Done, Retry> {
        let done = self.commit(branch, None).await?;
        self.decided(branch, done).await
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        let (mut known, mut since) = (self.table().undecided(branch), None);
        match self.stage(branch) {
            Some(Stage::Open(cell)) => {
                if let Some(pinned) = cell.get() {
                    let pinned = Arc::clone(pinned);
                    drop(cell);
                    self.undo(branch, pinned).await?;
                }
                self.table().remove(branch);
                return Ok(Done::Done);
            }
            Some(Stage::Undoing(backend)) => {
                self.server.end(backend).await?;
                self.table().remove(branch);
                return Ok(Done::Done);
            }
            Some(Stage::Preparing(backend)) => self.server.end(backend).await?,
            Some(Stage::Prepared(held)) => {
                (known, since) = (held.xact.or(known), Some(held.since));
            }
            None => {}
        }
        let gid = statements::gid(branch);
        let done = match self.finish(branch, &statements::rollback_prepared(&gid)).await {
            Ok(_) => {
                self.overrule(&gid, since).await?;
                Done::Done
            }
            Err(failed) => match meaning(Operation::Finish, &failed) {
                (Meaning::Absent, _) => self.absent_undone(branch, known).await?,
                (meaning, words) => return Err(self.later(&gid, meaning, words).await),
            },
        };
        self.table().remove(branch);
        Ok(done)
    }

    async fn check_alone(&self) -> Result<(), Unfit> {
        alone::check(self).await
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
        self.server.ended_alone().await
    }

    async fn forget(&self, branch: &BranchId) -> Result<(), Retry> {
        self.server.forget(&statements::gid(branch)).await
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        let rows = self.server.prepared(None).await?;
        let mut listed = Vec::new();
        for row in rows {
            if let Some(branch) = row.branch() {
                self.table().remember(&branch, row.xact);
                listed.push(Prepared { branch, evidence: Some(row.xact.evidence()) });
            }
        }
        Ok(listed)
    }

    fn votes_early(&self, branch: &BranchId) -> bool {
        self.table().cell(branch).is_some_and(|cell| cell.initialized())
    }
}

impl Postgres {
    pub(super) fn stage(&self, branch: &BranchId) -> Option<Stage> {
        self.table().stage(branch)
    }

    /// PREPARE TRANSACTION of a branch that was worked on.
    async fn complete(&self, branch: &BranchId, pinned: Arc<Pinned>) -> Result<Vote, Retry> {
        let (gid, backend) = (statements::gid(branch), pinned.backend());
        let Some(timeline) = pinned.timeline() else {
            self.undo(branch, pinned).await?;
            return Ok(no("the server was a standby when the connection was made"));
        };
        if !self.claim(branch, &pinned, Stage::Preparing(backend)) {
            self.undo(branch, pinned).await?;
            return Ok(no("its work is not over"));
        }
        match pinned.say(&statements::prepare(&gid, backend), ANSWER_MAX).await {
            Ok(said) => {
                let xact = self.xact(&said, timeline)?;
                if said.row().is_some_and(|row| is_on(row, 2)) {
                    pinned.guarded();
                }
                let replicated = !said.unreplicated;
                let (pinned, since) = (Some(pinned), Instant::now());
                let held = Held { pinned, since, xact, replicated };
                if let Some(xact) = xact {
                    self.table().remember(branch, xact);
                }
                self.table().set(branch, Stage::Prepared(held));
                self.vote(branch).await
            }
            Err(failed) => match meaning(Operation::Prepare, &failed) {
                (Meaning::No, why) => {
                    if spoils(&failed) {
                        pinned.retire();
                    }
                    if exhausts(&failed) {
                        tracing::warn!("a branch votes rollback: {why}");
                    }
                    self.undo(branch, pinned).await?;
                    Ok(no(&why))
                }
                (_, why) => {
                    drop(pinned);
                    self.look(branch, backend, &why).await
                }
            },
        }
    }

    /// From here on nobody else can send anything on the branch's connection; `false`: somebody
    /// still can, or the branch is at another stage.
    fn claim(&self, branch: &BranchId, pinned: &Arc<Pinned>, stage: Stage) -> bool {
        let mut table = self.table();
        // Under the table's lock no new handle is given out.
        let free = table.cell(branch).is_some() && !pinned.in_use();
        if free {
            table.set(branch, stage);
        }
        free
    }

    /// The transaction in the row of a guard; `None`: it has changed nothing.
    fn xact(&self, said: &Said, timeline: u32) -> Result<Option<Xact>, Retry> {
        let system = self.sessions().cluster().ok_or_else(unreadable)?;
        let row = said.row().ok_or_else(unreadable)?;
        let xid = row.get(1).map(|text| text.parse().map_err(|_| unreadable())).transpose()?;
        Ok(xid.map(|xid| Xact { system, timeline, xid }))
    }

    /// The vote of a prepared branch. One that has only read is finished at once.
    async fn vote(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let Some(Stage::Prepared(Held { xact, replicated, .. })) = self.stage(branch) else {
            return Err(Retry::because("it is not prepared"));
        };
        let Some(xact) = xact else {
            return self.finish_reader(branch).await;
        };
        if !replicated {
            self.server.replicate().await?;
            self.table().replicated(branch);
        }
        Ok(Vote::Commit { evidence: Some(xact.evidence()) })
    }

    /// It has changed nothing: whichever way it ends, it ends the same.
    async fn finish_reader(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let gid = statements::gid(branch);
        match self.finish(branch, &statements::commit_prepared(&gid)).await {
            Ok(_) => {}
            Err(failed) => match meaning(Operation::Finish, &failed) {
                (Meaning::Absent, _) => {}
                (meaning, words) => return Err(self.later(&gid, meaning, words).await),
            },
        }
        self.table().remove(branch);
        Ok(Vote::ReadOnly)
    }

    /// Finds out whether a branch was prepared whose answer was lost.
    async fn look(&self, branch: &BranchId, backend: Backend, why: &str) -> Result<Vote, Retry> {
        // Until then it may still become prepared.
        self.server.end(backend).await?;
        let rows = self.server.prepared(Some(&statements::gid(branch))).await?;
        let Some(row) = rows.first() else {
            self.table().remove(branch);
            return Ok(no(why));
        };
        // Others may have met it meanwhile, and decided.
        let since = Instant::now().checked_sub(Duration::from_secs(row.prepared_s));
        let (xact, since) = (Some(row.xact), since.unwrap_or_else(Instant::now));
        // Whether the standbys have it was not said.
        let held = Held { pinned: None, since, xact, replicated: false };
        self.table().remember(branch, row.xact);
        self.table().set(branch, Stage::Prepared(held));
        self.vote(branch).await
    }

    /// Rolls back what is not prepared: on its own connection, if that is free and answers, else by
    /// ending the server process.
    async fn undo(&self, branch: &BranchId, pinned: Arc<Pinned>) -> Result<(), Retry> {
        let backend = pinned.backend();
        let in_use = {
            let mut table = self.table();
            table.set(branch, Stage::Undoing(backend));
            pinned.in_use()
        };
        if !in_use && pinned.say("ROLLBACK", ROLLBACK_MAX).await.is_ok() {
            pinned.release();
        } else {
            pinned.retire();
            self.server.end(backend).await?;
        }
        self.table().remove(branch);
        Ok(())
    }

    /// Sends COMMIT PREPARED or ROLLBACK PREPARED: once on the connection that has prepared the
    /// branch, else on one that is not for work.
    pub(super) async fn finish(&self, branch: &BranchId, sql: &str) -> Result<Said, Failed> {
        let pinned = self.table().take_pinned(branch);
        match pinned {
            Some(pinned) => {
                let said = pinned.say(sql, ANSWER_MAX).await?;
                pinned.release_fresh();
                Ok(said)
            }
            None => self.server.ask(sql).await,
        }
    }

    /// As the answer that decides: only evidence says that it was rolled back. One that ended alone
    /// decides nothing.
    async fn decided(&self, branch: &BranchId, done: Done) -> Result<Done, Retry> {
        if done != Done::Heuristic(BranchResult::RolledBack) {
            return Ok(done);
        }
        let alone = self.ended_alone_as(branch).await?;
        Ok(alone.map_or(Done::RolledBack, Done::Heuristic))
    }

    /// "No such branch", told to roll back.
    async fn absent_undone(&self, branch: &BranchId, xact: Option<Xact>) -> Result<Done, Retry> {
        if let Some(result) = self.ended_alone_as(branch).await? {
            return Ok(Done::Heuristic(result));
        }
        let Some(xact) = xact else { return Ok(Done::Done) };
        match self.server.proof(xact).await? {
            Proof::Committed => Ok(Done::Heuristic(BranchResult::Committed)),
            Proof::RolledBack => Ok(Done::Done),
            Proof::Running => Err(Retry::because("it is being finished")),
            Proof::Nothing => Ok(Done::Heuristic(BranchResult::Hazard)),
        }
    }

    /// "No such branch", told to commit: what can be proved.
    async fn absent(&self, branch: &BranchId, xact: Option<Xact>) -> Result<Done, Retry> {
        if let Some(result) = self.ended_alone_as(branch).await? {
            self.table().remove(branch);
            return Ok(Done::Heuristic(result));
        }
        let Some(xact) = xact else { return Ok(Done::Heuristic(BranchResult::Hazard)) };
        let result = match self.server.proof(xact).await? {
            Proof::Committed => {
                self.server.replicate().await?;
                self.table().end(branch);
                return Ok(Done::Done);
            }
            Proof::Running => return Err(Retry::because("it is being finished")),
            Proof::RolledBack => BranchResult::RolledBack,
            Proof::Nothing => BranchResult::Hazard,
        };
        self.table().remove(branch);
        Ok(Done::Heuristic(result))
    }

    /// The branch stays as it is. What only a person can mend is said aloud.
    pub(super) async fn later(&self, gid: &str, meaning: Meaning, words: String) -> Retry {
        if meaning != Meaning::Person {
            return Retry::because(words);
        }
        let needs = self.server.needs(gid).await.unwrap_or_default();
        tracing::warn!(gid, "a prepared branch cannot be finished: {words}; {needs}");
        Retry::because(format!("{words}; {needs}"))
    }
}
