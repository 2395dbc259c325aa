//! The real binary on a disk that fails, hangs, stutters or becomes read-only (catalogue S-06,
//! S-08, S-09, S-10, S-20), by a shim between it and the system (`shim/disk.c`).
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::JoinSet;
use unanimous_core::Record;
use unanimous_proto::v1;
use unanimous_proto::v1::admin_service_client::AdminServiceClient;
use unanimous_recovery::codec::decode_record;
use unanimous_sdk::{BeginError, Client, CommitError, Resolution, Transaction};
use unanimous_tests::real::memory::{Agreeable, Ended, Member, transact};
use unanimous_tests::real::{Coordinator, LOOK, shim};

/// Nothing here takes so long.
const HANG: Duration = Duration::from_secs(60);
/// How long a client asks for an outcome that nobody can tell.
const ASK_MAX: Duration = Duration::from_secs(2);

/// Fields of `struct control`, by their place.
#[derive(Clone, Copy)]
enum Field {
    HoldSyncs,
    FailSyncs,
    ReadOnly,
    HeldSyncs,
    FailedCalls,
    RetriedSyncs,
    FailRead,
    Reads,
    Stutter,
    SayLater,
    Stuttered,
}

struct World {
    home: TempDir,
    control: File,
    coordinator: Coordinator,
    members: Vec<Member>,
    /// Questions for a vote to both members.
    asked: Arc<AtomicU64>,
}

