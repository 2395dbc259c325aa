//! Real processes on a network that fails (catalogue 3.4): a TCP proxy between the coordinator and
//! those who talk to it. Loss, duplicates and reordering are the simulator's (N-01, N-02); N-05 is
//! in `overload.rs`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use unanimous_proto::v1;
use unanimous_proto::v1::transaction_service_client::TransactionServiceClient;
use unanimous_sdk::{
    Attached, BranchId, Client, CommitError, Done, Evidence, Participant, Prepared, Resource,
    Retry, Vote,
};
use unanimous_tests::real::memory::{Agreeable, Ended, Member, transact};
use unanimous_tests::real::proxy::{Flow, Injected, Proxy, To};
use unanimous_tests::real::{Banks, Coordinator, LOOK, Report, Transfers};

/// Nothing here takes so long.
const HANG: Duration = Duration::from_secs(60);
const KEEPALIVE: [(&str, &str); 2] =
    [("UNANIMOUS_TIMEOUTS_KEEPALIVE", "500ms"), ("UNANIMOUS_TIMEOUTS_KEEPALIVE_TIMEOUT", "500ms")];

async fn coordinator(settings: &[(&str, &str)]) -> (TempDir, Coordinator) {
    let home = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log")).unwrap();
    for (name, value) in settings {
        coordinator.env(name, value);
    }
    coordinator.start().await.unwrap();
    (home, coordinator)
}

