use super::{Accounts, AccountsError, Opening, WorkError, adjust, inspect};
use crate::resource::{EndedAlone, Resource, Retry};
use crate::{Participant, StartError};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Done, Vote};
use unanimous_core::{Bqual, BranchId, BranchResult, Decision, Gtrid, LogId, Owner};
use unanimous_recovery::{ErrorClass, LogKind, verify};

const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 7 };
const OWNER: Owner = Owner { log: LOG, epoch: 100 };
const HAZARD: Done = Done::Heuristic(BranchResult::Hazard);
const INIT: Opening = Opening { init: Some((3, 1_000)), log_bytes_compact: 4 << 20 };

fn branch(sequence: u64) -> BranchId {
    BranchId { gtrid: Gtrid::new(OWNER, sequence, 0), bqual: Bqual::new(1, 1, OWNER) }
}

fn mark(sequence: u64, exceptions: &[BranchId]) -> EndedMark {
    let exceptions = exceptions.iter().map(|branch| branch.gtrid).collect();
    EndedMark { log: LOG, epoch: OWNER.epoch, sequence, exceptions }
}

/// A store, and copies of its directory as a kill would leave them: made while it is open.
struct Bank {
    accounts: Accounts,
    copies: u32,
    /// Goes last: without its directory the log fails.
    root: TempDir,
}

impl Bank {
    fn new() -> Self {
        Self::with(INIT)
    }

    fn with(opening: Opening) -> Self {
        let root = tempfile::tempdir().unwrap();
        let accounts = Accounts::open(&root.path().join("store"), opening).unwrap();
        Self { root, accounts, copies: 0 }
    }

    fn work(&self, branch: &BranchId, account: u32, cents: i64) {
        self.accounts.joined(branch);
        self.accounts.credit(branch, account, cents).unwrap();
    }

    async fn prepared(&self, branch: &BranchId, account: u32, cents: i64) {
        self.work(branch, account, cents);
        let vote = self.accounts.prepare(branch).await.unwrap();
        assert!(matches!(vote, Vote::Commit { .. }), "{vote:?}");
    }

    /// What a process started after a kill at this moment finds.
    fn killed(&mut self) -> Accounts {
        Accounts::open_moved(&self.copy(), Opening::default()).unwrap()
    }

    fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let copy = self.root.path().join(format!("copy-{}", self.copies));
        copy_dir(&self.root.path().join("store"), &copy);
        copy
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = {
            let entry = entry.unwrap();
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn cp_6_a_kill_at_each_step_leaves_what_was_answered_and_no_more() {
    let mut bank = Bank::new();
    let one = branch(1);
    bank.work(&one, 1, -300);
    let after_work = bank.killed();
    assert_eq!((after_work.in_doubt(), after_work.balances()), (vec![], vec![1_000; 3]));

    let vote = bank.accounts.prepare(&one).await.unwrap();
    let after_vote = bank.killed();
    assert_eq!((after_vote.in_doubt(), after_vote.balances()), (vec![one], vec![1_000; 3]));
    let recovered = after_vote.recover().await.unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!(vote, Vote::Commit { evidence: recovered[0].evidence.clone() });
    assert_eq!(after_vote.prepare(&one).await.unwrap(), vote, "the vote is repeated");
    let busy = WorkError::AccountBusy { account: 1, holder: one.gtrid };
    after_vote.joined(&branch(2));
    assert_eq!(after_vote.credit(&branch(2), 1, 1), Err(busy), "the lock is back");
    // Both outcomes are possible after the kill.
    assert_eq!(after_vote.rollback(&one).await, Ok(Done::Done));
    assert_eq!(after_vote.balances(), vec![1_000; 3]);

    assert_eq!(bank.accounts.commit(&one, None).await, Ok(Done::Done));
    let after_commit = bank.killed();
    assert_eq!(
        (after_commit.in_doubt(), after_commit.balances()),
        (vec![], vec![700, 1_000, 1_000])
    );
    assert_eq!(after_commit.commit(&one, None).await, Ok(Done::Done), "the proof is kept");
    assert_eq!(after_commit.sum_cents(), 2_700);
}

/// One before the vote, one before the acknowledgement.
#[tokio::test]
async fn p_01_a_participant_forces_two_records() {
    let mut bank = Bank::new();
    let frames = |bank: &mut Bank| verify(&bank.copy(), LogKind::Accounts).unwrap().frames;
    let begun = frames(&mut bank);
    bank.work(&branch(1), 1, -300);
    assert_eq!(frames(&mut bank), begun);
    bank.accounts.prepare(&branch(1)).await.unwrap();
    assert_eq!(frames(&mut bank), begun + 1);
    assert_eq!(bank.accounts.commit(&branch(1), None).await, Ok(Done::Done));
    assert_eq!(frames(&mut bank), begun + 2);
}

/// Also after the coordinator's end, as far as nobody has said that it may forget.
#[tokio::test]
async fn p_05_a_repeated_commit_is_acknowledged_and_writes_nothing() {
    let mut bank = Bank::new();
    let frames = |bank: &mut Bank| verify(&bank.copy(), LogKind::Accounts).unwrap().frames;
    bank.prepared(&branch(1), 1, -300).await;
    assert_eq!(bank.accounts.commit(&branch(1), None).await, Ok(Done::Done));
    let done = frames(&mut bank);
    bank.accounts.ended(&mark(1, &[]));
    for _ in 0..3 {
        assert_eq!(bank.accounts.commit(&branch(1), None).await, Ok(Done::Done));
    }
    assert_eq!((frames(&mut bank), bank.accounts.sum_cents()), (done, 2_700));
    assert_eq!(bank.killed().commit(&branch(1), None).await, Ok(Done::Done));
}

#[tokio::test]
async fn a_rollback_of_a_prepared_branch_is_durable_before_it_is_answered() {
    let mut bank = Bank::new();
    bank.prepared(&branch(1), 2, 50).await;
    assert_eq!(bank.accounts.rollback(&branch(1)).await, Ok(Done::Done));
    let after = bank.killed();
    assert_eq!((after.in_doubt(), after.sum_cents()), (vec![], 3_000));
    assert_eq!(after.rollback(&branch(1)).await, Ok(Done::Done), "repeated, and unknown");
}

#[tokio::test]
async fn dropping_the_store_without_closing_loses_no_answer() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let accounts = Accounts::open(&dir, INIT).unwrap();
    accounts.joined(&branch(1));
    accounts.debit(&branch(1), 3, 10).unwrap();
    accounts.prepare(&branch(1)).await.unwrap();
    drop(accounts);
    let accounts = Accounts::open(&dir, Opening::default()).unwrap();
    assert_eq!(accounts.in_doubt(), vec![branch(1)]);
    assert_eq!(accounts.commit(&branch(1), None).await, Ok(Done::Done));
    accounts.close().unwrap();
    assert_eq!(inspect(&dir).unwrap().sum_actual, 2_990);
}

#[tokio::test]
async fn conflicting_work_is_refused_at_once_and_allowed_when_the_lock_is_free() {
    let bank = Bank::new();
    bank.work(&branch(1), 1, 10);
    bank.accounts.joined(&branch(2));
    let busy = Err(WorkError::AccountBusy { account: 1, holder: branch(1).gtrid });
    assert_eq!(bank.accounts.debit(&branch(2), 1, 1), busy);
    bank.prepared(&branch(3), 2, 1).await;
    assert_eq!(bank.accounts.debit(&branch(3), 2, 1), Err(WorkError::NotActive), "it has voted");
    for free in [Done::Done, Done::Done] {
        assert_eq!(bank.accounts.rollback(&branch(1)).await, Ok(free));
    }
    assert_eq!(bank.accounts.debit(&branch(1), 1, 1), Err(WorkError::NotActive), "undone");
    assert_eq!(bank.accounts.debit(&branch(2), 1, 1), Ok(()));
    for account in [0, 4, u32::MAX] {
        let missing = Err(WorkError::NoSuchAccount(account));
        assert_eq!(bank.accounts.debit(&branch(2), account, 1), missing);
    }
    assert_eq!(bank.accounts.credit(&branch(2), 3, i64::MAX), Err(WorkError::TooLarge(3)));
    assert_eq!(bank.accounts.debit(&branch(2), 3, i64::MIN), Err(WorkError::TooLarge(3)));
}

#[tokio::test]
async fn an_overdraft_may_enter_and_votes_rollback_with_its_words() {
    let bank = Bank::new();
    bank.work(&branch(1), 3, -2_234);
    let reason = "account 3 would be overdrawn by 12.34".to_owned();
    assert_eq!(bank.accounts.prepare(&branch(1)).await, Ok(Vote::Rollback { reason }));
    bank.prepared(&branch(2), 3, -1_000).await;
    bank.work(&branch(3), 1, -1_001);
    assert_eq!(bank.accounts.commit_one_phase(&branch(3)).await, Ok(Done::RolledBack));
    bank.prepared(&branch(4), 1, -1).await;
}

#[tokio::test]
async fn a_branch_without_moves_is_read_only_and_an_unknown_one_votes_rollback() {
    let bank = Bank::new();
    bank.accounts.joined(&branch(1));
    assert_eq!(bank.accounts.prepare(&branch(1)).await, Ok(Vote::ReadOnly));
    let unknown = bank.accounts.prepare(&branch(1)).await.unwrap();
    assert!(matches!(unknown, Vote::Rollback { .. }), "finished: {unknown:?}");
    let unknown = bank.accounts.prepare(&branch(2)).await.unwrap();
    assert!(matches!(unknown, Vote::Rollback { .. }), "never seen: {unknown:?}");
    assert_eq!(bank.accounts.in_doubt(), vec![]);
}

#[tokio::test]
async fn one_phase_is_one_durable_record_that_proves_itself() {
    let mut bank = Bank::new();
    bank.work(&branch(1), 1, -1);
    assert_eq!(bank.accounts.commit_one_phase(&branch(1)).await, Ok(Done::Done));
    let after = bank.killed();
    assert_eq!(after.balances(), vec![999, 1_000, 1_000]);
    assert_eq!(after.recall(&branch(1)).await, Ok(Done::Done));
    assert_eq!(after.commit_one_phase(&branch(1)).await, Ok(Done::Done));
    assert_eq!(after.balances(), vec![999, 1_000, 1_000], "once");
    // Active when the process ended: provably never committed.
    assert_eq!(after.recall(&branch(2)).await, Ok(Done::RolledBack));
}

#[tokio::test]
async fn commit_of_an_unknown_branch_is_a_hazard_and_of_an_unprepared_one_undoes_it() {
    let bank = Bank::new();
    assert_eq!(bank.accounts.commit(&branch(1), None).await, Ok(HAZARD));
    bank.work(&branch(2), 1, 5);
    assert_eq!(bank.accounts.commit(&branch(2), None).await, Ok(Done::NotPrepared));
    bank.prepared(&branch(3), 1, 5).await;
    assert_eq!(bank.accounts.commit(&branch(3), None).await, Ok(Done::Done));
    let heuristic = Done::Heuristic(BranchResult::Committed);
    assert_eq!(bank.accounts.rollback(&branch(3)).await, Ok(heuristic), "too late");
    assert_eq!(bank.accounts.sum_cents(), 3_005);
}

#[tokio::test]
async fn proofs_are_kept_until_a_mark_has_passed_them_and_another_one_came() {
    let mut bank = Bank::new();
    for sequence in 1..=4 {
        bank.prepared(&branch(sequence), 1, 1).await;
        bank.accounts.commit(&branch(sequence), None).await.unwrap();
    }
    let accounts = bank.accounts.clone();
    accounts.ended(&mark(3, &[branch(2)]));
    for sequence in 1..=4 {
        assert_eq!(accounts.commit(&branch(sequence), None).await, Ok(Done::Done));
    }
    accounts.ended(&mark(3, &[]));
    // Forces the lazy record of the mark out.
    bank.prepared(&branch(9), 2, 1).await;
    let after = bank.killed();
    for store in [&accounts, &after] {
        assert_eq!(store.commit(&branch(1), None).await, Ok(HAZARD));
        assert_eq!(store.commit(&branch(2), None).await, Ok(Done::Done), "an exception");
        assert_eq!(store.recall(&branch(3)).await, Ok(HAZARD), "passed: nothing is proved");
        assert_eq!(store.commit(&branch(4), None).await, Ok(Done::Done), "above the mark");
        assert_eq!(store.recall(&branch(5)).await, Ok(Done::RolledBack), "above the mark");
    }
    let other = LogId { incarnation: 8, ..LOG };
    for _ in 0..2 {
        accounts.ended(&EndedMark { log: other, ..mark(u64::MAX, &[]) });
    }
    assert_eq!(accounts.commit(&branch(4), None).await, Ok(Done::Done), "another log's mark");
}

#[tokio::test]
async fn many_branches_at_once_commit_in_groups_and_keep_the_sum() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let accounts = Accounts::open(&dir, Opening { init: Some((64, 10)), ..INIT }).unwrap();
    let transfers = (0..32u32).map(|number| {
        let (accounts, branch) = (accounts.clone(), branch(u64::from(number)));
        async move {
            accounts.joined(&branch);
            accounts.debit(&branch, 2 * number + 1, 1).unwrap();
            accounts.credit(&branch, 2 * number + 2, 1).unwrap();
            let vote = accounts.prepare(&branch).await.unwrap();
            assert!(matches!(vote, Vote::Commit { .. }));
            accounts.commit(&branch, None).await.unwrap()
        }
    });
    let done = futures_util::future::join_all(transfers).await;
    assert!(done.iter().all(|done| *done == Done::Done));
    accounts.close().unwrap();
    let summary = inspect(&dir).unwrap();
    assert_eq!((summary.sum_expected, summary.sum_actual), (640, 640));
    assert_eq!((summary.committed, summary.accounts, summary.in_doubt), (32, 64, vec![]));
    let frames = verify(&dir, LogKind::Accounts).unwrap();
    assert!(frames.frames < frames.records, "{frames:?}");
}

