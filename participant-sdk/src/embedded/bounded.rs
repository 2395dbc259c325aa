//! A store of accounts takes a bounded part of the disk, whatever its history.
#![allow(clippy::print_stderr, reason = "it prints what it measured")]

use super::{Accounts, Opening, inspect};
use crate::{BranchId, Done, EndedMark, Resource, Vote};
use futures_util::future::join_all;
use std::path::Path;
use unanimous_core::{Bqual, Gtrid, LogId, Owner};

const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 7 };
const OWNER: Owner = Owner { log: LOG, epoch: 100 };
const TRANSFERS: u64 = 300_000;
/// Transfers at the same time, each between two accounts of its own.
const AT_ONCE: u64 = 500;
const ACCOUNTS: u32 = 1_002;

fn branch(sequence: u64) -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, sequence, 0), bqual: Bqual::new(1, 1, OWNER) }
}

async fn transfer(accounts: &Accounts, sequence: u64) {
    let (branch, first) = (branch(sequence), u32::try_from(sequence % AT_ONCE).unwrap() * 2 + 3);
    accounts.joined(&branch);
    accounts.debit(&branch, first, 1).unwrap();
    accounts.credit(&branch, first + 1, 1).unwrap();
    let vote = accounts.prepare(&branch).await.unwrap();
    assert!(matches!(vote, Vote::Commit { .. }), "{vote:?}");
    assert_eq!(accounts.commit(&branch, None).await, Ok(Done::Done));
}

fn bytes_in(dir: &Path) -> u64 {
    // A directory or a file may go while it is looked at.
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    // Room that is kept for a full disk, always the same.
    let entries = entries.flatten().filter(|entry| entry.file_name() != "reserve");
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[tokio::test]
async fn three_hundred_thousand_transfers_leave_the_disk_flat() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let opening = Opening { init: Some((ACCOUNTS, 1_000_000)), ..Opening::default() };
    let accounts = Accounts::open(&dir, opening).unwrap();
    // In doubt all the time.
    let old = branch(u64::MAX);
    accounts.joined(&old);
    accounts.debit(&old, 1, 5).unwrap();
    let vote = accounts.prepare(&old).await.unwrap();

    let (started, mut curve) = (std::time::Instant::now(), Vec::new());
    for wave in 0..TRANSFERS / AT_ONCE {
        let first = wave * AT_ONCE;
        join_all((first..first + AT_ONCE).map(|sequence| transfer(&accounts, sequence))).await;
        let (epoch, sequence) = (OWNER.epoch, first + AT_ONCE - 1);
        accounts.ended(&EndedMark { log: LOG, epoch, sequence, exceptions: Vec::new() });
        curve.push(bytes_in(&dir));
    }
    let took = started.elapsed();
    accounts.close().unwrap();
    let mib: Vec<u64> = curve.chunks(60).map(|part| part.iter().max().unwrap() >> 20).collect();
    eprintln!("{TRANSFERS} transfers in {took:?}; MiB on disk, the most of each tenth: {mib:?}");
    assert!(mib.iter().all(|mib| *mib < 64), "{mib:?}");
    let (early, late) = (mib[1..5].iter().max().unwrap(), mib[5..].iter().max().unwrap());
    assert!(*late <= early + 8, "it grows: {mib:?}");

    let records = unanimous_recovery::read_records(&dir).unwrap();
    assert!(records.len() < 200_000, "{}", records.len());
    let summary = inspect(&dir).unwrap();
    assert_eq!((summary.committed, summary.in_doubt), (TRANSFERS, vec![old]));
    assert_eq!(summary.sum_actual, summary.sum_expected);
    let accounts = Accounts::open(&dir, Opening::default()).unwrap();
    assert_eq!(accounts.prepare(&old).await, Ok(vote), "the vote and its evidence");
}
