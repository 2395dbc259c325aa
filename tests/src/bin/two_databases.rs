//! `two_databases`: how fast transactions over two PostgreSQL databases are, as a ratio to a bare
//! loop of PREPARE TRANSACTION and COMMIT PREPARED without any coordinator.
//!
//! The bare loop is what cannot be beaten by much: it knows both databases, sends to both at the
//! same time, writes no log and would lose its decisions. Both run in turns on the same server, and
//! what is compared are medians.
//!
//! Both databases belong to one service, in the bare loop and by itself in ours: one participant
//! with two resources, and so one session with the coordinator. `--apart` gives each database a
//! participant of its own. `--early` has the last work at each database vote at once.

use anyhow::Context as _;
use clap::Parser;
use rand::RngExt;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use unanimous_databases::postgres::Postgres as Server;
use unanimous_sdk::postgres::Postgres;
use unanimous_sdk::{Attached, Client, Participant, ParticipantBuilder};
use unanimous_tests::real::latency::median;
use unanimous_tests::real::{Coordinator, Report};

const CONNECTED_MAX: Duration = Duration::from_secs(30);
/// For each client: no two of them meet, and a client hardly its last transaction, so that what is
/// measured is not waiting for locks.
const ACCOUNTS: i64 = 1_000;
const UPDATE: &str = "UPDATE account SET cents = cents + 1 WHERE id = $1";

#[derive(Parser)]
struct Arguments {
    /// Turns of each kind, for each number of clients.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// How long a turn takes.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// How many clients.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// Each database belongs to a participant of its own.
    #[arg(long)]
    apart: bool,
    /// Work ends with its vote: `PostgresWork::vote` instead of `end`.
    #[arg(long)]
    early: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let clients_max = arguments.clients.iter().copied().max().context("how many clients?")?;
    let settings = [("max_connections", "400"), ("max_prepared_transactions", "300")];
    let server = Server::start(&settings)?;
    let urls = [server.new_database()?, server.new_database()?].map(|name| server.url(&name));
    let mut bare = Vec::new();
    for url in &urls {
        make_accounts(url, clients_max).await?;
    }
    for client in 0..clients_max {
        bare.push(Arc::new(Bare::connect(&urls, client).await?));
    }
    let home = tempfile::tempdir()?;
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log"))?;
    coordinator.start().await?;
    let ours = Arc::new(Ours::start(&coordinator, &urls, clients_max, arguments).await?);
    report.row(&["clients", "bare tx/s", "ours tx/s", "ratio"].map(ToOwned::to_owned));
    let turn = Duration::from_secs(arguments.seconds);
    for &clients in &arguments.clients {
        let (mut of_bare, mut of_ours) = (Vec::new(), Vec::new());
        // The first of each fills caches.
        for round in 0..=arguments.rounds {
            let all = bare.clone();
            let rate_bare = rate(turn, clients, move |client| {
                let bare = Arc::clone(&all[client]);
                async move { bare.transact().await.context("the bare loop") }
            });
            let rate_bare = rate_bare.await?;
            let ours = Arc::clone(&ours);
            let rate_ours = rate(turn, clients, move |client| {
                let ours = Arc::clone(&ours);
                async move { ours.transact(client).await }
            });
            let rate_ours = rate_ours.await?;
            if round > 0 {
                of_bare.push(rate_bare);
                of_ours.push(rate_ours);
            }
        }
        let (bare, ours) = (median(&of_bare), median(&of_ours));
        let ratio = ours / bare;
        let cells = [clients as f64, bare, ours].map(|cell| format!("{cell:.0}"));
        report.row(&[cells.as_slice(), &[format!("{ratio:.3}")]].concat());
        report.field(&format!("bare_{clients}"), bare.round());
        report.field(&format!("ours_{clients}"), ours.round());
        report.field(&format!("ratio_{clients}"), (ratio * 1_000.0).round() / 1_000.0);
    }
    ours.stop().await;
    coordinator.stop()
}

async fn make_accounts(url: &str, clients: usize) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let accounts = ACCOUNTS * i64::try_from(clients)?;
    let sql = format!(
        "CREATE TABLE account (id bigint PRIMARY KEY, cents bigint NOT NULL);
         INSERT INTO account SELECT id, 0 FROM generate_series(0, {accounts} - 1) AS id"
    );
    Ok(client.batch_execute(&sql).await?)
}