#[test]
fn a_changed_balance_is_seen_and_looking_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    Accounts::open(&dir, INIT).unwrap().close().unwrap();
    let before = files(&dir);
    assert_eq!(inspect(&dir).unwrap().sum_actual, 3_000);
    assert_eq!(files(&dir), before);
    adjust(&dir, 2, -7).unwrap();
    let summary = inspect(&dir).unwrap();
    assert_eq!((summary.sum_expected, summary.sum_actual), (3_000, 2_993));
    let missing = adjust(&dir, 4, 1).unwrap_err();
    assert!(matches!(missing, AccountsError::Contradiction { .. }), "{missing}");
}

#[test]
fn a_store_is_made_only_when_asked_and_opened_by_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let Err(AccountsError::Log(error)) = Accounts::open(&dir, Opening::default()) else {
        unreachable!("opened out of nothing")
    };
    assert_eq!(error.class(), ErrorClass::NotInitialised);
    assert!(!dir.exists());
    let accounts = Accounts::open(&dir, INIT).unwrap();
    for second in [Accounts::open(&dir, INIT).unwrap_err(), inspect(&dir).unwrap_err()] {
        assert!(matches!(second, AccountsError::Log(ref e) if e.class() == ErrorClass::InUse));
    }
    accounts.close().unwrap();
    assert_eq!(accounts.close(), Err(AccountsError::Closed));
    // What is there wins over what was asked for.
    let again = Accounts::open(&dir, Opening { init: Some((1, 1)), ..INIT }).unwrap();
    assert_eq!(again.sum_cents(), 3_000);
}

