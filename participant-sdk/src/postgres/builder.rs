//! How a database is set up.

use super::Postgres;
use super::server::Server;
use super::session::{Dial, Sessions, With};
use deadpool::managed::{Pool, PoolConfig, QueueMode};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Config, NoTls, Socket};

/// Connections for what must not wait behind work.
const FINISHING_POOL_MAX: usize = 4;
/// Unless the configuration says otherwise.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// After this time without an acknowledgement of the network a connection is dead, unless the
/// configuration says otherwise.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// What the connections are called at the server, unless the configuration says otherwise.
const NAME: &str = "unanimous";

/// See [`Postgres::builder`].
#[must_use = "it does nothing until it is built"]
pub struct PostgresBuilder {
    config: Config,
    dial: Arc<dyn Dial>,
    work_pool_max: usize,
    join_wait: Duration,
    accepts_unsafe: bool,
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl PostgresBuilder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            dial: Arc::new(With(NoTls)),
            work_pool_max: 16,
            join_wait: Duration::from_secs(5),
            accepts_unsafe: false,
        }
    }

    /// Encrypts the connections with this connector of the driver's (crate `tokio-postgres-rustls`
    /// has one, for example). A server that does not take part is refused, although `sslmode` is
    /// `prefer` by itself: somebody on the way could say so in its place. Only `sslmode=disable`
    /// still means that nothing is encrypted.
    pub fn tls<T>(mut self, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send + Sync,
        T::TlsConnect: Send + Sync,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        if self.config.get_ssl_mode() == SslMode::Prefer {
            self.config.ssl_mode(SslMode::Require);
        }
        self.dial = Arc::new(With(tls));
        self
    }

    /// At most this many connections for work: as many branches can be worked on at the same
    /// time. 16 by itself, at least 1. Four more finish branches.
    pub fn work_pool_max(mut self, max: usize) -> Self {
        self.work_pool_max = max.max(1);
        self
    }

    /// How long joining waits for a connection; less if the call's own time is over before. 5 s by
    /// itself.
    pub fn join_wait(mut self, wait: Duration) -> Self {
        self.join_wait = wait;
        self
    }

    /// Starts although the server may lose what it has said is durable (`fsync = off` and the
    /// like), with a warning each time. For tests and throw-away data.
    pub fn accept_unsafe_settings(mut self) -> Self {
        self.accepts_unsafe = true;
        self
    }

    /// The resource. No connection is made yet.
    #[must_use]
    pub fn build(self) -> Postgres {
        let mut config = self.config;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_MAX);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
        }
        let name = config.get_application_name().unwrap_or(NAME).to_owned();
        config.application_name(&name);
        let work = Sessions::new(config, self.dial);
        let finishing = work.beside(&format!("{name} finishing"));
        Postgres {
            work: pool(work, self.work_pool_max),
            server: Server { pool: pool(finishing, FINISHING_POOL_MAX) },
            table: Arc::default(),
            join_wait: self.join_wait,
            accepts_unsafe: self.accepts_unsafe,
        }
    }
}

/// The connection that was used last is used first: the others may rest.
fn pool(sessions: Sessions, max_size: usize) -> Pool<Sessions> {
    let config = PoolConfig { queue_mode: QueueMode::Lifo, ..PoolConfig::new(max_size) };
    match Pool::builder(sessions).config(config).build() {
        Ok(pool) => pool,
        Err(error) => unreachable!("only time-outs need a runtime: {error}"),
    }
}
