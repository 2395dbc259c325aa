//! Clients that move money from one bank to the other, and remember what they were told.

use super::bank::{ACCOUNTS, OPENING_CENTS};
use super::wire::MoveRequest;
use super::wire::bank_service_client::BankServiceClient;
use super::{BANKS, Layout, Ports};
use crate::errors::Failure;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use unanimous_sdk::{Client, CommitError, Gtrid, Resolution, Rollback};

/// Transactions begun at a time.
const CLIENTS: u64 = 16;
/// A transfer takes no longer.
const TRANSFER_MAX: Duration = Duration::from_secs(5);
/// After a failure a client waits this long, so that a process that is down is not asked in a tight
/// loop.
const PAUSE: Duration = Duration::from_millis(20);
/// One transfer in so many takes more than there can be.
const OVERDRAWN_ONE_IN: u32 = 50;
/// Each transfer has a branch at each bank.
const BRANCHES: u32 = 2;

/// One transfer that is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    from: usize,
    accounts: [u32; 2],
    cents: i64,
}

/// How one ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Told so by the coordinator.
    Committed(Gtrid),
    /// Told so by the coordinator, and why.
    RolledBack(Gtrid, String),
    /// There was no transaction, and why.
    NotBegun(String),
    /// Never asked to commit, so it is rolled back, and why.
    GivenUp(String),
    /// Asked to commit, and not told what became of it.
    Unknown(Gtrid),
    /// The banks did different things.
    Heuristic(Gtrid, String),
}

/// What all clients together were told.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Committed.
    pub(crate) committed: Cell<u64>,
    /// Rolled back, given up ones included.
    pub(crate) rolled_back: Cell<u64>,
    /// Heuristic outcomes.
    pub(crate) heuristic: Cell<u64>,
    /// Transactions that could not even be begun.
    pub(crate) not_begun: Cell<u64>,
    unknown: RefCell<Vec<Gtrid>>,
}

/// Moves money, as many at a time as it is asked to.
pub(crate) struct Load {
    client: Client,
    banks: [BankServiceClient<Channel>; 2],
    counts: Counts,
    answers: RefCell<BufWriter<File>>,
}

impl Transfer {
    /// Between random accounts, mostly of a sum that is there.
    pub(crate) fn draw(rng: &mut impl Rng) -> Self {
        let overdrawn = rng.random_ratio(1, OVERDRAWN_ONE_IN);
        let all_there_is = i64::from(ACCOUNTS) * OPENING_CENTS * 2;
        Self {
            from: rng.random_range(0..2),
            accounts: [rng.random_range(1..=ACCOUNTS), rng.random_range(1..=ACCOUNTS)],
            cents: if overdrawn { all_there_is + 1 } else { rng.random_range(1..=2_000) },
        }
    }
}

impl std::fmt::Display for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [from, to] = [BANKS[self.from], BANKS[1 - self.from]];
        let [from_account, to_account] = self.accounts;
        let (whole, cents) = (self.cents / 100, self.cents % 100);
        write!(f, "{whole}.{cents:02} from {from} {from_account:>4} to {to} {to_account:>4}")
    }
}

