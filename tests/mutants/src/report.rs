//! Verdicts that are kept, and the score.

use crate::judge::Verdict;
use crate::list::Mutant;
use crate::switch::Number;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SCORE_MIN: f64 = 0.95;
const EQUIVALENT_MAX: f64 = 0.03;

/// A part's verdicts, as they lie in the work folder.
#[derive(Serialize, Deserialize)]
pub(crate) struct Part {
    sources: u64,
    packages: Vec<String>,
    judged: Vec<Judged>,
}

#[derive(Serialize, Deserialize)]
struct Judged {
    package: String,
    name: String,
    lasting_name: String,
    line: String,
    verdict: Verdict,
}

/// A mutant that behaves as the code does, so that no test can see it.
#[derive(Deserialize)]
struct Equivalent {
    /// Without line and column.
    mutant: String,
    /// The line of code: another one is another mutant.
    line: String,
    /// Why nobody can see it.
    reason: String,
}

/// What the command prints, and writes for the results page.
#[derive(Serialize)]
struct Report {
    parts_known: usize,
    parts: usize,
    packages: BTreeMap<String, Score>,
    together: Score,
    museum_lines_left_out: usize,
    missed: Vec<String>,
    timed_out: Vec<String>,
    equivalent: Vec<String>,
}

#[derive(Clone, Default, Serialize)]
struct Score {
    mutants: usize,
    caught: usize,
    missed: usize,
    timed_out: usize,
    unviable: usize,
    equivalent: usize,
    /// Caught, of caught and missed; nothing is skipped.
    score: f64,
}

impl Part {
    pub(crate) fn new(
        sources: u64,
        packages: &[String],
        mutants: &BTreeMap<Number, Mutant>,
        verdicts: &BTreeMap<Number, Verdict>,
    ) -> Self {
        let judged = mutants.iter().map(|(number, mutant)| Judged {
            package: mutant.package.clone(),
            name: mutant.name.clone(),
            lasting_name: mutant.lasting_name(),
            line: mutant.line.clone(),
            verdict: verdicts[number].clone(),
        });
        Self { sources, packages: packages.to_vec(), judged: judged.collect() }
    }

    pub(crate) fn write(&self, work: &Path, k: usize, n: usize) -> Result<()> {
        Ok(std::fs::write(path(work, k, n), serde_json::to_vec_pretty(self)?)?)
    }
}

fn path(work: &Path, k: usize, n: usize) -> PathBuf {
    work.join(format!("part-{k}-of-{n}.json"))
}

/// The parts of `n` that were judged on these very sources.
pub(crate) fn known(
    work: &Path,
    sources: u64,
    n: usize,
    packages: &[String],
) -> Result<BTreeMap<usize, Part>> {
    let mut known = BTreeMap::new();
    for k in 1..=n {
        let Ok(text) = std::fs::read(path(work, k, n)) else { continue };
        let part: Part = serde_json::from_slice(&text).context("a part of another version")?;
        if part.sources == sources && part.packages == packages {
            known.insert(k, part);
        }
    }
    Ok(known)
}

fn equivalents(root: &Path) -> Result<Vec<Equivalent>> {
    let list: Vec<Equivalent> =
        serde_json::from_slice(&std::fs::read(root.join("tests/mutants/equivalent.json"))?)?;
    let unexplained = list.iter().find(|equivalent| equivalent.reason.is_empty());
    ensure!(unexplained.is_none(), "an equivalent mutant without a reason");
    Ok(list)
}

/// Prints the score of the parts that are known. Returns whether it is enough.
pub(crate) fn print(
    root: &Path,
    work: &Path,
    known: &BTreeMap<usize, Part>,
    parts: usize,
    museum_lines_left_out: usize,
) -> Result<bool> {
    let equivalents = equivalents(root)?;
    let mut used = BTreeSet::new();
    let mut report = Report {
        parts_known: known.len(),
        parts,
        packages: BTreeMap::new(),
        together: Score::default(),
        museum_lines_left_out,
        missed: Vec::new(),
        timed_out: Vec::new(),
        equivalent: Vec::new(),
    };
    for judged in known.values().flat_map(|part| &part.judged) {
        let of_package = report.packages.entry(judged.package.clone()).or_default();
        let listed = equivalents.iter().position(|equivalent| {
            equivalent.mutant == judged.lasting_name && equivalent.line == judged.line
        });
        for score in [of_package, &mut report.together] {
            score.mutants += 1;
            match &judged.verdict {
                Verdict::Caught { .. } => score.caught += 1,
                Verdict::Unviable => score.unviable += 1,
                Verdict::TimedOut { .. } => score.timed_out += 1,
                Verdict::Missed if listed.is_some() => score.equivalent += 1,
                Verdict::Missed => score.missed += 1,
            }
        }
        match (&judged.verdict, listed) {
            (Verdict::Missed, Some(at)) => {
                used.insert(at);
                let reason = &equivalents[at].reason;
                report.equivalent.push(format!("{}: {reason}", judged.name));
            }
            (Verdict::Missed, None) => report.missed.push(judged.name.clone()),
            (Verdict::TimedOut { .. }, _) => report.timed_out.push(judged.name.clone()),
            _ => {}
        }
    }
    let scores = report.packages.values_mut().chain([&mut report.together]);
    scores.for_each(Score::rate);
    if known.len() == parts {
        for (at, equivalent) in equivalents.iter().enumerate() {
            let ours = report.packages.len() > 1 && !used.contains(&at);
            if ours {
                eprintln!("listed as equivalent, and not missed: {}", equivalent.mutant);
            }
        }
    }
    let text = serde_json::to_string_pretty(&report)?;
    std::fs::write(work.join("result.json"), &text)?;
    println!("{text}");
    let enough = report.packages.values().chain([&report.together]).all(Score::is_enough);
    Ok(enough)
}

impl Score {
    fn rate(&mut self) {
        self.score = self.caught as f64 / (self.caught + self.missed).max(1) as f64;
    }

    fn is_enough(&self) -> bool {
        let equivalent = self.equivalent as f64 / self.mutants.max(1) as f64;
        self.score >= SCORE_MIN && equivalent <= EQUIVALENT_MAX
    }
}
