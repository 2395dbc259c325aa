//! Durable banks in processes of their own, transfers between them, and the check of every cent.

use super::coordinator::{free_port, wait_for_port};
use super::memory::{Counts, Ended, ended};
use super::process::Process;
use super::report::Report;
use super::wire::bank_service_client::BankServiceClient;
use super::wire::{DescribeRequest, MoveRequest};
use rand::RngExt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use unanimous_sdk::{Client, Gtrid, Resolution, embedded};

/// Accounts of each bank, numbered from 1, and what is in each at first, in hundredths.
const ACCOUNTS: u32 = 1_000;
const OPENING_CENTS: i64 = 100_000;
/// A transfer that has not ended by then is rolled back.
const TRANSFER_MAX: Duration = Duration::from_secs(5);
/// How long an outcome is asked for at the end.
const RESOLVE_MAX: Duration = Duration::from_secs(60);
/// After a failure a client waits this long.
const PAUSE: Duration = Duration::from_millis(20);
const LISTENS_MAX: Duration = Duration::from_secs(60);

/// Two banks. What they hold changes only by transfers from the first to the second.
#[derive(Debug)]
pub struct Banks {
    processes: Vec<Process>,
    dirs: [PathBuf; 2],
    addresses: [SocketAddr; 2],
}

impl Banks {
    /// Starts both, with their stores below `home`, and waits until they take calls.
    ///
    /// # Errors
    /// One does not start.
    pub fn start(home: &Path, url: &str) -> anyhow::Result<Self> {
        let addresses = [free_port()?, free_port()?];
        let mut banks = Self {
            processes: Vec::new(),
            dirs: ["bank-a", "bank-b"].map(|name| home.join(name)),
            addresses,
        };
        for (name, (dir, address)) in
            ["bank-a", "bank-b"].into_iter().zip(banks.dirs.iter().zip(addresses))
        {
            let mut command = Command::new(super::binary()?);
            command.args(["dev", "bank", "--exit-with-stdin", "--name", name, "--address", url]);
            command.arg("--listen").arg(address.to_string()).arg("--data-dir").arg(dir);
            let log = home.join(format!("{name}.log"));
            banks.processes.push(Process::start(name, command, &log)?);
        }
        for address in addresses {
            wait_for_port(address, LISTENS_MAX)?;
        }
        Ok(banks)
    }

    /// Fails if one has ended.
    ///
    /// # Errors
    /// One has.
    pub fn check_run(&mut self) -> anyhow::Result<()> {
        self.processes.iter_mut().try_for_each(Process::check_runs)
    }

    /// Waits until neither holds a prepared branch: those of transactions that a coordinator did
    /// not live to decide end when the bank asks about them.
    ///
    /// # Errors
    /// Not within `at_most`.
    pub async fn settled(&self, at_most: Duration) -> anyhow::Result<()> {
        for address in self.addresses {
            bank_settled(address, at_most).await?;
        }
        Ok(())
    }

    /// Stops both and checks what they hold against what clients were told: nothing prepared, and
    /// the first bank has exactly as much less, the second as much more, as committed transfers
    /// moved.
    ///
    /// # Errors
    /// One does not stop cleanly, or its store cannot be read.
    pub fn verify(self, transfers: &Transfers, report: &mut Report) -> anyhow::Result<()> {
        for process in self.processes {
            process.stop()?;
        }
        let moved = transfers.moved_cents.load(Ordering::Relaxed);
        let mut in_doubt = 0;
        for (dir, moved) in self.dirs.iter().zip([-moved, moved]) {
            let summary = embedded::inspect(dir)?;
            in_doubt += summary.in_doubt.len();
            let expected = i64::from(ACCOUNTS) * OPENING_CENTS + moved;
            report.must(summary.sum_actual == expected, || {
                format!("{}: {} cents instead of {expected}", dir.display(), summary.sum_actual)
            });
        }
        report.must(in_doubt == 0, || format!("{in_doubt} branches are in doubt at the banks"));
        report.field("in_doubt", in_doubt);
        Ok(())
    }
}

/// Calls to a bank. Connections are made when they are needed, again and again.
///
/// # Errors
/// The address cannot be used.
pub fn bank_calls(
    address: SocketAddr,
    connect_max: Duration,
) -> anyhow::Result<BankServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.connect_timeout(connect_max).tcp_nodelay(true);
    Ok(BankServiceClient::new(endpoint.connect_lazy()))
}

