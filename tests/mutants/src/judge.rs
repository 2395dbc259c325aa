//! Which mutants the tests see.

use crate::list::Mutant;
use crate::report::Journal;
use crate::switch::Number;
use crate::tree::Suite;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// The simulator's tests, which every mutant has to pass as well.
pub(crate) const SIMULATION: &str = "unanimous-sim";
const SCHEDULES: &str = "10000";
/// What takes this many times as long as without a mutant hangs.
const SLOWER_MAX: f64 = 8.0;
const SECONDS_MIN: f64 = 20.0;
/// Tests that take less come first.
const QUICK_SECONDS_MAX: f64 = 0.3;
/// So much of tests is run at once: all of them go on when one has failed.
const BATCH_SECONDS_MAX: f64 = 1.0;
/// Tests that take more meet what all others have passed, and are told of: they are what a mutant
/// that nothing sees costs.
const LONG_SECONDS_MIN: f64 = 1.0;
const TURNS: Number = 8;
/// What `timeout` says of a command that it had to kill.
const KILLED: i32 = 128 + 9;

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub(crate) enum Verdict {
    /// This suite failed.
    Caught { by: String },
    /// Nothing failed.
    Missed,
    /// This suite did not end.
    TimedOut { in_suite: String },
    /// It does not compile.
    Unviable,
}

/// A test, as it is without a mutant: it passes.
struct Case {
    suite: Suite,
    test: String,
    seconds: f64,
    /// The switches that it comes to. A mutant of any other place would change nothing in it.
    reached: BTreeSet<Number>,
}

/// All tests, the quick ones first: most mutants get no further.
pub(crate) struct Judge {
    cases: Vec<Case>,
    /// How many mutants of a file each test has caught: what saw one often sees the next.
    catches: Mutex<BTreeMap<(String, String), usize>>,
}

enum Run {
    Passed,
    /// These tests; none, if the process ended first.
    Failed(Vec<String>),
    Hung,
}

impl Judge {
    /// Runs each test by itself.
    pub(crate) fn new(suites: Vec<Suite>, work: &Path) -> Result<Self> {
        let mut cases = Vec::new();
        let reached_file = work.join("reached");
        for suite in suites {
            for test in tests(&suite)? {
                std::fs::write(&reached_file, "")?;
                let begun = Instant::now();
                let run = run(&suite, &[&test], 0, 1_200.0, Some(&reached_file))?;
                if !matches!(run, Run::Passed) {
                    // It can show nothing; what only it would have caught counts as missed.
                    eprintln!("left out, for it fails without a mutant: {} {test}", suite.name);
                    continue;
                }
                let seconds = begun.elapsed().as_secs_f64();
                let numbers = std::fs::read_to_string(&reached_file)?;
                let reached = numbers.lines().filter_map(|line| line.parse().ok()).collect();
                cases.push(Case { suite: suite.clone(), test, seconds, reached });
            }
        }
        cases.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        let seconds: f64 = cases.iter().map(|case| case.seconds).sum();
        eprintln!("{} tests pass in {seconds:.0} s", cases.len());
        for case in cases.iter().filter(|case| case.seconds >= LONG_SECONDS_MIN) {
            eprintln!("{:6.1} s: {} {}", case.seconds, case.suite.name, case.test);
        }
        Ok(Self { cases, catches: Mutex::default() })
    }

    /// Finds the verdict on each of the mutants, and tells it at once.
    pub(crate) fn judge(
        &self,
        mutants: &BTreeMap<Number, Mutant>,
        jobs: usize,
        told: &Mutex<Journal>,
    ) -> Result<()> {
        let mut list: Vec<(Number, &Mutant)> =
            mutants.iter().map(|(number, mutant)| (*number, mutant)).collect();
        // From all files by turns: a run that is ended early says something of each.
        list.sort_by_key(|(number, _)| number % TURNS);
        let left = self.round(&list, false, jobs, told)?;
        eprintln!("{} mutants are left to the long tests", left.len());
        self.round(&left, true, jobs, told).map(drop)
    }

