//! Start and stop: from an opened log to two ports that serve, and back to a log that is closed.

use crate::Stage;
use crate::access::Access;
use crate::admin::Admin;
use crate::client_session::Clients;
use crate::config::{Config, ConfigError};
use crate::connection::{Incoming, incoming};
use crate::door::{Door, Refusals, RefusedCall, tell_of};
use crate::driver::{Driver, Inputs};
use crate::participant_session::Participants;
use crate::refusal::Refusal;
use crate::session::Gate;
use crate::shutdown::Shutdown;
use crate::unary::Transactions;
use crate::view::Query;
use std::io;
use std::net::TcpListener;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tower::layer::util::{Identity, Stack};
use tower::util::MapResponseLayer;
use unanimous_core::coordinator::{Recovered, Start};
use unanimous_core::{Coordinator, Lsn, Millis};
use unanimous_proto::v1::admin_service_server::AdminServiceServer;
use unanimous_proto::v1::client_service_server::ClientServiceServer;
use unanimous_proto::v1::participant_service_server::ParticipantServiceServer;
use unanimous_proto::v1::transaction_service_server::TransactionServiceServer;
use unanimous_recovery::codec::{self, CodecError};
use unanimous_recovery::{AppendError, Flushed, LogFailed, OpenError, OpenedLog, Writer};

/// The exit code of a process whose log cannot be written any more.
const EXIT_LOG_FAILED: i32 = 12;
/// HTTP/2 flow-control window of a stream: many messages must not wait for it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// And of a connection. h2 (0.4.16 and later) ends a connection with ENHANCE_YOUR_CALM when small
/// frames that nobody has read yet cost more than half of this, at 256 bytes less their length
/// each. Ours are small, and a session that waits for the driver is not read: its own window must
/// be full long before.
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// How long connections may take to end after their sessions have been ended.
const CLOSE_CONNECTIONS_MAX: Duration = Duration::from_secs(1);

/// Bound sockets. [`run`] makes them non-blocking.
#[derive(Debug)]
pub struct Listeners {
    /// For participants, clients, unary transaction calls and health.
    pub sessions: TcpListener,
    /// For operators, and health.
    pub admin: TcpListener,
    /// Who is let in at both.
    pub access: Access,
}

