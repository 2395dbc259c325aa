//! Branches that end alone, while their coordinator is silent (section 4 of the contract): each has
//! a row that says how, on record before it has any effect.
//!
//! ```text
//!  end_alone:  listed? -- the row, if it is listed still -- XA COMMIT, XA ROLLBACK -- row: done
//!  an order:   XA COMMIT, XA ROLLBACK -- the row goes -- answer
//! ```
//! The row is written in a transaction that commits only if the branch is listed after the row was
//! locked. An order takes the row away after it has ended the branch, and waits for one that is
//! being written. So no row comes after an order was answered, and one that is not *done* while its
//! branch is gone was left by a life that died. Then the marker tells which of the two came first;
//! the row's own evidence says where the marker would be. It is not cleaned away meanwhile: see
//! [`super::markers::Markers::ended`].

use super::Mysql;
use super::errors::Trouble;
use super::evidence::{self, Look, judge};
use super::markers::{Markers, hex};
use super::outside::{connection, within};
use super::resource::{Carried, End};
use super::table::{Held, Stage};
use super::{server, session};
use crate::resource::{EndedAlone, Retry, Unfit};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::sync::atomic::{AtomicBool, Ordering};
use unanimous_core::message::Done;
use unanimous_core::record::cut;
use unanimous_core::{Bqual, BranchId, BranchResult, Decision, Evidence, Gtrid};

const NAME: &str = "unanimous_alone";
const WHY_BYTES_MAX: usize = 500;
/// "Table doesn't exist", and what who has no rights on it is told instead.
const NO_SUCH_TABLE: u16 = 1146;
const DENIED: u16 = 1142;
/// How long the server keeps a session that has begun to write a row and says no more, in seconds:
/// an order may wait for it.
const WRITING_S_MAX: u32 = 30;

/// The table of the rows, and the statements that are made to it. It is there only where somebody
/// had a policy.
#[derive(Debug)]
pub(super) struct Alone {
    table: String,
    /// It was seen, with the right to read it.
    is_known: AtomicBool,
}

/// What is on record of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    committed: bool,
    /// The branch has ended so.
    done: bool,
    why: String,
    evidence: Evidence,
}

/// A row as it is read: gtrid, bqual, committed, done, why, evidence.
type Fields = (Vec<u8>, Vec<u8>, i64, i64, Vec<u8>, Vec<u8>);

/// What the record says of a branch that is not listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnRecord {
    Nothing,
    /// It ended alone.
    Ended(BranchResult),
    /// It was to end alone; nothing proves whether it did.
    Unproven,
}

impl Row {
    fn result(&self) -> BranchResult {
        if self.committed { BranchResult::Committed } else { BranchResult::RolledBack }
    }

    fn read((_, _, committed, done, why, evidence): Fields) -> Self {
        Self {
            committed: committed != 0,
            done: done != 0,
            why: String::from_utf8_lossy(&why).into_owned(),
            evidence: evidence::of(evidence),
        }
    }

    /// Whether the branch, which is not listed, ended as the row says. `None`: not proved.
    fn is_true(&self, look: &Look) -> Option<bool> {
        match judge(look, Some(&self.evidence)) {
            Done::Done => Some(self.committed),
            Done::Heuristic(BranchResult::RolledBack) => Some(!self.committed),
            _ => None,
        }
    }
}

impl Alone {
    pub(super) fn new(markers: &Markers) -> Self {
        Self { table: markers.beside(NAME), is_known: AtomicBool::new(false) }
    }

    /// The table, if there is one as far as this process knows.
    pub(super) fn known(&self) -> Option<&str> {
        self.is_known.load(Ordering::Relaxed).then_some(&*self.table)
    }

    /// There is nothing on record, for there is no table.
    pub(super) fn is_missing(&self, trouble: &Trouble) -> bool {
        let Trouble::Refused(error) = trouble else { return false };
        match error.code {
            NO_SUCH_TABLE => {
                self.is_known.store(false, Ordering::Relaxed);
                true
            }
            DENIED => self.known().is_none(),
            _ => false,
        }
    }

    fn create(&self) -> String {
        format!(
            "CREATE TABLE IF NOT EXISTS {} (gtrid BINARY(24) NOT NULL, bqual BINARY(24) NOT NULL, \
             committed BOOLEAN NOT NULL, done BOOLEAN NOT NULL DEFAULT FALSE, \
             why VARCHAR({WHY_BYTES_MAX}) CHARACTER SET utf8mb4 NOT NULL, \
             evidence VARBINARY({}) NOT NULL, \
             decided_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), \
             PRIMARY KEY (gtrid, bqual)) ENGINE=InnoDB",
            self.table,
            Evidence::DATA_BYTES_MAX
        )
    }

