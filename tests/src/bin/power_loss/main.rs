//! `power_loss`: transfers between real processes whose disks lose power under them.
//!
//! Only what an fsync or fdatasync covered is sure to be there afterwards (`tests/shim/power.c`).
//! In each round some of a coordinator and three banks lose power at a moment of load, sometimes
//! again while they recover; now and then they are only killed. Then all run, everything must
//! finish, every outcome that was ever told is asked for again, and every bank's sum is exactly
//! what was told. In the end the stores are read.

mod fleet;
mod load;

use anyhow::{Context as _, ensure};
use clap::Parser;
use fleet::{BANKS, COORDINATOR, Fleet, PROCESSES, name};
use load::Load;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use unanimous_core::Outcome;
use unanimous_core::coordinator::Recovered;
use unanimous_tests::real::{LOOK, Report};

const CLIENTS: u64 = 12;
/// Told in each round before the power goes, and after everything runs again.
const TOLD: usize = 20;
const HANG: Duration = Duration::from_secs(60);
/// The power goes so long after that at the latest.
const LOAD_MS_MAX: u64 = 400;
/// A recovery that loses power again has got so far at the most.
const RECOVERY_MS_MAX: u64 = 150;

#[derive(Parser)]
struct Arguments {
    /// In each of them power is lost.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Repeats the draws of an earlier run; the processes' own timing is not repeated.
    #[arg(long)]
    seed: Option<u64>,
    /// How to print the result.
    #[arg(short, long, default_value = "json", value_parser = ["json"])]
    output: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut report = Report::default();
    let ran = run(&arguments, &mut report);
    report.end(ran)
}

/// What was done, whatever became of it.
#[derive(Default)]
struct Done {
    rounds: u64,
    power_losses: u64,
    kills_only: u64,
    sectors_lost: u64,
    names_undone: u64,
    unfinished: u64,
}

#[tokio::main]
async fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    report.say(format!("seed {seed}"));
    report.field("seed", seed.to_string());
    let (started, home) = (Instant::now(), tempfile::tempdir()?);
    let mut fleet = Fleet::new(home.path())?;
    let (load, mut done) = (Load::new(&fleet)?, Done::default());
    let ran = async {
        (0..PROCESSES).try_for_each(|process| fleet.start(process))?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..arguments.rounds {
            round(&mut fleet, &load, &mut rng, &mut done, report).await?;
        }
        fleet.stop()?;
        verify(&fleet, &load, report)
    };
    let ran = ran.await;
    let (commits, answers) = load.told();
    for (name, count) in [
        ("rounds", done.rounds),
        ("power_losses", done.power_losses),
        ("kills_only", done.kills_only),
        ("sectors_lost", done.sectors_lost),
        ("names_undone", done.names_undone),
        ("answers", answers as u64),
        ("commits", commits as u64),
        ("unfinished", done.unfinished),
        ("seconds", started.elapsed().as_secs()),
    ] {
        report.field(name, count);
    }
    ran
}

