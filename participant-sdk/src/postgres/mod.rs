//! PostgreSQL as a resource: handlers keep their driver, PREPARE TRANSACTION does the rest.
//!
//! ```text
//!  handler: join ----> BEGIN, marked --- statements ---> end
//!                        |  on a connection of the work pool, which stays with the branch
//!  prepare  -------------+--> guard; PREPARE TRANSACTION 'u1...' --> vote with evidence
//!  commit, rollback -----+--> COMMIT PREPARED, ROLLBACK PREPARED --> back to the pool
//!      |
//!      +--- connection lost, another process, another day ---> the finishing pool:
//!           end the old server process, look into pg_prepared_xacts, ask pg_xact_status
//! ```
//! ```no_run
//! use tonic::{Request, Response, Status};
//! use unanimous_sdk::postgres::{Postgres, status};
//! use unanimous_sdk::{Attached, Participant};
//!
//! struct Bank(Attached<Postgres>);
//!
//! impl Bank {
//!     async fn debit(&self, call: Request<(i32, i64)>) -> Result<Response<()>, Status> {
//!         let work = self.0.join(&call).await?; // dropped before its end, it votes rollback
//!         let (account, cents) = call.into_inner();
//!         let sql = "UPDATE account SET cents = cents - $1 WHERE id = $2 AND cents >= $1";
//!         if work.execute(sql, &[&cents, &account]).await.map_err(status)? == 0 {
//!             return Err(Status::failed_precondition("not enough"));
//!         }
//!         work.end();
//!         Ok(Response::new(()))
//!     }
//! }
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let mut builder = Participant::builder("bank-a").coordinator("http://127.0.0.1:7450");
//! let accounts = Postgres::url("postgres://bank@127.0.0.1/bank")?.build();
//! let bank = Bank(builder.attach("bank-a/accounts", accounts));
//! let participant = builder.start().await?; // says what is wrong with the server's settings
//! # drop((bank, participant));
//! # Ok(())
//! # }
//! ```
//! Files: `work` (what a handler has), `resource` (the calls), `table` (how far each branch is),
//! `server` (what is asked beside the branches), `session` (a connection), `check` (settings),
//! `alone` (what is decided without the coordinator).
//! Pure: `statements` (every word that is sent), `errors` (what a refusal means), `evidence`.

mod alone;
mod builder;
mod check;
mod errors;
mod evidence;
mod resource;
mod server;
mod session;
mod statements;
mod status;
mod table;
mod work;

pub use builder::PostgresBuilder;
pub use check::ListedBranch;
pub use session::{Session, SessionError, Sessions};
pub use status::status;
pub use tokio_postgres;
pub use work::{BranchSession, PostgresJoinError, PostgresWork};

use deadpool::managed::Pool;
use server::Server;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use table::Table;
use tokio_postgres::Config;

/// A PostgreSQL database whose branches are prepared with PREPARE TRANSACTION: version 13 or later,
/// with `max_prepared_transactions` above zero. Clones are the same one.
///
/// [`crate::Attached::join`] gives a handler its connection. A branch keeps it until it is over;
/// one that has only read votes read-only. What it takes from the server:
///
/// - one role for all processes of the participant: only the role that has prepared a branch, or a
///   superuser, may finish it;
/// - one prepared transaction for each branch that is in doubt; one connection for each branch that
///   is worked on or in doubt ([`PostgresBuilder::work_pool_max`]; one that is in doubt for more
///   than a second gives it up to whoever waits), and four for finishing;
/// - connections to the server itself: a proxy that shares them among transactions is refused.
///
/// Settings that work makes with SET stay with the connection, as in any pool: SET LOCAL does not.
/// A branch whose work ends in another role (SET ROLE) votes rollback: only that role could finish
/// it.
///
/// Temporary tables, LISTEN and NOTIFY, WITH HOLD cursors and exported snapshots cannot be
/// prepared: such a branch votes rollback.
///
/// *Durability.* A vote and an acknowledgement are given when the server has forced its log, and
/// when every synchronous standby has it, if there are any. *Evidence.* A vote carries system
/// identifier, timeline and transaction id, with which a branch that is gone is judged; after the
/// promotion of a standby nothing can be proved any more, and such a branch becomes a hazard. A
/// branch that is told to roll back and has committed is a heuristic commit: also if another
/// process of the participant committed it by order, and this one asks only when the coordinator
/// has forgotten the transaction. It is looked at once too often rather than never.
///
/// *Alone.* With a [`crate::HeuristicPolicy`] what is decided is first a durable row of the table
/// `unanimous_alone`, in the role's first schema. The participant's start makes it, or says what to
/// run. A row counts if the server says that its transaction has ended so, or cannot tell; an order
/// that was faster removes it.
#[derive(Clone)]
pub struct Postgres {
    work: Pool<Sessions>,
    server: Server,
    table: Arc<Mutex<Table>>,
    join_wait: Duration,
    accepts_unsafe: bool,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("sessions", self.sessions()).finish_non_exhaustive()
    }
}

impl Postgres {
    /// A database, as the driver's configuration names it.
    pub fn builder(config: Config) -> PostgresBuilder {
        PostgresBuilder::new(config)
    }

    /// A database by its address, `postgres://user@host/database`, or the driver's `key=value`
    /// form.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn url(url: &str) -> Result<PostgresBuilder, tokio_postgres::Error> {
        Ok(Self::builder(url.parse()?))
    }

    /// The connections for work, also for reads outside of transactions: there a statement changes
    /// nothing (`default_transaction_read_only`), and a block only if it says `BEGIN READ WRITE`. A
    /// connection must come back without an open block.
    #[must_use]
    pub fn pool(&self) -> &Pool<Sessions> {
        &self.work
    }

    fn sessions(&self) -> &Sessions {
        self.work.manager()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
