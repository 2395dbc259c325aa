//! Branches that end without their coordinator: their records are rows of a table beside the data.
//!
//! ```text
//!  end_alone:  row, durable --> COMMIT PREPARED or ROLLBACK PREPARED --> Heuristic
//!                       \
//!  an order that comes   +--> is carried out, and the row goes with it
//! ```
//! A row alone says nothing: whoever writes it may die before it has any effect, and another
//! process may be told the outcome meanwhile. So each row names its transaction, and the server
//! says whether that has ended as the row has it. If it has ended otherwise, an order was faster.

use super::Postgres;
use super::check;
use super::errors::{Meaning, Operation, meaning};
use super::evidence::{Proof, Xact};
use super::server::{ANSWER_MAX, Server, unreadable};
use super::session::{Failed, Said};
use super::statements;
use super::table::Stage;
use crate::resource::{EndedAlone, Retry, Unfit};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::SimpleQueryRow;
use unanimous_core::message::Done;
use unanimous_core::{BranchId, BranchResult, Decision};

/// A branch that was prepared so lately is on no record: nobody decides alone within a second.
const NOT_ON_RECORD: Duration = Duration::from_millis(500);
/// Longer words are of no use to anybody.
const WHY_CHARS_MAX: usize = 500;

/// What the table says of a branch.
struct Record {
    gid: String,
    committed: bool,
    /// `None`: it was not written by us.
    xact: Option<Xact>,
    why: String,
}

impl Record {
    fn of(row: &SimpleQueryRow) -> Option<Self> {
        Some(Self {
            gid: row.get(0)?.to_owned(),
            committed: row.get(1)? == "t",
            xact: row.get(2)?.parse().ok(),
            why: row.get(3)?.to_owned(),
        })
    }

    fn result(&self) -> BranchResult {
        if self.committed { BranchResult::Committed } else { BranchResult::RolledBack }
    }
}

/// What has become of a record whose branch is not listed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The branch has ended so, as far as anybody can tell.
    Had,
    /// It has ended otherwise: by order.
    Overruled,
    /// It is being ended just now.
    Pending,
}

fn effect(committed: bool, proof: Proof) -> Effect {
    match (proof, committed) {
        (Proof::Committed, true) | (Proof::RolledBack, false) | (Proof::Nothing, _) => Effect::Had,
        (Proof::Committed, false) | (Proof::RolledBack, true) => Effect::Overruled,
        (Proof::Running, _) => Effect::Pending,
    }
}

impl Server {
    async fn write(&self, sql: &str) -> Result<Said, Failed> {
        let session = self.lend().await?;
        session.say(&statements::writing(sql, session.access()), ANSWER_MAX).await
    }

    /// Whether there may be records.
    async fn has_records(&self) -> Result<bool, Retry> {
        Ok(self.ask(statements::ALONE_SEEN).await?.row().is_some())
    }

    async fn record(&self, gid: &str) -> Result<Option<Record>, Retry> {
        if !self.has_records().await? {
            return Ok(None);
        }
        let said = self.ask(&statements::alone(gid)).await?;
        said.row().map(|row| Record::of(row).ok_or_else(unreadable)).transpose()
    }

    /// Puts a decision on record, unless there is one: what is on record then, wherever it has to
    /// be.
    async fn put(
        &self,
        gid: &str,
        committed: bool,
        xact: Xact,
        why: &str,
    ) -> Result<Record, Retry> {
        let why: String = why.chars().take(WHY_CHARS_MAX).collect();
        let said = self.write(&statements::put_alone(gid, committed, xact, &why)).await?;
        let record = said.rows().nth(1).and_then(Record::of).ok_or_else(unreadable)?;
        // It may be another's, who has not waited for the standbys.
        self.replicate().await?;
        Ok(record)
    }

    async fn drop_record(&self, gid: &str) -> Result<(), Retry> {
        // A role that may only read the table has nothing in it.
        if self.record(gid).await?.is_some()
            && self.write(&statements::drop_alone(gid)).await?.unreplicated
        {
            self.replicate().await?;
        }
        Ok(())
    }

    async fn effect(&self, record: &Record) -> Result<Effect, Retry> {
        Ok(match record.xact {
            Some(xact) => effect(record.committed, self.proof(xact).await?),
            None => Effect::Had,
        })
    }

    /// The branches that have ended so.
    pub(super) async fn ended_alone(&self) -> Result<Vec<EndedAlone>, Retry> {
        let mut ended = Vec::new();
        if !self.has_records().await? {
            return Ok(ended);
        }
        let said = self.ask(&statements::ended_alone()).await?;
        for row in said.rows() {
            let record = Record::of(row).ok_or_else(unreadable)?;
            let Some(branch) = statements::branch_of(&record.gid) else { continue };
            match self.effect(&record).await? {
                Effect::Had => {
                    let result = record.result();
                    ended.push(EndedAlone { branch, result, why: record.why });
                }
                // The list is of more use than that.
                Effect::Overruled => {
                    if let Err(Retry { why }) = self.drop_record(&record.gid).await {
                        tracing::debug!(gid = record.gid, why, "an overruled record stays");
                    }
                }
                Effect::Pending => {}
            }
        }
        if !ended.is_empty() {
            self.replicate().await?;
        }
        Ok(ended)
    }

    /// The record of a branch is not needed any more.
    pub(super) async fn forget(&self, gid: &str) -> Result<(), Retry> {
        self.drop_record(gid).await?;
        // A repeat may meet what the first call did, and could not wait for.
        self.replicate().await
    }

