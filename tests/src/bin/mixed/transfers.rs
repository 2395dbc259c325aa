//! Clients with transfers between the two banks, and what they were told about each.

use super::fleet::{Fleet, Victim};
use anyhow::ensure;
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use unanimous_sdk::{Client, CommitError, Gtrid, RollbackReason, Transaction};
use unanimous_tests::real::Report;
use unanimous_tests::real::banks::bank_calls;
use unanimous_tests::real::memory::{Ended, ended, resolved};
use unanimous_tests::real::wire::MoveRequest;
use unanimous_tests::real::wire::bank_service_client::BankServiceClient;

/// Of the banks' 1,000: few enough that transfers meet.
const ACCOUNTS: u32 = 200;
/// Mostly little; sometimes so much that there may not be enough, and the bank votes rollback.
const CENTS_MAX: i64 = 1_000;
const CENTS_MAX_LARGE: i64 = 90_000;
/// A transfer that has not ended by then is rolled back.
const TRANSFER_MAX: Duration = Duration::from_secs(3);
const RESOLVE_MAX: Duration = Duration::from_secs(60);
/// After a failure a client waits this long.
const PAUSE: Duration = Duration::from_millis(20);
/// Transfers of each kind while nothing is killed.
const QUIET: usize = 5;

/// What a transfer does at one bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) bank: Victim,
    pub(crate) account: u32,
    pub(crate) cents: i64,
}

/// A transfer whose commit was asked for, or that had begun at least.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) moves: Vec<Move>,
    pub(crate) told: Ended,
}

/// Every transfer that has begun.
pub(crate) type Ledger = BTreeMap<Gtrid, Transfer>;

