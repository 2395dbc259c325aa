//! A database with two accounts, a participant that has it, and work under branches of it.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use std::future::Future;
use std::sync::OnceLock;
use std::time::Duration;
use unanimous_databases::mariadb::{Mariadb, is_mysql};
use unanimous_sdk::mysql::{Mysql, MysqlBuilder, MysqlWork};
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Client, Done, Evidence, InProcess, Participant, Resource,
    Retry, Transaction, Vote,
};

pub const HAZARD: Done = Done::Heuristic(BranchResult::Hazard);
pub const ROLLED_BACK: Done = Done::Heuristic(BranchResult::RolledBack);
pub const COMMITTED: Done = Done::Heuristic(BranchResult::Committed);

/// Takes from the first account; the second statement is another one's lock.
pub const DEBIT: &str = "UPDATE account SET cents = cents - 100 WHERE id = 1";

/// A hang guard, not a measurement.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(value) => value,
        Err(_) => unreachable!("did not happen: {what}"),
    }
}

/// Until it is true, asked again and again.
pub async fn until(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A resource's answer that does not come at once.
pub async fn at_last<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, Retry>) -> T {
    soon(what, async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

/// The server of all tests that leave it alone.
pub fn server() -> &'static Mariadb {
    static SERVER: OnceLock<Mariadb> = OnceLock::new();
    SERVER.get_or_init(|| Mariadb::start(&[]).unwrap())
}

/// A new database with accounts 1 and 2, a thousand cents each.
pub fn database(server: &Mariadb) -> String {
    let name = server.new_database().unwrap();
    let accounts = "CREATE TABLE account (id INT PRIMARY KEY, cents INT NOT NULL) ENGINE=InnoDB; \
                    INSERT INTO account VALUES (1, 1000), (2, 1000)";
    server.sql(&name, accounts).unwrap();
    name
}

/// A user who may do nothing yet: its name.
pub fn new_user(server: &Mariadb, database: &str) -> String {
    let user = format!("u_{database}");
    server.sql("", &format!("CREATE USER {user}")).unwrap();
    user
}

/// MySQL lists prepared branches only to whom it was allowed.
pub fn may_list(server: &Mariadb, user: &str) {
    if is_mysql() {
        server.sql("", &format!("GRANT XA_RECOVER_ADMIN ON *.* TO {user}")).unwrap();
    }
}

pub struct Stage {
    pub mysql: Mysql,
    pub bank: Attached<Mysql>,
    _participant: Participant,
    pub client: Client,
    pub coordinator: InProcess,
    pub url: String,
}

/// Work that is done, and its branch.
pub struct Worked {
    pub id: BranchId,
    /// Dropped, it would be rolled back.
    pub tx: Transaction,
}

impl Stage {
    /// On a database of its own of the common server.
    pub async fn set() -> Self {
        Self::on(server(), |builder| builder).await
    }

    pub async fn on(server: &Mariadb, with: impl FnOnce(MysqlBuilder) -> MysqlBuilder) -> Self {
        Self::at(&server.url(&database(server)), with).await
    }

    pub async fn at(url: &str, with: impl FnOnce(MysqlBuilder) -> MysqlBuilder) -> Self {
        Self::with(with(Mysql::url(url).unwrap()), url).await
    }

    pub async fn with(builder: MysqlBuilder, url: &str) -> Self {
        let coordinator = InProcess::start().await.unwrap();
        let mysql = builder.build();
        let client = coordinator.client("shop").connect().unwrap();
        let mut builder = coordinator.participant("bank");
        let bank = builder.attach("mysql/bank", mysql.clone());
        let participant = builder.start().await.unwrap();
        participant.connected(Duration::from_secs(20)).await.unwrap();
        Self { mysql, bank, _participant: participant, client, coordinator, url: url.to_owned() }
    }

    pub async fn begin(&self) -> (Transaction, MysqlWork) {
        let tx = self.client.begin("transfer").await.unwrap();
        let work = self.bank.join(&tx.context()).await.unwrap();
        (tx, work)
    }

    /// One statement under a branch of its own.
    pub async fn worked(&self, statement: &str) -> Worked {
        let (tx, mut work) = self.begin().await;
        let id = *work.branch().id();
        work.query_drop(statement).await.unwrap();
        work.end();
        Worked { id, tx }
    }

    /// A branch that has voted commit.
    pub async fn prepared(&self) -> (Worked, Evidence) {
        let worked = self.worked(DEBIT).await;
        let evidence = self.votes_commit(&worked.id).await;
        (worked, evidence)
    }

    pub async fn votes_commit(&self, id: &BranchId) -> Evidence {
        match self.mysql.prepare(id).await {
            Ok(Vote::Commit { evidence: Some(evidence) }) => evidence,
            other => unreachable!("{other:?}"),
        }
    }

    /// The words of a vote against.
    pub async fn votes_rollback(&self, id: &BranchId) -> String {
        match self.mysql.prepare(id).await {
            Ok(Vote::Rollback { reason }) => reason,
            other => unreachable!("{other:?}"),
        }
    }

    /// A session of somebody else's.
    pub async fn other(&self) -> Conn {
        Conn::new(Opts::from_url(&self.url).unwrap()).await.unwrap()
    }

    /// What the first account has: committed, and read by somebody else.
    pub async fn cents(&self) -> i64 {
        let asked = "SELECT cents FROM account WHERE id = 1";
        self.other().await.query_first(asked).await.unwrap().unwrap()
    }

    /// Whether somebody holds a lock on the first account.
    pub async fn is_locked(&self) -> bool {
        let mut conn = self.other().await;
        conn.query_drop("START TRANSACTION").await.unwrap();
        let asked = "SELECT cents FROM account WHERE id = 1 FOR UPDATE NOWAIT";
        let is_locked = conn.query_drop(asked).await.is_err();
        // The next one who asks must not meet this one.
        conn.query_drop("ROLLBACK").await.unwrap();
        is_locked
    }

    pub async fn is_listed(&self, id: &BranchId) -> bool {
        let listed = self.mysql.recover().await.unwrap();
        listed.iter().any(|prepared| prepared.branch == *id)
    }

    /// The server's number of the session that works under the branch.
    pub async fn connection(work: &mut MysqlWork) -> u64 {
        work.query_first("SELECT CONNECTION_ID()").await.unwrap().unwrap()
    }

    pub async fn kill(&self, connection: u64) {
        self.other().await.query_drop(format!("KILL CONNECTION {connection}")).await.unwrap();
        self.until_gone(connection).await;
    }

    /// Until a session does a statement.
    pub async fn until_busy(&self, connection: u64) {
        let mut other = self.other().await;
        let asked = format!(
            "SELECT COUNT(*) FROM information_schema.processlist \
             WHERE ID = {connection} AND COMMAND = 'Query'"
        );
        until("a statement", async || other.query_first(&*asked).await.unwrap() == Some(1)).await;
    }

    /// Until the server has ended a session.
    pub async fn until_gone(&self, connection: u64) {
        let mut other = self.other().await;
        let asked =
            format!("SELECT COUNT(*) FROM information_schema.processlist WHERE ID = {connection}");
        until("the session's end", async || other.query_first(&*asked).await.unwrap() == Some(0))
            .await;
    }
}

/// What a branch is called in a statement by hand: our own layout, with the format id "UNAN".
pub fn xid(id: &BranchId) -> String {
    format!("X'{}',X'{}',1431191886", id.gtrid, id.bqual)
}
