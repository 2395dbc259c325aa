//! Work for transactions and its ends, with a whole coordinator in this process.
#![cfg(all(feature = "in-process", feature = "embedded-resource"))]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use unanimous_proto::v1;
use unanimous_sdk::embedded::{Accounts, Opening, WorkError};
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Client, CommitError, Context, Done, Evidence, Gtrid,
    InProcess, JoinError, Participant, Prepared, Resource, Retry, RollbackReason, Vote, Wait,
};
use v1::admin_service_client::AdminServiceClient;

/// A hang guard, not a measurement.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => unreachable!("did not happen: {what}"),
    }
}

struct Bank {
    accounts: Attached<Accounts>,
    participant: Participant,
    /// Goes last: without its directory the log fails.
    dir: TempDir,
}

impl Bank {
    async fn open(coordinator: &InProcess, name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let opening = Opening { init: Some((3, 1_000)), ..Opening::default() };
        let store = Accounts::open(&dir.path().join("store"), opening).unwrap();
        let mut builder = coordinator.participant(name);
        let accounts = builder.attach(format!("{name}/accounts"), store);
        let participant = builder.start().await.unwrap();
        Self { accounts, participant, dir }
    }

    async fn close(self) {
        self.participant.stop().await;
        self.accounts.close().unwrap();
        drop(self.dir);
    }
}

struct Stage {
    coordinator: InProcess,
    client: Client,
    a: Bank,
    b: Bank,
}

impl Stage {
    async fn set() -> Self {
        let coordinator = InProcess::start().await.unwrap();
        let client = coordinator.client("shop").connect().unwrap();
        let a = Bank::open(&coordinator, "bank-a").await;
        let b = Bank::open(&coordinator, "bank-b").await;
        Self { coordinator, client, a, b }
    }

