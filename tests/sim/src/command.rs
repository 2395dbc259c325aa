//! The command line of `sim`.
//!
//! Bugs of the museum are compiled in by a feature only. A command that needs one builds `sim` anew
//! with it, in a target folder of its own.
//!
//! Exit code 0: every invariant held; 1: one was broken (the seed is printed); 2: wrong usage.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use crate::museum::{self, Find};
use crate::subcommands::{Changes, Further, shrink_first};
use crate::{Options, Stop, Totals, run, simulate_with};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::Path;
use std::process::{Command, ExitCode};
use unanimous_core::museum::Bug;

/// Drives coordinators, participants and clients over a simulated network, clock and disks.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
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
    #[command(flatten)]
    changes: Changes,
    /// Make the first schedule that fails as small as can be.
    #[arg(long, conflicts_with = "trace")]
    shrink: bool,
    /// With this bug of the museum.
    #[arg(long)]
    bug: Option<Bug>,
    /// End at the first failure.
    #[arg(long)]
    stop_at_failure: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Subcommand)]
enum What {
    #[command(flatten)]
    Further(Further),
    /// Puts in one bug of the museum after the other, and looks how many schedules find it.
    Museum {
        /// How many schedules each bug may take.
        #[arg(long, default_value_t = 3_000_000)]
        schedules: u64,
        /// The first seed; the others follow it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Threads; no schedule depends on their number.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// How to print the result.
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
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
    let needs_bugs = arguments.bug.is_some() || matches!(arguments.what, Some(What::Museum { .. }));
    if needs_bugs && !cfg!(feature = "museum") {
        return run_with_bugs("sim");
    }
    switch_on(arguments.bug);
    // A panic inside a schedule is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    match arguments.what {
        Some(What::Museum { schedules, seed, threads, output }) => {
            return museum(Options { schedules, seed, threads, stop: Stop::Never }, output);
        }
        Some(What::Further(further)) => return further.run(),
        None => {}
    }
    if arguments.trace {
        return trace(&arguments);
    }
    let options = Options {
        schedules: arguments.schedules,
        seed: arguments.seed,
        threads: arguments.threads,
        stop: if arguments.stop_at_failure { Stop::Broken } else { Stop::Never },
    };
    if arguments.shrink {
        return shrink_first(options, arguments.bug.map(Bug::name));
    }
    let totals = run(options);
    match arguments.output {
        Output::Text => print_text(&totals),
        Output::Json => print_json(&totals),
    }
    ExitCode::from(u8::from(!totals.passed()))
}

fn print_json(result: &impl serde::Serialize) {
    match serde_json::to_string(result) {
        Ok(json) => println!("{json}"),
        Err(error) => eprintln!("error: the result cannot be written: {error}"),
    }
}

#[cfg(feature = "museum")]
pub(crate) use unanimous_core::museum::switch_on;

#[cfg(not(feature = "museum"))]
pub(crate) fn switch_on(_: Option<Bug>) {}

/// The same command in a build that has the bugs.
pub(crate) fn run_with_bugs(binary: &str) -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--release", "--locked", "--quiet", "--package", "unanimous-tests"])
        .args(["--features", "crash-points,museum", "--bin", binary, "--target-dir"])
        .arg(root.join("target/instrumented"))
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--")
        .args(std::env::args_os().skip(1))
        .status();
    match status.map(|status| status.code().and_then(|code| u8::try_from(code).ok())) {
        Ok(code) => ExitCode::from(code.unwrap_or(1)),
        Err(error) => {
            eprintln!("error: the bugs are compiled in by a feature, and cargo does not start");
            eprintln!("  because: {error}");
            eprintln!(
                "  next: cargo build --release -p unanimous-tests --features museum --bin {binary}"
            );
            ExitCode::from(2)
        }
    }
}

fn museum(options: Options, output: Output) -> ExitCode {
    let text = matches!(output, Output::Text);
    let visit = museum::visit(options, switch_on, |find: &Find| {
        if text {
            let Find { name, invariant, schedules, seed, .. } = find;
            let found = if find.found { "found by" } else { "NOT FOUND" };
            println!("{name:30} {found} {invariant:4} after {schedules} schedules, seed {seed}");
        }
    });
    if text {
        let (bugs, clean) = (visit.bugs.len(), visit.clean);
        println!(
            "{} of {bugs} found; without a bug {} schedules, {} failures; {:.1} s",
            visit.found, clean.schedules, clean.failures, visit.seconds
        );
    } else {
        print_json(&visit);
    }
    ExitCode::from(u8::from(!visit.passed()))
}

fn trace(arguments: &Arguments) -> ExitCode {
    let schedule = simulate_with(arguments.seed, &arguments.changes.script(), true);
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
    for pair in &totals.coverage.contradicted {
        println!("coverage: reached, and listed as impossible: {pair:?}");
    }
    if totals.must_reach_all() {
        for pair in &totals.coverage.unreached {
            println!("coverage: not reached: {pair:?}");
        }
    }
    println!("{} failures {:?}", totals.failures, totals.found_by);
}