impl World {
    async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_on(settings, &[]).await
    }

    /// With the disk behaving so from the beginning.
    async fn start_on(settings: &[(&str, &str)], fields: &[(Field, i32)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("control");
        std::fs::write(&path, [0; 64]).unwrap();
        let control = File::options().read(true).write(true).open(&path).unwrap();
        for (field, value) in fields {
            control.write_all_at(&value.to_ne_bytes(), *field as u64 * 4).unwrap();
        }
        let log = home.path().join("log");
        let mut coordinator = Coordinator::new(home.path(), &log).unwrap();
        coordinator.env("LD_PRELOAD", shim::compile("disk", home.path()).unwrap());
        coordinator.env("DISK_SHIM_CONTROL", &path);
        coordinator.env("DISK_SHIM_DIR", &log);
        for (name, value) in settings {
            coordinator.env(name, value);
        }
        coordinator.start().await.unwrap();
        let asked = Arc::<AtomicU64>::default();
        let mut members = Vec::new();
        for name in ["one", "two"] {
            let resource = Agreeable::counting(Arc::clone(&asked));
            members.push(Member::start(&coordinator.url(), name, resource).await.unwrap());
        }
        Self { home, control, coordinator, members, asked }
    }

    fn set(&self, field: Field, value: i32) {
        self.control.write_all_at(&value.to_ne_bytes(), field as u64 * 4).unwrap();
    }

    fn read(&self, field: Field) -> i32 {
        let mut bytes = [0; 4];
        self.control.read_exact_at(&mut bytes, field as u64 * 4).unwrap();
        i32::from_ne_bytes(bytes)
    }

    fn client(&self) -> Client {
        let client = Client::builder(self.coordinator.url(), "bad-disk").resolve_within(ASK_MAX);
        client.begin_within(HANG).connect().unwrap()
    }

    /// Transactions with their work done, about to commit.
    async fn open(
        &self,
        client: &Client,
        transactions: usize,
        timeout: Duration,
    ) -> Vec<Transaction> {
        let mut open = Vec::new();
        for _ in 0..transactions {
            let transaction = client.begin("open").timeout(timeout).await.unwrap();
            for member in &self.members {
                member.work(&transaction).await.unwrap();
            }
            open.push(transaction);
        }
        open
    }

    async fn transact(&self, client: &Client) -> Ended {
        transact(client, &self.members.iter().collect::<Vec<_>>()).await
    }

    /// Transactions in one state.
    async fn list(&self, state: v1::TransactionState) -> Vec<v1::Transaction> {
        let mut admin = AdminServiceClient::connect(self.coordinator.admin_url()).await.unwrap();
        let state = state.as_str_name().trim_start_matches("TRANSACTION_STATE_");
        let filter = format!("state={state}");
        let request =
            v1::ListTransactionsRequest { filter, page_size: 1_000, ..Default::default() };
        admin.list_transactions(request).await.unwrap().into_inner().transactions
    }

    /// The process ends by itself, as one that does not trust its log any more.
    fn ends_with_12(&mut self) {
        let status = self.coordinator.process().unwrap().wait(HANG).unwrap();
        assert_eq!(status.code(), Some(12));
    }

    /// The disk is in order again; nothing of the shim is left.
    async fn restart_on_a_good_disk(&mut self) {
        let log = self.home.path().join("log");
        let mut again = Coordinator::new(self.home.path(), &log).unwrap();
        again.start().await.unwrap();
        self.coordinator = again;
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut yes: impl FnMut() -> F) {
    let started = Instant::now();
    while !yes().await {
        assert!(started.elapsed() < HANG, "{what}: not within {HANG:?}");
        tokio::time::sleep(LOOK).await;
    }
}

fn commit_all(transactions: Vec<Transaction>) -> JoinSet<Result<(), CommitError>> {
    let mut commits = JoinSet::new();
    for transaction in transactions {
        commits.spawn(async move { transaction.commit().await.map(|_| ()) });
    }
    commits
}

/// Breaks the disk under one commit. Nobody is told how it ended, the process ends, and the next
/// start has an answer.
async fn commit_on_a_broken_disk(field: Field) {
    let mut world = World::start(&[]).await;
    let client = world.client();
    assert_eq!(world.transact(&client).await, Ended::Committed);
    let transaction = world.open(&client, 1, HANG).await.remove(0);
    let gtrid = transaction.gtrid();
    assert_eq!(world.read(Field::FailedCalls), 0);
    world.set(field, 1);
    let answer = transaction.commit().await;
    assert!(matches!(answer, Err(CommitError::Unknown { .. })), "{answer:?}");
    world.ends_with_12();
    assert!(world.read(Field::FailedCalls) > 0);
    assert_eq!(world.read(Field::RetriedSyncs), 0);

    world.restart_on_a_good_disk().await;
    let resolution = world.client().resolve(gtrid, Some(2)).await.unwrap();
    let told = matches!(resolution, Resolution::Committed { .. } | Resolution::RolledBack(_));
    assert!(told, "{resolution:?}");
}

/// S-06: a sync that failed once proves nothing when it is tried again.
#[tokio::test]
async fn s_06_a_failed_sync_ends_the_process_and_nothing_is_told() {
    commit_on_a_broken_disk(Field::FailSyncs).await;
}

/// S-09.
#[tokio::test]
async fn s_09_a_read_only_disk_ends_the_process_and_nothing_is_told() {
    commit_on_a_broken_disk(Field::ReadOnly).await;
}

/// S-20: a write that says later is no write; whether a part of it is there, nobody knows.
#[tokio::test]
async fn s_20_a_write_that_says_later_ends_the_process_and_nothing_is_told() {
    commit_on_a_broken_disk(Field::SayLater).await;
}

/// S-20: of three calls one is interrupted and one moves half of its bytes, from the first start
/// on.
#[tokio::test]
async fn s_20_interrupted_and_short_calls_change_nothing() {
    const TRANSACTIONS: usize = 50;
    let mut world = World::start_on(&[], &[(Field::Stutter, 1)]).await;
    let client = world.client();
    let mut committed = Vec::new();
    for _ in 0..TRANSACTIONS {
        let transaction = world.open(&client, 1, HANG).await.remove(0);
        committed.push(transaction.gtrid());
        transaction.commit().await.unwrap();
    }
    let written = world.read(Field::Stuttered);
    assert!(written > i32::try_from(TRANSACTIONS).unwrap(), "{written}");
    world.coordinator.kill().unwrap();
    world.coordinator.start().await.unwrap();
    assert!(world.read(Field::Stuttered) > written + 5, "recovery reads and writes too");
    for gtrid in committed {
        let resolution = world.client().resolve(gtrid, Some(2)).await.unwrap();
        assert!(matches!(resolution, Resolution::Committed { .. }), "{resolution:?}");
    }
    assert_eq!(world.transact(&world.client()).await, Ended::Committed);
}

/// S-08: whichever read of a start fails, and with it all later ones, it does not serve, and the
/// log is as it was. The first ones each, then ever wider apart.
#[tokio::test]
async fn s_08_a_read_that_fails_in_recovery_is_a_refusal() {
    let mut world = World::start(&[]).await;
    assert_eq!(world.transact(&world.client()).await, Ended::Committed);
    world.coordinator.stop().unwrap();
    let log = world.home.path().join("log");
    let before = unanimous_recovery::read_records(&log).unwrap();
    let mut refused = 0;
    let mut read = 1;
    loop {
        world.set(Field::Reads, 0);
        world.set(Field::FailRead, read);
        world.set(Field::FailedCalls, 0);
        if world.coordinator.start().await.is_ok() {
            assert_eq!(world.read(Field::FailedCalls), 0, "it serves after a read has failed");
            break;
        }
        let status = world.coordinator.process().unwrap().wait(HANG).unwrap();
        assert_eq!(status.code(), Some(1), "read {read}");
        assert!(world.read(Field::FailedCalls) > 0);
        world.set(Field::FailRead, 0);
        assert_eq!(unanimous_recovery::read_records(&log).unwrap(), before, "read {read}");
        refused += 1;
        read += 1 + read / 3;
    }
    assert!(refused > 5, "{refused} reads in a start");
}

/// S-10: what was handed to the log is not rolled back, however long the log takes; begins are
/// refused meanwhile, with a hint.
#[tokio::test]
async fn s_10_a_slow_sync_rolls_nothing_back_and_sheds_begins() {
    const TRANSACTIONS: usize = 20;
    /// Long enough for the work before the commit, on any machine.
    const TIMEOUT: Duration = Duration::from_secs(4);
    let mut world = World::start(&[]).await;
    let patient = Client::builder(world.coordinator.url(), "patient").resolve_within(HANG);
    let patient = patient.connect().unwrap();
    assert_eq!(world.transact(&patient).await, Ended::Committed);
    let transactions = world.open(&patient, TRANSACTIONS, TIMEOUT).await;
    world.set(Field::HoldSyncs, 1);
    let mut commits = commit_all(transactions);
    until("a sync that hangs", async || world.read(Field::HeldSyncs) > 0).await;
    let past = u64::try_from(TIMEOUT.as_millis()).unwrap();
    until("all time-outs passed in the log's hands", async || {
        let deciding = world.list(v1::TransactionState::Deciding).await;
        deciding.len() == TRANSACTIONS && deciding.iter().all(|found| found.age_ms > past)
    })
    .await;
    assert!(commits.try_join_next().is_none(), "nothing is told before it is durable");
    let hurried = Client::builder(world.coordinator.url(), "hurried");
    let hurried = hurried.begin_within(Duration::from_millis(300)).connect().unwrap();
    until("begins are refused", async || match hurried.begin("shed").await {
        // Tried again as long as there is a hint: a refusal without one would come at once.
        Err(BeginError::Refused { reason, .. }) => reason == "LOG_SLOW",
        _ => false,
    })
    .await;
    world.set(Field::HoldSyncs, 0);
    assert_eq!(commits.join_all().await, vec![Ok(()); TRANSACTIONS]);
    assert_eq!(world.transact(&patient).await, Ended::Committed);
    world.coordinator.settled(HANG).await.unwrap();
    world.coordinator.stop().unwrap();
    let records = unanimous_recovery::read_records(&world.home.path().join("log")).unwrap();
    let decisions = records.iter().map(|stored| decode_record(&stored.bytes).unwrap());
    let decided = decisions.filter(|record| matches!(record, Record::Commit { .. })).count();
    assert_eq!(decided, TRANSACTIONS + 2, "each decision once");
}

/// O-09: with a full queue before the log nothing begins and no participant is asked to prepare;
/// who has said yes already is not given up.
#[tokio::test]
async fn o_09_a_full_log_queue_holds_up_before_prepare() {
    const HANDED_OVER: usize = 20;
    const LATER: usize = 5;
    let settings = [("UNANIMOUS_LOG_QUEUE_BYTES_MAX", "1KiB"), ("UNANIMOUS_LOG_SLOW", "1h")];
    let world = World::start(&settings).await;
    let client = Client::builder(world.coordinator.url(), "full").resolve_within(HANG);
    let client = client.begin_within(Duration::from_secs(2)).connect().unwrap();
    assert_eq!(world.transact(&client).await, Ended::Committed);
    let handed_over = world.open(&client, HANDED_OVER, HANG).await;
    let later = world.open(&client, LATER, HANG).await;
    world.set(Field::HoldSyncs, 1);
    let mut commits = commit_all(handed_over);
    until("the decisions are in the queue", async || {
        world.list(v1::TransactionState::Deciding).await.len() == HANDED_OVER
    })
    .await;
    let asked = world.asked.load(Ordering::Relaxed);
    let mut held_back = commit_all(later);
    // Twice: the second is behind the commits in the same session, and is refused after them.
    for _ in 0..2 {
        match client.begin("shed").await {
            Err(BeginError::Refused { reason, .. }) => assert_eq!(reason, "LOG_BUSY"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.list(v1::TransactionState::Active).await.len(), LATER);
    assert_eq!(world.asked.load(Ordering::Relaxed), asked, "nobody is asked to prepare");
    assert!(commits.try_join_next().is_none() && held_back.try_join_next().is_none());

    world.set(Field::HoldSyncs, 0);
    assert_eq!(commits.join_all().await, vec![Ok(()); HANDED_OVER]);
    assert_eq!(held_back.join_all().await, vec![Ok(()); LATER]);
    assert_eq!(world.asked.load(Ordering::Relaxed), asked + 2 * LATER as u64);
}
