//! `databases`: transfers between a bank on PostgreSQL and one on MariaDB, while coordinator,
//! banks and database servers are killed at random moments.
//!
//! Account `n` of one bank gives to account `n` of the other, so that what both hold together never
//! changes, and each bank writes down who changed an account, one after the other. In the end
//! everything must finish; then both databases are read afresh: every pair of accounts holds what
//! it held, both have the same writers in the same order, exactly those that were told committed,
//! and nothing of ours is prepared. Prepared branches of somebody else have not been touched.

mod books;
mod fleet;
mod transfers;

use anyhow::ensure;
use clap::Parser;
use fleet::{Fleet, Victim};
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use transfers::Transfers;
use unanimous_tests::real::{LOOK, Report};

const HANG: Duration = Duration::from_secs(120);
/// Deaths in a round, at most.
const DEATHS_MAX: usize = 3;
/// Sometimes something is away for so long.
const LONG: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Arguments {
    /// In each of them, some are killed: each of them at least once in five rounds.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// So many clients, each with one transfer after the other.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Transfers that must commit in each round, most of them after everything runs again.
    #[arg(long, default_value_t = 50)]
    commits: usize,
    /// Accounts at each bank: the fewer, the more transfers meet.
    #[arg(long, default_value_t = 100)]
    accounts: u32,
    /// Repeats the kills of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Changes one balance by hand before the check, which must find it.
    #[arg(long)]
    plant: bool,
    /// Where logs and files are kept, instead of a folder that is removed in the end.
    #[arg(long)]
    home: Option<PathBuf>,
    /// JSON is what the last line of stdout is.
    #[arg(short, long, value_parser = ["json"], default_value = "json")]
    output: String,
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
    let mut fleet = Fleet::start(home, arguments.accounts).await?;
    books::prepare_foreign(&fleet.databases)?;
    let transfers = Transfers::new(&fleet)?;
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let ran = rounds(&mut fleet, &transfers, rng, arguments, report).await;
    // A run that broke off says what it saw as well.
    let kills = Victim::ALL.map(|victim| (victim.name().to_owned(), fleet.kills(victim).into()));
    report.field("kills", Victim::ALL.map(|victim| fleet.kills(victim)).iter().sum::<u32>());
    report.field("kills_by_process", serde_json::Value::Object(kills.into_iter().collect()));
    transfers.fields(report);
    ran?;
    fleet.stop()?;
    if arguments.plant {
        books::plant(&fleet.databases)?;
    }
    books::verify(&fleet.databases, &transfers.take(), report)
}

async fn rounds(
    fleet: &mut Fleet,
    transfers: &Transfers,
    mut rng: ChaCha8Rng,
    &Arguments { rounds, clients, commits: wanted, .. }: &Arguments,
    report: &mut Report,
) -> anyhow::Result<()> {
    fleet.coordinator.connected(2, HANG).await?;
    let begun = Instant::now();
    let clients = transfers.run(clients);
    let mut commits_min = usize::MAX;
    let mut in_turn = Vec::new();
    for round in 1..=rounds {
        let (before, started) = (transfers.committed(), Instant::now());
        if in_turn.is_empty() {
            in_turn = Victim::ALL.to_vec();
            in_turn.shuffle(&mut rng);
        }
        let mut victims: Vec<Victim> = in_turn.pop().into_iter().collect();
        for _ in 1..rng.random_range(1..=DEATHS_MAX) {
            victims.extend(Victim::ALL.choose(&mut rng).filter(|one| !victims.contains(one)));
        }
        kill(fleet, &victims, &mut rng).await?;
        while transfers.committed() < before + wanted {
            tokio::time::sleep(LOOK).await;
            fleet.check_run()?;
            ensure!(started.elapsed() < HANG, "nothing commits after round {round}: {victims:?}");
        }
        let commits = transfers.committed() - before;
        commits_min = commits_min.min(commits);
        let seconds = started.elapsed().as_secs_f64();
        report.say(format!(
            "round {round} of {rounds}: {victims:?}, {commits} commits, {seconds:.1} s"
        ));
    }
    let seconds = begun.elapsed().as_secs_f64();
    report.field("commits_in_a_round_min", commits_min);
    report.field("seconds", seconds.round());
    report.field("commits_per_s", (transfers.committed() as f64 / seconds).round());
    transfers.stop();
    clients.join_all().await;
    fleet.coordinator.connected(2, HANG).await?;
    transfers.resolve(report).await;
    fleet.settled(HANG).await?;
    let status = fleet.coordinator.status().await?;
    let listed = status.transactions_heuristic;
    report.field("false_heuristics", listed);
    report.must(listed == 0, || format!("{listed} heuristic outcomes are listed"));
    report.must(status.orphans == 0, || format!("{} orphans are listed", status.orphans));
    Ok(())
}

/// Kills some, at moments drawn at random, sometimes one while another is away.
async fn kill(fleet: &mut Fleet, victims: &[Victim], rng: &mut ChaCha8Rng) -> anyhow::Result<()> {
    for victim in victims {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..600))).await;
        fleet.kill(*victim)?;
        if rng.random_bool(0.1) {
            tokio::time::sleep(LONG).await;
        }
        if rng.random_bool(0.6) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..300))).await;
            fleet.start_all().await?;
        }
    }
    fleet.start_all().await
}