    /// The long tests, or all the others, on each of the mutants. Returns those that pass all but
    /// the long ones.
    fn round<'a>(
        &self,
        list: &[(Number, &'a Mutant)],
        long: bool,
        jobs: usize,
        told: &Mutex<Journal>,
    ) -> Result<Vec<(Number, &'a Mutant)>> {
        let (next, left) = (AtomicUsize::new(0), Mutex::default());
        let work = || -> Result<()> {
            while let Some((number, mutant)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                match self.verdict(*number, mutant, long)? {
                    Some(verdict) => tell(told, mutant, verdict)?,
                    None if long => tell(told, mutant, Verdict::Missed)?,
                    None => {
                        let mut left: MutexGuard<'_, Vec<_>> = left.lock().expect("no panics");
                        left.push((*number, *mutant));
                    }
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
        })?;
        Ok(left.into_inner().expect("no worker panics"))
    }

    /// `None`: it passes.
    fn verdict(&self, number: Number, mutant: &Mutant, long: bool) -> Result<Option<Verdict>> {
        for cases in self.batches(number, mutant, long) {
            let seconds: f64 = cases.iter().map(|case| case.seconds).sum();
            let seconds_max = (seconds * SLOWER_MAX).max(SECONDS_MIN);
            let names: Vec<&str> = cases.iter().map(|case| &*case.test).collect();
            match run(&cases[0].suite, &names, number, seconds_max, None)? {
                Run::Passed => {}
                Run::Failed(failed) => {
                    // None of them, if the process ended first.
                    let by = if failed.is_empty() { names.join(" ") } else { failed.join(" ") };
                    let mut catches = self.catches.lock().expect("no worker panics");
                    for test in failed {
                        *catches.entry((mutant.file.clone(), test)).or_default() += 1;
                    }
                    let by = format!("{} {by}", cases[0].suite.name);
                    return Ok(Some(Verdict::Caught { by }));
                }
                Run::Hung => {
                    let in_suite = format!("{} {}", cases[0].suite.name, names.join(" "));
                    return Ok(Some(Verdict::TimedOut { in_suite }));
                }
            }
        }
        Ok(None)
    }

    /// The tests that come to a mutant: first those that caught another one of its file, then the
    /// quick ones, about a second of them at once.
    fn batches(&self, number: Number, mutant: &Mutant, long: bool) -> Vec<Vec<&Case>> {
        let catches = self.catches.lock().expect("no worker panics");
        let caught = |case: &Case| {
            let key = (mutant.file.clone(), case.test.clone());
            catches.get(&key).copied().unwrap_or_default()
        };
        let package =
            |case: &Case| [mutant.package.as_str(), SIMULATION].contains(&&*case.suite.package);
        let mut cases: Vec<&Case> = self
            .cases
            .iter()
            .filter(|case| case.reached.contains(&number) && package(case))
            .filter(|case| (case.seconds >= LONG_SECONDS_MIN) == long)
            .collect();
        cases.sort_by_cached_key(|case| {
            let quick = case.seconds < QUICK_SECONDS_MAX;
            (Reverse(caught(case)), !quick, quick.then(|| case.suite.program.clone()))
        });
        let mut batches: Vec<Vec<&Case>> = Vec::new();
        for case in cases {
            let seconds = |batch: &[&Case]| batch.iter().map(|case| case.seconds).sum::<f64>();
            match batches.last_mut() {
                Some(batch)
                    if batch[0].suite.program == case.suite.program
                        && seconds(batch) + case.seconds <= BATCH_SECONDS_MAX =>
                {
                    batch.push(case);
                }
                _ => batches.push(vec![case]),
            }
        }
        batches
    }
}

fn tests(suite: &Suite) -> Result<Vec<String>> {
    let listed = command(suite).args(["--list", "--format=terse"]).output()?;
    let text = String::from_utf8(listed.stdout)?;
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

fn command(suite: &Suite) -> Command {
    let mut command = Command::new(&suite.program);
    command.current_dir(&suite.folder);
    command
}

fn run(
    suite: &Suite,
    names: &[&str],
    number: Number,
    seconds_max: f64,
    reached: Option<&Path>,
) -> Result<Run> {
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", &format!("{seconds_max:.0}")])
        .arg(&suite.program)
        .arg("--exact")
        .args(names)
        .current_dir(&suite.folder)
        .env("UNANIMOUS_MUTANT", number.to_string())
        .env("UNANIMOUS_SCHEDULES", SCHEDULES)
        .env("INSTA_UPDATE", "no")
        .env("CARGO_MANIFEST_DIR", &suite.folder)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    if let Some(reached) = reached {
        command.env("UNANIMOUS_REACHED", reached);
    }
    let output = command.output().context("running timeout (coreutils)")?;
    Ok(match output.status.code() {
        Some(0) => Run::Passed,
        Some(KILLED) => Run::Hung,
        _ => Run::Failed(failed(&String::from_utf8_lossy(&output.stdout))),
    })
}

fn failed(text: &str) -> Vec<String> {
    let name =
        |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    text.lines().filter_map(name).collect()
}

fn tell(told: &Mutex<Journal>, mutant: &Mutant, verdict: Verdict) -> Result<()> {
    if !matches!(verdict, Verdict::Caught { .. } | Verdict::Unviable) {
        eprintln!("{verdict:?}: {}", mutant.name);
    }
    told.lock().expect("no worker panics").add(&mutant.name, verdict)
}

#[derive(Deserialize)]
struct Outcomes {
    outcomes: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Outcome {
    scenario: serde_json::Value,
    summary: String,
}

/// What stands behind no switch goes to cargo-mutants itself, which builds each anew: most of them
/// do not compile, the others meet the same tests.
pub(crate) fn one_by_one(
    root: &Path,
    work: &Path,
    mutants: &BTreeMap<Number, Mutant>,
    packages: &[String],
    told: &Mutex<Journal>,
) -> Result<()> {
    if mutants.is_empty() {
        return Ok(());
    }
    eprintln!("{} mutants are built one by one", mutants.len());
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["mutants", "--no-times", "--colors=never", "--timeout=300"]);
    command.arg("--output").arg(work).args(["--test-package", &packages.join(",")]);
    let own: BTreeSet<&str> = mutants.values().map(|mutant| mutant.package.as_str()).collect();
    own.into_iter().for_each(|package| {
        command.args(["--package", package]);
    });
    for mutant in mutants.values() {
        command.arg("--re").arg(format!("^{}$", escaped(&mutant.name)));
    }
    let status = command
        .env("CARGO_TARGET_DIR", work.join("build-one"))
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("INSTA_UPDATE", "no")
        .env("UNANIMOUS_SCHEDULES", SCHEDULES)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    let text = std::fs::read_to_string(work.join("mutants.out/outcomes.json"))
        .with_context(|| format!("cargo mutants: {status}"))?;
    let outcomes: Outcomes = serde_json::from_str(&text)?;
    let mut judged = 0;
    for Outcome { scenario, summary } in outcomes.outcomes {
        let Some(name) = scenario.pointer("/Mutant/name").and_then(|name| name.as_str()) else {
            continue;
        };
        let verdict = match summary.as_str() {
            "CaughtMutant" => Verdict::Caught { by: "cargo mutants".to_owned() },
            "MissedMutant" => Verdict::Missed,
            "Timeout" => Verdict::TimedOut { in_suite: "cargo mutants".to_owned() },
            _ => Verdict::Unviable,
        };
        for mutant in mutants.values().filter(|mutant| mutant.name == name) {
            tell(told, mutant, verdict.clone())?;
            judged += 1;
        }
    }
    ensure!(judged == mutants.len(), "cargo mutants did not judge all it was given");
    Ok(())
}

fn escaped(text: &str) -> String {
    let special = |letter: char| letter.is_ascii_punctuation();
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}
