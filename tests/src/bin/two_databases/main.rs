//! `two_databases`: how fast transactions over two PostgreSQL databases are, as a ratio to a bare
//! loop of PREPARE TRANSACTION and COMMIT PREPARED without any coordinator.
//!
//! The bare loop is what cannot be beaten by much: it knows both databases, sends to both at the
//! same time, writes no log and would lose its decisions. Beside it runs a loop with the least that
//! a decision by another process costs (`least.rs`). All run in turns on the same server, and what
//! is compared are medians.
//!
//! Both databases belong to one service, in the bare loop and by itself in ours: one participant
//! with two resources, and so one session with the coordinator. `--apart` gives each database a
//! participant of its own. `--early` has the last work at each database vote at once.

mod bare;
mod least;
mod ours;

use anyhow::Context as _;
use bare::Bare;
use clap::Parser;
use least::Decider;
use ours::Ours;
use rand::RngExt;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use unanimous_databases::postgres::Postgres as Server;
use unanimous_tests::real::latency::median;
use unanimous_tests::real::{Coordinator, Report};

/// For each client: no two of them meet, and a client hardly its last transaction, so that what is
/// measured is not waiting for locks.
const ACCOUNTS: i64 = 1_000;
const UPDATE: &str = "UPDATE account SET cents = cents + 1 WHERE id = $1";

#[derive(Parser)]
struct Arguments {
    /// Turns of each kind, for each number of clients.
    #[arg(long, default_value_t = 6)]
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
    /// Be the process that decides for the least loop, with its decisions in this file.
    #[arg(long, hide = true)]
    decider: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    if let Some(file) = &arguments.decider {
        return report.end(least::run(file));
    }
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
        bare.push(Bare::connect(&urls, client).await?);
    }
    let home = tempfile::tempdir()?;
    let mut coordinator = Coordinator::new(home.path(), &home.path().join("log"))?;
    coordinator.start().await?;
    let ours = Ours::start(&coordinator, &urls, clients_max, arguments).await?;
    let decider = Decider::start(&home.path().join("decisions")).await?;
    let loops = Arc::new(Loops { bare, decider, ours });
    let head = ["clients", "bare tx/s", "least tx/s", "ours tx/s", "least / bare", "ratio"];
    report.row(&head.map(ToOwned::to_owned));
    let seconds = Duration::from_secs(arguments.seconds);
    for &clients in &arguments.clients {
        let mut rates = [const { Vec::new() }; 3];
        // The first of each fills caches. Every other round goes backwards: a turn leaves dead rows
        // and cold processes to the next one, which must not always be the same kind's.
        for round in 0..=arguments.rounds {
            let kinds = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
            for kind in kinds {
                let loops = Arc::clone(&loops);
                let rate = rate(seconds, clients, move |client| {
                    let loops = Arc::clone(&loops);
                    async move { loops.transact(kind, client).await }
                });
                let rate = rate.await?;
                if round > 0 {
                    rates[kind].push(rate);
                }
            }
        }
        tell(report, clients, rates.each_ref().map(|rates| median(rates)));
    }
    loops.ours.stop().await;
    coordinator.stop()
}

/// What is compared.
struct Loops {
    bare: Vec<Bare>,
    decider: Decider,
    ours: Ours,
}

impl Loops {
    async fn transact(&self, kind: usize, client: usize) -> anyhow::Result<()> {
        let bare = &self.bare[client];
        match kind {
            0 => bare.transact().await.context("the bare loop"),
            1 => self.decider.transact(bare).await.context("the least loop"),
            _ => self.ours.transact(client).await,
        }
    }
}

fn tell(report: &mut Report, clients: usize, [bare, least, ours]: [f64; 3]) {
    let rates = [clients as f64, bare, least, ours].map(|cell| format!("{cell:.0}"));
    let ratios = [least / bare, ours / bare];
    report.row(&[rates.as_slice(), &ratios.map(|ratio| format!("{ratio:.3}"))].concat());
    for (name, rate) in [("bare", bare), ("least", least), ("ours", ours)] {
        report.field(&format!("{name}_{clients}"), rate.round());
    }
    for (name, ratio) in [("least_ratio", ratios[0]), ("ratio", ratios[1])] {
        report.field(&format!("{name}_{clients}"), (ratio * 1_000.0).round() / 1_000.0);
    }
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

/// One of the accounts of a client.
fn draw(client: i64) -> i64 {
    client * ACCOUNTS + rand::rng().random_range(0..ACCOUNTS)
}