/// Why the server did not start, or ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(#[from] ConfigError),
    /// The log could not be read or started.
    #[error("starting on the log: {0}")]
    Open(#[from] OpenError),
    /// A record of the log cannot be decoded: damage, or a newer version's.
    #[error("reading record {} of the log: {error}", lsn.0)]
    Record {
        /// Which.
        lsn: Lsn,
        /// What is wrong with it.
        error: CodecError,
    },
    /// The log did not take a record. What was decided before is durable or will be found at the
    /// next start.
    #[error("appending to the log: {0}")]
    Append(#[from] AppendError),
    /// The log could not be closed cleanly. Nothing acknowledged is lost.
    #[error("closing the log: {0}")]
    Close(#[from] LogFailed),
    /// The operating system refused something.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Its words.
        error: io::Error,
    },
    /// The transport ended by itself.
    #[error("serving: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The admin thread panicked.
    #[error("the admin thread panicked")]
    AdminPanicked,
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |error| ServeError::Io { doing, error }
}

/// Serves until `shutdown` asks to stop; blocks the calling thread, which must not be one of an
/// async runtime.
///
/// The core and all sessions run on this thread, the admin service on one of its own. On `Ok` the
/// log is closed and marked clean. If the log cannot be written the *process* ends with exit code
/// 12: nothing may be sent after that.
///
/// # Errors
/// See [`ServeError`]. After an error the log is not marked clean; what was acknowledged is durable
/// all the same.
pub fn run(
    config: Config,
    listeners: Listeners,
    log: OpenedLog,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    config.check()?;
    for listener in [&listeners.sessions, &listeners.admin] {
        listener.set_nonblocking(true).map_err(io_error("preparing a socket"))?;
    }
    let runtime = new_runtime()?;
    let clock = Instant::now();
    let coordinator = recover(&config, &log)?;
    let (flushed_to, flushed) = watch::channel(Flushed {
        upto: Lsn(log.next_lsn().0 - 1),
        frame: log.last_frame(),
        records: 0,
    });
    let on_flushed = move |flushed| {
        flushed_to.send_replace(flushed);
    };
    let writer = log.start(on_flushed, exit_on_failure)?;

    let (queries_to, queries) = mpsc::channel(config.queries_queue);
    let (events_to, events) = mpsc::channel(config.events_queue);
    let (refusals, refused) = Refusals::new();
    let door = Door::new(listeners.access, refusals.clone());
    let gate = Gate::new(config.clone(), coordinator.owner(), events_to, refusals);
    let (stage_to, stage) = watch::channel(Stage::Starting);
    let driver = Driver::new(coordinator, clock, gate.clone(), writer, stage_to.clone());
    let inputs = Inputs { events, flushed, queries, shutdown };

    let health = HealthReporter::new();
    let admin = AdminPort {
        config,
        queries: queries_to,
        health: health.clone(),
        door: door.clone(),
        refused,
    };
    let admin = admin.start(listeners.admin, stage.clone())?;
    let sessions = SessionPort { gate, stage, health, door };
    let served = runtime.block_on(sessions.serve(driver, inputs, listeners.sessions));
    stage_to.send_replace(Stage::Stopped);
    let administered = admin.join().map_err(|_| ServeError::AdminPanicked)?;
    // Tasks of connections that did not end in time go with the runtime.
    drop(runtime);
    served?.close()?;
    tracing::info!("stopped, the log is closed");
    administered
}

fn new_runtime() -> Result<Runtime, ServeError> {
    Builder::new_current_thread().enable_all().build().map_err(io_error("starting a runtime"))
}

/// Folds the log into a coordinator that begins its next life.
fn recover(config: &Config, log: &OpenedLog) -> Result<Coordinator, ServeError> {
    let mut recovered = Recovered::default();
    for stored in log.records() {
        let stored = stored?;
        let lsn = stored.lsn;
        let record = codec::decode_record(&stored.bytes)
            .map_err(|error| ServeError::Record { lsn, error })?;
        recovered.fold(lsn, record);
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = Start {
        log: log.id(),
        frame: log.last_frame(),
        next_lsn: log.next_lsn(),
        unix_seconds: since_epoch.as_secs(),
        seed: rand::random(),
    };
    let coordinator = Coordinator::start(config.limits.clone(), start, Millis(0), recovered);
    let report = log.report();
    tracing::info!(
        recovered = coordinator.counters().recovered,
        records = report.records,
        clean = report.clean,
        unwitnessed = report.unwitnessed,
        epoch = coordinator.owner().epoch,
        "recovered from the log"
    );
    Ok(coordinator)
}

/// Fail-stop: what was handed to the log may or may not be durable, so nothing more may be said.
fn exit_on_failure(failed: LogFailed) {
    tracing::error!(%failed, "the log cannot be written: ending at once");
    std::process::exit(EXIT_LOG_FAILED);
}

/// The port of participants, clients and unary transaction calls.
struct SessionPort {
    gate: Gate,
    stage: watch::Receiver<Stage>,
    health: HealthReporter,
    door: Door,
}

impl SessionPort {
    /// Serves until the driver has ended, then ends the connections.
    async fn serve(
        self,
        driver: Driver,
        inputs: Inputs,
        listener: TcpListener,
    ) -> Result<Writer, ServeError> {
        let Self { gate, stage, health, door } = self;
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(io_error("listening"))?;
        report_stage(&health, *stage.borrow()).await;
        tokio::spawn(follow_stage(health.clone(), stage));
        let bytes_max = gate.config().message_bytes_max;
        let participants = ParticipantServiceServer::new(Participants::new(gate.clone()))
            .max_decoding_message_size(bytes_max);
        let clients = ClientServiceServer::new(Clients::new(gate.clone()))
            .max_decoding_message_size(bytes_max);
        let transactions = TransactionServiceServer::new(Transactions::new(gate.clone()))
            .max_decoding_message_size(bytes_max);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = server(gate.config(), &door)
            .add_service(participants)
            .add_service(clients)
            .add_service(transactions)
            .add_service(health_server(&health))
            .add_optional_service(reflection(gate.config())?)
            .serve_with_incoming_shutdown(
                incoming(Incoming::new(listener, gate.config(), door.clone())),
                async {
                    // Sent or dropped, it says the same.
                    let _ = stopped.await;
                },
            );
        let mut server = tokio::spawn(server);
        let writer = tokio::select! {
            driven = driver.run(inputs) => driven?,
            ended = &mut server => {
                if let Ok(Err(error)) = ended {
                    return Err(error.into());
                }
                return Err(io_error("serving")(io::ErrorKind::ConnectionAborted.into()));
            }
        };
        drop(stop);
        // A graceful end waits for peers; one that does not go is left behind.
        if tokio::time::timeout(CLOSE_CONNECTIONS_MAX, &mut server).await.is_err() {
            server.abort();
        }
        Ok(writer)
    }
}

/// What every answer passes on its way out.
type Answers = MapResponseLayer<fn(http::Response<Body>) -> http::Response<Body>>;

fn server(config: &Config, door: &Door) -> Server<Stack<Door, Stack<Answers, Identity>>> {
    let keepalive = Duration::from_millis(config.keepalive_ms);
    let keepalive_timeout = Duration::from_millis(config.keepalive_timeout_ms);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.streams_per_connection_max)
        .http2_keepalive_interval(Some(keepalive))
        .http2_keepalive_timeout(Some(keepalive_timeout))
        .layer(MapResponseLayer::new(unreadable_is_invalid as fn(_) -> _))
        .layer(door.clone())
}

/// tonic calls a request that cannot be read an internal error; it is the caller's.
fn unreadable_is_invalid(response: http::Response<Body>) -> http::Response<Body> {
    const UNREADABLE: &str = "failed to decode Protobuf message";
    match Status::from_header_map(response.headers()) {
        Some(status)
            if status.code() == Code::Internal && status.message().starts_with(UNREADABLE) =>
        {
            Refusal::invalid("message", status.message()).status().into_http()
        }
        _ => response,
    }
}

fn reflection(
    config: &Config,
) -> Result<Option<ServerReflectionServer<impl ServerReflection>>, ServeError> {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(unanimous_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    config.reflection.then(|| builder.build_v1()).transpose().map_err(|error| {
        io_error("describing the services")(io::Error::new(io::ErrorKind::InvalidData, error))
    })
}

fn health_server(
    health: &HealthReporter,
) -> tonic_health::pb::health_server::HealthServer<tonic_health::server::HealthService> {
    let service = tonic_health::server::HealthService::from_health_reporter(health.clone());
    tonic_health::pb::health_server::HealthServer::new(service)
}

async fn follow_stage(health: HealthReporter, mut stage: watch::Receiver<Stage>) {
    while stage.changed().await.is_ok() {
        let now = *stage.borrow_and_update();
        report_stage(&health, now).await;
    }
}

async fn report_stage(health: &HealthReporter, stage: Stage) {
    let status = match stage {
        Stage::Serving => ServingStatus::Serving,
        Stage::Starting | Stage::Stopping | Stage::Stopped => ServingStatus::NotServing,
    };
    for service in [
        "",
        "unanimous.v1.ParticipantService",
        "unanimous.v1.ClientService",
        "unanimous.v1.TransactionService",
        "unanimous.v1.AdminService",
    ] {
        health.set_service_status(service, status).await;
    }
}

/// The admin service's port, on a thread with a runtime of its own: a heavy list never takes the
/// sessions' time.
struct AdminPort {
    config: Config,
    queries: mpsc::Sender<Query>,
    health: HealthReporter,
    door: Door,
    refused: mpsc::Receiver<RefusedCall>,
}

impl AdminPort {
    fn start(
        self,
        listener: TcpListener,
        stage: watch::Receiver<Stage>,
    ) -> Result<JoinHandle<Result<(), ServeError>>, ServeError> {
        let runtime = new_runtime()?;
        std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                let served = runtime.block_on(self.serve(listener, stage));
                if let Err(error) = &served {
                    tracing::error!(%error, "the admin service has ended");
                }
                served
            })
            .map_err(io_error("starting the admin thread"))
    }

    async fn serve(
        self,
        listener: TcpListener,
        stage: watch::Receiver<Stage>,
    ) -> Result<(), ServeError> {
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(io_error("listening"))?;
        tokio::spawn(tell_of(self.door.refusals.clone(), self.refused, self.queries.clone()));
        let admin = AdminServiceServer::new(Admin::new(self.queries))
            .max_decoding_message_size(self.config.message_bytes_max);
        let ended = stage.clone();
        let mut server = tokio::spawn(
            server(&self.config, &self.door)
                .add_service(admin)
                .add_service(health_server(&self.health))
                .add_optional_service(reflection(&self.config)?)
                .serve_with_incoming_shutdown(
                    incoming(Incoming::new(listener, &self.config, self.door.clone())),
                    until_stopped(stage),
                ),
        );
        tokio::select! {
            served = &mut server => {
                if let Ok(Err(error)) = served {
                    return Err(error.into());
                }
            }
            () = async {
                until_stopped(ended).await;
                tokio::time::sleep(CLOSE_CONNECTIONS_MAX).await;
            } => server.abort(),
        }
        Ok(())
    }
}

async fn until_stopped(mut stage: watch::Receiver<Stage>) {
    // The sender outlives the server; if it did not, that would be the end as well.
    let _ = stage.wait_for(|stage| *stage == Stage::Stopped).await;
}
