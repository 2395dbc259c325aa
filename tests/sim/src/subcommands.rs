//! What `sim` does besides running schedules: `--shrink`, `hashes`, `sweep`; and the options that
//! change a schedule.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::hashes::hashes;
use crate::shrink::shrink;
use crate::sweep::{Sweep, sweep};
use crate::{Options, Script, Stop, run};
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::process::ExitCode;

/// Schedules that a shrink may take.
const SHRINK_RUNS_MAX: u64 = 3_000;

/// Changes to what the seed draws, as `--shrink` prints them.
#[derive(Args)]
pub(super) struct Changes {
    /// Another course of the same swarm.
    #[arg(long, requires = "trace", default_value_t = 0)]
    salt: u64,
    /// With so many participants, whatever the seed draws.
    #[arg(long, requires = "trace")]
    participants: Option<usize>,
    /// With so many clients.
    #[arg(long, requires = "trace")]
    clients: Option<usize>,
    /// With so many transactions of each client.
    #[arg(long, requires = "trace")]
    transactions: Option<u32>,
    /// With so many accounts at each participant.
    #[arg(long, requires = "trace")]
    accounts: Option<usize>,
    /// With so many deaths at most.
    #[arg(long, requires = "trace")]
    deaths_max: Option<u32>,
    /// With these of its faults only, by their ordinals: `3,17`, or `none`.
    #[arg(long, requires = "trace")]
    keep_faults: Option<KeepFaults>,
}

/// Ordinals of faults.
#[derive(Clone, Debug)]
struct KeepFaults(BTreeSet<u32>);

impl std::str::FromStr for KeepFaults {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ordinals = text.split(',').filter(|_| text != "none");
        ordinals.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Changes {
    /// The script that they are.
    pub(super) fn script(&self) -> Script {
        Script {
            participants: self.participants,
            clients: self.clients,
            transactions: self.transactions,
            accounts: self.accounts,
            deaths_max: self.deaths_max,
            salt: self.salt,
            keep_faults: self.keep_faults.clone().map(|kept| kept.0),
            ..Script::default()
        }
    }
}

/// Further commands.
#[derive(Subcommand)]
pub(super) enum Further {
    /// Prints seed and hash of each schedule, in the order of seeds.
    Hashes {
        /// How many schedules.
        #[arg(long, default_value_t = 1_000)]
        schedules: u64,
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads; no schedule depends on their number.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Lets each process die at each point of schedules in which nothing else fails, killed and
    /// with a power loss. Prints a JSON object.
    Sweep {
        /// Schedules of each kind: one to three participants; committed, rolled back, read-only.
        #[arg(long, default_value_t = 20)]
        bases: u64,
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// And a second death at every so-many-th point of what follows each; 0: none.
        #[arg(long, default_value_t = 0, default_missing_value = "1", num_args = 0..=1)]
        pairs: u64,
        /// Threads; no schedule depends on their number.
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
}

impl Further {
    /// Runs it.
    pub(super) fn run(self) -> ExitCode {
        match self {
            Self::Hashes { schedules, seed, threads } => {
                for (seed, hash) in hashes(schedules, seed, threads) {
                    println!("{seed} {hash:016x}");
                }
                ExitCode::SUCCESS
            }
            Self::Sweep { bases, seed, pairs, threads } => {
                let swept = sweep(Sweep { bases, seed, pairs, threads });
                match serde_json::to_string(&swept) {
                    Ok(json) => println!("{json}"),
                    Err(error) => eprintln!("error: the result cannot be written: {error}"),
                }
                ExitCode::from(u8::from(swept.failures > 0))
            }
        }
    }
}

/// Finds the first schedule that fails and makes it small. `bug`: the museum's, for the command
/// that repeats it.
pub(super) fn shrink_first(options: Options, bug: Option<&str>) -> ExitCode {
    let totals = run(Options { stop: Stop::Broken, ..options });
    let Some(failure) = totals.first_failures.first() else {
        println!("{} schedules, no failure", totals.schedules);
        return ExitCode::SUCCESS;
    };
    let Some(small) = shrink(failure.seed, &Script::default(), SHRINK_RUNS_MAX) else {
        println!("seed {} fails no more", failure.seed);
        return ExitCode::from(1);
    };
    println!("seed {}: {}: {}", small.seed, small.invariant, small.detail);
    println!(
        "{} steps instead of {}, {} faults instead of {}, after {} schedules",
        small.steps, small.steps_before, small.faults, small.faults_before, small.runs
    );
    let bug = bug.map(|name| format!("--bug {name} ")).unwrap_or_default();
    println!("  next: sim {bug}{}", small.options);
    ExitCode::from(1)
}
