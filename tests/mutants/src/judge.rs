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
/// A suite that takes this many times as long as without a mutant hangs.
const SLOWER_MAX: f64 = 8.0;
const SECONDS_MIN: f64 = 20.0;
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

/// How long each suite takes without a mutant; all must pass.
pub(crate) struct Judge {
    suites: Vec<(Suite, f64)>,
}

enum Run {
    Passed,
    Failed,
    Hung,
}

impl Judge {
    pub(crate) fn new(suites: Vec<Suite>) -> Result<Self> {
        let mut timed = Vec::new();
        for suite in suites {
            let begun = Instant::now();
            let passed = matches!(run(&suite, 0, 1_200.0)?, Run::Passed);
            ensure!(passed, "{} {} fails without any mutant", suite.package, suite.name);
            let seconds = begun.elapsed().as_secs_f64();
            eprintln!("{} {}: {seconds:.1} s", suite.package, suite.name);
            timed.push((suite, seconds));
        }
        // The quick ones first: most mutants get no further.
        timed.sort_by(|(_, one), (_, other)| one.total_cmp(other));
        Ok(Self { suites: timed })
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
        for (suite, seconds) in &self.suites {
            if suite.package != mutant.package && suite.package != SIMULATION {
                continue;
            }
            match run(suite, number, (seconds * SLOWER_MAX).max(SECONDS_MIN))? {
                Run::Passed => {}
                Run::Failed => {
                    return Ok(Verdict::Caught { by: format!("{} {}", suite.package, suite.name) });
                }
                Run::Hung => return Ok(Verdict::TimedOut { in_suite: suite.name.clone() }),
            }
        }
        Ok(Verdict::Missed)
    }
}

fn run(suite: &Suite, number: Number, seconds_max: f64) -> Result<Run> {
    let status = Command::new("timeout")
        .args(["--signal=KILL", &format!("{seconds_max:.0}")])
        .arg(&suite.program)
        .arg("--quiet")
        .current_dir(&suite.folder)
        .env("UNANIMOUS_MUTANT", number.to_string())
        .env("UNANIMOUS_SCHEDULES", SCHEDULES)
        .env("INSTA_UPDATE", "no")
        .env("PROPTEST_FAILURE_PERSISTENCE", "off")
        .env("CARGO_MANIFEST_DIR", &suite.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("running timeout (coreutils)")?;
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