    /// What stands there already stays.
    fn insert(&self, branch: &BranchId, row: &Row) -> String {
        let BranchId { gtrid, bqual } = branch;
        let why = hex(cut(&row.why, WHY_BYTES_MAX).as_bytes());
        format!(
            "INSERT IGNORE INTO {} (gtrid, bqual, committed, why, evidence) VALUES \
             (X'{gtrid}', X'{bqual}', {}, CONVERT(X'{why}' USING utf8mb4), X'{}')",
            self.table,
            u8::from(row.committed),
            hex(&row.evidence.data)
        )
    }

    fn select(&self) -> String {
        format!("SELECT gtrid, bqual, committed, done, why, evidence FROM {}", self.table)
    }

    /// Waits for one that is being written.
    fn select_one(&self, branch: &BranchId) -> String {
        format!("{} WHERE {} LOCK IN SHARE MODE", self.select(), key(branch))
    }

    fn set_done(&self, branch: &BranchId) -> String {
        format!("UPDATE {} SET done = TRUE WHERE {} AND NOT done", self.table, key(branch))
    }

    fn delete(&self, branch: &BranchId) -> String {
        format!("DELETE FROM {} WHERE {}", self.table, key(branch))
    }

    /// Writes a row and undoes it, with all that is done to rows. Rows that are deleted in the end
    /// were not undone.
    fn try_out(&self, own: &[u8; 24]) -> String {
        let (table, own) = (&self.table, hex(own));
        let key = format!("gtrid = X'{own}' AND bqual = X'{own}'");
        format!(
            "START TRANSACTION; INSERT IGNORE INTO {table} \
             (gtrid, bqual, committed, why, evidence) VALUES (X'{own}', X'{own}', FALSE, '', ''); \
             UPDATE {table} SET done = TRUE WHERE {key} AND NOT done; \
             {} WHERE {key} LOCK IN SHARE MODE; ROLLBACK; DELETE FROM {table} WHERE {key}",
            self.select()
        )
    }
}

fn key(BranchId { gtrid, bqual }: &BranchId) -> String {
    format!("gtrid = X'{gtrid}' AND bqual = X'{bqual}'")
}

/// The branch of a row; `None`: it is not ours.
fn branch((gtrid, bqual, ..): &Fields) -> Option<BranchId> {
    Some(BranchId { gtrid: Gtrid::from_bytes(gtrid).ok()?, bqual: Bqual::from_bytes(bqual).ok()? })
}

