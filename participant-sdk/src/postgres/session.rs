//! One connection to the server: who it is there, and what the server says beside the answers.

use super::evidence::timeline_of;
use super::statements::{self, Access};
use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{
    AsyncMessage, Client, Config, Error, SimpleQueryMessage, SimpleQueryRow, Socket,
};

/// A connection that is not ready after this time never will be.
const DIAL_MAX: Duration = Duration::from_secs(10);
/// A connection on which a branch has ended so lately is taken to be alive.
const FRESH_MAX: Duration = Duration::from_secs(1);
/// The function of the server that warns when a wait for synchronous standbys is broken off: its
/// words are translated, its name is not.
const SYNC_WAIT: &str = "SyncRepWaitForLSN";

/// A server process. Process ids are used again, but not with the same time of start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Backend {
    pub(super) pid: i32,
    pub(super) started_us: i64,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The driver's words, or the server's.
    #[error("{}", words(.0))]
    Driver(#[from] Error),
    /// Behind the address is another cluster than the one at the start: its prepared branches are
    /// not those of this participant.
    #[error("the server is another cluster: system identifier {found}, before it was {before}")]
    OtherCluster {
        /// The system identifier of the first connection.
        before: u64,
        /// That of this one.
        found: u64,
    },
    /// It did not get ready in time.
    #[error("the server did not answer in {DIAL_MAX:?}")]
    Silent,
    /// The server does not say who it is.
    #[error("the server did not say who it is")]
    Unreadable,
}

/// The driver keeps the server's own words in the source of its error.
fn words(error: &Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// What the server has said beside its answers. A notice comes before the answer of the statement
/// that it belongs to.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Waits for synchronous standbys that were broken off.
    unreplicated: AtomicU64,
    /// Blocks that were begun inside of a block.
    nested: AtomicU64,
}

impl Notes {
    fn take(&self, notice: &DbError) {
        if notice.routine() == Some(SYNC_WAIT) {
            self.unreplicated.fetch_add(1, Ordering::SeqCst);
        }
        if *notice.code() == SqlState::ACTIVE_SQL_TRANSACTION {
            self.nested.fetch_add(1, Ordering::SeqCst);
        }
        tracing::debug!(
            severity = notice.severity(),
            code = notice.code().code(),
            "the server notes: {}",
            notice.message()
        );
    }
}

/// Opens connections, whatever their TLS.
pub(super) trait Dial: Send + Sync {
    fn dial(&self, config: Config, notes: Arc<Notes>) -> Dialled;
}

pub(super) type Dialled = BoxFuture<'static, Result<(Client, JoinHandle<()>), Error>>;

/// With this TLS.
pub(super) struct With<T>(pub(super) T);

impl<T> Dial for With<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send + Sync,
    T::TlsConnect: Send + Sync,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    fn dial(&self, config: Config, notes: Arc<Notes>) -> Dialled {
        let tls = self.0.clone();
        Box::pin(async move {
            let (client, mut connection) = config.connect(tls).await?;
            let driving = tokio::spawn(async move {
                while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                    match message {
                        Ok(AsyncMessage::Notice(notice)) => notes.take(&notice),
                        Ok(_) => {}
                        Err(error) => {
                            tracing::debug!(why = words(&error), "a connection has ended");
                            return;
                        }
                    }
                }
            });
            Ok((client, driving))
        })
    }
}

/// Makes the connections of a pool: deadpool's manager.
pub struct Sessions {
    config: Config,
    dial: Arc<dyn Dial>,
    /// The cluster of the first connection.
    cluster: Arc<OnceLock<u64>>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(config: Config, dial: Arc<dyn Dial>) -> Self {
        Self { config, dial, cluster: Arc::default() }
    }

    /// The same, for another pool.
    pub(super) fn beside(&self, application_name: &str) -> Self {
        let mut config = self.config.clone();
        config.application_name(application_name);
        Self { config, dial: Arc::clone(&self.dial), cluster: Arc::clone(&self.cluster) }
    }

    /// The system identifier of the cluster, once there was a connection.
    pub(super) fn cluster(&self) -> Option<u64> {
        self.cluster.get().copied()
    }

    async fn open(&self) -> Result<Session, SessionError> {
        let notes = Arc::default();
        let dialled = self.dial.dial(self.config.clone(), Arc::clone(&notes));
        let (client, driving) = dialled.await?;
        let abort = driving.abort_handle();
        let client = ClientWrapper::new(client, driving);
        let said = client.simple_query(&statements::introduction()).await?;
        let fields = first_row(&said).and_then(|row| {
            let (pid, started_us) = (row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?);
            let access = if is_on(row, 3) { Access::Reads } else { Access::Writes };
            let timeline = row.get(4).map(|file| timeline_of(file).ok_or(())).transpose().ok()?;
            Some((row.get(2)?.parse().ok()?, Backend { pid, started_us }, access, timeline))
        });
        let (found, backend, access, timeline) = fields.ok_or(SessionError::Unreadable)?;
        let before = *self.cluster.get_or_init(|| found);
        if before != found {
            return Err(SessionError::OtherCluster { before, found });
        }
        Ok(Session {
            client,
            backend,
            access,
            timeline,
            notes,
            abort,
            retired: AtomicBool::new(false),
            branch_ended: Mutex::default(),
            fresh_since: None,
        })
    }
}

