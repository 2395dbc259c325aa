//! `mutants`: would the tests see it, if somebody had made this mistake?
//!
//! cargo-mutants says which mistakes there are in the core and in the log. All of them are compiled
//! at once, each behind a switch, and then run one after the other against their package's tests
//! and against 10,000 schedules of the simulator: minutes, where a build for each takes hours. What
//! cannot stand behind a switch is left to cargo-mutants itself.
//!
//! In the root of the workspace, `mutants K/N` judges the K-th of N parts. What was caught once is
//! not judged again while its file ships the same; what was not, as long as nothing has changed at
//! all. The score is that of all known so far. `mutants report` judges nothing: its last line is
//! the score, one flat JSON object.
//!
//! Exit code 0: the score of what is known is at least 95 %; 1: it is not; 2: wrong usage.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

mod judge;
mod list;
mod report;
mod switch;
mod tree;

use anyhow::Result;
use clap::Parser;
use judge::{Judge, SIMULATION, Verdict};
use list::Mutant;
use report::Journal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use switch::Number;
use tree::{Built, Sources};

/// Tries the tests of the core and of the log with every mistake that cargo-mutants can think of.
#[derive(Parser)]
struct Arguments {
    /// K/N: which part of how many. Or `report`: only what is known.
    #[arg(default_value = "1/1", value_parser = what)]
    what: What,
    /// Only this package.
    #[arg(short, long)]
    package: Option<String>,
    /// Only mutants whose name has this in it, judged anew.
    #[arg(long)]
    only: Option<String>,
    /// How many are tried at the same time.
    #[arg(short, long, default_value_t = 2)]
    jobs: usize,
    /// Where the copy of the sources, the build and the verdicts go.
    #[arg(long, default_value = "target/mutants")]
    work: PathBuf,
}

#[derive(Clone, Copy)]
enum What {
    Report,
    Part(usize, usize),
}

fn what(text: &str) -> Result<What, String> {
    if text == "report" {
        return Ok(What::Report);
    }
    let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    let part = numbers.filter(|(k, n)| (1..=*n).contains(k)).map(|(k, n)| What::Part(k, n));
    part.ok_or_else(|| "K/N, K from 1 to N, or report".to_owned())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let root = std::env::current_dir()?;
    let work = root.join(&arguments.work);
    std::fs::create_dir_all(&work)?;
    let sources = Sources::read(&root)?;
    let packages = match &arguments.package {
        Some(package) => vec![package.clone()],
        None => vec!["unanimous-core".to_owned(), "unanimous-recovery".to_owned()],
    };
    let listed = list::mutants(&root, &packages)?;
    let of_the_museum = listed.iter().filter(|mutant| mutant.is_of_the_museum()).count();
    let all = listed.into_iter().filter(|mutant| !mutant.is_of_the_museum());
    let all: BTreeMap<Number, Mutant> = (1..).zip(all).collect();
    let mut journal = Journal::open(&work, &sources, all.values())?;
    let mut ours = all.clone();
    match (arguments.what, &arguments.only) {
        (What::Report, _) => ours.clear(),
        (What::Part(..), Some(only)) => {
            ours.retain(|_, mutant| mutant.name.contains(only));
            journal.known.clear();
        }
        (What::Part(k, n), None) => ours.retain(|number, mutant| {
            number % n == k - 1 && !journal.known.contains_key(&mutant.name)
        }),
    }
    if !ours.is_empty() {
        let bench = Bench { root: &root, work: &work, sources: &sources, packages: &packages };
        journal = bench.judge(&all, ours.clone(), arguments.jobs, journal)?;
    }
    let shown: Vec<&Mutant> = match (arguments.what, &arguments.only) {
        (What::Part(..), Some(_)) => ours.values().collect(),
        _ => all.values().collect(),
    };
    report::print(&root, &work, &shown, &journal.known, of_the_museum)
}

/// What all of it works on.
struct Bench<'a> {
    root: &'a Path,
    work: &'a Path,
    sources: &'a Sources,
    packages: &'a [String],
}

impl Bench<'_> {
    fn judge(
        &self,
        all: &BTreeMap<Number, Mutant>,
        mut ours: BTreeMap<Number, Mutant>,
        jobs: usize,
        mut journal: Journal,
    ) -> Result<Journal> {
        let packages = self.packages.iter().cloned().chain([SIMULATION.to_owned()]);
        let tested: Vec<String> = packages.collect();
        let Built { suites, left_out, unviable } =
            tree::build(self.sources, self.work, &tested, all)?;
        for (_, mutant) in ours.extract_if(.., |number, _| unviable.contains(number)) {
            journal.add(&mutant.name, Verdict::Unviable)?;
        }
        let (single, switched): (BTreeMap<_, _>, BTreeMap<_, _>) =
            ours.into_iter().partition(|(number, _)| left_out.contains(number));
        let journal = Mutex::new(journal);
        Judge::new(suites, self.work)?.judge(&switched, jobs, &journal)?;
        judge::one_by_one(self.root, self.work, &single, &tested, &journal)?;
        Ok(journal.into_inner().expect("no worker panics"))
    }
}
