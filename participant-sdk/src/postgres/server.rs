//! What is asked of the server beside the branches' own connections: on a few connections that no
//! work can keep busy, so that whatever frees a lock never waits behind those who wait for it.

use super::evidence::{Proof, Xact, timeline_of, widened};
use super::session::{Backend, Failed, Said, Sessions};
use super::statements;
use crate::resource::Retry;
use deadpool::managed::{Object, Pool, PoolError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use unanimous_core::BranchId;

/// How long an answer may take before the connection is given up.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a connection is waited for.
const LEND_MAX: Duration = Duration::from_secs(10);
/// A server process that is told to end does so within this time, or later by itself.
const END_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The small pool.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) pool: Pool<Sessions>,
}

/// A row of `pg_prepared_xacts` in this database.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) gid: String,
    pub(super) owner: String,
    pub(super) prepared_s: u64,
    pub(super) xid_age: u64,
    pub(super) xact: Xact,
}

impl Row {
    pub(super) fn branch(&self) -> Option<BranchId> {
        statements::branch_of(&self.gid)
    }
}

impl From<Failed> for Retry {
    fn from(failed: Failed) -> Self {
        Self::because(failed.words())
    }
}

impl Server {
    pub(super) async fn lend(&self) -> Result<Object<Sessions>, Failed> {
        let lost = |words: String| Failed::Lost { words };
        match timeout(LEND_MAX, self.pool.get()).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(PoolError::Backend(error))) => Err(error.into()),
            Ok(Err(error)) => Err(lost(error.to_string())),
            Err(_) => Err(lost("all connections for finishing branches are busy".to_owned())),
        }
    }

    /// One message and its answer.
    pub(super) async fn ask(&self, sql: &str) -> Result<Said, Failed> {
        self.lend().await?.say(sql, ANSWER_MAX).await
    }

    /// Sees to it that a server process is gone, and with it every lock that its block had.
    pub(super) async fn end(&self, backend: Backend) -> Result<(), Retry> {
        let ends_at = Instant::now() + END_MAX;
        let terminate = statements::terminate(backend);
        loop {
            let said = self.ask(&terminate).await?;
            if said.row().and_then(|row| row.get(0)) == Some("0") {
                return Ok(());
            }
            if Instant::now() > ends_at {
                let Backend { pid, .. } = backend;
                return Err(Retry::because(format!("the server process {pid} does not end")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every synchronous standby has whatever was written before.
    pub(super) async fn replicate(&self) -> Result<(), Retry> {
        if self.ask(&statements::barrier()).await?.unreplicated {
            return Err(Retry::because("the wait for the synchronous standbys was broken off"));
        }
        Ok(())
    }

    /// What can be proved about a transaction that is not prepared.
    pub(super) async fn proof(&self, xact: Xact) -> Result<Proof, Retry> {
        let said = match self.ask(&statements::status(xact.xid)).await {
            Ok(said) => said,
            // A transaction in the future: it is not one of this history.
            Err(Failed::Refused { code, .. }) if code == "22023" => return Ok(Proof::Nothing),
            Err(failed) => return Err(failed.into()),
        };
        let row = said.row().ok_or_else(unreadable)?;
        let system = row.get(0).and_then(|text| text.parse().ok()).ok_or_else(unreadable)?;
        let timeline = row.get(1).and_then(timeline_of).ok_or_else(unreadable)?;
        Ok(xact.proof(system, timeline, row.get(2)))
    }

    /// Prepared branches, ours and others', or the one with this name; the oldest first.
    pub(super) async fn prepared(&self, gid: Option<&str>) -> Result<Vec<Row>, Retry> {
        let said = self.ask(&statements::prepared(gid)).await?;
        said.rows()
            .map(|row| {
                let low = row.get(1)?.parse().ok()?;
                let near = row.get(5)?.parse().ok()?;
                Some(Row {
                    gid: row.get(0)?.to_owned(),
                    owner: row.get(2)?.to_owned(),
                    prepared_s: row.get(3)?.parse().ok()?,
                    xid_age: row.get(4)?.parse().ok()?,
                    xact: Xact {
                        system: row.get(6)?.parse().ok()?,
                        timeline: timeline_of(row.get(7)?)?,
                        xid: widened(low, near),
                    },
                })
            })
            .collect::<Option<Vec<_>>>()
            .ok_or_else(unreadable)
    }

    /// Which role and database a branch needs, for the person who has to mend it.
    pub(super) async fn needs(&self, gid: &str) -> Option<String> {
        let said = self.ask(&statements::whose(gid)).await.ok()?;
        let row = said.row()?;
        let (owner, database, user, here) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Some(format!(
            "it was prepared by role {owner:?} in database {database:?}, and this is role {user:?} \
             in database {here:?}"
        ))
    }
}

pub(super) fn unreadable() -> Retry {
    Retry::because("the server's answer cannot be read")
}