/// Waits until a bank holds nothing prepared.
///
/// # Errors
/// Not within `at_most`, or it does not answer.
pub async fn bank_settled(address: SocketAddr, at_most: Duration) -> anyhow::Result<()> {
    let (started, mut bank) = (Instant::now(), bank_calls(address, at_most)?);
    while bank.describe(DescribeRequest {}).await?.into_inner().in_doubt > 0 {
        anyhow::ensure!(started.elapsed() < at_most, "the bank at {address} is in doubt");
        tokio::time::sleep(super::LOOK).await;
    }
    Ok(())
}

/// Clients that move money from the first bank to the second, and remember what they were told.
#[derive(Debug)]
pub struct Transfers {
    client: Client,
    banks: [BankServiceClient<Channel>; 2],
    /// What they were told.
    pub counts: Arc<Counts>,
    /// Moved by transfers that were told to be committed.
    moved_cents: AtomicI64,
    unknown: Mutex<Vec<(Gtrid, i64)>>,
    /// The reason of the last refusal of a begin.
    refusal: Mutex<String>,
}

impl Transfers {
    /// Connects when needed, again and again. A begin is tried for `begin_within`.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn new(url: &str, banks: &Banks, begin_within: Duration) -> anyhow::Result<Arc<Self>> {
        let client = Client::builder(url, "transfers")
            .begin_within(begin_within)
            .resolve_within(RESOLVE_MAX)
            .connect()?;
        let bank = |address| bank_calls(address, TRANSFER_MAX);
        Ok(Arc::new(Self {
            client,
            banks: [bank(banks.addresses[0])?, bank(banks.addresses[1])?],
            counts: Arc::default(),
            moved_cents: AtomicI64::new(0),
            unknown: Mutex::default(),
            refusal: Mutex::default(),
        }))
    }

    /// So many clients, one transfer after the other, until [`Counts::stop`].
    pub fn run(self: &Arc<Self>, clients: usize) -> JoinSet<()> {
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let transfers = Arc::clone(self);
            running.spawn(async move {
                while !transfers.counts.is_stopped() {
                    let begun = Instant::now();
                    let ended = transfers.transfer().await;
                    transfers.counts.count(&ended, begun.elapsed());
                    if ended != Ended::Committed {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            });
        }
        running
    }

    /// One transfer.
    pub async fn transfer(&self) -> Ended {
        let begin = self.client.begin("transfer").timeout(TRANSFER_MAX);
        let transaction = match begin.await {
            Ok(transaction) => transaction,
            Err(error) => {
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
                return Ended::NotBegun(error.to_string());
            }
        };
        let (gtrid, cents) = (transaction.gtrid(), rand::rng().random_range(1..1_000));
        for (bank, cents) in self.banks.iter().zip([-cents, cents]) {
            let mut bank = bank.clone();
            let account = rand::rng().random_range(1..=ACCOUNTS);
            let request = MoveRequest { account, cents };
            let moved = transaction.call(request, async |request| bank.r#move(request).await);
            if let Err(status) = moved.await {
                // Without a commit request it cannot commit, whether this is heard or not.
                let _ = transaction.rollback().await;
                return Ended::RolledBack(status.message().to_owned());
            }
        }
        let ended = ended(transaction.commit().await.map(drop));
        match ended {
            Ended::Committed => {
                self.moved_cents.fetch_add(cents, Ordering::Relaxed);
            }
            Ended::Unknown => {
                self.unknown.lock().unwrap_or_else(PoisonError::into_inner).push((gtrid, cents));
            }
            _ => {}
        }
        ended
    }

    /// The reason of the last refusal of a begin.
    #[must_use]
    pub fn last_refusal(&self) -> String {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks what became of those whose outcome was not told; no one may stay unknown.
    pub async fn resolve(&self, report: &mut Report) {
        let unknown =
            std::mem::take(&mut *self.unknown.lock().unwrap_or_else(PoisonError::into_inner));
        let asked = unknown.len();
        for (gtrid, cents) in unknown {
            match self.client.resolve(gtrid, Some(2)).await {
                Ok(Resolution::Committed { .. }) => {
                    self.moved_cents.fetch_add(cents, Ordering::Relaxed);
                }
                Ok(Resolution::RolledBack(_)) => {}
                other => report.must(false, || format!("{gtrid} has no outcome: {other:?}")),
            }
        }
        let heuristic = self.counts.heuristic.load(Ordering::Relaxed);
        report.must(heuristic == 0, || format!("{heuristic} heuristic outcomes"));
        report.field("asked_again", asked);
        for (name, counter) in [
            ("committed", &self.counts.committed),
            ("rolled_back", &self.counts.rolled_back),
            ("not_begun", &self.counts.not_begun),
        ] {
            report.field(name, counter.load(Ordering::Relaxed));
        }
    }
}
