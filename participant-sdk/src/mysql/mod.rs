//! Branches of a MariaDB or MySQL database, by XA.
//!
//! ```text
//!  handler: Attached::join --> MysqlWork (query, exec, ..) --> end
//!                                 |  a connection of the work pool, pinned to the branch
//!  XA START; SAVEPOINT -----------+
//!                                 |                             finishing pool, of our own
//!  runner:  prepare: RELEASE SAVEPOINT; INSERT marker;          recover: XA RECOVER
//!                    XA END; XA PREPARE                         a session that must end: KILL
//!           commit, rollback: XA COMMIT, XA ROLLBACK  ------>   and whatever is left of a branch
//!                    on the same connection                     without its connection
//! ```
//! A service uses it like this; the database must be one with InnoDB tables:
//! ```no_run
//! # use unanimous_sdk::{Attached, Participant};
//! use unanimous_sdk::mysql::Mysql;
//!
//! # async fn serve(request: tonic::Request<()>) -> Result<(), Box<dyn std::error::Error>> {
//! let mut participant = Participant::builder("bank").coordinator("http://127.0.0.1:7450");
//! let mysql = Mysql::url("mysql://bank@db.example.com/bank")?.build();
//! let bank: Attached<Mysql> = participant.attach("mysql/bank", mysql);
//! let participant = participant.start().await?;
//!
//! // In a handler:
//! let mut work = bank.join(&request).await?;
//! work.exec_drop("UPDATE account SET cents = cents - ? WHERE id = ?", (250, 7)).await?;
//! work.end();
//! # Ok(())
//! # }
//! ```
//! Files: `work` (what a handler has), `resource` (the calls), `table` (where each branch is),
//! `session` (the connection that has the work), `outside` (what is done without it), `alone` (what
//! ends without its coordinator), `cleaning` (deleting markers), `server` and `check` (what the
//! server is, and whether it is fit). Pure: `xid`, `errors` (what an error means), `evidence`,
//! `markers`.

mod alone;
mod check;
mod cleaning;
mod errors;
mod evidence;
mod markers;
mod outside;
mod resource;
mod server;
mod session;
mod table;
mod work;
mod xid;

pub use mysql_async;
pub use work::{MysqlError, MysqlJoinError, MysqlWork};

use alone::Alone;
use cleaning::Cleaning;
use markers::Markers;
use mysql_async::{Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, UrlError};
use server::Server;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use table::Table;
use tokio::sync::OnceCell;

/// Connections for finishing branches.
const FINISHING_MAX: usize = 4;
/// How long an idle connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// A server whose machine is gone is noticed after a while, whatever waits for it.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// As long a silence the server takes for the end of this machine, in seconds: by itself it would
/// keep the locks of unfinished work for eight hours. Longer than the pool keeps idle connections.
const SILENCE_S_MAX: u32 = 600;

/// A MariaDB or MySQL database whose branches are XA branches. Clones are the same one.
///
/// MariaDB from 10.5.2 is tried with all of this project's tests. MySQL (from 8.0.30; from 5.7.7
/// without a binary log) is built from its manual and *not run by us*.
///
/// [`crate::Attached::join`] gives a handler its connection; a branch keeps it until it is over.
/// Handlers of one branch take turns: one that joins waits until the one before has ended. A branch
/// that has changed nothing votes read-only.
///
/// *The marker.* These servers forget a branch when it ends. So every branch that writes also
/// writes a row of its own name into the table `unanimous_marker`, which is there exactly if the
/// branch committed; a vote's evidence names the table. The table is made at the start, if the user
/// may do that; SELECT, INSERT and DELETE on it is all that is needed besides the work's own
/// privileges, and on MySQL 8 XA_RECOVER_ADMIN. Rows are deleted when the coordinator needs them no
/// longer.
///
/// *Ending alone.* With a [`crate::HeuristicPolicy`] each decision is a row of the table
/// `unanimous_alone`, beside the markers: made at the start, if the user may do that; SELECT,
/// INSERT, UPDATE and DELETE on it are needed. Without a policy it need not be there.
///
/// *Statements.* One that fails makes its branch vote rollback: XA itself would go on and commit
/// the rest. The server refuses whatever would end or leave the branch: COMMIT, BEGIN, DDL, LOCK
/// TABLES. Connections are reset between branches: session variables and temporary tables go.
/// User-level locks are the work's own, but for RELEASE_ALL_LOCKS: it also gives up the lock by
/// which a session can be ended that is in the way of a rollback.
///
/// *What is not safe.* Tables without transactions (MyISAM, Aria, MEMORY) keep what a branch did
/// that was rolled back; they are named with a warning at the start.
#[derive(Clone)]
pub struct Mysql {
    inner: Arc<Inner>,
}

struct Inner {
    work: Pool,
    finishing: Pool,
    /// Told from the sessions of every other process by this.
    token: String,
    markers: Markers,
    alone: Alone,
    work_pool_max: usize,
    join_wait: Duration,
    accepts_unsafe: bool,
    table: Table,
    server: OnceCell<Server>,
    cleaning: Cleaning,
}

