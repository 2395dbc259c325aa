//! Clients with transfers within a bank and between two or three, and what they were told.

use super::fleet::{BANKS, Fleet};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use unanimous_sdk::{Client, Gtrid, Resolution, Transaction};
use unanimous_tests::real::Report;
use unanimous_tests::real::memory::{Ended, ended};
use unanimous_tests::real::wire::MoveRequest;
use unanimous_tests::real::wire::bank_service_client::BankServiceClient;

pub(crate) const ACCOUNTS: u32 = 1_000;
pub(crate) const OPENING_CENTS: i64 = 100_000;
/// A transfer that has not ended by then is rolled back.
const TRANSFER_MAX: Duration = Duration::from_secs(3);
/// Longer than a process is down.
const RESOLVE_MAX: Duration = Duration::from_secs(60);
/// After a failure a client waits this long.
const PAUSE: Duration = Duration::from_millis(20);

/// What is moved at one bank.
#[derive(Clone, Copy, Debug)]
struct Move {
    bank: usize,
    account: u32,
    cents: i64,
}

/// A transfer that has begun, and what its client was told last.
#[derive(Clone, Debug)]
struct Transfer {
    moves: Vec<Move>,
    told: Ended,
}

impl Transfer {
    fn branches(&self) -> u32 {
        let banks = (0..BANKS).filter(|bank| self.moves.iter().any(|m| m.bank == *bank));
        u32::try_from(banks.count()).unwrap_or(u32::MAX)
    }
}

#[derive(Clone)]
pub(crate) struct Load {
    client: Client,
    banks: Vec<BankServiceClient<Channel>>,
    ledger: Arc<Mutex<BTreeMap<Gtrid, Transfer>>>,
    twice: Arc<Mutex<Vec<Gtrid>>>,
    stopped: Arc<AtomicBool>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    pub(crate) fn new(fleet: &Fleet) -> anyhow::Result<Self> {
        let client = Client::builder(fleet.coordinator.url(), "power-loss")
            .resolve_within(RESOLVE_MAX)
            .connect()?;
        let bank = |bank| -> anyhow::Result<_> {
            let endpoint = Endpoint::from_shared(format!("http://{}", fleet.address(bank)))?;
            let endpoint = endpoint.connect_timeout(TRANSFER_MAX).tcp_nodelay(true);
            Ok(BankServiceClient::new(endpoint.connect_lazy()))
        };
        let banks = (0..BANKS).map(bank).collect::<Result<_, _>>()?;
        let (ledger, twice, stopped) = Default::default();
        Ok(Self { client, banks, ledger, twice, stopped })
    }

