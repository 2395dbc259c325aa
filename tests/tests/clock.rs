//! The real binary under a wall clock that jumps (catalogue T-01, T-02), by a shim between it and
//! the system (`shim/clock.c`).
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;
use unanimous_core::Gtrid;
use unanimous_sdk::{Client, CommitError, RollbackReason, Transaction};
use unanimous_tests::real::Coordinator;
use unanimous_tests::real::memory::Member;

/// Nothing here takes so long.
const HANG: Duration = Duration::from_secs(60);
const HOUR_S: i64 = 3_600;
const TEN_YEARS_S: i64 = 10 * 365 * 24 * HOUR_S;

struct World {
    _home: TempDir,
    control: File,
    coordinator: Coordinator,
    members: Vec<Member>,
    client: Client,
    begun: BTreeSet<Gtrid>,
}

impl World {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("control");
        std::fs::write(&path, [0; 8]).unwrap();
        let control = File::options().write(true).open(&path).unwrap();
        let mut coordinator = Coordinator::new(home.path(), &home.path().join("log")).unwrap();
        coordinator.env("LD_PRELOAD", shim(home.path()));
        coordinator.env("CLOCK_SHIM_CONTROL", &path);
        coordinator.start().await.unwrap();
        let members = Member::start_all(&coordinator.url(), &["one", "two"]).await.unwrap();
        let client = Client::builder(coordinator.url(), "clock").begin_within(HANG);
        let client = client.resolve_within(HANG).connect().unwrap();
        let begun = BTreeSet::new();
        Self { _home: home, control, coordinator, members, client, begun }
    }

    fn jump(&self, ahead_s: i64) {
        self.control.write_all_at(&ahead_s.to_ne_bytes(), 0).unwrap();
    }

    /// With its work done; its id has never been given out before.
    async fn open(&mut self, timeout: Duration) -> Transaction {
        let transaction = self.client.begin("clock").timeout(timeout).await.unwrap();
        assert!(self.begun.insert(transaction.gtrid()), "an id was given out again");
        for member in &self.members {
            member.work(&transaction).await.unwrap();
        }
        transaction
    }

    /// Ids of this life have this epoch.
    async fn epoch(&mut self) -> u32 {
        let transaction = self.open(HANG).await;
        let epoch = transaction.gtrid().owner().epoch;
        transaction.rollback().await.unwrap();
        epoch
    }

    /// Work goes on over the jump, no time-out comes early and none stays away.
    async fn goes_on_over_a_jump(&mut self, ahead_s: i64) {
        const SHORT: Duration = Duration::from_secs(3);
        let mut open = Vec::new();
        for _ in 0..20 {
            open.push(self.open(HANG).await);
        }
        let (before, begun) = (self.rolled_back().await, Instant::now());
        let short = self.open(SHORT).await;
        self.jump(ahead_s);
        for _ in 0..20 {
            self.open(HANG).await.commit().await.unwrap();
        }
        while self.rolled_back().await == before {
            assert!(begun.elapsed() < HANG, "the time-out stays away");
            tokio::time::sleep(unanimous_tests::real::LOOK).await;
        }
        assert!(begun.elapsed() >= SHORT, "after {:?}", begun.elapsed());
        match short.commit().await {
            Err(CommitError::RolledBack { rollback, .. }) => {
                assert_eq!(rollback.reason, RollbackReason::TimedOut);
            }
            other => panic!("{other:?}"),
        }
        for transaction in open {
            transaction.commit().await.unwrap();
        }
    }

    async fn rolled_back(&self) -> u64 {
        self.coordinator.status().await.unwrap().rolled_back_total
    }

    async fn restart(&mut self) {
        self.coordinator.kill().unwrap();
        self.coordinator.start().await.unwrap();
    }
}

fn shim(dir: &Path) -> std::path::PathBuf {
    let shim = dir.join("clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/clock.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&shim, &source])
        .arg("-ldl")
        .status();
    assert!(compiled.unwrap().success(), "cc compiles {}", source.display());
    shim
}

#[tokio::test]
async fn t_01_an_hour_back_under_load() {
    let mut world = World::start().await;
    let first = world.epoch().await;
    world.goes_on_over_a_jump(-HOUR_S).await;
    for life in 1..=2 {
        world.restart().await;
        assert_eq!(world.epoch().await, first + life, "no higher clock, so one more");
    }
    world.goes_on_over_a_jump(-2 * HOUR_S).await;
}

#[tokio::test]
async fn t_02_ten_years_ahead_and_back() {
    let mut world = World::start().await;
    world.goes_on_over_a_jump(TEN_YEARS_S).await;
    world.restart().await;
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let ahead = world.epoch().await;
    assert!(u64::from(ahead) > now_s + 9 * 365 * 24 * 3_600, "the shim moves the clock: {ahead}");
    world.jump(0);
    world.restart().await;
    assert_eq!(world.epoch().await, ahead + 1);
}