impl Mysql {
    /// [`crate::Resource::check_alone`].
    pub(super) async fn examine_alone(&self) -> Result<(), Unfit> {
        let asked = async {
            let mut conn = self.outside().await?;
            Ok::<_, Retry>(server::user(&mut conn).await?)
        };
        let user = asked.await.unwrap_or_else(|_| "the user".to_owned());
        let unfit = |what: String| Unfit {
            what,
            why: "what a participant decides alone must be on record before it has any effect"
                .to_owned(),
            next: format!(
                "{}; GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {user}; or take the \
                 heuristic policy away",
                self.inner.alone.create(),
                self.inner.alone.table
            ),
        };
        let table = &self.inner.alone.table;
        let unusable = |why: &dyn std::fmt::Display| {
            unfit(format!("the table of branches that end alone, {table}, cannot be used: {why}"))
        };
        let server = self.server().await.map_err(|retry| unusable(&retry.why))?;
        if !server.one_phase && !self.inner.accepts_unsafe {
            return Err(Unfit {
                next: "SET GLOBAL sync_binlog = 1, and in the server's configuration sync_binlog \
                       = 1; or take the heuristic policy away"
                    .to_owned(),
                ..unfit("the binary log is on, and sync_binlog is not 1".to_owned())
            });
        }
        match self.make_usable().await {
            Ok(0) => {}
            Ok(_) => {
                return Err(unfit(format!(
                    "the table of branches that end alone, {table}, has no transactions: drop it \
                     first"
                )));
            }
            Err(trouble) => return Err(unusable(&trouble)),
        }
        self.inner.alone.is_known.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the table if there is none, and tries it; the rows that could not be undone.
    async fn make_usable(&self) -> Result<u64, Trouble> {
        let tried = self.try_alone().await;
        match tried {
            Err(Trouble::Refused(error)) if [NO_SUCH_TABLE, DENIED].contains(&error.code) => {
                let mut conn = connection(&self.inner.finishing).await?;
                within(conn.query_drop(self.inner.alone.create())).await?;
                tracing::info!(table = self.inner.alone.table, "the table was made");
                self.try_alone().await
            }
            tried => tried,
        }
    }

    async fn try_alone(&self) -> Result<u64, Trouble> {
        let mut conn = connection(&self.inner.finishing).await?;
        let tried = within(conn.query_drop(self.inner.alone.try_out(&rand::random()))).await;
        let left = conn.affected_rows();
        if tried.is_err() {
            // Its transaction may be open.
            session::discard(conn);
        }
        tried.map(|()| left)
    }

    /// [`crate::Resource::end_alone`].
    pub(super) async fn decide_alone(
        &self,
        branch: &BranchId,
        decision: Decision,
        why: &str,
    ) -> Result<Done, Retry> {
        let held = self.inner.table.held(branch);
        if held.as_ref().is_some_and(|held| held.stage != Stage::Prepared) {
            return Err(Retry::because("the branch is not known to be prepared"));
        }
        let row = Row {
            committed: decision == Decision::Commit,
            done: false,
            why: why.to_owned(),
            evidence: self.server().await?.identity.evidence(),
        };
        let written = self.write(branch, &row).await?;
        if let Some(row) = written {
            let end = if row.committed { End::Commit } else { End::Rollback };
            if self.carry_out(branch, end, held.as_ref()).await? == Carried::Out {
                self.inner.table.remove(branch);
                let mut conn = self.outside().await?;
                within(conn.query_drop(self.inner.alone.set_done(branch))).await?;
            }
        }
        self.leave(branch, held).await;
        let mut conn = self.outside().await?;
        match self.on_record(&mut conn, branch).await? {
            OnRecord::Ended(result) => Ok(Done::Heuristic(result)),
            OnRecord::Nothing => Ok(Done::Done),
            OnRecord::Unproven => Err(Retry::because("nothing proves how the branch has ended")),
        }
    }

    /// The branch is over; its connection, if it still has one, is not to be used again.
    async fn leave(&self, branch: &BranchId, held: Option<Held>) {
        if let Some(held) = held {
            self.close_line(&held.session).await;
        }
        self.inner.table.remove(branch);
    }

    /// Puts a decision on record, unless there is one; what is on record now. `None`: the branch is
    /// not prepared any more, and nothing was written.
    async fn write(&self, branch: &BranchId, row: &Row) -> Result<Option<Row>, Retry> {
        let mut conn = self.outside().await?;
        if !self.lists(&mut conn, branch).await? {
            return Ok(None);
        }
        let written = self.write_on(&mut conn, branch, row).await;
        // Its transaction may be open, and its time-out is shorter than those of the others.
        session::discard(conn);
        Ok(written?)
    }

    async fn write_on(
        &self,
        conn: &mut Conn,
        branch: &BranchId,
        row: &Row,
    ) -> Result<Option<Row>, Trouble> {
        let insert = self.inner.alone.insert(branch, row);
        let begin = format!("SET SESSION wait_timeout = {WRITING_S_MAX}; START TRANSACTION");
        within(conn.query_drop(format!("{begin}; {insert}"))).await?;
        let Some(row) = self.row(conn, branch).await? else {
            return Err(Trouble::Broken("the decision could not be put on record".to_owned()));
        };
        if !self.lists(conn, branch).await? {
            within(conn.query_drop("ROLLBACK")).await?;
            return Ok(None);
        }
        within(conn.query_drop("COMMIT")).await?;
        Ok(Some(row))
    }

    async fn row(&self, conn: &mut Conn, branch: &BranchId) -> Result<Option<Row>, Trouble> {
        let asked = self.inner.alone.select_one(branch);
        let read: Result<Option<Fields>, Trouble> = within(conn.query_first(asked)).await;
        match read {
            Err(trouble) if self.inner.alone.is_missing(&trouble) => Ok(None),
            read => Ok(read?.map(Row::read)),
        }
    }

    /// What the record says of a branch that the server was seen not to list.
    pub(super) async fn on_record(
        &self,
        conn: &mut Conn,
        branch: &BranchId,
    ) -> Result<OnRecord, Retry> {
        let Some(row) = self.row(conn, branch).await? else { return Ok(OnRecord::Nothing) };
        // The row may be younger than the list that the branch was not on.
        if !row.done && self.lists(conn, branch).await? {
            return Err(Retry::because("the branch is prepared"));
        }
        self.settle(conn, branch, &row).await
    }

    /// What a row says whose branch was not listed after the row was read. A row that is not done
    /// is made so, or deleted.
    async fn settle(
        &self,
        conn: &mut Conn,
        branch: &BranchId,
        row: &Row,
    ) -> Result<OnRecord, Retry> {
        if row.done {
            return Ok(OnRecord::Ended(row.result()));
        }
        let server = self.server().await?;
        let look = self.look(conn, server, branch).await?;
        let alone = &self.inner.alone;
        match row.is_true(&look) {
            Some(true) => {
                within(conn.query_drop(alone.set_done(branch))).await?;
                // Another process may have been here, or an order.
                match self.row(conn, branch).await? {
                    Some(row) if row.done => Ok(OnRecord::Ended(row.result())),
                    Some(_) => Err(Retry::because("another process is at its record")),
                    None => Ok(OnRecord::Nothing),
                }
            }
            Some(false) => {
                let delete = format!("{} AND NOT done", alone.delete(branch));
                within(conn.query_drop(delete)).await?;
                Ok(OnRecord::Nothing)
            }
            None => Ok(OnRecord::Unproven),
        }
    }

    /// [`crate::Resource::ended_alone`].
    pub(super) async fn list_alone(&self) -> Result<Vec<EndedAlone>, Retry> {
        let mut conn = self.outside().await?;
        let read: Result<Vec<Fields>, Trouble> =
            within(conn.query(self.inner.alone.select())).await;
        let rows = match read {
            Err(trouble) if self.inner.alone.is_missing(&trouble) => return Ok(Vec::new()),
            read => read?,
        };
        self.inner.alone.is_known.store(true, Ordering::Relaxed);
        // After the rows: what is not listed has ended, for it was when its row was written.
        let listed = if rows.is_empty() { Vec::new() } else { self.list(&mut conn).await? };
        let mut ended = Vec::new();
        for fields in rows {
            let Some(branch) = branch(&fields).filter(|branch| !listed.contains(branch)) else {
                continue;
            };
            let row = Row::read(fields);
            match self.settle(&mut conn, &branch, &row).await? {
                OnRecord::Ended(result) => ended.push(EndedAlone { branch, result, why: row.why }),
                OnRecord::Nothing => {}
                OnRecord::Unproven => {
                    tracing::warn!(gtrid = %branch.gtrid, bqual = %branch.bqual, why = row.why,
                        "a branch was to end alone, and nothing proves how it ended: not told \
                         before its coordinator asks");
                }
            }
        }
        Ok(ended)
    }

    /// Takes the branch's row away, durably; [`crate::Resource::forget`].
    pub(super) async fn strike(&self, branch: &BranchId) -> Result<(), Retry> {
        let mut conn = self.outside().await?;
        match within(conn.query_drop(self.inner.alone.delete(branch))).await {
            Err(trouble) if !self.inner.alone.is_missing(&trouble) => Err(trouble.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::evidence::Identity;
    use mysql_async::ServerError;

    #[test]
    fn a_row_that_is_not_done_is_judged_by_the_marker_where_it_would_be() {
        let identity = |name| Identity { table: [name; 24], server: "1".to_owned() };
        for (committed, marker, found, expected) in [
            (true, true, Some(identity(7)), Some(true)),
            (true, true, None, Some(true)),
            (false, true, Some(identity(7)), Some(false)),
            (true, false, Some(identity(7)), Some(false)),
            (false, false, Some(identity(7)), Some(true)),
            (true, false, Some(identity(8)), None),
            (false, false, Some(identity(8)), None),
            (false, false, None, None),
        ] {
            let evidence = evidence::of(identity(7).evidence().data);
            let row = Row { committed, done: false, why: String::new(), evidence };
            let look = Look { marker, identity: found };
            assert_eq!(row.is_true(&look), expected, "{committed}, {look:?}");
        }
    }

    #[test]
    fn a_table_is_missing_to_whoever_may_not_see_it_unless_it_was_seen() {
        let alone = Alone::new(&Markers::new(Some("bank"), "other.markers"));
        assert_eq!(alone.table, "`other`.`unanimous_alone`");
        let refused = |code| {
            let (message, state) = ("words".to_owned(), "HY000".to_owned());
            Trouble::Refused(ServerError { code, message, state })
        };
        assert!(alone.is_missing(&refused(DENIED)) && alone.is_missing(&refused(NO_SUCH_TABLE)));
        assert!(!alone.is_missing(&refused(1290)));
        assert!(!alone.is_missing(&Trouble::Broken("gone".to_owned())));
        alone.is_known.store(true, Ordering::Relaxed);
        assert!(!alone.is_missing(&refused(DENIED)));
        assert!(alone.known().is_some());
        assert!(alone.is_missing(&refused(NO_SUCH_TABLE)));
        assert_eq!(alone.known(), None, "somebody has dropped it");
    }
}