/// How a [`Mysql`] is set up. Made by [`Mysql::builder`].
#[must_use]
pub struct MysqlBuilder {
    opts: Opts,
    work_pool_max: usize,
    join_wait: Duration,
    marker_table: String,
    accepts_unsafe: bool,
}

impl Mysql {
    /// A database by the driver's own options, TLS included. They must name the database. Setup
    /// statements are kept; the pool's options are not.
    pub fn builder(opts: impl Into<Opts>) -> MysqlBuilder {
        MysqlBuilder {
            opts: opts.into(),
            work_pool_max: 16,
            join_wait: Duration::from_secs(5),
            marker_table: "unanimous_marker".to_owned(),
            accepts_unsafe: false,
        }
    }

    /// A database by its address: `mysql://user:password@host:port/database`.
    ///
    /// # Errors
    /// The address cannot be read.
    pub fn url(url: &str) -> Result<MysqlBuilder, UrlError> {
        Ok(Self::builder(Opts::from_url(url)?))
    }

    /// The work pool, for what belongs to no transaction. Branches take their connections from it
    /// as well, and keep them until they end; one that has been in doubt for more than a second
    /// gives its connection up to work that waits.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.inner.work
    }
}

impl fmt::Debug for Mysql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mysql")
            .field("markers", &self.inner.markers.table())
            .finish_non_exhaustive()
    }
}

/// Without the password, which the driver's own words would show.
impl fmt::Debug for MysqlBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlBuilder")
            .field("host", &self.opts.ip_or_hostname())
            .field("database", &self.opts.db_name())
            .finish_non_exhaustive()
    }
}

impl MysqlBuilder {
    /// At most this many connections for work: as many branches can be worked on at the same time.
    /// 16 by itself; at least one. Four more finish branches.
    pub fn work_pool_max(mut self, max: usize) -> Self {
        self.work_pool_max = max.max(1);
        self
    }

    /// How long joining waits for a connection, and for another handler of the same branch. 5 s by
    /// itself; less if the call's own time is over before.
    pub fn join_wait(mut self, wait: Duration) -> Self {
        self.join_wait = wait;
        self
    }

    /// The table of the markers, in this database or, as `database.table`, in another one of the
    /// server. `unanimous_marker` by itself.
    pub fn marker_table(mut self, name: impl Into<String>) -> Self {
        self.marker_table = name.into();
        self
    }

    /// Starts in spite of settings with which a crash of the server may lose what it has said. They
    /// are named in a warning at every start and in [`Mysql::findings`].
    pub fn accept_unsafe_settings(mut self) -> Self {
        self.accepts_unsafe = true;
        self
    }

    /// Makes the resource. Nothing is connected yet.
    #[must_use]
    pub fn build(self) -> Mysql {
        let token = format!("{:032x}", rand::random::<u128>());
        let database = self.opts.db_name().map(str::to_owned);
        let keepalive = self.opts.tcp_keepalive().unwrap_or(KEEPALIVE);
        let opts = OptsBuilder::from_opts(self.opts.clone()).tcp_keepalive(Some(keepalive));
        // Behind a tunnel, the socket that a server names may be another server's on this machine.
        let opts = opts.prefer_socket(false);
        // A connection is reset when it comes back, and set up again.
        let mark = format!(
            "DO GET_LOCK({}, 0); SET SESSION wait_timeout = {SILENCE_S_MAX}",
            outside::lock_of(&token, "CONNECTION_ID()")
        );
        // The driver runs them from the last to the first: ours have the last word.
        let setup = [mark].into_iter().chain(self.opts.setup().iter().cloned()).collect();
        let work = opts.clone().setup(setup).pool_opts(pool_opts(self.work_pool_max, true));
        let plain = outside::PLAIN.map(str::to_owned);
        let setup = plain.into_iter().chain(self.opts.setup().iter().cloned()).collect();
        let finishing = opts.setup(setup).pool_opts(pool_opts(FINISHING_MAX, false));
        let markers = Markers::new(database.as_deref(), &self.marker_table);
        let inner = Inner {
            work: Pool::new(work),
            finishing: Pool::new(finishing),
            token,
            alone: Alone::new(&markers),
            markers,
            work_pool_max: self.work_pool_max,
            join_wait: self.join_wait,
            accepts_unsafe: self.accepts_unsafe,
            table: Table::default(),
            server: OnceCell::new(),
            cleaning: Cleaning::default(),
        };
        Mysql { inner: Arc::new(inner) }
    }
}

fn pool_opts(max: usize, reset: bool) -> PoolOpts {
    let constraints = PoolConstraints::new(0, max).unwrap_or_default();
    PoolOpts::new()
        .with_constraints(constraints)
        .with_reset_connection(reset)
        // Without it the pool closes every connection that comes back.
        .with_inactive_connection_ttl(IDLE_MAX)
}