async fn round(
    fleet: &mut Fleet,
    load: &Load,
    rng: &mut ChaCha8Rng,
    done: &mut Done,
    report: &mut Report,
) -> anyhow::Result<()> {
    done.rounds += 1;
    let clients = load.run(CLIENTS, rng.random());
    progress(fleet, load).await?;
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..LOAD_MS_MAX))).await;
    let mut victims: Vec<usize> = (0..PROCESSES).collect();
    victims.shuffle(rng);
    victims.truncate(rng.random_range(1..=PROCESSES));
    let power = rng.random_bool(0.9);
    take_down(fleet, &victims, power, rng, done)?;
    let mut also = String::new();
    while rng.random_bool(0.3) {
        victims.iter().try_for_each(|victim| fleet.start(*victim))?;
        let recovers_ms = rng.random_range(0..RECOVERY_MS_MAX);
        tokio::time::sleep(Duration::from_millis(recovers_ms)).await;
        take_down(fleet, &victims, power, rng, done)?;
        also.push_str(&format!(", again after {recovers_ms} ms"));
    }
    victims.iter().try_for_each(|victim| fleet.start(*victim))?;
    progress(fleet, load).await?;
    load.stop();
    clients.join_all().await;
    let settled = fleet.settled().await;
    done.unfinished += u64::from(settled.is_err());
    let banks = settled?;
    let status = fleet.coordinator.status().await?;
    let heuristic = status.transactions_heuristic;
    report.must(heuristic == 0, || format!("{heuristic} heuristic outcomes"));
    load.ask_again(report).await;
    for (bank, said) in banks.iter().enumerate() {
        let (sum, expected) = (said.sum_cents, load.sum_cents(bank));
        report.must(sum == expected, || {
            format!("{}: {sum} cents instead of {expected}", name(bank + 1))
        });
    }
    let names: Vec<String> = victims.iter().map(|victim| name(*victim)).collect();
    let what = if power { "without power" } else { "killed" };
    let told = load.told().1;
    report.say(format!("round {}: {} {what}{also}; {told} told", done.rounds, names.join(", ")));
    Ok(())
}

fn take_down(
    fleet: &mut Fleet,
    victims: &[usize],
    power: bool,
    rng: &mut ChaCha8Rng,
    done: &mut Done,
) -> anyhow::Result<()> {
    let lost = fleet.take_down(victims, power, rng)?;
    done.power_losses += lost.len() as u64;
    done.kills_only += (victims.len() - lost.len()) as u64;
    done.sectors_lost += lost.iter().map(|lost| lost.sectors_lost).sum::<u64>();
    done.names_undone += lost.iter().map(|lost| lost.names_undone).sum::<u64>();
    Ok(())
}

/// Waits for some more answers.
async fn progress(fleet: &mut Fleet, load: &Load) -> anyhow::Result<()> {
    let (before, started) = (load.told().0, Instant::now());
    while load.told().0 < before + TOLD {
        fleet.check_run()?;
        ensure!(started.elapsed() < HANG, "nothing commits for {HANG:?}");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// All have stopped: the stores say the same.
fn verify(fleet: &Fleet, load: &Load, report: &mut Report) -> anyhow::Result<()> {
    let mut command = Command::new(unanimous_tests::real::binary()?);
    let output = command.args(["log", "verify"]).arg(fleet.dir(COORDINATOR)).output()?;
    report.must(output.status.success(), || String::from_utf8_lossy(&output.stderr).into_owned());
    for bank in 0..BANKS {
        let summary = unanimous_sdk::embedded::inspect(&fleet.dir(bank + 1))?;
        let (sum, expected) = (summary.sum_actual, load.sum_cents(bank));
        report.must(sum == expected && summary.in_doubt.is_empty(), || {
            format!("{}: {summary:?} instead of {expected} cents", name(bank + 1))
        });
    }
    let mut recovered = Recovered::default();
    for stored in unanimous_recovery::read_records(&fleet.dir(COORDINATOR))? {
        let record = unanimous_recovery::codec::decode_record(&stored.bytes);
        recovered.fold(stored.lsn, record.context("a record")?);
    }
    let unfinished = recovered.transactions().count();
    report.must(unfinished == 0, || format!("{unfinished} unfinished in the log"));
    let floor = recovered.outcome_floor();
    let mut dropped = 0_u64;
    for (gtrid, committed) in load.outcomes() {
        if floor >= Some((gtrid.owner().epoch, gtrid.sequence())) {
            dropped += 1;
            continue;
        }
        let logged = recovered.outcome(&gtrid) == Some(Outcome::Committed);
        report.must(logged == committed, || {
            format!("{gtrid} was told committed: {committed}, the log says: {logged}")
        });
    }
    report.field("outcomes_dropped", dropped);
    Ok(())
}