#[derive(Clone, Debug)]
pub(crate) struct Transfers {
    client: Client,
    /// The Rust bank first.
    banks: [BankServiceClient<Channel>; 2],
    ledger: Arc<Mutex<Ledger>>,
    /// Rolled back because a bank would not.
    voted_no: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Transfers {
    pub(crate) fn new(fleet: &Fleet) -> anyhow::Result<Self> {
        let client = Client::builder(fleet.coordinator.url(), "transfers")
            .resolve_within(RESOLVE_MAX)
            .connect()?;
        let bank = |bank| bank_calls(fleet.address(bank), TRANSFER_MAX);
        let banks = [bank(Victim::Rust)?, bank(Victim::Python)?];
        let (ledger, voted_no, stopped) = Default::default();
        Ok(Self { client, banks, ledger, voted_no, stopped })
    }

    /// So many clients, one transfer after the other, until [`Transfers::stop`].
    pub(crate) fn run(&self, clients: usize) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let transfers = self.clone();
            running.spawn(async move {
                while !transfers.stopped.load(Ordering::Relaxed) {
                    if transfers.transfer(&draw()).await != Some(Ended::Committed) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            });
        }
        running
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Transfers one after the other, between the banks and within each, which must all commit.
    pub(crate) async fn all_commit(&self, report: &mut Report) {
        let (rust, python) = (Victim::Rust, Victim::Python);
        for (from, to) in [(rust, python), (python, rust), (python, python), (rust, rust)] {
            for account in 1..=QUIET {
                let account = u32::try_from(account).unwrap_or(1);
                let give = Move { bank: from, account, cents: -5 };
                let take = Move { bank: to, account: account + 100, cents: 5 };
                let told = self.transfer(&[give, take]).await;
                report.must(told == Some(Ended::Committed), || {
                    format!("from {from:?} to {to:?} while nothing is killed: {told:?}")
                });
            }
        }
    }

    /// One transfer over every account, as soon as no lock is held: branches whose coordinator was
    /// killed before it asked them for a vote are undone by a time-out of the bank.
    pub(crate) async fn every_account(&self, at_most: Duration) -> anyhow::Result<()> {
        let work = |bank, cents| (1..=ACCOUNTS).map(move |account| Move { bank, account, cents });
        let moves: Vec<Move> = work(Victim::Rust, -1).chain(work(Victim::Python, 1)).collect();
        let started = Instant::now();
        loop {
            let told = self.transfer(&moves).await;
            if told == Some(Ended::Committed) {
                return Ok(());
            }
            ensure!(started.elapsed() < at_most, "accounts stay locked: {told:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One transfer. `None`: it did not begin.
    async fn transfer(&self, moves: &[Move]) -> Option<Ended> {
        let transaction = self.client.begin("transfer").timeout(TRANSFER_MAX).await.ok()?;
        let gtrid = transaction.gtrid();
        let told = self.work_and_commit(transaction, moves).await;
        let transfer = Transfer { moves: moves.to_vec(), told: told.clone() };
        self.locked().insert(gtrid, transfer);
        Some(told)
    }

    async fn work_and_commit(&self, transaction: Transaction, moves: &[Move]) -> Ended {
        for (done, work) in moves.iter().enumerate() {
            let Err(status) = self.work(&transaction, *work).await else { continue };
            // Both banks have a branch: one of them has to vote rollback now.
            let overlooked = moves.len() == 3 && done == 2 && status.code() == Code::Aborted;
            if overlooked && rand::rng().random_bool(0.5) {
                break;
            }
            // Without a commit request it cannot commit, whether this is heard or not.
            let _ = transaction.rollback().await;
            return Ended::RolledBack(status.message().to_owned());
        }
        let answer = transaction.commit().await;
        if let Err(CommitError::RolledBack { rollback, .. }) = &answer
            && rollback.reason == RollbackReason::Voted
        {
            self.voted_no.fetch_add(1, Ordering::Relaxed);
        }
        ended(answer.map(drop))
    }

    async fn work(&self, transaction: &Transaction, work: Move) -> Result<(), Status> {
        let mut bank = self.banks[work.bank as usize].clone();
        let request = MoveRequest { account: work.account, cents: work.cents };
        transaction.call(request, async |request| bank.r#move(request).await).await.map(drop)
    }

    fn locked(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many were told committed so far.
    pub(crate) fn committed(&self) -> usize {
        self.count(&Ended::Committed)
    }

    fn count(&self, told: &Ended) -> usize {
        self.locked().values().filter(|transfer| transfer.told == *told).count()
    }

    /// Asks what became of those whose outcome was not told.
    pub(crate) async fn resolve(&self, report: &mut Report) {
        let unknown = |transfer: &Transfer| transfer.told == Ended::Unknown;
        let unknown: Vec<Gtrid> = {
            let ledger = self.locked();
            ledger.iter().filter(|(_, one)| unknown(one)).map(|(gtrid, _)| *gtrid).collect()
        };
        report.field("asked_again", unknown.len());
        for gtrid in unknown {
            // Nothing was committed with fewer.
            let told = resolved(&self.client, gtrid).await;
            report.must(told != Ended::Unknown, || format!("{gtrid} has no outcome"));
            if let Some(transfer) = self.locked().get_mut(&gtrid) {
                transfer.told = told;
            }
        }
    }

    /// How the transfers ended, as far as they were told.
    pub(crate) fn fields(&self, report: &mut Report) {
        let committed = self.committed();
        let (unknown, heuristic) = (self.count(&Ended::Unknown), self.count(&Ended::Heuristic));
        let ledger = self.locked();
        let rolled_back =
            ledger.values().filter(|transfer| matches!(transfer.told, Ended::RolledBack(_)));
        report.field("committed", committed);
        report.field("rolled_back", rolled_back.count());
        report.field("rolled_back_by_vote", self.voted_no.load(Ordering::Relaxed));
        report.field("unknown", unknown);
        report.field("heuristic", heuristic);
        report.must(heuristic == 0, || format!("{heuristic} heuristic outcomes"));
    }

    /// Every transfer; there are no more.
    pub(crate) fn take(&self) -> Ledger {
        std::mem::take(&mut *self.locked())
    }
}

/// From one bank to the other; sometimes what is taken there goes to two accounts. Sometimes there
/// is not enough to give.
fn draw() -> Vec<Move> {
    let mut rng = rand::rng();
    let mut banks = [Victim::Rust, Victim::Python];
    if rng.random_bool(0.5) {
        banks.reverse();
    }
    let most = if rng.random_bool(0.3) { CENTS_MAX_LARGE } else { CENTS_MAX };
    let cents = rng.random_range(2..=most);
    let kept = if rng.random_bool(0.3) { rng.random_range(1..cents) } else { cents };
    let mut draw = |bank, cents| Move { bank, account: rng.random_range(1..=ACCOUNTS), cents };
    let mut moves = vec![draw(banks[0], -cents), draw(banks[1], kept)];
    if kept < cents {
        moves.push(draw(banks[1], cents - kept));
    }
    moves
}
