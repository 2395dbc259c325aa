//! A participant whose disk is full: it takes no new work, finishes what it has voted for, and goes
//! on when there is room again. The test runs itself in a process with a file system of its own.
#![allow(clippy::print_stderr, reason = "what the child said")]

use super::{Accounts, Opening, inspect};
use crate::{BranchId, Done, Resource, Vote};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use unanimous_core::{Bqual, Gtrid, LogId, Owner};

const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 7 };
const OWNER: Owner = Owner { log: LOG, epoch: 100 };
const DIR: &str = "UNANIMOUS_TEST_DIR";
/// A hang guard, not a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

fn branch(sequence: u64) -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, sequence, 0), bqual: Bqual::new(1, 1, OWNER) }
}

/// Runs the test in a process that sees a file system of 64 MiB at `DIR`.
fn run_on_64_mib(test: &str) {
    let root = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64m none \"${DIR}\" && \
         exec \"$0\" --exact embedded::full_disk::{test} --nocapture"
    );
    let output = Command::new("unshare")
        .args(["-Urm", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env(DIR, root.path())
        .output()
        .expect("this test needs `unshare` (util-linux)");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(
        output.status.success() && out.contains("1 passed"),
        "{}; mounting needs user namespaces or root\n{out}\n{err}",
        output.status
    );
}

/// Takes all the room there is.
fn fill(file: &Path) {
    let of = format!("of={}", file.display());
    let filled = Command::new("dd").args(["if=/dev/zero", &of, "bs=64k"]).output().unwrap();
    assert!(!filled.status.success(), "the disk has no end");
}

/// New work until it is voted on as expected; what is prepared meanwhile is undone.
async fn vote_until(accounts: &Accounts, first: u64, expected: impl Fn(&Vote) -> bool) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    for sequence in first.. {
        let branch = branch(sequence);
        accounts.joined(&branch);
        accounts.debit(&branch, 9, 1).unwrap();
        // A log without any room waits.
        let undone = async {
            let vote = accounts.prepare(&branch).await.unwrap();
            assert_eq!(accounts.rollback(&branch).await, Ok(Done::Done));
            vote
        };
        let vote = timeout_at(deadline, undone).await.expect("the vote in time");
        if expected(&vote) {
            return sequence + 1;
        }
    }
    first
}

#[tokio::test]
async fn s_05_on_a_full_disk_new_work_is_voted_down() {
    let test = "s_05_on_a_full_disk_new_work_is_voted_down";
    let Some(disk) = std::env::var_os(DIR).map(PathBuf::from) else { return run_on_64_mib(test) };
    let (dir, filler) = (disk.join("store"), disk.join("filler"));
    let opening = Opening { init: Some((9, 1_000)), ..Opening::default() };
    let accounts = Accounts::open(&dir, opening).unwrap();
    let work = |sequence, account| {
        accounts.joined(&branch(sequence));
        accounts.debit(&branch(sequence), account, 100).unwrap();
    };
    for sequence in 1..=3 {
        work(sequence, u32::try_from(sequence).unwrap());
    }
    let vote = accounts.prepare(&branch(1)).await.unwrap();
    accounts.prepare(&branch(2)).await.unwrap();

    fill(&filler);
    let full = "the disk of this participant is nearly full";
    let low = |vote: &Vote| matches!(vote, Vote::Rollback { reason } if reason == full);
    let next = vote_until(&accounts, 100, low).await;
    let reason = full.to_owned();
    assert_eq!(accounts.prepare(&branch(3)).await, Ok(Vote::Rollback { reason }));
    work(4, 4);
    assert_eq!(accounts.commit_one_phase(&branch(4)).await, Ok(Done::RolledBack));
    accounts.joined(&branch(5));
    assert_eq!(accounts.prepare(&branch(5)).await, Ok(Vote::ReadOnly), "nothing to write");
    assert_eq!(accounts.prepare(&branch(1)).await, Ok(vote), "repeated");
    assert_eq!(accounts.commit(&branch(1), None).await, Ok(Done::Done), "decided");
    assert_eq!(accounts.rollback(&branch(2)).await, Ok(Done::Done), "decided");

    std::fs::remove_file(&filler).unwrap();
    vote_until(&accounts, next, |vote| matches!(vote, Vote::Commit { .. })).await;
    accounts.close().unwrap();
    let summary = inspect(&dir).unwrap();
    assert_eq!((summary.committed, summary.in_doubt), (1, vec![]));
    assert_eq!(summary.sum_actual, summary.sum_expected - 100);
}
