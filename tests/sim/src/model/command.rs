//! The command line of `model`.
//!
//! Exit code 0: every invariant held in every state; 1: one was broken, or something that must be
//! reached was not; 2: wrong usage.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use super::{Budget, Checked, Options, check};
use crate::command::{run_with_bugs, switch_on};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::process::ExitCode;
use unanimous_core::museum::Bug;

/// Tries every order of events of one transaction over the cores that ship.
#[derive(Parser)]
struct Arguments {
    /// Participants.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=3))]
    participants: u8,
    /// Deaths of any process at any moment, with its page cache or without.
    #[arg(long, default_value_t = 1)]
    crashes: u8,
    /// Messages that arrive twice.
    #[arg(long, default_value_t = 1)]
    duplicates: u8,
    /// Deadlines that come before everything else has come to rest.
    #[arg(long, default_value_t = 0)]
    ticks: u8,
    /// With this bug of the museum.
    #[arg(long)]
    bug: Option<Bug>,
    /// Threads; the states do not depend on them.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Serialize)]
struct Report {
    participants: u8,
    #[serde(flatten)]
    budget: Budget,
    states: usize,
    unique_states: usize,
    depth: usize,
    complete: bool,
    seconds: f64,
    properties: Vec<Property>,
    violation: Option<Broken>,
}

#[derive(Serialize)]
struct Property {
    name: &'static str,
    holds: bool,
}

#[derive(Serialize)]
struct Broken {
    invariant: &'static str,
    detail: String,
    path: Vec<String>,
}

/// Checks what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.bug.is_some() && !cfg!(feature = "museum") {
        return run_with_bugs("model");
    }
    switch_on(arguments.bug);
    // A panic of a core is a violation with its path.
    std::panic::set_hook(Box::new(|_| {}));
    let Arguments { participants, crashes, duplicates, ticks, threads, output, .. } = arguments;
    let budget = Budget { crashes, duplicates, ticks };
    let checked = check(&Options { participants: participants.into(), budget, threads });
    let report = report(participants, budget, &checked);
    match output {
        Output::Text => print_text(&report),
        Output::Json => match serde_json::to_string(&report) {
            Ok(json) => println!("{json}"),
            Err(error) => eprintln!("error: the result cannot be written: {error}"),
        },
    }
    ExitCode::from(u8::from(!checked.holds()))
}

fn report(participants: u8, budget: Budget, checked: &Checked) -> Report {
    let always = crate::invariants::ALL.iter().map(|invariant| Property {
        name: invariant.name,
        holds: checked
            .violation
            .as_ref()
            .is_none_or(|(broken, _)| broken.invariant != invariant.name),
    });
    let reached = checked.reached.iter().map(|(name, holds)| Property { name, holds: *holds });
    Report {
        participants,
        budget,
        states: checked.states,
        unique_states: checked.unique_states,
        depth: checked.depth,
        complete: checked.complete,
        seconds: (checked.seconds * 10.0).round() / 10.0,
        properties: always.chain(reached).collect(),
        violation: checked.violation.as_ref().map(|(broken, path)| Broken {
            invariant: broken.invariant,
            detail: broken.detail.clone(),
            path: path.clone(),
        }),
    }
}

fn print_text(report: &Report) {
    let Budget { crashes, duplicates, ticks } = report.budget;
    println!(
        "{} participants, {crashes} crashes, {duplicates} duplicates, {ticks} ticks: {} states, \
         {} of them different, up to {} actions long, {}complete, {} s",
        report.participants,
        report.states,
        report.unique_states,
        report.depth,
        if report.complete { "" } else { "not " },
        report.seconds,
    );
    for property in report.properties.iter().filter(|property| !property.holds) {
        println!("does not hold: {}", property.name);
    }
    if let Some(broken) = &report.violation {
        println!("{}: {}", broken.invariant, broken.detail);
        for (at, line) in broken.path.iter().enumerate() {
            println!("{:3} {line}", at + 1);
        }
    }
}
