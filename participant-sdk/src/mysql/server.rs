//! What has to be known of the server before anything is said about a branch.

use super::Mysql;
use super::errors::Trouble;
use super::evidence::{Identity, NAME_LEN};
use super::markers::{self, Marker};
use super::outside::within;
use crate::resource::Retry;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// "Table doesn't exist".
const NO_SUCH_TABLE: u16 = 1146;
/// How long another process may take to name the marker table, in seconds.
const NAMING_S_MAX: u32 = 10;

/// A server as it was met first. It keeps that for good, so that a vote never names another one
/// than the evidence that it is judged by later.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) is_mariadb: bool,
    /// A commit in one phase is as durable as one in two.
    pub(super) one_phase: bool,
    pub(super) identity: Identity,
}

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// As it is said: "10.11.14-MariaDB-0+deb12u2".
    pub(super) version: String,
    pub(super) log_bin: bool,
    pub(super) sync_binlog: u64,
}

impl Settings {
    pub(super) async fn read(conn: &mut Conn) -> Result<Self, Trouble> {
        let asked = "SELECT VERSION(), @@GLOBAL.log_bin, @@GLOBAL.sync_binlog";
        let row: Option<(String, u64, u64)> = within(conn.query_first(asked)).await?;
        let (version, log_bin, sync_binlog) = row.unwrap_or_default();
        Ok(Self { version, log_bin: log_bin == 1, sync_binlog })
    }

    pub(super) fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }

    /// With a binary log that is not synced at every commit, an acknowledged COMMIT may be lost
    /// with the machine. XA PREPARE and XA COMMIT are synced all the same.
    pub(super) fn one_phase(&self) -> bool {
        !self.log_bin || self.sync_binlog == 1
    }
}

impl Server {
    /// What the server calls itself: no replica has the same.
    pub(super) async fn own_name(&self, conn: &mut Conn) -> Result<String, Trouble> {
        own_name(conn, self.is_mariadb).await
    }
}

/// The user that the server takes a connection for, as GRANT names it.
pub(super) async fn user(conn: &mut Conn) -> Result<String, Trouble> {
    let user: Option<String> = within(conn.query_first("SELECT CURRENT_USER()")).await?;
    Ok(named(&user.unwrap_or_default()))
}

/// Only a name may hold an "@" of its own.
fn named(user: &str) -> String {
    let (name, host) = user.rsplit_once('@').unwrap_or((user, "%"));
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    format!("{}@{}", quoted(name), quoted(host))
}

async fn own_name(conn: &mut Conn, is_mariadb: bool) -> Result<String, Trouble> {
    let variable = if is_mariadb { "@@GLOBAL.server_id" } else { "@@GLOBAL.server_uuid" };
    let name: Option<String> = within(conn.query_first(format!("SELECT {variable}"))).await?;
    Ok(name.unwrap_or_default())
}

impl Mysql {
    /// The server, asked once.
    pub(super) async fn server(&self) -> Result<&Server, Retry> {
        let meeting = async {
            let mut conn = self.outside().await?;
            Ok::<_, Retry>(self.meet(&mut conn).await?)
        };
        self.inner.server.get_or_try_init(|| meeting).await
    }

    /// Reads the settings and the marker table's name; makes both where they are missing.
    pub(super) async fn meet(&self, conn: &mut Conn) -> Result<Server, Trouble> {
        let settings = Settings::read(conn).await?;
        let is_mariadb = settings.is_mariadb();
        let table = match self.table_name(conn).await {
            Ok(Some(table)) => table,
            Ok(None) => self.name_table(conn).await?,
            Err(Trouble::Refused(error)) if error.code == NO_SUCH_TABLE => {
                within(conn.query_drop(self.inner.markers.create())).await?;
                tracing::info!(table = self.inner.markers.table(), "the marker table was made");
                self.name_table(conn).await?
            }
            Err(trouble) => return Err(trouble),
        };
        let identity = Identity { table, server: own_name(conn, is_mariadb).await? };
        Ok(Server { is_mariadb, one_phase: settings.one_phase(), identity })
    }

    async fn table_name(&self, conn: &mut Conn) -> Result<Option<[u8; NAME_LEN]>, Trouble> {
        let rows: Vec<Marker> = within(conn.query(self.inner.markers.look_for_name())).await?;
        Ok(rows.iter().find_map(markers::naming))
    }

    /// One name, even if several processes start for the first time.
    async fn name_table(&self, conn: &mut Conn) -> Result<[u8; NAME_LEN], Trouble> {
        let lock = "'unanimous.naming'";
        let take = format!("SELECT GET_LOCK({lock}, {NAMING_S_MAX})");
        let taken: Option<Option<u8>> = within(conn.query_first(take)).await?;
        if taken.flatten() != Some(1) {
            return Err(Trouble::Broken("another process names the marker table".to_owned()));
        }
        let named = async {
            if let Some(name) = self.table_name(conn).await? {
                return Ok(name);
            }
            let name: [u8; NAME_LEN] = rand::random();
            within(conn.query_drop(self.inner.markers.name(&name))).await?;
            Ok::<_, Trouble>(name)
        };
        let named = named.await;
        within(conn.query_drop(format!("DO RELEASE_LOCK({lock})"))).await?;
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_as_grant_wants_it() {
        for (user, expected) in [
            ("bank@%", "'bank'@'%'"),
            ("a@b@10.0.0.1", "'a@b'@'10.0.0.1'"),
            ("o'hara@localhost", "'o''hara'@'localhost'"),
            ("", "''@'%'"),
        ] {
            assert_eq!(named(user), expected);
        }
    }

    #[test]
    fn one_phase_is_safe_without_a_binary_log_or_with_one_that_is_synced_at_every_commit() {
        for (log_bin, sync_binlog, safe) in [
            (false, 0, true),
            (false, 1, true),
            (true, 0, false),
            (true, 1, true),
            (true, 2, false),
        ] {
            let settings = Settings { version: String::new(), log_bin, sync_binlog };
            assert_eq!(settings.one_phase(), safe, "{settings:?}");
        }
    }
}