async fn until(what: &str, mut yes: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !yes().await {
        assert!(started.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn connected(coordinator: &Coordinator, participants: u32) {
    until("the participants' sessions", async || {
        coordinator.status().await.is_ok_and(|s| s.participants_connected == participants)
    })
    .await;
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

    async fn sings(&self) -> Duration {
        let begun = Instant::now();
        let ended = transact(&self.client, &self.members.iter().collect::<Vec<_>>()).await;
        assert_eq!(ended, Ended::Committed);
        begun.elapsed()
    }
}

/// Banks in processes of their own and transfers between them, with a proxy before the coordinator
/// for each of the two kinds of peers.
struct Fleet {
    _home: TempDir,
    coordinator: Coordinator,
    to_clients: Proxy,
    to_banks: Proxy,
    banks: Banks,
    transfers: Arc<Transfers>,
}

impl Fleet {
    async fn start() -> Self {
        let (home, coordinator) = coordinator(&KEEPALIVE).await;
        let to_clients = Proxy::start(coordinator.sessions()).await.unwrap();
        let to_banks = Proxy::start(coordinator.sessions()).await.unwrap();
        let banks = Banks::start(home.path(), &to_banks.url()).unwrap();
        let transfers = Transfers::new(&to_clients.url(), &banks, HANG).unwrap();
        connected(&coordinator, 2).await;
        assert_eq!(transfers.transfer().await, Ended::Committed);
        Self { _home: home, coordinator, to_clients, to_banks, banks, transfers }
    }

    /// Everything ends, every outcome is told, and no cent is missing or there twice.
    async fn verify(mut self) {
        let mut report = Report::default();
        self.transfers.resolve(&mut report).await;
        self.coordinator.settled(HANG).await.unwrap();
        self.banks.settled(HANG).await.unwrap();
        self.coordinator.stop().unwrap();
        self.banks.verify(&self.transfers, &mut report).unwrap();
        assert_eq!(report.violations(), 0, "violations are above");
    }
}

/// N-04: found by the keepalive. Its branch does not hold up anybody else, and is rolled back.
#[tokio::test]
async fn n_04_a_half_open_connection_is_found_and_delays_nobody_else() {
    let (_home, coordinator) = coordinator(&KEEPALIVE).await;
    let canary = Canary::start(&coordinator.url()).await;
    let proxy = Proxy::start(coordinator.sessions()).await.unwrap();
    let gone = Member::start_all(&proxy.url(), &["gone"]).await.unwrap();
    connected(&coordinator, 3).await;
    let transaction = canary.client.begin("half-open").timeout(Duration::from_secs(3));
    let transaction = transaction.await.unwrap();
    for member in canary.members.iter().chain(&gone) {
        member.work(&transaction).await.unwrap();
    }
    proxy.half_open();
    let (begun, hanging) = (Instant::now(), tokio::spawn(transaction.commit()));
    let mut longest = Duration::ZERO;
    until("the keepalive finds it", async || {
        longest = longest.max(canary.sings().await);
        coordinator.status().await.unwrap().participants_connected == 2
    })
    .await;
    println!("found after {:?}, the longest transaction took {longest:?}", begun.elapsed());
    let answer = hanging.await.unwrap();
    assert!(matches!(answer, Err(CommitError::RolledBack { .. })), "{answer:?}");
}

/// N-07, sessions: a transfer for each piece of a reply, which is lost and its connection reset. It
/// is tried again by the SDK, or rolled back; what is told is what was done, once.
#[tokio::test]
async fn n_07_a_reset_before_any_reply_of_a_session_leaves_one_effect() {
    /// A transfer has fewer pieces; what comes beyond them is from keepalives.
    const PIECES_MAX: u32 = 24;
    /// At the least the replies to begin and to commit; enlist, prepare and commit are more.
    const PIECES_MIN: u64 = 2;
    let fleet = Fleet::start().await;
    for proxy in [&fleet.to_clients, &fleet.to_banks] {
        for pieces in 0..PIECES_MAX {
            connected(&fleet.coordinator, 2).await;
            let before = proxy.cuts();
            proxy.cut_after_replies(Some(pieces));
            let ended = fleet.transfers.transfer().await;
            assert_ne!(ended, Ended::Heuristic);
            proxy.cut_after_replies(None);
            if proxy.cuts() == before {
                break;
            }
        }
        assert!(proxy.cuts() >= PIECES_MIN, "only {} replies were lost", proxy.cuts());
    }
    connected(&fleet.coordinator, 2).await;
    assert_eq!(fleet.transfers.transfer().await, Ended::Committed);
    fleet.verify().await;
}

/// N-07, the calls for people and scripts: each is repeated after its reply was lost, and the
/// answer is that of the first.
#[tokio::test]
async fn n_07_a_reset_before_the_reply_of_a_call_leaves_one_effect() {
    let (_home, mut coordinator) = coordinator(&[]).await;
    let asked = Arc::<AtomicU64>::default();
    let mut members = Vec::new();
    for name in ["one", "two"] {
        let resource = Agreeable::counting(Arc::clone(&asked));
        members.push(Member::start(&coordinator.url(), name, resource).await.unwrap());
    }
    let client = Client::builder(coordinator.url(), "direct").connect().unwrap();
    let proxy = Proxy::start(coordinator.sessions()).await.unwrap();
    let channel = Endpoint::from_shared(proxy.url()).unwrap().connect_lazy();
    let calls = TransactionServiceClient::new(channel);

    let begin = v1::BeginRequest {
        timeout_ms: 1_000,
        request_id: "0123456789abcdef".repeat(2),
        ..Default::default()
    };
    repeated(&proxy, &calls, async |mut calls| calls.begin(begin.clone()).await).await;
    for commits in [true, false] {
        let transaction = client.begin("kept").await.unwrap();
        for member in &members {
            member.work(&transaction).await.unwrap();
        }
        let gtrid = transaction.gtrid().to_string();
        let wanted = if commits { v1::Outcome::Committed } else { v1::Outcome::RolledBack };
        let told = if commits {
            let commit = v1::CommitRequest {
                gtrid: gtrid.clone(),
                expected_branches: Some(2),
                ..Default::default()
            };
            let call = async |mut calls: Calls| calls.commit(commit.clone()).await;
            repeated(&proxy, &calls, call).await.result
        } else {
            let rollback = v1::RollbackRequest { gtrid: gtrid.clone(), ..Default::default() };
            let call = async |mut calls: Calls| calls.rollback(rollback.clone()).await;
            repeated(&proxy, &calls, call).await.result
        };
        let ask = v1::GetOutcomeRequest { gtrid, expected_branches: Some(2) };
        let call = async |mut calls: Calls| calls.get_outcome(ask.clone()).await;
        let asked_later = repeated(&proxy, &calls, call).await.result;
        for result in [told, asked_later] {
            assert_eq!(result.unwrap().outcome(), wanted);
        }
    }
    // One of the two transactions asked for votes, once.
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    coordinator.settled(HANG).await.unwrap();
    coordinator.stop().unwrap();
}

type Calls = TransactionServiceClient<Channel>;

/// Makes a call whose reply is lost, and makes it again.
async fn repeated<T: std::fmt::Debug>(
    proxy: &Proxy,
    calls: &Calls,
    call: impl AsyncFn(Calls) -> Result<Response<T>, Status>,
) -> T {
    // Afterwards there is a connection: the next piece of a reply is the call's.
    let _ = calls.clone().get_outcome(v1::GetOutcomeRequest::default()).await;
    let before = proxy.cuts();
    proxy.cut_after_replies(Some(0));
    let first = call(calls.clone()).await;
    assert!(first.is_err() && proxy.cuts() == before + 1, "{first:?}");
    call(calls.clone()).await.unwrap().into_inner()
}

/// N-08: connections that go away, in both directions, and streams that are reset, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_08_a_storm_of_goaway_and_rst_stream_has_no_double_effect() {
    const INJECTIONS: u64 = 36;
    const CLIENTS: usize = 4;
    let fleet = Fleet::start().await;
    let load = fleet.transfers.run(CLIENTS);
    let proxies = [&fleet.to_clients, &fleet.to_banks];
    for turn in 0..INJECTIONS {
        let proxy = proxies[usize::from(turn % 2 == 1)];
        let (to, frame) = match turn / 2 % 3 {
            0 => (To::Client, Injected::GoAway),
            1 => (To::Server, Injected::GoAway),
            _ => (To::Client, Injected::ResetStream),
        };
        let before = proxy.injections();
        proxy.inject(to, frame);
        until("a frame is injected", async || proxy.injections() > before).await;
    }
    fleet.transfers.counts.stop();
    load.join_all().await;
    println!("{} ended", fleet.transfers.counts.ended());
    connected(&fleet.coordinator, 2).await;
    assert_eq!(fleet.transfers.transfer().await, Ended::Committed);
    fleet.verify().await;
}

/// A network that cuts, holds back, slows down and trickles, under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_cuts_holds_and_delays_loses_nothing() {
    const ROUNDS: u64 = 3;
    const CLIENTS: usize = 4;
    /// Each lasts so long.
    const STEP: Duration = Duration::from_millis(200);
    let fleet = Fleet::start().await;
    let load = fleet.transfers.run(CLIENTS);
    let flows = [
        Flow::Hold,
        Flow::Delay(Duration::from_millis(30)),
        Flow::Trickle(Duration::from_millis(1)),
    ];
    for _ in 0..ROUNDS {
        for proxy in [&fleet.to_clients, &fleet.to_banks] {
            for to in [To::Server, To::Client] {
                for flow in flows {
                    proxy.set(to, flow);
                    tokio::time::sleep(STEP).await;
                    proxy.set(to, Flow::Pass);
                }
                proxy.cut();
                tokio::time::sleep(STEP).await;
            }
        }
    }
    fleet.transfers.counts.stop();
    load.join_all().await;
    println!("{} ended", fleet.transfers.counts.ended());
    connected(&fleet.coordinator, 2).await;
    assert_eq!(fleet.transfers.transfer().await, Ended::Committed);
    fleet.verify().await;
}

/// What two sessions of one participant share: the branches, and what is done to its network while
/// one is prepared or committed.
#[derive(Default)]
struct Store {
    joined: Mutex<Vec<BranchId>>,
    prepared: Mutex<Vec<Prepared>>,
    committed: Mutex<Vec<BranchId>>,
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// A session's view of the store.
struct Steered {
    store: Arc<Store>,
    commits: Arc<AtomicU64>,
    while_preparing: Hook,
    while_committing: Hook,
}

impl Resource for Steered {
    fn joined(&self, branch: &BranchId) {
        self.store.joined.lock().unwrap().push(*branch);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if !self.store.joined.lock().unwrap().contains(branch) {
            return Ok(Vote::Rollback { reason: "no such branch".to_owned() });
        }
        let prepared = Prepared { branch: *branch, evidence: None };
        self.store.prepared.lock().unwrap().push(prepared);
        (self.while_preparing)();
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        if !self.store.joined.lock().unwrap().contains(branch) {
            return Ok(Done::Heuristic(unanimous_sdk::BranchResult::Hazard));
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.store.prepared.lock().unwrap().retain(|prepared| prepared.branch != *branch);
        let mut committed = self.store.committed.lock().unwrap();
        if !committed.contains(branch) {
            committed.push(*branch);
            (self.while_committing)();
        }
        Ok(Done::Done)
    }

    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(self.store.prepared.lock().unwrap().clone())
    }
}

/// Starts a session; how many commits come over it.
async fn session(
    url: &str,
    store: &Arc<Store>,
    while_preparing: Hook,
    while_committing: Hook,
) -> (Attached<Steered>, Arc<AtomicU64>) {
    let (store, commits) = (Arc::clone(store), Arc::<AtomicU64>::default());
    let counted = Arc::clone(&commits);
    let steered = Steered { store, commits, while_preparing, while_committing };
    let mut builder = Participant::builder("steered").coordinator(url);
    let attached = builder.attach("steered/store", steered);
    builder.start().await.unwrap();
    (attached, counted)
}

fn nothing() -> Hook {
    Box::new(|| ())
}

/// A transaction with a branch at the canary and one at the steered participant.
async fn commit_with(canary: &Canary, steered: &Attached<Steered>) -> Result<(), CommitError> {
    let transaction = canary.client.begin("steered").await.unwrap();
    canary.members[0].work(&transaction).await.unwrap();
    let branch = steered.enlist(&transaction.request(())).await.unwrap();
    let mut reply = Response::new(());
    branch.announce(reply.metadata_mut());
    branch.end();
    transaction.count(reply.metadata());
    transaction.commit().await.map(drop)
}

/// N-10: after its vote the participant comes back from somewhere else. There it is told to commit,
/// and where it was it is told nothing.
#[tokio::test]
async fn n_10_a_participant_that_moves_in_phase_two_is_told_at_its_new_place() {
    let (_home, mut coordinator) = coordinator(&[]).await;
    let canary = Canary::start(&coordinator.url()).await;
    let proxy = Arc::new(Proxy::start(coordinator.sessions()).await.unwrap());
    let store = Arc::<Store>::default();
    let deaf = Arc::clone(&proxy);
    let deaf: Hook = Box::new(move || deaf.lose(To::Client));
    let (old, at_old) = session(&proxy.url(), &store, deaf, nothing()).await;
    connected(&coordinator, 3).await;
    commit_with(&canary, &old).await.unwrap();
    assert_eq!(store.committed.lock().unwrap().len(), 0, "its network is gone");
    let (_new, at_new) = session(&coordinator.url(), &store, nothing(), nothing()).await;
    coordinator.settled(HANG).await.unwrap();
    assert_eq!(store.committed.lock().unwrap().len(), 1);
    assert!(at_new.load(Ordering::Relaxed) >= 1);
    assert_eq!(at_old.load(Ordering::Relaxed), 0);
    assert_eq!(coordinator.status().await.unwrap().transactions_heuristic, 0);
    coordinator.stop().unwrap();
}

/// N-13: it has committed, and its acknowledgement is lost. It is told again, acknowledges, and
/// nothing is heuristic.
#[tokio::test]
async fn n_13_a_lost_acknowledgement_of_a_commit_is_asked_for_again() {
    let (_home, mut coordinator) = coordinator(&[]).await;
    let canary = Canary::start(&coordinator.url()).await;
    let proxy = Arc::new(Proxy::start(coordinator.sessions()).await.unwrap());
    let store = Arc::<Store>::default();
    let cut = Arc::clone(&proxy);
    let cut: Hook = Box::new(move || cut.cut());
    let (steered, commits) = session(&proxy.url(), &store, nothing(), cut).await;
    connected(&coordinator, 3).await;
    commit_with(&canary, &steered).await.unwrap();
    coordinator.settled(HANG).await.unwrap();
    assert_eq!(store.committed.lock().unwrap().len(), 1);
    assert!(commits.load(Ordering::Relaxed) >= 2, "the acknowledgement was not lost");
    assert_eq!(coordinator.status().await.unwrap().transactions_heuristic, 0);
    coordinator.stop().unwrap();
}

/// N-12: connections that trickle, before they speak HTTP/2 and after, are ended; others do not
/// wait for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n_12_a_thousand_trickling_connections_are_closed_and_delay_nobody() {
    const CONNECTIONS: usize = 1_000;
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Of a frame of settings that never ends.
    const SETTINGS: [u8; 9] = [0, 6, 0, 4, 0, 0, 0, 0, 0];
    let settings = [KEEPALIVE[0], KEEPALIVE[1], ("UNANIMOUS_TIMEOUTS_HELLO_MAX", "2s")];
    let (_home, mut coordinator) = coordinator(&settings).await;
    let canary = Canary::start(&coordinator.url()).await;
    let alone = p99(&canary, async || tokio::time::sleep(Duration::from_secs(2)).await).await;
    let mut trickling = JoinSet::new();
    for number in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(coordinator.sessions()).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(PREFACE).await.unwrap();
            stream.write_all(&SETTINGS).await.unwrap();
        }
        trickling.spawn(async move {
            let mut buffer = [0; 1024];
            for byte in PREFACE.iter().cycle() {
                let pause = tokio::time::sleep(Duration::from_secs(1));
                let heard =
                    async { while stream.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {} };
                tokio::select! {
                    () = heard => return,
                    () = pause => {}
                }
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
    }
    let begun = Instant::now();
    let crowded = p99(&canary, async || {
        let all = async { while trickling.join_next().await.is_some() {} };
        tokio::time::timeout(HANG, all).await.expect("some are still open");
    })
    .await;
    println!("closed after {:?}; p99 {alone:?} alone, {crowded:?} meanwhile", begun.elapsed());
    assert!(crowded < alone * 10 + Duration::from_secs(1), "others wait");
    canary.sings().await;
    coordinator.stop().unwrap();
}

/// The time within which 99 of 100 transactions ended while something went on.
async fn p99(canary: &Canary, mut meanwhile: impl AsyncFnMut()) -> Duration {
    let mut took = Vec::new();
    let mut meanwhile = std::pin::pin!(meanwhile());
    loop {
        tokio::select! {
            () = &mut meanwhile => break,
            one = canary.sings() => took.push(one),
        }
    }
    took.sort();
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}
