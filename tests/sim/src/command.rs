//! The command line of `sim`.
//!
//! Exit code 0: every invariant held; 1: one was broken (the seed is printed); 2: wrong usage.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::{Options, Totals, run, simulate};
use clap::{Parser, ValueEnum};
use std::process::ExitCode;

/// Drives coordinators, participants and clients over a simulated network, clock and disks.
#[derive(Parser)]
struct Arguments {
    /// How many schedules.
    #[arg(long, default_value_t = 10_000)]
    schedules: u64,
    /// The first seed; the others follow it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads; no schedule depends on their number.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Print everything that happens in the one schedule of `--seed`.
    #[arg(long)]
    trace: bool,
    /// End at the first failure.
    #[arg(long)]
    stop_at_failure: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A panic inside a schedule is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if arguments.trace {
        return trace(&arguments);
    }
    let totals = run(Options {
        schedules: arguments.schedules,
        seed: arguments.seed,
        threads: arguments.threads,
        stop_at_failure: arguments.stop_at_failure,
    });
    match arguments.output {
        Output::Text => print_text(&totals),
        Output::Json => match serde_json::to_string(&totals) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("error: the result cannot be written: {error}"),
        },
    }
    ExitCode::from(u8::from(totals.failures > 0))
}

fn trace(arguments: &Arguments) -> ExitCode {
    let schedule = simulate(arguments.seed, true);
    for line in &schedule.trace {
        println!("{line}");
    }
    match &schedule.violation {
        None => {
            println!(
                "seed {}: every invariant held, trace {:016x}",
                schedule.seed, schedule.trace_hash
            );
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("seed {}, step {}: {violation}", schedule.seed, schedule.step);
            ExitCode::from(1)
        }
    }
}

fn print_text(totals: &Totals) {
    println!(
        "{} schedules, {} events, {} crashes ({} power losses), {} transactions \
         ({} committed, {} rolled back), {:.1} s, {} schedules a minute and core",
        totals.schedules,
        totals.events,
        totals.crashes,
        totals.power_losses,
        totals.transactions,
        totals.committed,
        totals.rolled_back,
        totals.seconds,
        totals.schedules_per_minute_and_core,
    );
    for failure in &totals.first_failures {
        println!(
            "seed {}, step {}: {}: {}\n  next: sim --seed {} --trace",
            failure.seed, failure.step, failure.invariant, failure.detail, failure.seed
        );
    }
    println!("{} failures {:?}", totals.failures, totals.found_by);
}