impl Manager for Sessions {
    type Type = Session;
    type Error = SessionError;

    async fn create(&self) -> Result<Session, SessionError> {
        timeout(DIAL_MAX, self.open()).await.map_err(|_| SessionError::Silent)?
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<SessionError> {
        if session.retired.load(Ordering::SeqCst) || session.client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        if session.timeline.is_none() {
            return Err(RecycleError::message("the connection was made to a standby"));
        }
        // Whoever takes it for reads takes this with it.
        let ended = session.branch_ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        session.fresh_since = ended.take();
        Ok(())
    }
}

/// A connection of the pool. It derefs to deadpool-postgres's client, and that to tokio-postgres's.
#[derive(Debug)]
pub struct Session {
    client: ClientWrapper,
    backend: Backend,
    access: Access,
    /// Of the server's WAL, for as long as the connection lives; `None`: a standby's.
    timeline: Option<u32>,
    notes: Arc<Notes>,
    abort: AbortHandle,
    /// Whatever it may still hold at the server: nobody gets it again.
    retired: AtomicBool,
    /// When a branch has come to its end here, as the last that was done on it.
    branch_ended: Mutex<Option<Instant>>,
    /// The same, of who had it before.
    fresh_since: Option<Instant>,
}

impl Deref for Session {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

/// What the server has answered to one message.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) messages: Vec<SimpleQueryMessage>,
    /// It is durable here, but nobody waited for the synchronous standbys.
    pub(super) unreplicated: bool,
    /// A block was begun inside of another.
    pub(super) nested: bool,
}

impl Said {
    pub(super) fn row(&self) -> Option<&SimpleQueryRow> {
        first_row(&self.messages)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &SimpleQueryRow> {
        self.messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
    }
}

/// Whether a switch is on, in this column.
pub(super) fn is_on(row: &SimpleQueryRow, column: usize) -> bool {
    row.get(column) == Some("on")
}

fn first_row(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// Why a message was not answered well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The server refuses, and the connection goes on.
    Refused { code: String, words: String },
    /// The connection is over, or silent: what became of the message is not known.
    Lost { words: String },
}

impl Failed {
    pub(super) fn words(&self) -> &str {
        match self {
            Self::Refused { words, .. } | Self::Lost { words } => words,
        }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let words = words(&error);
        match error.as_db_error() {
            Some(refused) if refused.parsed_severity() == Some(Severity::Error) => {
                Self::Refused { code: refused.code().code().to_owned(), words }
            }
            _ => Self::Lost { words },
        }
    }
}

impl From<SessionError> for Failed {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Driver(error) => error.into(),
            error => Self::Lost { words: error.to_string() },
        }
    }
}

impl Session {
    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    /// What blocks may do here by themselves.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// The timeline that everything done here belongs to; `None`: the server was a standby when the
    /// connection was made.
    pub(super) fn timeline(&self) -> Option<u32> {
        self.timeline
    }

    /// A branch that was guarded has come to its end here just now.
    pub(super) fn branch_ended(&self) {
        let mut ended = self.branch_ended.lock().unwrap_or_else(PoisonError::into_inner);
        *ended = Some(Instant::now());
    }

    /// Whether the last that was done here was the end of a branch, and lately: it is alive, no
    /// block is open, and outside of blocks it only reads.
    pub(super) fn is_fresh(&self) -> bool {
        self.fresh_since.is_some_and(|since| since.elapsed() < FRESH_MAX)
    }

    /// Sends one message, and leaves its answer to what is sent after it. `false`: the connection
    /// has ended.
    pub(super) async fn send(&self, sql: &str) -> bool {
        self.client.simple_query_raw(sql).await.is_ok()
    }

    /// Closes the connection, without a word to the server.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.abort.abort();
    }

    /// Sends one message and waits for its whole answer, so long. A connection that fails is
    /// retired.
    pub(super) async fn say(&self, sql: &str, at_most: Duration) -> Result<Said, Failed> {
        let before = (
            self.notes.unreplicated.load(Ordering::SeqCst),
            self.notes.nested.load(Ordering::SeqCst),
        );
        let answered = match timeout(at_most, self.client.simple_query(sql)).await {
            Ok(answered) => answered.map_err(Failed::from),
            Err(_) => {
                Err(Failed::Lost { words: format!("the server did not answer in {at_most:?}") })
            }
        };
        if matches!(answered, Err(Failed::Lost { .. })) {
            self.retire();
        }
        Ok(Said {
            messages: answered?,
            unreplicated: self.notes.unreplicated.load(Ordering::SeqCst) != before.0,
            nested: self.notes.nested.load(Ordering::SeqCst) != before.1,
        })
    }
}