    /// Makes the table, unless it is there, and tries what is done with it.
    async fn fit_alone(&self) -> Result<Result<(), Unfit>, Retry> {
        let said = self.ask(statements::ALONE_KIND).await?;
        let row = said.row().ok_or_else(unreadable)?;
        let (role, is_kept) = (row.get(0).ok_or_else(unreadable)?, row.get(1));
        let tried = match is_kept {
            Some("t") => self.write(statements::ALONE_TRIED).await,
            Some(_) => return Ok(Err(unfit(role, "it is not one that survives a crash"))),
            None => {
                self.write(&format!("{}; {}", statements::ALONE, statements::ALONE_TRIED)).await
            }
        };
        match tried {
            Ok(_) => Ok(Ok(())),
            // Another process makes it just now.
            Err(Failed::Refused { code, words }) if ["23505", "42P07"].contains(&code.as_str()) => {
                Err(Retry::because(words))
            }
            Err(Failed::Refused { words, .. }) => Ok(Err(unfit(role, &words))),
            Err(failed) => Err(failed.into()),
        }
    }
}

/// The check at the start of a participant with a policy.
pub(super) async fn check(postgres: &Postgres) -> Result<(), Unfit> {
    check::reach(|| postgres.server.fit_alone()).await?
}

fn unfit(role: &str, words: &str) -> Unfit {
    Unfit {
        what: format!("the table unanimous_alone cannot be used: {words}"),
        why: "what a participant decides alone must be on record before it has any effect"
            .to_owned(),
        next: format!(
            "as the owner of the role's first schema: {}; GRANT SELECT, INSERT, DELETE \
             ON unanimous_alone TO \"{role}\"",
            statements::ALONE
        ),
    }
}

impl Postgres {
    /// Ends a prepared branch, on record first.
    pub(super) async fn decide_alone(
        &self,
        branch: &BranchId,
        decision: Decision,
        why: &str,
    ) -> Result<Done, Retry> {
        let replicated = match self.stage(branch) {
            Some(Stage::Prepared(held)) => held.replicated,
            None => true,
            Some(Stage::Open(_) | Stage::Undoing(_) | Stage::Preparing(_)) => {
                return Err(Retry::because("it is not known to be prepared"));
            }
        };
        let gid = statements::gid(branch);
        let Some(row) = self.server.prepared(Some(&gid)).await?.pop() else {
            return self.ended_before(branch).await;
        };
        let record = self.server.put(&gid, decision == Decision::Commit, row.xact, why).await?;
        let sql = if record.committed {
            statements::commit_prepared(&gid)
        } else {
            statements::rollback_prepared(&gid)
        };
        match self.finish(branch, &sql).await {
            Ok(said) => {
                // Not done, the next call finds the record.
                if !replicated || said.unreplicated {
                    self.server.replicate().await?;
                }
                self.table().remove(branch);
                Ok(Done::Heuristic(record.result()))
            }
            Err(failed) => match meaning(Operation::Finish, &failed) {
                // By order, or alone as well, and on the same record.
                (Meaning::Absent, _) => self.ended_before(branch).await,
                (meaning, words) => Err(self.later(&gid, meaning, words).await),
            },
        }
    }

    async fn ended_before(&self, branch: &BranchId) -> Result<Done, Retry> {
        let alone = self.ended_alone_as(branch).await?;
        self.table().remove(branch);
        Ok(alone.map_or(Done::Done, Done::Heuristic))
    }

    /// How a branch that is not listed has ended alone, if it has. A record that was overruled
    /// goes.
    pub(super) async fn ended_alone_as(
        &self,
        branch: &BranchId,
    ) -> Result<Option<BranchResult>, Retry> {
        let gid = statements::gid(branch);
        let Some(record) = self.server.record(&gid).await? else { return Ok(None) };
        match self.server.effect(&record).await? {
            Effect::Had => {
                self.server.replicate().await?;
                Ok(Some(record.result()))
            }
            Effect::Overruled => {
                self.server.drop_record(&gid).await?;
                Ok(None)
            }
            Effect::Pending => Err(Retry::because("it is being finished")),
        }
    }

    /// Whether a branch that was seen prepared at this time was ended alone since, by another
    /// process.
    pub(super) async fn is_gone_alone(
        &self,
        branch: &BranchId,
        since: Instant,
    ) -> Result<bool, Retry> {
        let gid = statements::gid(branch);
        if since.elapsed() < NOT_ON_RECORD
            || self.server.record(&gid).await?.is_none()
            || !self.server.prepared(Some(&gid)).await?.is_empty()
        {
            return Ok(false);
        }
        Ok(self.ended_alone_as(branch).await?.is_some())
    }

    /// The branch was ended by order: a decision that is on record had no effect. `since`: it was
    /// prepared here then.
    pub(super) async fn overrule(&self, gid: &str, since: Option<Instant>) -> Result<(), Retry> {
        if since.is_some_and(|since| since.elapsed() < NOT_ON_RECORD) {
            return Ok(());
        }
        self.server.drop_record(gid).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_unless_the_server_says_otherwise() {
        for (proof, commit, rollback) in [
            (Proof::Committed, Effect::Had, Effect::Overruled),
            (Proof::RolledBack, Effect::Overruled, Effect::Had),
            (Proof::Nothing, Effect::Had, Effect::Had),
            (Proof::Running, Effect::Pending, Effect::Pending),
        ] {
            assert_eq!(
                (effect(true, proof), effect(false, proof)),
                (commit, rollback),
                "{proof:?}"
            );
        }
    }
}