/// One of the accounts of a client.
fn draw(client: i64) -> i64 {
    client * ACCOUNTS + rand::rng().random_range(0..ACCOUNTS)
}

/// Transactions a second of so many clients at the same time.
async fn rate<F, W>(turn: Duration, clients: usize, transact: F) -> anyhow::Result<f64>
where
    F: Fn(usize) -> W,
    W: Future<Output = anyhow::Result<()>> + Send + 'static,
    F: Clone + Send + 'static,
{
    let (stopped, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut running = JoinSet::new();
    let begun = Instant::now();
    for client in 0..clients {
        let (stopped, done) = (Arc::clone(&stopped), Arc::clone(&done));
        let transact = transact.clone();
        running.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                transact(client).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    tokio::time::sleep(turn).await;
    let rate = done.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    stopped.store(true, Ordering::Relaxed);
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(rate)
}

/// A client of the bare loop: a connection to each database.
struct Bare {
    client: i64,
    sides: [(tokio_postgres::Client, tokio_postgres::Statement); 2],
    next: AtomicU64,
}

impl Bare {
    async fn connect(urls: &[String; 2], client: usize) -> anyhow::Result<Self> {
        let side = async |url: &str| {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            let update = client.prepare(UPDATE).await?;
            anyhow::Ok((client, update))
        };
        let sides = [side(&urls[0]).await?, side(&urls[1]).await?];
        Ok(Self { client: i64::try_from(client)?, sides, next: AtomicU64::new(0) })
    }

    async fn transact(&self) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let account = draw(self.client);
        let gid = format!("bare.{}.{number}", self.client);
        let prepared = self.both(async |at| {
            let (client, update) = &self.sides[at];
            client.batch_execute("BEGIN").await?;
            client.execute(update, &[&account]).await?;
            client.batch_execute(&format!("PREPARE TRANSACTION '{gid}.{at}'")).await
        });
        prepared.await?;
        let committed = self.both(async |at| {
            self.sides[at].0.batch_execute(&format!("COMMIT PREPARED '{gid}.{at}'")).await
        });
        committed.await
    }

    async fn both<W>(&self, side: impl Fn(usize) -> W) -> anyhow::Result<()>
    where
        W: Future<Output = Result<(), tokio_postgres::Error>>,
    {
        tokio::try_join!(side(0), side(1))?;
        Ok(())
    }
}

/// The coordinator, and the databases' participants with their handlers in this process.
struct Ours {
    client: Client,
    sides: [Attached<Postgres>; 2],
    participants: Vec<Participant>,
    early: bool,
}

impl Ours {
    async fn start(
        coordinator: &Coordinator,
        urls: &[String; 2],
        clients_max: usize,
        arguments: &Arguments,
    ) -> anyhow::Result<Self> {
        let client = Client::builder(coordinator.url(), "two-databases").connect()?;
        let builder = |name: &str| Participant::builder(name).coordinator(coordinator.url());
        let attach = |builder: &mut ParticipantBuilder, resource: &str, url: &str| {
            let postgres = Postgres::url(url)?.work_pool_max(clients_max + 16).build();
            anyhow::Ok(builder.attach(resource, postgres))
        };
        let mut first = builder("bank");
        let mut second = arguments.apart.then(|| builder("other-bank"));
        let here = attach(&mut first, "accounts/a", &urls[0])?;
        let there = attach(second.as_mut().unwrap_or(&mut first), "accounts/b", &urls[1])?;
        let mut participants = Vec::new();
        for builder in [Some(first), second].into_iter().flatten() {
            let participant = builder.start().await?;
            participant.connected(CONNECTED_MAX).await?;
            participants.push(participant);
        }
        Ok(Self { client, sides: [here, there], participants, early: arguments.early })
    }

    async fn transact(&self, client: usize) -> anyhow::Result<()> {
        let account = draw(i64::try_from(client)?);
        let tx = self.client.begin("transfer").await?;
        let context = tx.context();
        let work = async |at: usize| {
            let work = self.sides[at].join(&context).await?;
            let update = work.prepare_cached(UPDATE).await.context("a statement")?;
            work.execute(&update, &[&account]).await.context("the work")?;
            if self.early {
                work.vote();
            } else {
                work.end();
            }
            anyhow::Ok(())
        };
        tokio::try_join!(work(0), work(1))?;
        tx.commit().await?;
        Ok(())
    }

    async fn stop(&self) {
        for participant in &self.participants {
            participant.stop().await;
        }
    }
}
