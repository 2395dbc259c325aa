//! `mutants`: would the tests see it, if somebody had made this mistake?
//!
//! cargo-mutants says which mistakes there are in the core and in the log. All of them are compiled
//! at once, each behind a switch, and then run one after the other against their package's tests
//! and against 10,000 schedules of the simulator: minutes, where a build for each takes hours. What
//! cannot stand behind a switch is left to cargo-mutants itself.
//!
//! `mutants K/N` judges the K-th of N parts. A part whose verdict is known for these very sources is
//! not judged again; the score is that of all parts known so far.
//!
//! Exit code 0: the score of what is known is at least 95 %; 1: it is not; 2: wrong usage.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command")]

mod judge;
mod list;
mod report;
mod switch;
mod tree;

use anyhow::{Result, ensure};
use clap::Parser;
use judge::{Judge, SIMULATION, Verdict};
use list::Mutant;
use report::Part;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use switch::Number;
use tree::Sources;

/// Tries the tests of the core and of the log with every mistake that cargo-mutants can think of.
#[derive(Parser)]
struct Arguments {
    /// Which part of how many.
    #[arg(default_value = "1/1", value_parser = part)]
    part: (usize, usize),
    /// Only this package.
    #[arg(short, long)]
    package: Option<String>,
    /// Only mutants whose name has this in it; nothing is kept.
    #[arg(long)]
    only: Option<String>,
    /// How many are tried at the same time.
    #[arg(short, long, default_value_t = 2)]
    jobs: usize,
    /// Where the copy of the sources, the build and the verdicts go.
    #[arg(long, default_value = "target/mutants")]
    work: PathBuf,
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(k, n)| (1..=*n).contains(k)).ok_or_else(|| "K/N, K from 1 to N".to_owned())
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
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
    let (k, n) = arguments.part;
    let fingerprint = sources.fingerprint();
    let known = report::known(&work, fingerprint, n, &packages)?;
    if arguments.only.is_none() && known.contains_key(&k) {
        eprintln!("part {k}/{n} is known for these sources");
    } else {
        let only = arguments.only.as_deref().unwrap_or_default();
        let chosen = |(number, mutant): (Number, Mutant)| {
            let ours = number % n == k - 1 && mutant.name.contains(only);
            ours.then_some((number, mutant))
        };
        let ours: BTreeMap<Number, Mutant> = all.clone().into_iter().filter_map(chosen).collect();
        ensure!(!ours.is_empty(), "no mutant");
        let part = verdicts(arguments, &root, &work, &sources, &packages, &all, &ours)?;
        if arguments.only.is_some() {
            return Ok(!part.values().any(|verdict| *verdict == Verdict::Missed));
        }
        Part::new(fingerprint, &packages, &ours, &part).write(&work, k, n)?;
    }
    let known = report::known(&work, fingerprint, n, &packages)?;
    report::print(&root, &work, &known, n, of_the_museum)
}

fn verdicts(
    arguments: &Arguments,
    root: &Path,
    work: &Path,
    sources: &Sources,
    packages: &[String],
    all: &BTreeMap<Number, Mutant>,
    ours: &BTreeMap<Number, Mutant>,
) -> Result<BTreeMap<Number, Verdict>> {
    let tested: Vec<String> = packages.iter().cloned().chain([SIMULATION.to_owned()]).collect();
    let (suites, left_out) = tree::build(sources, work, &tested, all)?;
    let (single, switched): (BTreeMap<_, _>, BTreeMap<_, _>) =
        ours.clone().into_iter().partition(|(number, _)| left_out.contains(number));
    let mut verdicts = Judge::new(suites)?.judge(&switched, arguments.jobs)?;
    verdicts.extend(judge::one_by_one(root, work, &single, &tested)?);
    Ok(verdicts)
}
