//! A whole coordinator inside of a test: its log is thrown away, its ports are free ones.
//!
//! ```no_run
//! # async fn test() -> Result<(), Box<dyn std::error::Error>> {
//! use unanimous_sdk::InProcess;
//!
//! let mut coordinator = InProcess::start().await?;
//! let unanimous = coordinator.client("shop").connect()?;
//! let bank = coordinator.participant("bank-a"); // add resources, then start it
//! # drop(bank);
//! let tx = unanimous.begin("transfer").await?;
//! coordinator.restart().await?; // it has forgotten what was not decided
//! assert!(tx.commit().await.is_err());
//! # Ok(())
//! # }
//! ```

use crate::client::{Client, ClientBuilder};
use crate::participant::{Participant, ParticipantBuilder};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use unanimous_recovery::{LogKind, OpenError, OpenOptions};
use unanimous_server::{Access, Config, Listeners, ServeError, ShutdownHandle, shutdown};

/// A coordinator on a throw-away log serves much sooner, unless it is stuck.
const SERVING_MAX: Duration = Duration::from_secs(20);

/// Why the coordinator did not start, or did not stop as asked.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    /// The operating system refused something.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Its words.
        error: io::Error,
    },
    /// The log could not be opened.
    #[error("opening the log: {0}")]
    Open(#[from] OpenError),
    /// It did not come to serve, or ended otherwise than asked.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// It did not say in time that it serves.
    #[error("the coordinator does not serve: {0}")]
    NotServing(String),
    /// One of its threads panicked.
    #[error("the coordinator panicked")]
    Panicked,
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> InProcessError {
    move |error| InProcessError::Io { doing, error }
}

/// A coordinator on threads of this process. Dropped, it is stopped and its log removed; the drop
/// blocks until then. Its log is on a real disk: if that fails, the process ends with code 12, as
/// `unanimous serve` does.
#[derive(Debug)]
pub struct InProcess {
    sessions: SocketAddr,
    admin: SocketAddr,
    running: Option<Running>,
    dir: Arc<TempDir>,
}

/// Dropped, also by a task that nobody waits for any more, it has ended.
#[derive(Debug)]
struct Running {
    shutdown: ShutdownHandle,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    /// The last one to go: a log that cannot be written ends the process.
    _dir: Arc<TempDir>,
}

impl InProcess {
    /// Starts a coordinator and waits until it serves.
    ///
    /// # Errors
    /// See [`InProcessError`].
    pub async fn start() -> Result<Self, InProcessError> {
        let dir = TempDir::with_prefix("unanimous-").map_err(io_error("making a directory"))?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut it = Self { sessions: any, admin: any, running: None, dir: Arc::new(dir) };
        it.serve().await?;
        Ok(it)
    }

    /// Where clients and participants find it: `http://127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}", self.sessions)
    }

    /// Where operators find it: `http://127.0.0.1:port`.
    #[must_use]
    pub fn admin_address(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// A client of it: see [`Client::builder`].
    pub fn client(&self, name: impl Into<String>) -> ClientBuilder {
        Client::builder(self.address(), name)
    }

    /// A participant of it: see [`Participant::builder`].
    pub fn participant(&self, name: impl Into<String>) -> ParticipantBuilder {
        Participant::builder(name).coordinator(self.address())
    }

    /// Stops it at once, as a crash would: what was acknowledged is in the log, and nothing else.
    /// Nothing happens if it is stopped.
    ///
    /// # Errors
    /// [`InProcessError::Serve`] and [`InProcessError::Panicked`]: it had ended before.
    pub async fn stop(&mut self) -> Result<(), InProcessError> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let ended = tokio::task::spawn_blocking(move || running.end()).await;
        ended.unwrap_or(Err(InProcessError::Panicked))
    }

    /// Starts it again on the same log and the same ports; stops it before, if need be. Returns
    /// when it serves: recovery is over then, and what it found is being driven to its end.
    ///
    /// # Errors
    /// See [`InProcessError`].
    pub async fn restart(&mut self) -> Result<(), InProcessError> {
        self.stop().await?;
        self.serve().await
    }

    async fn serve(&mut self) -> Result<(), InProcessError> {
        let bind = |address| TcpListener::bind(address).map_err(io_error("binding a port"));
        let listeners = Listeners {
            sessions: bind(self.sessions)?,
            admin: bind(self.admin)?,
            access: Access::everybody(),
        };
        let bound = |listener: &TcpListener| listener.local_addr().map_err(io_error("binding"));
        (self.sessions, self.admin) = (bound(&listeners.sessions)?, bound(&listeners.admin)?);
        let dir = Arc::clone(&self.dir);
        let opened = tokio::task::spawn_blocking(move || Running::open(listeners, dir));
        let running = opened.await.map_err(|_| InProcessError::Panicked)??;
        self.running = Some(running);
        match timeout(SERVING_MAX, serving(self.address())).await {
            Ok(Ok(())) => Ok(()),
            // Its own words say more.
            not => {
                self.stop().await?;
                let why = not.map_or_else(|late| late.to_string(), |not| format!("{not:?}"));
                Err(InProcessError::NotServing(why))
            }
        }
    }
}

impl Running {
    fn open(listeners: Listeners, dir: Arc<TempDir>) -> Result<Self, InProcessError> {
        let new = OpenOptions::new(LogKind::Coordinator);
        let log = OpenOptions { init: true, cluster: 1, slot: 1, ..new }.open(dir.path())?;
        let (handle, asked) = shutdown();
        let thread = std::thread::Builder::new()
            .name("coordinator".to_owned())
            .spawn(move || unanimous_server::run(Config::default(), listeners, log, asked))
            .map_err(io_error("starting a thread"))?;
        Ok(Self { shutdown: handle, thread: Some(thread), _dir: dir })
    }

    fn end(&mut self) -> Result<(), InProcessError> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // The second one does not wait for transactions.
        self.shutdown.request();
        self.shutdown.request();
        Ok(thread.join().map_err(|_| InProcessError::Panicked)??)
    }
}

async fn serving(address: String) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(address).map_err(|e| Status::internal(e.to_string()))?;
    let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let watched = HealthClient::new(channel).watch(HealthCheckRequest::default()).await?;
    let mut watched = watched.into_inner();
    while let Some(health) = watched.message().await? {
        if health.status() == ServingStatus::Serving {
            return Ok(());
        }
    }
    Err(Status::unavailable("it has ended"))
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(error = ?error.to_string(), "the coordinator had ended");
        }
    }
}
