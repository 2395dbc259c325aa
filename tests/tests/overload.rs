//! More than there is room for (catalogue 3.4 and 3.7): what is refused, what goes on, and that
//! nobody exits. Clients and participants are the SDK's; what it would not do is done by hand.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use rustix::process::{Pid, Signal, kill_process};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_types::StatusExt;
use unanimous_proto::v1;
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_proto::v1::client_service_client::ClientServiceClient;
use unanimous_proto::v1::transaction_service_client::TransactionServiceClient;
use unanimous_recovery::{LogKind, OpenOptions};
use unanimous_sdk::{Client, CommitError, RollbackReason};
use unanimous_server::{Access, Config, Listeners, ShutdownHandle, shutdown};
use unanimous_tests::real::memory::{Ended, Member, transact};
use unanimous_tests::real::{Coordinator, LOOK};

/// Nothing here takes so long.
const HANG: Duration = Duration::from_secs(120);

/// A server in this process.
struct Server {
    _dir: TempDir,
    sessions: SocketAddr,
    admin: SocketAddr,
    shutdown: ShutdownHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions { init: true, ..OpenOptions::new(LogKind::Coordinator) };
        let log = options.open(dir.path()).unwrap();
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = Listeners { sessions: bind(), admin: bind(), access: Access::everybody() };
        let sessions = listeners.sessions.local_addr().unwrap();
        let admin = listeners.admin.local_addr().unwrap();
        let (handle, asked) = shutdown();
        let run = move || unanimous_server::run(config, listeners, log, asked).unwrap();
        let thread = Some(std::thread::spawn(run));
        Self { _dir: dir, sessions, admin, shutdown: handle, thread }
    }

    fn url(&self) -> String {
        format!("http://{}", self.sessions)
    }

    async fn status(&self) -> v1::GetStatusResponse {
        let mut admin =
            AdminServiceClient::connect(format!("http://{}", self.admin)).await.unwrap();
        admin.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.request();
        self.shutdown.request();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server ends cleanly");
        }
    }
}

/// Two participants and a client over which others' work is seen to go on.
struct Canary {
    client: Client,
    members: Vec<Member>,
}

impl Canary {
    async fn start(url: &str) -> Self {
        let members = Member::start_all(url, &["canary-a", "canary-b"]).await.unwrap();
        let client = Client::builder(url, "canary").begin_within(HANG).connect().unwrap();
        let canary = Self { client, members };
        canary.sings().await;
        canary
    }

