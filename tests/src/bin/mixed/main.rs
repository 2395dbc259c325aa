//! `mixed`: a bank in Rust and one in Python, made from the .proto files alone, with transfers
//! between them while both and the coordinator are killed at random moments.
//!
//! In the end everything must finish; then all is stopped, both stores are read afresh, and every
//! account must hold exactly what the transfers that were told committed have moved.

mod fleet;
mod stores;
mod transfers;

use anyhow::ensure;
use clap::Parser;
use fleet::{Fleet, Paths, Victim};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use transfers::Transfers;
use unanimous_tests::real::{LOOK, Report};

const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
const BANK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/bank.py");
const CLIENTS: usize = 16;
/// Transfers that must commit after each round's last start before the next round begins.
const COMMITS: usize = 30;
/// Sometimes the coordinator is away long enough for a bank to lose patience, if it did.
const LONG: Duration = Duration::from_secs(4);
const HANG: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Arguments {
    /// In each of them, each process is killed once.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Repeats the kills of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Changes one balance by hand before the check, which must find it.
    #[arg(long)]
    plant: bool,
    /// A Python with the packages of `examples/python/requirements.txt`.
    #[arg(long, default_value = PYTHON)]
    python: PathBuf,
    /// The bank in Python.
    #[arg(long, default_value = BANK)]
    bank: PathBuf,
    /// Where the stores are made and kept, instead of a folder that is removed in the end.
    #[arg(long)]
    home: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    report.say(format!("seed {seed}"));
    report.field("rounds", arguments.rounds);
    report.field("seed", seed.to_string());
    let removed = tempfile::tempdir()?;
    let home = arguments.home.as_deref().unwrap_or(removed.path());
    std::fs::create_dir_all(home)?;
    let paths = Paths { python: arguments.python.clone(), bank: arguments.bank.clone() };
    let mut fleet = Fleet::start(home, paths).await?;
    let transfers = Transfers::new(&fleet)?;
    let ran = rounds(&mut fleet, &transfers, ChaCha8Rng::seed_from_u64(seed), arguments, report);
    let ran = ran.await;
    // A run that broke off says what it saw as well.
    let kills = Victim::ALL.map(|victim| (victim.name().to_owned(), fleet.kills(victim).into()));
    report.field("kills_by_process", serde_json::Value::Object(kills.into_iter().collect()));
    transfers.fields(report);
    ran?;
    let dirs = fleet.stop()?;
    if arguments.plant {
        stores::plant(&arguments.python, &dirs)?;
    }
    stores::verify(&arguments.python, &dirs, &transfers.take(), report)
}

async fn rounds(
    fleet: &mut Fleet,
    transfers: &Transfers,
    mut rng: ChaCha8Rng,
    arguments: &Arguments,
    report: &mut Report,
) -> anyhow::Result<()> {
    fleet.coordinator.connected(2, HANG).await?;
    transfers.all_commit(report).await;
    let clients = transfers.run(CLIENTS);
    for round in 1..=arguments.rounds {
        kill_each(fleet, &mut rng).await?;
        let (before, started) = (transfers.committed(), Instant::now());
        while transfers.committed() < before + COMMITS {
            tokio::time::sleep(LOOK).await;
            ensure!(started.elapsed() < HANG, "nothing commits after round {round}");
        }
        let committed = transfers.committed();
        report.say(format!("round {round} of {}: {committed} committed", arguments.rounds));
    }
    transfers.stop();
    clients.join_all().await;
    fleet.check_run()?;
    fleet.coordinator.connected(2, HANG).await?;
    transfers.resolve(report).await;
    fleet.settled(HANG).await?;
    let status = fleet.coordinator.status().await?;
    report.must(status.transactions_heuristic == 0, || "heuristic outcomes are listed".to_owned());
    report.must(status.orphans == 0, || "orphans are listed".to_owned());
    transfers.every_account(HANG).await?;
    transfers.all_commit(report).await;
    fleet.settled(HANG).await
}

/// Kills each process once, at moments drawn at random, sometimes one while another is down.
async fn kill_each(fleet: &mut Fleet, rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    let mut victims = Victim::ALL;
    victims.shuffle(rng);
    for victim in victims {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..700))).await;
        fleet.kill(victim)?;
        if victim == Victim::Coordinator && rng.random_bool(0.3) {
            tokio::time::sleep(LONG).await;
        }
        if rng.random_bool(0.7) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
            fleet.start_all().await?;
        }
    }
    fleet.start_all().await
}