#[tokio::test]
async fn a_closed_store_says_later_and_never_an_outcome() {
    let bank = Bank::new();
    bank.work(&branch(1), 1, 1);
    bank.accounts.close().unwrap();
    let closed = Retry::because("the store is closed");
    assert_eq!(bank.accounts.prepare(&branch(1)).await, Err(closed.clone()));
    assert_eq!(bank.accounts.commit_one_phase(&branch(1)).await, Err(closed));
}

/// What every resource is asked at the start.
#[tokio::test]
async fn accounts_pass_the_checks_of_a_start_without_a_write() {
    let mut bank = Bank::new();
    bank.prepared(&branch(1), 1, 1).await;
    let before = unanimous_recovery::read_records(&bank.copy()).unwrap().len();
    let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
    builder.attach("bank/accounts", bank.accounts.clone());
    let participant = builder.start().await.unwrap();
    participant.stop().await;
    assert_eq!(unanimous_recovery::read_records(&bank.copy()).unwrap().len(), before);
    assert_eq!(bank.accounts.in_doubt(), vec![branch(1)]);

    bank.accounts.close().unwrap();
    let mut builder = Participant::builder("bank").coordinator("http://127.0.0.1:1");
    builder.attach("bank/accounts", bank.accounts.clone());
    let closed = builder.start().await.unwrap_err();
    assert!(matches!(closed, StartError::Unfit { .. }), "{closed}");
}

#[test]
fn impossible_sizes_are_refused() {
    for init in [(0, 1), (u32::MAX, 1), (1_000, i64::MAX)] {
        let root = tempfile::tempdir().unwrap();
        let opened =
            Accounts::open(&root.path().join("store"), Opening { init: Some(init), ..INIT });
        assert!(matches!(opened, Err(AccountsError::Contradiction { .. })), "{init:?}");
    }
}

