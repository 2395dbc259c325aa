//! Accounts in MariaDB or MySQL.

use super::{ACCOUNTS, Broken, Database, OPENING_CENTS};
use crate::dev::wire::MoveRequest;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use unanimous_sdk::mysql::Mysql;
use unanimous_sdk::{Attached, ParticipantBuilder, Resource};

/// A transfer that waits longer for another one gives up.
const LOCK_OPTIONS: &str = "SET SESSION innodb_lock_wait_timeout = 2";
/// Transfers at the same time, and those that nobody finishes meanwhile.
const CONNECTIONS_MAX: usize = 64;
/// Rows in one statement.
const BATCH: u32 = 1_000;

pub(crate) struct Books {
    database: Attached<Mysql>,
    update: String,
    number: String,
    insert: String,
    sum: String,
}

/// With the driver's own scheme.
fn opts(at: &Database) -> Result<OptsBuilder, Broken> {
    let address = at.url.split_once("://").map_or("", |(_, address)| address);
    let opts = Opts::from_url(&format!("mysql://{address}"))?;
    Ok(OptsBuilder::from_opts(opts))
}

impl Books {
    pub(super) fn attach(
        at: &Database,
        builder: &mut ParticipantBuilder,
        id: String,
    ) -> Result<Self, Broken> {
        let opts = opts(at)?.init(vec![LOCK_OPTIONS]);
        let database =
            Mysql::builder(opts).work_pool_max(CONNECTIONS_MAX).marker_table(marker(at)).build();
        let (accounts, entries) = (at.accounts(), at.entries());
        Ok(Self {
            database: builder.attach(id, database),
            update: format!(
                "UPDATE {accounts} SET cents = cents + ?, writes = writes + 1 WHERE account = ?"
            ),
            number: format!("SELECT writes FROM {accounts} WHERE account = ?"),
            insert: format!(
                "INSERT INTO {entries} (account, number, gtrid, cents) VALUES (?, ?, ?, ?)"
            ),
            sum: sum(at),
        })
    }

    pub(super) async fn r#move(
        &self,
        request: &Request<MoveRequest>,
        reply: &mut MetadataMap,
    ) -> Result<(), Status> {
        let mut work = self.database.join(request).await?;
        let MoveRequest { account, cents } = *request.get_ref();
        work.exec_drop(self.update.as_str(), (cents, account)).await?;
        let number: Option<i64> = work.exec_first(self.number.as_str(), (account,)).await?;
        let number = number.ok_or_else(|| Status::not_found("there is no such account"))?;
        let gtrid = work.branch().id().gtrid.to_string();
        work.exec_drop(self.insert.as_str(), (account, number, gtrid, cents)).await?;
        work.branch().announce(reply);
        work.end();
        Ok(())
    }

    /// The sum of the accounts, and how many branches are prepared.
    pub(super) async fn describe(&self) -> Result<(i64, usize, usize), Status> {
        let prepared =
            self.database.recover().await.map_err(|error| Status::unavailable(error.why))?;
        let unavailable = |error: mysql_async::Error| Status::unavailable(error.to_string());
        let mut conn = self.database.pool().get_conn().await.map_err(unavailable)?;
        let sum: Option<i64> = conn.query_first(self.sum.as_str()).await.map_err(unavailable)?;
        Ok((sum.unwrap_or_default(), prepared.len(), prepared.len()))
    }
}

/// Where the resource notes which branches have committed.
fn marker(at: &Database) -> String {
    format!("{}_marker", at.tables)
}

fn sum(at: &Database) -> String {
    format!("SELECT CAST(coalesce(sum(cents), 0) AS SIGNED) FROM {}", at.accounts())
}

async fn connect(at: &Database) -> Result<Conn, Broken> {
    Ok(Conn::new(opts(at)?).await?)
}

pub(super) async fn create(at: &Database) -> Result<(), Broken> {
    let (accounts, entries) = (at.accounts(), at.entries());
    let mut conn = connect(at).await?;
    conn.query_drop(format!(
        "CREATE TABLE {accounts} (account BIGINT PRIMARY KEY, cents BIGINT NOT NULL,
             writes BIGINT NOT NULL DEFAULT 0, CHECK (cents >= 0)) ENGINE = InnoDB"
    ))
    .await?;
    conn.query_drop(format!(
        "CREATE TABLE {entries} (account BIGINT, number BIGINT, gtrid CHAR(48) NOT NULL,
             cents BIGINT NOT NULL, PRIMARY KEY (account, number)) ENGINE = InnoDB"
    ))
    .await?;
    for first in (1..=ACCOUNTS).step_by(BATCH as usize) {
        let last = ACCOUNTS.min(first + BATCH - 1);
        let rows: Vec<String> =
            (first..=last).map(|account| format!("({account}, {OPENING_CENTS})")).collect();
        let rows = rows.join(", ");
        conn.query_drop(format!("INSERT INTO {accounts} (account, cents) VALUES {rows}")).await?;
    }
    Ok(conn.disconnect().await?)
}

pub(super) async fn remove(at: &Database) -> Result<(), Broken> {
    let mut conn = connect(at).await?;
    let tables = [at.accounts(), at.entries(), marker(at)].join(", ");
    conn.query_drop(format!("DROP TABLE IF EXISTS {tables}")).await?;
    Ok(conn.disconnect().await?)
}

pub(super) async fn adjust(at: &Database, account: u32, cents: i64) -> Result<bool, Broken> {
    let mut conn = connect(at).await?;
    let sql = format!("UPDATE {} SET cents = cents + ? WHERE account = ?", at.accounts());
    conn.exec_drop(sql, (cents, account)).await?;
    let changed = conn.affected_rows() > 0;
    conn.disconnect().await?;
    Ok(changed)
}

/// The sum of the accounts, and how many branches are prepared at the server.
pub(super) async fn totals(at: &Database) -> Result<(i64, usize), Broken> {
    let mut conn = connect(at).await?;
    let sum: Option<i64> = conn.query_first(sum(at)).await?;
    let prepared: Vec<Row> = conn.query("XA RECOVER").await?;
    let ours = prepared.iter().filter(|row| row.get::<i64, _>(1) == Some(24)).count();
    conn.disconnect().await?;
    Ok((sum.unwrap_or_default(), ours))
}
