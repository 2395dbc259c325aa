//! Accounts in PostgreSQL.

use super::{ACCOUNTS, Broken, Database, OPENING_CENTS};
use crate::dev::wire::MoveRequest;
use tokio_postgres::{Client, NoTls};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};
use unanimous_sdk::postgres::{Postgres, status};
use unanimous_sdk::{Attached, ParticipantBuilder, Resource};

/// A transfer that waits longer for another one gives up.
const LOCK_OPTIONS: &str = "-c lock_timeout=2s";
/// Transfers at the same time, and those that nobody finishes meanwhile.
const CONNECTIONS_MAX: usize = 64;

pub(crate) struct Books {
    database: Attached<Postgres>,
    update: String,
    insert: String,
    sum: String,
}

impl Books {
    pub(super) fn attach(
        at: &Database,
        builder: &mut ParticipantBuilder,
        id: String,
    ) -> Result<Self, Broken> {
        let mut config: tokio_postgres::Config = at.url.parse()?;
        config.options(LOCK_OPTIONS);
        let database = Postgres::builder(config).work_pool_max(CONNECTIONS_MAX).build();
        Ok(Self {
            database: builder.attach(id, database),
            update: format!(
                "UPDATE {} SET cents = cents + $2, writes = writes + 1 WHERE account = $1 \
                 RETURNING writes",
                at.accounts()
            ),
            insert: format!(
                "INSERT INTO {} (account, number, gtrid, cents) VALUES ($1, $2, $3, $4)",
                at.entries()
            ),
            sum: sum(at),
        })
    }

    pub(super) async fn r#move(
        &self,
        request: &Request<MoveRequest>,
        reply: &mut MetadataMap,
    ) -> Result<(), Status> {
        let work = self.database.join(request).await?;
        let MoveRequest { account, cents } = request.get_ref();
        let account = i64::from(*account);
        let update = work.prepare_cached(&self.update).await.map_err(status)?;
        let row = work.query_opt(&update, &[&account, cents]).await.map_err(status)?;
        let row = row.ok_or_else(|| Status::not_found("there is no such account"))?;
        let (number, gtrid): (i64, _) = (row.get(0), work.branch().id().gtrid.to_string());
        let insert = work.prepare_cached(&self.insert).await.map_err(status)?;
        work.execute(&insert, &[&account, &number, &gtrid, cents]).await.map_err(status)?;
        work.branch().announce(reply);
        work.end();
        Ok(())
    }

    /// The sum of the accounts, and how many branches are prepared.
    pub(super) async fn describe(&self) -> Result<(i64, usize, usize), Status> {
        let prepared =
            self.database.recover().await.map_err(|error| Status::unavailable(error.why))?;
        let session = self.database.pool().get().await;
        let session = session.map_err(|error| Status::unavailable(error.to_string()))?;
        let sum: i64 = session.query_one(&self.sum, &[]).await.map_err(status)?.get(0);
        Ok((sum, prepared.len(), prepared.len()))
    }
}

fn sum(at: &Database) -> String {
    format!("SELECT coalesce(sum(cents), 0)::bigint FROM {}", at.accounts())
}

async fn connect(at: &Database) -> Result<Client, Broken> {
    let (client, connection) = tokio_postgres::connect(&at.url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub(super) async fn create(at: &Database) -> Result<(), Broken> {
    let (accounts, entries) = (at.accounts(), at.entries());
    let sql = format!(
        "CREATE TABLE {accounts} (account bigint PRIMARY KEY,
             cents bigint NOT NULL CHECK (cents >= 0), writes bigint NOT NULL DEFAULT 0);
         CREATE TABLE {entries} (account bigint, number bigint, gtrid text NOT NULL,
             cents bigint NOT NULL, PRIMARY KEY (account, number));
         INSERT INTO {accounts} (account, cents)
             SELECT account, {OPENING_CENTS} FROM generate_series(1, {ACCOUNTS}) AS account"
    );
    Ok(connect(at).await?.batch_execute(&sql).await?)
}

pub(super) async fn remove(at: &Database) -> Result<(), Broken> {
    let sql = format!("DROP TABLE IF EXISTS {}, {}", at.accounts(), at.entries());
    Ok(connect(at).await?.batch_execute(&sql).await?)
}

pub(super) async fn adjust(at: &Database, account: u32, cents: i64) -> Result<bool, Broken> {
    let sql = format!("UPDATE {} SET cents = cents + $2 WHERE account = $1", at.accounts());
    Ok(connect(at).await?.execute(&sql, &[&i64::from(account), &cents]).await? > 0)
}

/// The sum of the accounts, and how many branches are prepared in the whole database.
pub(super) async fn totals(at: &Database) -> Result<(i64, usize), Broken> {
    let client = connect(at).await?;
    let prepared = "SELECT count(*) FROM pg_prepared_xacts
        WHERE database = current_database() AND gid LIKE 'u1.%'";
    let prepared: i64 = client.query_one(prepared, &[]).await?.get(0);
    let sum = client.query_one(&sum(at), &[]).await?.get(0);
    Ok((sum, usize::try_from(prepared)?))
}
