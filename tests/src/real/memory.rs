//! Participants that keep their branches in memory, and clients in a closed loop: as much work for
//! the coordinator as there can be.

use super::latency::Window;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use unanimous_core::LogId;
use unanimous_sdk::{
    Attached, BranchId, BranchResult, Client, CommitError, Done, Evidence, Gtrid, JoinError,
    Participant, Prepared, Resolution, Resource, Retry, Transaction, Vote,
};

/// After a failure a client waits this long.
const PAUSE: Duration = Duration::from_millis(20);

const HAZARD: Done = Done::Heuristic(BranchResult::Hazard);

/// Votes yes and remembers nothing: what is tried is the coordinator.
#[derive(Debug, Default)]
pub struct Agreeable {
    /// What it says it holds.
    prepared: Vec<Prepared>,
    /// Questions for a vote.
    asked: Arc<AtomicU64>,
    /// Whose branches it has worked on.
    logs: Mutex<BTreeSet<LogId>>,
}

impl Agreeable {
    /// One that says it holds these prepared.
    #[must_use]
    pub fn holding(prepared: Vec<Prepared>) -> Self {
        let logs = prepared.iter().map(|prepared| prepared.branch.gtrid.owner().log).collect();
        Self { prepared, asked: Arc::default(), logs: Mutex::new(logs) }
    }

    /// One that counts there how often it is asked for a vote.
    #[must_use]
    pub fn counting(asked: Arc<AtomicU64>) -> Self {
        Self { asked, ..Self::default() }
    }

    fn logs(&self) -> MutexGuard<'_, BTreeSet<LogId>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not what it is asked about at the start.
    fn knows(&self, branch: &BranchId) -> bool {
        self.logs().contains(&branch.gtrid.owner().log)
    }
}

impl Resource for Agreeable {
    fn joined(&self, branch: &BranchId) {
        self.logs().insert(branch.gtrid.owner().log);
    }

    async fn prepare(&self, branch: &BranchId) -> Result<Vote, Retry> {
        if !self.knows(branch) {
            return Ok(Vote::Rollback { reason: "no such branch".to_owned() });
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        Ok(Vote::Commit { evidence: None })
    }

    async fn commit(&self, branch: &BranchId, _: Option<&Evidence>) -> Result<Done, Retry> {
        Ok(if self.knows(branch) { Done::Done } else { HAZARD })
    }

    async fn rollback(&self, _: &BranchId) -> Result<Done, Retry> {
        Ok(Done::Done)
    }

    async fn recover(&self) -> Result<Vec<Prepared>, Retry> {
        Ok(self.prepared.clone())
    }
}

/// A participant in this process; its resource has its name.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The participant lives as long as it.
    resource: Attached<Agreeable>,
}

impl Member {
    /// Starts it. Does not wait for the coordinator.
    ///
    /// # Errors
    /// The name or the address cannot be used.
    pub async fn start(url: &str, name: &str, resource: Agreeable) -> anyhow::Result<Self> {
        let mut builder = Participant::builder(name).coordinator(url);
        let resource = builder.attach(name, resource);
        builder.start().await?;
        Ok(Self { name: name.to_owned(), resource })
    }

    /// Members of these names.
    ///
    /// # Errors
    /// As [`Member::start`].
    pub async fn start_all(url: &str, names: &[&str]) -> anyhow::Result<Vec<Self>> {
        let mut members = Vec::new();
        for name in names {
            members.push(Self::start(url, name, Agreeable::default()).await?);
        }
        Ok(members)
    }

    /// Work of a transaction here: an empty branch.
    ///
    /// # Errors
    /// It did not join.
    pub async fn work(&self, transaction: &Transaction) -> Result<(), JoinError> {
        let request = transaction.request(());
        let branch = self.resource.enlist(&request).await?;
        let mut reply = tonic::Response::new(());
        branch.announce(reply.metadata_mut());
        branch.end();
        transaction.count(reply.metadata());
        Ok(())
    }
}

/// How a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Told so.
    Committed,
    /// Told so, or it never came to a commit.
    RolledBack(String),
    /// It did not begin.
    NotBegun(String),
    /// Nobody could tell in the time given.
    Unknown,
    /// Branches ended differently.
    Heuristic,
}