    async fn sings(&self) {
        let ended = transact(&self.client, &self.members.iter().collect::<Vec<_>>()).await;
        assert_eq!(ended, Ended::Committed);
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut yes: impl FnMut() -> F) {
    let started = Instant::now();
    while !yes().await {
        assert!(started.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// O-01: all decided, and a few KiB each while they are open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o_01_ten_thousand_open_transactions_all_commit() {
    const TRANSACTIONS: usize = 10_000;
    /// Four times the goal: a debug build, and an allocator that gives nothing back.
    const BYTES_MAX: u64 = 16 << 10;
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log")).unwrap();
    coordinator.start().await.unwrap();
    let canary = Canary::start(&coordinator.url()).await;
    let before = coordinator.memory().unwrap().rss_bytes;
    let mut open = Vec::new();
    for _ in 0..TRANSACTIONS {
        let begin = canary.client.begin("open").timeout(HANG * 2);
        let transaction = begin.await.unwrap();
        for member in &canary.members {
            member.work(&transaction).await.unwrap();
        }
        open.push(transaction);
    }
    let grown = coordinator.memory().unwrap().rss_bytes.saturating_sub(before);
    let bytes = grown / TRANSACTIONS as u64;
    println!("{bytes} bytes a transaction");
    assert!(bytes < BYTES_MAX, "{bytes} bytes a transaction");
    assert_eq!(coordinator.status().await.unwrap().transactions, TRANSACTIONS as u64);
    let mut commits = JoinSet::new();
    for transaction in open {
        commits.spawn(transaction.commit());
    }
    for committed in commits.join_all().await {
        assert!(committed.is_ok(), "{committed:?}");
    }
    coordinator.settled(HANG).await.unwrap();
    coordinator.stop().unwrap();
}

/// O-02: beyond the limit begins are refused with a hint; what was admitted is finished.
#[tokio::test]
async fn o_02_a_storm_of_begins_is_refused_and_the_admitted_finish() {
    const ADMITTED: usize = 100;
    const STORM: usize = 5_000;
    let mut config = Config::default();
    config.limits.transactions_max = ADMITTED;
    let server = Server::start(config);
    let canary = Canary::start(&server.url()).await;
    until("the canary's own is forgotten", async || server.status().await.transactions == 0).await;
    let mut admitted = Vec::new();
    for _ in 0..ADMITTED {
        let transaction = canary.client.begin("admitted").timeout(HANG).await.unwrap();
        for member in &canary.members {
            member.work(&transaction).await.unwrap();
        }
        admitted.push(transaction);
    }
    let unary = TransactionServiceClient::connect(server.url()).await.unwrap();
    let mut storm = JoinSet::new();
    for _ in 0..STORM {
        let mut unary = unary.clone();
        storm.spawn(async move { unary.begin(v1::BeginRequest::default()).await });
    }
    while let Some(answer) = storm.join_next().await {
        let refused = answer.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        let details = refused.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "TOO_MANY_TRANSACTIONS");
        assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    }
    // The storm goes on while they end: it takes their places, and no commit of theirs.
    for _ in 0..STORM {
        let mut unary = unary.clone();
        storm.spawn(async move { unary.begin(v1::BeginRequest::default()).await });
    }
    for transaction in admitted {
        transaction.commit().await.unwrap();
    }
    storm.join_all().await;
    assert_eq!(server.status().await.committed_total, ADMITTED as u64 + 1);
}

/// O-06: streams that nobody reads cost a bounded amount of memory, and nobody else anything.
#[tokio::test]
async fn o_06_ten_thousand_streams_that_are_never_read() {
    const STREAMS: usize = 10_000;
    const STREAMS_PER_CONNECTION: usize = 2_000;
    const BYTES_MAX: u64 = 512 << 20;
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log")).unwrap();
    coordinator.start().await.unwrap();
    let canary = Canary::start(&coordinator.url()).await;
    let before = coordinator.memory().unwrap().rss_bytes;
    let mut kept = Vec::new();
    for _ in 0..STREAMS / STREAMS_PER_CONNECTION {
        let service = ClientServiceClient::connect(coordinator.url()).await.unwrap();
        for _ in 0..STREAMS_PER_CONNECTION {
            let hello = v1::ClientHello {
                protocol_version: 1,
                client: "deaf".to_owned(),
                instance: vec![1; 16],
                sdk: String::new(),
            };
            let say = [
                v1::transact_request::Body::Hello(hello),
                v1::transact_request::Body::Begin(v1::Begin::default()),
            ];
            let say = say.map(|body| v1::TransactRequest { call: 1, body: Some(body) });
            let (to, requests) = tokio::sync::mpsc::channel(2);
            for request in say {
                to.send(request).await.unwrap();
            }
            let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
            let answers = service.clone().transact(requests).await;
            kept.push((to, answers));
        }
    }
    canary.sings().await;
    let grown = coordinator.memory().unwrap().rss_bytes.saturating_sub(before);
    println!("{} KiB a stream", grown / STREAMS as u64 / 1024);
    assert!(grown < BYTES_MAX, "{grown} bytes");
    drop(kept);
    let url = coordinator.url();
    let other = Client::builder(url, "other").begin_within(HANG).connect().unwrap();
    let ended = transact(&other, &canary.members.iter().collect::<Vec<_>>()).await;
    assert_eq!(ended, Ended::Committed, "there is room again");
    coordinator.stop().unwrap();
}

/// O-08: without file descriptors no more connections are taken; those that are there go on, and so
/// does the log.
#[tokio::test]
async fn o_08_without_file_descriptors_the_connected_go_on() {
    const DESCRIPTORS: usize = 64;
    const COMMITS: usize = 300;
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log")).unwrap();
    coordinator.wrapper(["prlimit".to_owned(), format!("--nofile={DESCRIPTORS}")]);
    coordinator.start().await.unwrap();
    let canary = Canary::start(&coordinator.url()).await;
    let mut crowd = Vec::new();
    for _ in 0..DESCRIPTORS * 2 {
        crowd.push(TcpStream::connect(coordinator.sessions()).await.unwrap());
    }
    let id = coordinator.process().unwrap().id();
    until("every descriptor is taken", async || {
        let open = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
        open >= DESCRIPTORS
    })
    .await;
    for _ in 0..COMMITS {
        canary.sings().await;
    }
    coordinator.process().unwrap().check_runs().unwrap();
    drop(crowd);
    let url = coordinator.url();
    let late = Client::builder(url, "late").begin_within(HANG).connect().unwrap();
    late.begin("late").await.unwrap().rollback().await.unwrap();
    coordinator.stop().unwrap();
}

/// T-04: ten thousand time-outs at one moment end one after the other, and others' work goes on
/// between them.
#[tokio::test]
async fn t_04_ten_thousand_time_outs_at_once() {
    const TRANSACTIONS: usize = 10_000;
    let server = Server::start(Config::default());
    let canary = Canary::start(&server.url()).await;
    let ends_at = Instant::now() + Duration::from_secs(5);
    let mut open = Vec::new();
    for _ in 0..TRANSACTIONS {
        let timeout = ends_at.saturating_duration_since(Instant::now());
        let begin = canary.client.begin("late").timeout(timeout.max(Duration::from_millis(1)));
        open.push(begin.await.unwrap());
    }
    let mut longest = Duration::ZERO;
    while server.status().await.rolled_back_total < TRANSACTIONS as u64 {
        let begun = Instant::now();
        canary.sings().await;
        longest = longest.max(begun.elapsed());
        assert!(ends_at.elapsed() < HANG, "not all have timed out");
    }
    println!("the longest transaction meanwhile took {longest:?}");
    for transaction in open {
        match transaction.commit().await {
            Err(CommitError::RolledBack { rollback, .. }) => {
                assert_eq!(rollback.reason, RollbackReason::TimedOut);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Lets a process run 10 ms of every 100 while it lives.
struct Starved {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Starved {
    fn begin(id: u32) -> Self {
        let over = Arc::<AtomicBool>::default();
        let (told, pid) = (Arc::clone(&over), Pid::from_raw(id.try_into().unwrap()).unwrap());
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for (signal, ms) in [(Signal::STOP, 90), (Signal::CONT, 10)] {
                    kill_process(pid, signal).unwrap();
                    std::thread::sleep(Duration::from_millis(ms));
                }
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the process has ended");
        }
    }
}

/// O-11: with a tenth of a core for a while (`UNANIMOUS_STARVED_S`, 10 s otherwise) each
/// transaction ends one way or the other, and everybody knows which.
#[tokio::test]
async fn o_11_a_tenth_of_a_core() {
    let seconds = std::env::var("UNANIMOUS_STARVED_S").map_or(10, |text| text.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log")).unwrap();
    coordinator.start().await.unwrap();
    let canary = Canary::start(&coordinator.url()).await;
    let starved = Starved::begin(coordinator.process().unwrap().id());
    let (begun, mut committed, mut others) = (Instant::now(), 0, Vec::new());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let lanes: JoinSet<Ended> = (0..10)
            .map(|_| {
                let (client, members) = (canary.client.clone(), canary.members.clone());
                async move { transact(&client, &members.iter().collect::<Vec<_>>()).await }
            })
            .collect();
        for ended in lanes.join_all().await {
            match ended {
                Ended::Committed => committed += 1,
                other => others.push(other),
            }
        }
    }
    drop(starved);
    println!("{committed} committed, {} not", others.len());
    let is_known = |ended: &Ended| matches!(ended, Ended::RolledBack(_) | Ended::NotBegun(_));
    assert!(committed > 0 && others.iter().all(is_known), "{committed}, {others:?}");
    canary.sings().await;
    coordinator.settled(HANG).await.unwrap();
    coordinator.stop().unwrap();
}
