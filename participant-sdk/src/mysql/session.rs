//! The connection that a branch's work is done on, from the first statement until the branch ends.

use super::errors::{Trouble, refusal};
use super::outside::within;
use super::xid::Xid;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use unanimous_core::BranchId;

/// Set when the branch begins, and gone with the transaction, whoever ends it: releasing it fails
/// then, and with it the rest of the message. A marker must not be written outside of the branch.
const SAVEPOINT: &str = "unanimous_branch";
/// Changes of rows since the connection was made or reset, triggers and procedures included; what
/// the server writes into temporary tables of its own is counted elsewhere, or counts as a change.
const COUNTERS: &str = "SHOW SESSION STATUS WHERE Variable_name IN \
                        ('Handler_write', 'Handler_update', 'Handler_delete')";
/// How long the server keeps the session of a prepared branch from which it hears nothing, in
/// seconds. The branch stays: but while its session lives, MariaDB lets nobody else finish it, and
/// a machine that is gone says no goodbye.
const IN_DOUBT_S_MAX: u32 = 30;
/// "Some non-transactional changed tables couldn't be rolled back".
const NOT_UNDONE: u16 = 1196;

/// What a branch has of this process. Handlers take turns with the line.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) line: Arc<tokio::sync::Mutex<Line>>,
    standing: Mutex<Standing>,
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) conn: Option<Conn>,
    /// A statement is under way, or its caller has dropped it: how far it came is not known.
    pub(super) in_statement: bool,
}

/// The driver's own words have the password in them.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = self.conn.as_ref().map(Conn::id);
        f.debug_struct("Line")
            .field("connection", &connection)
            .field("in_statement", &self.in_statement)
            .finish()
    }
}

#[derive(Debug, Default)]
struct Standing {
    /// It takes no work any more.
    over: bool,
    /// The server's number of the connection, from before the first word is sent.
    connection: Option<u32>,
    failure: Option<String>,
    changed: bool,
}

/// The branch takes no work any more.
pub(super) struct Over;

impl Session {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on nothing is begun, and nothing more is done.
    pub(super) fn close(&self) {
        self.standing().over = true;
    }

    pub(super) fn is_over(&self) -> bool {
        self.standing().over
    }

    /// The branch is about to be begun on this connection; whoever undoes it later knows what to
    /// look for.
    pub(super) fn pin(&self, connection: u32) -> Result<(), Over> {
        let mut standing = self.standing();
        if standing.over {
            return Err(Over);
        }
        standing.connection = Some(connection);
        Ok(())
    }

    /// The server has not begun it.
    pub(super) fn unpin(&self) {
        self.standing().connection = None;
    }

    /// The connection's number, if anything was ever sent on it.
    pub(super) fn connection(&self) -> Option<u32> {
        self.standing().connection
    }

    /// The branch can only roll back; the first words stay.
    pub(super) fn fail(&self, why: impl Into<String>) {
        self.standing().failure.get_or_insert_with(|| why.into());
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.standing().failure.clone()
    }

    /// A statement has changed rows.
    pub(super) fn note_change(&self) {
        self.standing().changed = true;
    }

    pub(super) fn changed(&self) -> bool {
        self.standing().changed
    }
}

/// Sends a message of our own and reads all of its results: the first error ends it, here and on
/// the server.
pub(super) async fn send(conn: &mut Conn, message: &str) -> Result<(), Trouble> {
    within(conn.query_drop(message)).await
}

/// Begins a branch on a connection that has nothing open.
pub(super) async fn begin(conn: &mut Conn, branch: &BranchId) -> Result<(), Trouble> {
    send(conn, &format!("XA START {}; SAVEPOINT {SAVEPOINT}", Xid(branch))).await
}

/// Whether the branch has changed nothing, by the server's own count.
pub(super) async fn has_only_read(conn: &mut Conn) -> Result<bool, Trouble> {
    let message = format!("{COUNTERS}; RELEASE SAVEPOINT {SAVEPOINT}; SAVEPOINT {SAVEPOINT}");
    let counted: Vec<(String, String)> = within(conn.query(message)).await?;
    // A server that counts otherwise has proved nothing.
    Ok(counted.len() == 3 && counted.iter().all(|(_, count)| count == "0"))
}

/// Ends a branch that has changed nothing.
pub(super) async fn end_read(conn: &mut Conn, branch: &BranchId) -> Result<(), Trouble> {
    let xid = Xid(branch);
    send(conn, &format!("XA END {xid}; XA COMMIT {xid} ONE PHASE")).await
}

/// Writes the marker and prepares: one message, durable when it is answered.
pub(super) async fn prepare(
    conn: &mut Conn,
    branch: &BranchId,
    marker: &str,
) -> Result<(), Trouble> {
    let xid = Xid(branch);
    let last = format!("XA END {xid}; XA PREPARE {xid}");
    let first = format!("SET SESSION wait_timeout = {IN_DOUBT_S_MAX}");
    send(conn, &format!("{first}; RELEASE SAVEPOINT {SAVEPOINT}; {marker}; {last}")).await
}

/// Writes the marker and commits: one message, durable when it is answered.
pub(super) async fn commit_one_phase(
    conn: &mut Conn,
    branch: &BranchId,
    marker: &str,
) -> Result<(), Trouble> {
    let xid = Xid(branch);
    let last = format!("XA END {xid}; XA COMMIT {xid} ONE PHASE");
    send(conn, &format!("RELEASE SAVEPOINT {SAVEPOINT}; {marker}; {last}")).await
}

/// Undoes a branch on the connection that has it, prepared or not.
pub(super) async fn roll_back(conn: &mut Conn, branch: &BranchId) -> Result<(), Trouble> {
    let xid = Xid(branch);
    match send(conn, &format!("XA END {xid}; XA ROLLBACK {xid}")).await {
        // It was ended before, or the server lets it do nothing else.
        Err(Trouble::Refused(_)) => send(conn, &format!("XA ROLLBACK {xid}")).await?,
        done => done?,
    }
    warn_not_undone(conn).await;
    Ok(())
}

/// Says what a rollback has left behind.
pub(super) async fn warn_not_undone(conn: &mut Conn) {
    if conn.get_warnings() == 0 {
        return;
    }
    let warnings: Vec<(String, u16, String)> =
        within(conn.query("SHOW WARNINGS")).await.unwrap_or_default();
    for (_, code, words) in warnings {
        if code == NOT_UNDONE {
            tracing::error!("a branch was undone, but for tables without transactions: {words}");
        }
    }
}

/// The words of a vote against the branch.
pub(super) fn words(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Refused(error) => refusal(error),
        Trouble::Broken(why) => format!("its connection broke: {why}"),
    }
}

/// Takes a connection out of its pool and closes it, without waiting: what is open on it is nobody
/// else's.
pub(super) fn discard(conn: Conn) {
    tokio::spawn(async move {
        if let Err(error) = within(conn.disconnect()).await {
            tracing::debug!(%error, "a connection was closed without a goodbye");
        }
    });
}
