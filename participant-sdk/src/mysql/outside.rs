//! What is done to a branch from outside of its session, on connections of our own: handlers that
//! wait for the locks of prepared branches must not keep those from being finished.

use super::errors::Trouble;
use super::evidence::{Identity, Look};
use super::markers::{self, Marker};
use super::xid::{self, Xid};
use super::{Mysql, Server};
use crate::resource::Retry;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Pool};
use std::future::Future;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use unanimous_core::BranchId;

/// A server that takes longer for one of our own messages may have lost it: the connection is
/// given up, and it is looked again.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long one of our own connections may be waited for.
const CONNECTION_MAX: Duration = Duration::from_secs(5);
/// How long a session may take to end once it was killed.
const END_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What makes a connection read what is there now, whatever the server's defaults are: a marker
/// that is not seen may be taken for a rollback, one that is not committed for a commit.
pub(super) const PLAIN: [&str; 2] = [
    "SET SESSION autocommit = 1, SESSION completion_type = 0, \
     SESSION sql_select_limit = 18446744073709551615",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
];

/// What is left of a branch whose session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Prepared,
}

/// The answer to one of our own messages.
pub(super) async fn within<T>(
    asking: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, Trouble> {
    match timeout(ANSWER_MAX, asking).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(Trouble::Broken("the server does not answer".to_owned())),
    }
}

/// A connection of a pool, in time.
pub(super) async fn connection(pool: &Pool) -> Result<Conn, Trouble> {
    match timeout(CONNECTION_MAX, pool.get_conn()).await {
        Ok(got) => got.map_err(|error| Trouble::Broken(error.to_string())),
        Err(_) => Err(Trouble::Broken("no connection in time".to_owned())),
    }
}

/// The name of the lock by which a session of this process can be told from any other session with
/// the same number, as there may be one after a restart of the server.
pub(super) fn lock_of(token: &str, connection: &str) -> String {
    format!("CONCAT('unanimous.{token}.', {connection})")
}

impl Mysql {
    /// A connection for finishing.
    pub(super) async fn outside(&self) -> Result<Conn, Retry> {
        Ok(connection(&self.inner.finishing).await?)
    }

    /// The branches of ours that the server lists as prepared.
    pub(super) async fn list(&self, conn: &mut Conn) -> Result<Vec<BranchId>, Trouble> {
        let rows: Vec<xid::Row> = within(conn.query("XA RECOVER")).await?;
        Ok(rows.iter().filter_map(xid::branch).collect())
    }

    /// Whether the server lists the branch as prepared.
    pub(super) async fn lists(&self, conn: &mut Conn, id: &BranchId) -> Result<bool, Trouble> {
        Ok(self.list(conn).await?.contains(id))
    }

    /// A fresh look for the branch's marker.
    pub(super) async fn look(
        &self,
        conn: &mut Conn,
        server: &Server,
        branch: &BranchId,
    ) -> Result<Look, Trouble> {
        let rows: Vec<Marker> = within(conn.query(self.inner.markers.look(branch))).await?;
        let marker = rows.iter().any(|row| markers::is_of(row, branch));
        let Some(table) = rows.iter().find_map(markers::naming) else {
            return Ok(Look { marker, identity: None });
        };
        let name = server.own_name(conn).await?;
        Ok(Look { marker, identity: Some(Identity { table, server: name }) })
    }

    /// Ends a session of this process, if it still lives.
    pub(super) async fn end_session(&self, conn: &mut Conn, connection: u32) -> Result<(), Retry> {
        let lock = lock_of(&self.inner.token, &connection.to_string());
        let ask = format!("SELECT IS_USED_LOCK({lock})");
        let ends_at = Instant::now() + END_MAX;
        let mut killed = false;
        loop {
            let holder: Option<Option<u32>> = within(conn.query_first(&*ask)).await?;
            if holder.flatten().is_none() {
                return Ok(());
            }
            if !killed {
                tracing::debug!(connection, "a session is ended, for its branch must end");
                // It may have ended by itself meanwhile: then the number is unknown.
                match within(conn.query_drop(format!("KILL CONNECTION {connection}"))).await {
                    Ok(()) | Err(Trouble::Refused(_)) => killed = true,
                    Err(broken) => return Err(broken.into()),
                }
            }
            if Instant::now() >= ends_at {
                return Err(Retry::because(format!("session {connection} does not end")));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the session of a branch and proves it: what the session did is undone then, and its
    /// locks are free, unless the branch is prepared.
    ///
    /// The proof is that the branch's name is free. A name that is taken and not listed as prepared
    /// is a session's that still works.
    pub(super) async fn terminate(
        &self,
        branch: &BranchId,
        connection: Option<u32>,
    ) -> Result<Left, Retry> {
        let mut conn = self.outside().await?;
        if let Some(connection) = connection {
            self.end_session(&mut conn, connection).await?;
        }
        let xid = Xid(branch);
        let take = format!("XA START {xid}; XA END {xid}; XA ROLLBACK {xid}");
        let ends_at = Instant::now() + END_MAX;
        loop {
            match within(conn.query_drop(&*take)).await {
                Ok(()) => return Ok(Left::Nothing),
                Err(Trouble::Refused(error)) if error.code == TAKEN => {}
                Err(trouble) => {
                    super::session::discard(conn);
                    return Err(trouble.into());
                }
            }
            if self.lists(&mut conn, branch).await? {
                return Ok(Left::Prepared);
            }
            if Instant::now() >= ends_at {
                return Err(Retry::because("the branch's session does not end"));
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// XAER_DUPID.
const TAKEN: u16 = 1440;