/// Evidence of a vote names a record that compaction drops; the branch, its vote, its lock and the
/// proofs outlive it, at whatever moment the process is killed.
#[tokio::test]
async fn what_was_answered_outlives_the_records_that_held_it() {
    let mut bank = Bank::with(Opening { log_bytes_compact: 1_000, ..INIT });
    let (old, proved) = (branch(1), branch(2));
    bank.work(&old, 1, -300);
    let vote = bank.accounts.prepare(&old).await.unwrap();
    bank.prepared(&proved, 3, 7).await;
    bank.accounts.commit(&proved, None).await.unwrap();
    let dropped = |dir: &Path| {
        let records = unanimous_recovery::read_records(dir).unwrap();
        records.first().map(|first| first.lsn.0) > Some(1)
    };
    let mut without_the_records = 0;
    for sequence in 3..23 {
        bank.prepared(&branch(sequence), 2, 1).await;
        assert_eq!(bank.accounts.commit(&branch(sequence), None).await, Ok(Done::Done));
        bank.accounts.ended(&mark(sequence, &[old, proved]));
        let copy = bank.copy();
        let opened = Accounts::open_moved(&copy, Opening::default()).unwrap();
        let balance = 1_000 + i64::try_from(sequence).unwrap() - 2;
        assert_eq!(opened.balances(), vec![1_000, balance, 1_007]);
        let recovered = opened.recover().await.unwrap();
        assert_eq!(vote, Vote::Commit { evidence: recovered[0].evidence.clone() });
        assert_eq!(opened.prepare(&old).await.as_ref(), Ok(&vote), "repeated");
        assert_eq!(opened.commit(&proved, None).await, Ok(Done::Done), "proved");
        assert_eq!(opened.commit(&old, None).await, Ok(Done::Done));
        opened.close().unwrap();
        assert_eq!(inspect(&copy).unwrap().sum_actual, 1_000 + 1_007 + balance - 300);
        adjust(&copy, 2, -5).unwrap();
        assert_eq!(inspect(&copy).unwrap().sum_actual, 1_000 + 1_007 + balance - 305);
        without_the_records += u32::from(dropped(&copy));
    }
    assert!(without_the_records > 8, "{without_the_records}");
}

/// Section 4, a unilateral decision: it is on record, with its effect, before it is told, and every
/// call answers by the record until that is forgotten.
#[tokio::test]
async fn a_branch_that_ends_alone_says_so_in_every_life_until_it_is_forgotten() {
    for (decision, result, balance) in [
        (Decision::Commit, BranchResult::Committed, 700),
        (Decision::Rollback, BranchResult::RolledBack, 1_000),
    ] {
        let mut bank = Bank::new();
        let one = branch(1);
        bank.prepared(&one, 1, -300).await;
        let alone = Ok(Done::Heuristic(result));
        assert_eq!(bank.accounts.end_alone(&one, decision, "nobody asked").await, alone);
        let killed = bank.killed();
        for accounts in [&bank.accounts, &killed] {
            assert_eq!((accounts.in_doubt(), accounts.balances()[0]), (vec![], balance));
            let listed = EndedAlone { branch: one, result, why: "nobody asked".to_owned() };
            assert_eq!(accounts.ended_alone().await, Ok(vec![listed]));
            assert_eq!(accounts.recover().await, Ok(vec![]), "not prepared any more");
            assert!(matches!(accounts.prepare(&one).await, Ok(Vote::Rollback { .. })));
            assert_eq!(accounts.commit(&one, None).await, alone);
            assert_eq!(accounts.recall(&one).await, alone);
            assert_eq!(accounts.rollback(&one).await, alone);
            let other = match decision {
                Decision::Commit => Decision::Rollback,
                Decision::Rollback => Decision::Commit,
            };
            assert_eq!(accounts.end_alone(&one, other, "again").await, alone, "what is on record");
            accounts.joined(&branch(2));
            accounts.credit(&branch(2), 1, 1).unwrap();
            assert_eq!(accounts.rollback(&branch(2)).await, Ok(Done::Done), "its lock was free");
        }
        bank.accounts.ended(&mark(9, &[]));
        bank.accounts.ended(&mark(9, &[]));
        assert_eq!(bank.accounts.commit(&one, None).await, alone, "no mark forgets it");
        bank.accounts.forget(&one).await.unwrap();
        bank.accounts.forget(&one).await.unwrap();
        let killed = bank.killed();
        for accounts in [&bank.accounts, &killed] {
            assert_eq!(accounts.ended_alone().await, Ok(vec![]));
            assert_eq!(
                (accounts.commit(&one, None).await, accounts.balances()[0]),
                (Ok(HAZARD), balance)
            );
        }
    }
}

#[tokio::test]
async fn only_what_is_prepared_can_end_alone() {
    let bank = Bank::new();
    let (worked, committed, unknown) = (branch(1), branch(2), branch(3));
    bank.work(&worked, 1, -300);
    bank.prepared(&committed, 2, -300).await;
    bank.accounts.commit(&committed, None).await.unwrap();
    for one in [worked, committed, unknown] {
        let ended = bank.accounts.end_alone(&one, Decision::Rollback, "").await;
        assert_eq!(ended, Ok(Done::Done), "{one}");
    }
    assert_eq!(bank.accounts.ended_alone().await, Ok(vec![]));
    assert_eq!(bank.accounts.balances(), [1_000, 700, 1_000]);
}