/// One transaction with a branch at each member.
pub async fn transact(client: &Client, members: &[&Member]) -> Ended {
    let transaction = match client.begin("memory").await {
        Ok(transaction) => transaction,
        Err(error) => return Ended::NotBegun(error.to_string()),
    };
    for member in members {
        if let Err(error) = member.work(&transaction).await {
            return Ended::RolledBack(error.to_string());
        }
    }
    ended(transaction.commit().await.map(drop))
}

/// What became of a transaction with two branches whose outcome was not told.
pub async fn resolved(client: &Client, gtrid: Gtrid) -> Ended {
    match client.resolve(gtrid, Some(2)).await {
        Ok(Resolution::Committed { .. }) => Ended::Committed,
        Ok(Resolution::RolledBack(rollback)) => Ended::RolledBack(rollback.to_string()),
        Ok(Resolution::Heuristic(_)) => Ended::Heuristic,
        _ => Ended::Unknown,
    }
}

/// What a commit's answer means.
#[must_use]
pub fn ended(answer: Result<(), CommitError>) -> Ended {
    match answer {
        Ok(()) | Err(CommitError::CommittedBefore { .. }) => Ended::Committed,
        Err(CommitError::RolledBack { rollback, .. }) => Ended::RolledBack(rollback.to_string()),
        Err(CommitError::Heuristic { .. }) => Ended::Heuristic,
        // Unknown. A refusal, too, may have met a repeated request whose first one was taken.
        Err(_) => Ended::Unknown,
    }
}

/// What clients were told, all together.
#[derive(Debug, Default)]
pub struct Counts {
    /// Committed.
    pub committed: AtomicU64,
    /// Rolled back.
    pub rolled_back: AtomicU64,
    /// Refused at the begin, or no coordinator.
    pub not_begun: AtomicU64,
    /// No answer.
    pub unknown: AtomicU64,
    /// Heuristic.
    pub heuristic: AtomicU64,
    /// The latencies of the committed ones, since they were last taken.
    window: Mutex<Window>,
    stopped: AtomicBool,
}

impl Counts {
    /// Counts one.
    pub fn count(&self, ended: &Ended, took: Duration) {
        let counter = match ended {
            Ended::Committed => {
                self.window.lock().unwrap_or_else(PoisonError::into_inner).add(took);
                &self.committed
            }
            Ended::RolledBack(_) => &self.rolled_back,
            Ended::NotBegun(_) => &self.not_begun,
            Ended::Unknown => &self.unknown,
            Ended::Heuristic => &self.heuristic,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Transactions that ended, as far as clients know.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.committed.load(Ordering::Relaxed) + self.rolled_back.load(Ordering::Relaxed)
    }

    /// Takes the latencies since the last call.
    #[must_use]
    pub fn take_window(&self) -> Window {
        std::mem::take(&mut *self.window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// No transaction begins after this.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// A closed loop of clients.
#[derive(Clone, Copy, Debug)]
pub struct Loop {
    /// Transactions at a time.
    pub clients: usize,
    /// They stop when so many have ended.
    pub transactions: u64,
    /// Between two transactions of a client.
    pub pause: Duration,
}

impl Loop {
    /// Runs until the last one has ended or [`Counts::stop`].
    ///
    /// The clients share `sessions`; each transaction has a branch at each of `members`.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn run(
        self,
        sessions: Vec<Client>,
        members: Vec<Member>,
        counts: Arc<Counts>,
    ) -> anyhow::Result<()> {
        let members: Arc<[Member]> = members.into();
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let client = sessions[number % sessions.len()].clone();
            let (members, counts) = (Arc::clone(&members), Arc::clone(&counts));
            clients.spawn(async move {
                let members: Vec<&Member> = members.iter().collect();
                while !counts.is_stopped() && counts.ended() < self.transactions {
                    let begun = Instant::now();
                    let ended = transact(&client, &members).await;
                    counts.count(&ended, begun.elapsed());
                    let failed = !matches!(ended, Ended::Committed);
                    let pause = if failed { PAUSE.max(self.pause) } else { self.pause };
                    if !pause.is_zero() {
                        tokio::time::sleep(pause).await;
                    }
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended?;
        }
        Ok(())
    }
}
