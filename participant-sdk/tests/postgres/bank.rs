//! A database with two accounts, and the resource on it.

use std::future::Future;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_postgres::SimpleQueryMessage;
use unanimous_core::{Bqual, LogId, Owner};
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::postgres::{BranchSession, Postgres, PostgresBuilder, tokio_postgres};
use unanimous_sdk::{BranchId, Done, Evidence, Gtrid, Resource, Retry, Vote};

pub const LONG: Duration = Duration::from_secs(20);

/// A hang guard, not a measurement.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(3 * LONG, future).await {
        Ok(value) => value,
        Err(_) => unreachable!("did not happen: {what}"),
    }
}

/// The server of all tests that leave it alone.
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(&[]).unwrap())
}

/// A branch that nobody else has.
pub fn branch() -> BranchId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let log = LogId { cluster: 0xC1, slot: 1, incarnation: 0xABCD_EF01 };
    let owner = Owner { log, epoch: 5 };
    let gtrid = Gtrid::new(owner, NEXT.fetch_add(1, Ordering::Relaxed), 0);
    BranchId { gtrid, bqual: Bqual::new(7, 1, owner) }
}

pub fn gid(branch: &BranchId) -> String {
    format!("u1.{branch}")
}

/// A database on a server, and the resource.
pub struct Bank<'a> {
    pub server: &'a Server,
    pub database: String,
    pub postgres: Postgres,
}

impl Bank<'static> {
    pub fn open() -> Self {
        Self::open_on(shared(), |builder| builder)
    }
}

impl<'a> Bank<'a> {
    /// Two accounts with 100 cents each, and a role that is nothing but the database's user.
    pub fn open_on(
        server: &'a Server,
        set: impl FnOnce(PostgresBuilder) -> PostgresBuilder,
    ) -> Self {
        let database = server.new_database().unwrap();
        let url = server.url_as(&database, &database);
        let bank = Self { server, postgres: resource(&url, set), database };
        bank.sql(&format!(
            "CREATE ROLE {0} LOGIN; \
             CREATE TABLE account (id int PRIMARY KEY, cents bigint NOT NULL); \
             INSERT INTO account VALUES (1, 100), (2, 100); ALTER TABLE account OWNER TO {0}",
            bank.database
        ));
        bank
    }

    /// The same database, as another process of the participant sees it.
    pub fn another(&self) -> Postgres {
        resource(&self.server.url_as(&self.database, &self.database), |builder| builder)
    }

    /// What a person does by hand.
    pub fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.database, sql).unwrap()
    }

    pub fn cents(&self, account: u32) -> i64 {
        self.sql(&format!("SELECT cents FROM account WHERE id = {account}")).parse().unwrap()
    }

    /// Names of prepared transactions in this database.
    pub fn listed(&self) -> Vec<String> {
        let sql = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
        self.sql(sql).lines().map(str::to_owned).collect()
    }

    /// Connections with an open block.
    pub fn open_blocks(&self) -> usize {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND xact_start IS NOT NULL AND pid <> pg_backend_pid()";
        self.sql(sql).parse().unwrap()
    }

    /// Nothing is left: no prepared branch, no open block, and the accounts are free.
    pub fn assert_clean(&self) {
        assert_eq!(self.listed(), Vec::<String>::new());
        assert_eq!(self.open_blocks(), 0);
        self.sql("SET lock_timeout = '2s'; BEGIN; SELECT FROM account FOR UPDATE; ROLLBACK");
    }

    /// Joins a branch and takes a cent from the account.
    pub async fn debit(&self, account: i32) -> (BranchId, BranchSession) {
        let branch = branch();
        let session = self.join(&branch).await;
        debit(&session, account).await.unwrap();
        (branch, session)
    }

    pub async fn join(&self, branch: &BranchId) -> BranchSession {
        self.postgres.joined(branch);
        soon("a connection", self.postgres.session(branch, LONG)).await.unwrap()
    }

    /// A prepared branch that takes a cent from the account.
    pub async fn prepared(&self, account: i32) -> (BranchId, Evidence) {
        let (branch, session) = self.debit(account).await;
        drop(session);
        (branch, self.vote_commit(&branch).await)
    }

    pub async fn vote_commit(&self, branch: &BranchId) -> Evidence {
        match self.prepare(branch).await {
            Vote::Commit { evidence } => evidence.unwrap(),
            vote => unreachable!("{vote:?}"),
        }
    }

    pub async fn prepare(&self, branch: &BranchId) -> Vote {
        soon("a vote", self.postgres.prepare(branch)).await.unwrap()
    }

    /// Asked to prepare, it says no: why.
    pub async fn refusal(&self, branch: &BranchId) -> String {
        match self.prepare(branch).await {
            Vote::Rollback { reason } => reason,
            vote => unreachable!("{vote:?}"),
        }
    }
}

/// A call as the runner makes it: again and again, until there is an answer.
pub async fn told<T, F>(mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, Retry>>,
{
    let answered = async {
        loop {
            match call().await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    soon("an answer", answered).await
}

/// Told to commit, until it is done.
pub async fn committed(postgres: &Postgres, branch: &BranchId, evidence: &Evidence) -> Done {
    told(|| postgres.commit(branch, Some(evidence))).await
}

/// Told to roll back, until it is done.
pub async fn rolled_back(postgres: &Postgres, branch: &BranchId) -> Done {
    told(|| postgres.rollback(branch)).await
}

pub fn resource(url: &str, set: impl FnOnce(PostgresBuilder) -> PostgresBuilder) -> Postgres {
    set(Postgres::url(url).unwrap()).build()
}

pub async fn debit(
    client: &tokio_postgres::Client,
    account: i32,
) -> Result<u64, tokio_postgres::Error> {
    client.execute("UPDATE account SET cents = cents - 1 WHERE id = $1", &[&account]).await
}

/// The first column of the first row.
pub async fn value(client: &tokio_postgres::Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap();
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap().to_owned()
}