    /// So many clients, one transfer after the other, until [`Load::stop`].
    pub(crate) fn run(&self, clients: u64, seed: u64) -> JoinSet<()> {
        self.stopped.store(false, Ordering::Relaxed);
        let mut running = JoinSet::new();
        for client in 0..clients {
            let (load, mut rng) = (self.clone(), ChaCha8Rng::seed_from_u64(seed + client));
            running.spawn(async move {
                while !load.stopped.load(Ordering::Relaxed) {
                    if load.transfer(draw(&mut rng)).await != Some(Ended::Committed) {
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

    /// Transfers told to be committed, and all whose outcome was told.
    pub(crate) fn told(&self) -> (usize, usize) {
        let ledger = locked(&self.ledger);
        let committed = ledger.values().filter(|t| t.told == Ended::Committed).count();
        (committed, ledger.values().filter(|t| t.told != Ended::Unknown).count())
    }

    /// `None`: it did not begin.
    async fn transfer(&self, moves: Vec<Move>) -> Option<Ended> {
        let transaction = self.client.begin("transfer").timeout(TRANSFER_MAX).await.ok()?;
        let gtrid = transaction.gtrid();
        let told = self.work_and_commit(transaction, &moves).await;
        let transfer = Transfer { moves, told: told.clone() };
        if locked(&self.ledger).insert(gtrid, transfer).is_some() {
            locked(&self.twice).push(gtrid);
        }
        Some(told)
    }

    async fn work_and_commit(&self, transaction: Transaction, moves: &[Move]) -> Ended {
        for Move { bank, account, cents } in moves {
            let (mut bank, request) =
                (self.banks[*bank].clone(), MoveRequest { account: *account, cents: *cents });
            let moved = transaction.call(request, async |request| bank.r#move(request).await);
            if let Err(status) = moved.await {
                // Without a commit request it cannot commit, whether this is heard or not.
                let _ = transaction.rollback().await;
                return Ended::RolledBack(status.message().to_owned());
            }
        }
        ended(transaction.commit().await.map(drop))
    }

    /// While all is quiet: asks about every transfer again. What was told must still be true; what
    /// was not told is learnt.
    pub(crate) async fn ask_again(&self, report: &mut Report) {
        let ledger = locked(&self.ledger).clone();
        for (gtrid, transfer) in ledger {
            // A one-phase commit leaves no record, and one that is old enough is dropped: then
            // only the balances speak.
            let now = match self.client.resolve(gtrid, Some(transfer.branches())).await {
                Ok(Resolution::Committed { .. }) => Ended::Committed,
                Ok(Resolution::RolledBack(rollback)) => Ended::RolledBack(rollback.to_string()),
                Ok(Resolution::Unknown) => continue,
                Ok(Resolution::Heuristic(_)) => Ended::Heuristic,
                other => {
                    report.must(false, || format!("{gtrid} has no outcome: {other:?}"));
                    continue;
                }
            };
            let same = std::mem::discriminant(&now) == std::mem::discriminant(&transfer.told);
            report.must(same || transfer.told == Ended::Unknown, || {
                format!("{gtrid} was told {:?} and is {now:?}", transfer.told)
            });
            if let Some(transfer) = locked(&self.ledger).get_mut(&gtrid)
                && transfer.told == Ended::Unknown
            {
                transfer.told = now;
            }
        }
        for gtrid in locked(&self.twice).drain(..) {
            report.must(false, || format!("{gtrid} was given out twice"));
        }
    }

    /// What a bank must hold. Transfers within one bank, whose outcome may never be known, do not
    /// change it.
    pub(crate) fn sum_cents(&self, bank: usize) -> i64 {
        let ledger = locked(&self.ledger);
        let committed = ledger.values().filter(|transfer| transfer.told == Ended::Committed);
        let moved = committed.flat_map(|transfer| &transfer.moves).filter(|m| m.bank == bank);
        i64::from(ACCOUNTS) * OPENING_CENTS + moved.map(|m| m.cents).sum::<i64>()
    }

    /// Every transfer told committed or rolled back, with two branches or more.
    pub(crate) fn outcomes(&self) -> Vec<(Gtrid, bool)> {
        let ledger = locked(&self.ledger);
        let told = ledger.iter().filter(|(_, transfer)| transfer.branches() > 1);
        let told = told.filter_map(|(gtrid, transfer)| match transfer.told {
            Ended::Committed => Some((*gtrid, true)),
            Ended::RolledBack(_) => Some((*gtrid, false)),
            _ => None,
        });
        told.collect()
    }
}

/// Within one bank, or between two or three, each equally often; sometimes of more than there is.
fn draw(rng: &mut ChaCha8Rng) -> Vec<Move> {
    let mut banks: Vec<usize> = (0..BANKS).collect();
    banks.shuffle(rng);
    let cents = if rng.random_bool(0.05) { OPENING_CENTS * 10 } else { rng.random_range(1..500) };
    let (from, others) = (
        banks[0],
        match rng.random_range(1..=BANKS) {
            1 => &banks[..1],
            banks_used => &banks[1..banks_used],
        },
    );
    let takers = i64::try_from(others.len()).unwrap_or(1);
    let mut account = || rng.random_range(1..=ACCOUNTS);
    let mut moves = vec![Move { bank: from, account: account(), cents: -cents * takers }];
    moves.extend(others.iter().map(|bank| Move { bank: *bank, account: account(), cents }));
    moves
}