impl Load {
    /// Connections are made when they are needed, again and again.
    pub(crate) fn new(layout: &Layout, ports: &Ports) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::io(what, error, "unanimous dev, with space and files left")
        };
        let address = ports.address();
        let client = Client::builder(address, "unanimous-dev")
            .begin_within(TRANSFER_MAX)
            .connect()
            .map_err(|error| failed("making a client", &error))?;
        let bank = |bank: usize| {
            Endpoint::from_shared(ports.bank_address(bank))
                .map(|endpoint| {
                    let endpoint = endpoint.connect_timeout(TRANSFER_MAX).tcp_nodelay(true);
                    BankServiceClient::new(endpoint.connect_lazy())
                })
                .map_err(|error| failed("making a client", &error))
        };
        let path = layout.answers();
        let answers = File::options().create(true).append(true).open(&path);
        let answers = answers.map_err(|error| failed("writing answers", &error))?;
        Ok(Self {
            client,
            banks: [bank(0)?, bank(1)?],
            counts: Counts::default(),
            answers: RefCell::new(BufWriter::new(answers)),
        })
    }

    /// What was told so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Runs [`CLIENTS`] clients, each with one transaction after the other, until `stop`.
    pub(crate) async fn run(self: Rc<Self>, seed: u64, stop: watch::Receiver<bool>) {
        let clients = (0..CLIENTS).map(|number| {
            let (load, stop) = (Rc::clone(&self), stop.clone());
            let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number));
            async move {
                while !*stop.borrow() {
                    let ended = load.transfer(Transfer::draw(&mut rng)).await;
                    if !matches!(ended, Ended::Committed(_) | Ended::RolledBack(..)) {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        futures_util::future::join_all(clients).await;
    }

    /// Tries one transfer, counts how it ended and notes what was told.
    pub(crate) async fn transfer(&self, transfer: Transfer) -> Ended {
        let ended = self.attempt(transfer).await;
        self.count(&ended);
        ended
    }

    fn count(&self, ended: &Ended) {
        let Counts { committed, rolled_back, heuristic, not_begun, unknown } = &self.counts;
        let more = |counter: &Cell<u64>| counter.set(counter.get() + 1);
        match ended {
            Ended::Committed(gtrid) => {
                more(committed);
                self.note('C', *gtrid);
            }
            Ended::RolledBack(gtrid, _) => {
                more(rolled_back);
                self.note('R', *gtrid);
            }
            Ended::NotBegun(_) => more(not_begun),
            Ended::GivenUp(_) => more(rolled_back),
            Ended::Unknown(gtrid) => unknown.borrow_mut().push(*gtrid),
            Ended::Heuristic(..) => more(heuristic),
        }
    }

    async fn attempt(&self, transfer: Transfer) -> Ended {
        let begun = self.client.begin("transfer").timeout(TRANSFER_MAX).await;
        let tx = match begun {
            Ok(tx) => tx,
            Err(error) => return Ended::NotBegun(error.to_string()),
        };
        let Transfer { from, accounts, cents } = transfer;
        let moves = [(from, accounts[0], -cents), (1 - from, accounts[1], cents)];
        for (at, account, cents) in moves {
            let mut bank = self.banks[at].clone();
            let request = MoveRequest { account, cents };
            let moved = tx.call(request, async |request| bank.r#move(request).await).await;
            if let Err(status) = moved {
                let why = format!("{}: {}", BANKS[at], status.message());
                // Whether this is heard or not: without a commit request it cannot commit.
                let _ = tx.rollback().await;
                return Ended::GivenUp(why);
            }
        }
        let gtrid = tx.gtrid();
        match tx.commit().await {
            Ok(_) | Err(CommitError::CommittedBefore { .. }) => Ended::Committed(gtrid),
            Err(CommitError::RolledBack { rollback, .. }) => {
                Ended::RolledBack(gtrid, words(&rollback))
            }
            Err(CommitError::Heuristic { outcome, .. }) => {
                Ended::Heuristic(gtrid, format!("{outcome:?}"))
            }
            // Unknown. A refusal, too, may have met a repeated request whose first one was taken.
            Err(_) => Ended::Unknown(gtrid),
        }
    }

    /// Asks what became of every transaction whose outcome was not told. Returns how many stay
    /// unknown.
    pub(crate) async fn resolve(&self) -> u64 {
        let unknown = self.counts.unknown.take();
        let mut left = 0;
        for gtrid in unknown {
            match self.client.resolve(gtrid, Some(BRANCHES)).await {
                Ok(Resolution::Committed { .. }) => self.count(&Ended::Committed(gtrid)),
                Ok(Resolution::RolledBack(rollback)) => {
                    self.count(&Ended::RolledBack(gtrid, words(&rollback)));
                }
                Ok(Resolution::Heuristic(outcome)) => {
                    self.count(&Ended::Heuristic(gtrid, format!("{outcome:?}")));
                }
                _ => left += 1,
            }
        }
        left
    }

    /// Everything that was told stands in the file after this.
    pub(crate) fn flush_answers(&self) -> Result<(), Failure> {
        let flushed = self.answers.borrow_mut().flush();
        flushed.map_err(|error| Failure::io("writing answers", error, "df -h"))
    }

    fn note(&self, word: char, gtrid: Gtrid) {
        // A failed write is told by the flush in the end: the buffer keeps what was not written.
        let _ = writeln!(self.answers.borrow_mut(), "{word} {gtrid}");
    }
}

fn words(rollback: &Rollback) -> String {
    match (rollback.participant.as_str(), rollback.detail.as_str()) {
        ("", "") => format!("{:?}", rollback.reason),
        (participant, detail) => format!("{participant}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check at the end needs both kinds of transfers.
    #[test]
    fn some_transfers_are_overdrawn_and_most_are_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let transfers: Vec<_> = (0..5_000).map(|_| Transfer::draw(&mut rng)).collect();
        let all = i64::from(ACCOUNTS) * OPENING_CENTS * 2;
        let overdrawn = transfers.iter().filter(|transfer| transfer.cents > all).count();
        assert!((50..200).contains(&overdrawn), "{overdrawn}");
        for transfer in transfers {
            assert!(transfer.cents > 0 && transfer.from < 2);
            assert!(transfer.accounts.iter().all(|account| (1..=ACCOUNTS).contains(account)));
        }
    }
}