    /// Waits until the coordinator has these branches in these states.
    async fn until(&self, gtrid: Gtrid, states: &[v1::BranchState]) {
        let mut admin =
            AdminServiceClient::connect(self.coordinator.admin_address()).await.unwrap();
        let seen = async {
            loop {
                let request = v1::GetTransactionRequest { gtrid: gtrid.to_string() };
                let found = admin.get_transaction(request).await.unwrap().into_inner();
                let branches = found.transaction.unwrap().branches;
                if branches.iter().map(v1::Branch::state).eq(states.iter().copied()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        soon("the states", seen).await;
    }

    async fn end(self) {
        self.a.close().await;
        self.b.close().await;
    }
}

#[tokio::test]
async fn early_votes_are_there_before_the_commit_and_are_rolled_back_with_the_transaction() {
    let stage = Stage::set().await;
    let (a, b) = (&stage.a.accounts, &stage.b.accounts);
    for commits in [true, false] {
        let tx = stage.client.begin("transfer").await.unwrap().wait(Wait::Completed);
        let (from, to) = (a.join(&tx.context()), b.join(&tx.context()));
        let (from, to) = (from.await.unwrap(), to.await.unwrap());
        from.debit(1, 300).unwrap();
        to.credit(1, 300).unwrap();
        from.vote();
        to.vote();
        stage.until(tx.gtrid(), &[v1::BranchState::Prepared; 2]).await;
        assert_eq!((a.in_doubt().len(), b.in_doubt().len()), (1, 1));
        let late = a.join(&tx.context()).await.unwrap_err();
        assert_eq!(late, JoinError::Voted);
        if commits {
            soon("a commit", tx.commit()).await.unwrap();
        } else {
            soon("a rollback", tx.rollback()).await.unwrap();
            for bank in [a, b] {
                while !bank.in_doubt().is_empty() {
                    tokio::task::yield_now().await;
                }
            }
        }
        assert_eq!(
            (a.balances(), b.balances()),
            (vec![700, 1_000, 1_000], vec![1_300, 1_000, 1_000])
        );
    }
    stage.end().await;
}

/// The coordinator forgets an undecided transaction with its early votes; whoever gave them asks.
#[tokio::test]
async fn branches_that_voted_early_for_a_transaction_that_got_lost_are_rolled_back() {
    let mut stage = Stage::set().await;
    let tx = stage.client.begin("transfer").await.unwrap();
    for bank in [&stage.a, &stage.b] {
        let work = bank.accounts.join(&tx.context()).await.unwrap();
        work.credit(1, 1).unwrap();
        work.vote();
    }
    stage.until(tx.gtrid(), &[v1::BranchState::Prepared; 2]).await;
    stage.coordinator.restart().await.unwrap();
    let error = soon("an end", tx.commit()).await.unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    let undone = async {
        while !stage.a.accounts.in_doubt().is_empty() || !stage.b.accounts.in_doubt().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    soon("the rollbacks", undone).await;
    let tx = stage.client.begin("transfer").await.unwrap();
    let work = stage.a.accounts.join(&tx.context()).await.unwrap();
    work.credit(1, 1).unwrap();
    work.end();
    soon("a commit", tx.commit()).await.unwrap();
    stage.end().await;
}

/// Whatever the application makes of it: it commits, and is told no.
#[tokio::test]
async fn work_that_panics_returns_early_or_is_cancelled_rolls_back_with_its_reason() {
    async fn handler(accounts: Attached<Accounts>, tx: Context, account: u32, how: &'static str) {
        let work = accounts.join(&tx).await.unwrap();
        work.debit(account, 10).unwrap();
        match how {
            "panic" => unreachable!("as the test wants"),
            "cancel" => std::future::pending::<()>().await,
            _ => return,
        }
        work.end();
    }
    let stage = Stage::set().await;
    // Each with accounts of its own: they are locked until the rollback has come to the banks.
    for (account, how, why) in [
        (1, "panic", "its work panicked"),
        (2, "return", "its work was broken off"),
        (3, "cancel", "its work was broken off"),
    ] {
        let tx = stage.client.begin("transfer").await.unwrap();
        let other = stage.a.accounts.join(&tx.context()).await.unwrap();
        other.credit(account, 10).unwrap();
        other.end();
        let worked = tokio::spawn(handler(stage.b.accounts.clone(), tx.context(), account, how));
        while tx.branches() != Some(2) {
            tokio::task::yield_now().await;
        }
        if how == "cancel" {
            worked.abort();
        }
        let _ = soon("the handler's end", worked).await;
        let error = soon("an end", tx.commit()).await.unwrap_err();
        let CommitError::RolledBack { rollback, .. } = &error else { unreachable!("{error}") };
        assert_eq!(rollback.reason, RollbackReason::Voted);
        assert_eq!((&*rollback.participant, &*rollback.detail), ("bank-b", why));
        assert!(error.to_string().contains(&format!("bank-b voted no: {why}")), "{error}");
    }
    stage.end().await;
}

#[tokio::test]
async fn refused_work_becomes_the_status_of_the_call() {
    let stage = Stage::set().await;
    let (first, second) = (stage.client.begin("one").await, stage.client.begin("two").await);
    let (first, second) = (first.unwrap(), second.unwrap());
    let holds = stage.a.accounts.join(&first.context()).await.unwrap();
    holds.credit(3, 1).unwrap();
    let refused = async {
        let work = stage.a.accounts.join(&second.context()).await?;
        work.credit(3, 1)?;
        work.end();
        Ok::<_, tonic::Status>(())
    };
    let status = refused.await.unwrap_err();
    let holder = first.gtrid();
    assert_eq!(status.code(), tonic::Code::Aborted);
    assert_eq!(status.message(), WorkError::AccountBusy { account: 3, holder }.to_string());
    holds.end();
    soon("a commit", first.commit()).await.unwrap();
    soon("an end", second.commit()).await.unwrap_err();
    stage.end().await;
}

/// Keeps locks, and tells what it was asked. `true`: the branch has written.
struct Shelf {
    locks: Mutex<BTreeMap<BranchId, bool>>,
    called: mpsc::UnboundedSender<&'static str>,
    /// The next prepare waits for it.
    slow: Mutex<Option<oneshot::Receiver<()>>>,
}

impl Resource for Shelf {
    fn joined(&self, branch: &BranchId) {
        self.locks.lock().unwrap().insert(*branch, false);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        let slow = self.slow.lock().unwrap().take();
        if let Some(go_on) = slow {
            go_on.await?;
        }
        let mut locks = self.locks.lock().unwrap();
        match locks.get(branch) {
            Some(true) => Ok(Vote::Commit { evidence: None }),
            Some(false) => {
                locks.remove(branch);
                Ok(Vote::ReadOnly)
            }
            None => Ok(Vote::Rollback { reason: "no such branch".to_owned() }),
        }
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        let known = self.locks.lock().unwrap().remove(branch).is_some();
        Ok(if known { Done::Done } else { Done::Heuristic(BranchResult::Hazard) })
    }

    async fn commit_one_phase(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.called.send("one phase")?;
        let known = self.locks.lock().unwrap().remove(branch).is_some();
        Ok(if known { Done::Done } else { Done::RolledBack })
    }

    async fn rollback(&self, branch: &BranchId) -> Result<Done, Retry> {
        self.locks.lock().unwrap().remove(branch);
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_branch_that_only_read_frees_its_locks_before_the_decision_and_one_alone_has_one_phase() {
    let coordinator = InProcess::start().await.unwrap();
    let client = coordinator.client("shop").connect().unwrap();
    let (called, mut calls) = mpsc::unbounded_channel();
    let shelf =
        || Shelf { locks: Mutex::default(), called: called.clone(), slow: Mutex::default() };
    let mut builder = coordinator.participant("shop");
    let reads = builder.attach("shop/reads", shelf());
    let writes = builder.attach("shop/writes", shelf());
    let participant = builder.start().await.unwrap();

    // Two resources of one participant: two branches.
    let tx = client.begin("look, then write").await.unwrap().wait(Wait::Completed);
    let read = reads.enlist(&tx.context()).await.unwrap();
    let written = writes.enlist(&tx.context()).await.unwrap();
    assert_eq!(tx.branches(), Some(2));
    writes.locks.lock().unwrap().insert(*written.id(), true);
    let (go_on, waits) = oneshot::channel();
    *writes.slow.lock().unwrap() = Some(waits);
    read.end();
    written.end();
    let committed = tokio::spawn(tx.commit());
    soon("the locks", async {
        while !reads.locks.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The other one has not voted: nothing can be decided.
    assert!(!committed.is_finished() && writes.locks.lock().unwrap().len() == 1);
    go_on.send(()).unwrap();
    soon("a commit", committed).await.unwrap().unwrap();
    assert!(calls.try_recv().is_err());

    let tx = client.begin("write").await.unwrap();
    let written = writes.enlist(&tx.context()).await.unwrap();
    writes.locks.lock().unwrap().insert(*written.id(), true);
    written.end();
    soon("a commit", tx.commit()).await.unwrap();
    assert_eq!(calls.try_recv(), Ok("one phase"));
    assert!(writes.locks.lock().unwrap().is_empty());
    participant.stop().await;
}
