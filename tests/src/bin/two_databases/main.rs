//! `two_databases`: how fast transactions over two PostgreSQL databases are, as a ratio to a bare
//! loop of PREPARE TRANSACTION and COMMIT PREPARED without any coordinator.
//!
//! The bare loop is what cannot be beaten by much: it knows both databases, sends to both at the
//! same time, writes no log and would lose its decisions. Beside it run two loops with the least
//! that a decision by another process costs, and the steps before it (`least.rs`). All run in turns
//! on the same server. A ratio is the median of the rounds' own: a machine's speed changes with
//! time, and less so within a round.
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
/// The loops, the first of which is what the others are compared with.
const KINDS: [&str; 4] = ["bare", "least", "steps", "ours"];
const UPDATE: &str = "UPDATE account SET cents = cents + 1 WHERE id = $1";

#[derive(Parser)]
struct Arguments {
    /// Turns of each kind, for each number of clients.
    #[arg(long, default_value_t = 16)]
    rounds: u32,
    /// How long a turn takes.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// How many clients.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64")]
    clients: Vec<usize>,
    /// Each database belongs to a participant of its own.
    #[arg(long)]
    apart: bool,
    /// Work ends with its vote, in ours and in the steps: `PostgresWork::vote` instead of `end`.
    #[arg(long)]
    early: bool,
    /// Be the process that decides for the loops without ours, with its decisions in this file.
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
    let head = KINDS.iter().map(|kind| format!("{kind} tx/s"));
    let ratios = KINDS[1..].iter().map(|kind| format!("{kind} / bare"));
    report.row(&[vec!["clients".to_owned()], head.chain(ratios).collect()].concat());
    let turn = Duration::from_secs(arguments.seconds);
    for &clients in &arguments.clients {
        let mut rounds = Vec::new();
        // The first fills caches. Every other round goes backwards: a turn leaves dead rows and
        // cold processes to the next one, which must not always be the same kind's.
        for round in 0..=arguments.rounds {
            let mut rates = [0.0; KINDS.len()];
            let mut kinds: Vec<usize> = (0..KINDS.len()).collect();
            if round % 2 == 1 {
                kinds.reverse();
            }
            for kind in kinds {
                let loops = Arc::clone(&loops);
                let transact = move |client| {
                    let loops = Arc::clone(&loops);
                    async move { loops.transact(kind, client).await }
                };
                rates[kind] = rate(turn, clients, transact).await?;
            }
            if round > 0 {
                rounds.push(rates);
            }
        }
        tell(report, clients, &rounds);
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
    /// One transaction of this one of [`KINDS`].
    async fn transact(&self, kind: usize, client: usize) -> anyhow::Result<()> {
        let bare = &self.bare[client];
        let transacted = match KINDS[kind] {
            "bare" => bare.transact().await,
            "least" => self.decider.least(bare).await,
            "steps" => self.decider.steps(bare, self.ours.early).await,
            _ => self.ours.transact(client).await,
        };
        transacted.context(KINDS[kind])
    }
}

fn tell(report: &mut Report, clients: usize, rounds: &[[f64; KINDS.len()]]) {
    let of = |figure: &dyn Fn(&[f64; KINDS.len()]) -> f64| {
        median(&rounds.iter().map(figure).collect::<Vec<_>>())
    };
    let mut row = vec![clients.to_string()];
    for (kind, name) in KINDS.iter().enumerate() {
        let rate = of(&|rates| rates[kind]).round();
        row.push(rate.to_string());
        report.field(&format!("{name}_{clients}"), rate);
    }
    for (kind, name) in KINDS.iter().enumerate().skip(1) {
        let ratio = (of(&|rates| rates[kind] / rates[0]) * 1_000.0).round() / 1_000.0;
        row.push(format!("{ratio:.3}"));
        report.field(&format!("{name}_to_bare_{clients}"), ratio);
    }
    report.row(&row);
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
