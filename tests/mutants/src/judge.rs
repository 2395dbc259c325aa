//! Which mutants the tests see.

use crate::list::Mutant;
use crate::report::Journal;
use crate::switch::Number;
use crate::tree::Suite;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// The simulator's tests, which every mutant has to pass as well.
pub(crate) const SIMULATION: &str = "unanimous-sim";
const SCHEDULES: &str = "10000";
/// What takes this many times as long as without a mutant hangs.
const SLOWER_MAX: f64 = 8.0;
const SECONDS_MIN: f64 = 20.0;
/// Tests that take less are run together.
const QUICK_SECONDS_MAX: f64 = 0.3;
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
}

enum Run {
    Passed,
    Failed,
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
        Ok(Self { cases })
    }

    /// Finds the verdict on each of the mutants, and tells it at once.
    pub(crate) fn judge(
        &self,
        mutants: &BTreeMap<Number, Mutant>,
        jobs: usize,
        told: &Mutex<Journal>,
    ) -> Result<()> {
        let list: Vec<(&Number, &Mutant)> = mutants.iter().collect();
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some((number, mutant)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                let verdict = self.verdict(**number, mutant)?;
                tell(told, mutant, verdict)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
        })
    }

    fn verdict(&self, number: Number, mutant: &Mutant) -> Result<Verdict> {
        let (quick, slow): (Vec<&Case>, Vec<&Case>) = self
            .cases
            .iter()
            .filter(|case| case.reached.contains(&number))
            .filter(|case| case.suite.package == mutant.package || case.suite.package == SIMULATION)
            .partition(|case| case.seconds < QUICK_SECONDS_MAX);
        let mut together: BTreeMap<&Path, Vec<&Case>> = BTreeMap::new();
        for case in quick {
            together.entry(&case.suite.program).or_default().push(case);
        }
        for cases in together.into_values().chain(slow.into_iter().map(|case| vec![case])) {
            let seconds: f64 = cases.iter().map(|case| case.seconds).sum();
            let seconds_max = (seconds * SLOWER_MAX).max(SECONDS_MIN);
            let names: Vec<&str> = cases.iter().map(|case| &*case.test).collect();
            let by = || format!("{} {}", cases[0].suite.name, names.join(" "));
            match run(&cases[0].suite, &names, number, seconds_max, None)? {
                Run::Passed => {}
                Run::Failed => return Ok(Verdict::Caught { by: by() }),
                Run::Hung => return Ok(Verdict::TimedOut { in_suite: by() }),
            }
        }
        Ok(Verdict::Missed)
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
        .args(["--quiet", "--exact"])
        .args(names)
        .current_dir(&suite.folder)
        .env("UNANIMOUS_MUTANT", number.to_string())
        .env("UNANIMOUS_SCHEDULES", SCHEDULES)
        .env("INSTA_UPDATE", "no")
        .env("CARGO_MANIFEST_DIR", &suite.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(reached) = reached {
        command.env("UNANIMOUS_REACHED", reached);
    }
    let status = command.status().context("running timeout (coreutils)")?;
    Ok(match status.code() {
        Some(0) => Run::Passed,
        Some(KILLED) => Run::Hung,
        _ => Run::Failed,
    })
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
