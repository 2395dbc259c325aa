//! Verdicts that are kept, and the score.

use crate::judge::Verdict;
use crate::list::Mutant;
use crate::tree::Sources;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

const SCORE_MIN: f64 = 0.95;
const EQUIVALENT_MAX: f64 = 0.03;

/// The verdicts on mutants, kept one by one as they are found.
///
/// That a mutant was caught stays true while its file stays as it is, its tests left aside: tests
/// are added, not taken away. Any other verdict is true of these very sources and tests.
pub(crate) struct Journal {
    file: File,
    pub(crate) known: BTreeMap<String, Verdict>,
    sources: u64,
    /// By mutant.
    stamps: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    name: String,
    /// Of the mutant's file.
    stamp: u64,
    /// Of all sources.
    sources: u64,
    #[serde(flatten)]
    verdict: Verdict,
}

impl Journal {
    /// What is known of these mutants.
    pub(crate) fn open<'a>(
        work: &Path,
        sources: &Sources,
        mutants: impl Iterator<Item = &'a Mutant>,
    ) -> Result<Self> {
        let path = work.join("verdicts.jsonl");
        let stamps: BTreeMap<String, u64> =
            mutants.map(|mutant| (mutant.name.clone(), sources.stamp(&mutant.file))).collect();
        let sources = sources.fingerprint();
        let text = if path.exists() { std::fs::read_to_string(&path)? } else { String::new() };
        let mut known = BTreeMap::new();
        for line in text.lines() {
            // The last line may have been cut off with its process.
            let Ok(line) = serde_json::from_str::<Line>(line) else { continue };
            let lasts = matches!(line.verdict, Verdict::Caught { .. } | Verdict::Unviable);
            let same_file = stamps.get(&line.name) == Some(&line.stamp);
            if same_file && (lasts || line.sources == sources) {
                known.insert(line.name, line.verdict);
            }
        }
        let mut file = File::options().create(true).append(true).open(path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Self { file, known, sources, stamps })
    }

    pub(crate) fn add(&mut self, name: &str, verdict: Verdict) -> Result<()> {
        let stamp = self.stamps.get(name).copied().context("a mutant of these")?;
        let (name_kept, sources) = (name.to_owned(), self.sources);
        let line = Line { name: name_kept, stamp, sources, verdict: verdict.clone() };
        let mut line = serde_json::to_string(&line)?;
        line.push('\n');
        self.file.write_all(line.as_bytes())?;
        self.known.insert(name.to_owned(), verdict);
        Ok(())
    }
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
#[derive(Default, Serialize)]
struct Report {
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
    /// Not judged.
    skipped: usize,
    /// Caught, of caught, missed and skipped.
    score: f64,
}

fn equivalents(root: &Path) -> Result<Vec<Equivalent>> {
    let list: Vec<Equivalent> =
        serde_json::from_slice(&std::fs::read(root.join("tests/mutants/equivalent.json"))?)?;
    let unexplained = list.iter().find(|equivalent| equivalent.reason.is_empty());
    ensure!(unexplained.is_none(), "an equivalent mutant without a reason");
    Ok(list)
}

/// Prints the score of what is known of these mutants. Returns whether it is enough.
pub(crate) fn print(
    root: &Path,
    work: &Path,
    mutants: &[&Mutant],
    known: &BTreeMap<String, Verdict>,
    museum_lines_left_out: usize,
) -> Result<bool> {
    let equivalents = equivalents(root)?;
    let mut report = Report { museum_lines_left_out, ..Report::default() };
    for mutant in mutants {
        let of_package = report.packages.entry(mutant.package.clone()).or_default();
        let name = mutant.lasting_name();
        let listed =
            equivalents.iter().find(|listed| listed.mutant == name && listed.line == mutant.line);
        let Some(verdict) = known.get(&mutant.name) else {
            of_package.skipped += 1;
            report.together.skipped += 1;
            continue;
        };
        for score in [of_package, &mut report.together] {
            score.mutants += 1;
            match verdict {
                Verdict::Caught { .. } => score.caught += 1,
                Verdict::Unviable => score.unviable += 1,
                Verdict::TimedOut { .. } => score.timed_out += 1,
                Verdict::Missed if listed.is_some() => score.equivalent += 1,
                Verdict::Missed => score.missed += 1,
            }
        }
        match (verdict, listed) {
            (Verdict::Missed, Some(listed)) => {
                report.equivalent.push(format!("{}: {}", mutant.name, listed.reason));
            }
            (Verdict::Missed, None) => report.missed.push(mutant.name.clone()),
            (Verdict::TimedOut { .. }, _) => report.timed_out.push(mutant.name.clone()),
            (_, Some(_)) => eprintln!("listed as equivalent, and caught: {}", mutant.name),
            (_, None) => {}
        }
    }
    report.packages.values_mut().chain([&mut report.together]).for_each(Score::rate);
    let text = serde_json::to_string_pretty(&report)?;
    std::fs::write(work.join("result.json"), &text)?;
    println!("{text}");
    println!("{}", serde_json::Value::from(report.flat()));
    Ok(report.packages.values().chain([&report.together]).all(Score::is_enough))
}

impl Report {
    /// The figures alone: `core_caught`, `recovery_caught` and so on.
    fn flat(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut flat = serde_json::Map::new();
        for (package, score) in &self.packages {
            let package = package.trim_start_matches("unanimous-");
            let counts = [
                ("mutants", score.mutants),
                ("caught", score.caught),
                ("missed", score.missed),
                ("timeouts", score.timed_out),
                ("unviable", score.unviable),
                ("equivalent", score.equivalent),
                ("skipped", score.skipped),
            ];
            for (what, count) in counts {
                flat.insert(format!("{package}_{what}"), count.into());
            }
            flat.insert(format!("{package}_score"), score.score.into());
        }
        flat.insert("equivalent".to_owned(), self.together.equivalent.into());
        flat.insert("score".to_owned(), self.together.score.into());
        flat
    }
}

impl Score {
    fn rate(&mut self) {
        self.score = self.caught as f64 / (self.caught + self.missed + self.skipped).max(1) as f64;
    }

    fn is_enough(&self) -> bool {
        let equivalent = self.equivalent as f64 / self.mutants.max(1) as f64;
        self.score >= SCORE_MIN && equivalent <= EQUIVALENT_MAX
    }
}
