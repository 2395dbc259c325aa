//! Clients with transfers between the two banks, and what they were told about each.

use super::fleet::{Fleet, Victim};
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;
use unanimous_sdk::{Client, Gtrid, Transaction};
use unanimous_tests::real::Report;
use unanimous_tests::real::banks::bank_calls;
use unanimous_tests::real::memory::{Ended, ended, resolved};
use unanimous_tests::real::wire::MoveRequest;
use unanimous_tests::real::wire::bank_service_client::BankServiceClient;

const CENTS_MAX: i64 = 1_000;
/// One transfer in so many takes more than there can be: the bank's database refuses it.
const OVERDRAWN_ONE_IN: u32 = 30;
const OVERDRAWN_CENTS: i64 = 1 << 40;
/// A transfer that has not ended by then is rolled back.
const TRANSFER_MAX: Duration = Duration::from_secs(3);
const RESOLVE_MAX: Duration = Duration::from_secs(60);
/// After a failure a client waits this long.
const PAUSE: Duration = Duration::from_millis(20);

/// What was told about every transfer that has begun.
pub(crate) type Ledger = BTreeMap<Gtrid, Ended>;

#[derive(Clone, Debug)]
pub(crate) struct Transfers {
    client: Client,
    banks: [BankServiceClient<Channel>; 2],
    accounts: u32,
    ledger: Arc<Mutex<Ledger>>,
    /// Those of the ledger that were told committed.
    committed: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Transfers {
    pub(crate) fn new(fleet: &Fleet) -> anyhow::Result<Self> {
        let client = Client::builder(fleet.coordinator.url(), "transfers")
            .resolve_within(RESOLVE_MAX)
            .connect()?;
        let bank = |bank| bank_calls(fleet.address(bank), TRANSFER_MAX);
        let banks = [bank(Victim::BankA)?, bank(Victim::BankB)?];
        let (ledger, committed, stopped) = Default::default();
        let accounts = fleet.databases.accounts;
        Ok(Self { client, banks, accounts, ledger, committed, stopped })
    }

    /// So many clients, one transfer after the other, until [`Transfers::stop`].
    pub(crate) fn run(&self, clients: usize) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let transfers = self.clone();
            running.spawn(async move {
                while !transfers.stopped.load(Ordering::Relaxed) {
                    if transfers.transfer().await != Some(Ended::Committed) {
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

    /// One transfer between the two accounts of a pair, either way. `None`: it did not begin.
    async fn transfer(&self) -> Option<Ended> {
        let (account, cents) = {
            let mut rng = rand::rng();
            let cents = match rng.random_ratio(1, OVERDRAWN_ONE_IN) {
                true => OVERDRAWN_CENTS,
                false => rng.random_range(1..=CENTS_MAX),
            };
            let cents = if rng.random_bool(0.5) { cents } else { -cents };
            (rng.random_range(1..=self.accounts), cents)
        };
        let transaction = self.client.begin("transfer").timeout(TRANSFER_MAX).await.ok()?;
        let gtrid = transaction.gtrid();
        let told = self.work_and_commit(transaction, account, cents).await;
        self.note(gtrid, told.clone());
        Some(told)
    }

    fn note(&self, gtrid: Gtrid, told: Ended) {
        let mut ledger = self.locked();
        self.committed.fetch_add(usize::from(told == Ended::Committed), Ordering::Relaxed);
        ledger.insert(gtrid, told);
    }

    /// The same bank first, whichever gives: two transfers cannot wait for each other.
    async fn work_and_commit(&self, transaction: Transaction, account: u32, cents: i64) -> Ended {
        for (bank, cents) in self.banks.iter().zip([-cents, cents]) {
            if let Err(status) = work(bank, &transaction, MoveRequest { account, cents }).await {
                // Without a commit request it cannot commit, whether this is heard or not.
                let _ = transaction.rollback().await;
                return Ended::RolledBack(status.message().to_owned());
            }
        }
        ended(transaction.commit().await.map(drop))
    }

    fn locked(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many were told committed so far.
    pub(crate) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    fn count(&self, which: impl Fn(&Ended) -> bool) -> usize {
        self.locked().values().filter(|told| which(told)).count()
    }

    /// Asks what became of those whose outcome was not told.
    pub(crate) async fn resolve(&self, report: &mut Report) {
        let unknown: Vec<Gtrid> = {
            let ledger = self.locked();
            let unknown = ledger.iter().filter(|(_, told)| **told == Ended::Unknown);
            unknown.map(|(gtrid, _)| *gtrid).collect()
        };
        report.field("asked_again", unknown.len());
        for gtrid in unknown {
            let told = resolved(&self.client, gtrid).await;
            report.must(told != Ended::Unknown, || format!("{gtrid} has no outcome"));
            self.note(gtrid, told);
        }
    }

    /// How the transfers ended, as far as they were told.
    pub(crate) fn fields(&self, report: &mut Report) {
        report.field("commits", self.committed());
        report.field("rolled_back", self.count(|told| matches!(told, Ended::RolledBack(_))));
        report.field("unknown", self.count(|told| *told == Ended::Unknown));
        let heuristic = self.count(|told| *told == Ended::Heuristic);
        report.must(heuristic == 0, || format!("{heuristic} heuristic outcomes were told"));
    }

    /// What was told about every transfer; there are no more.
    pub(crate) fn take(&self) -> Ledger {
        std::mem::take(&mut *self.locked())
    }
}

async fn work(
    bank: &BankServiceClient<Channel>,
    transaction: &Transaction,
    request: MoveRequest,
) -> Result<(), Status> {
    let mut bank = bank.clone();
    transaction.call(request, async |request| bank.r#move(request).await).await.map(drop)
}
