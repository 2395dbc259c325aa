//! `results`: runs the proofs and writes what they print into docs/results.md.
//!
//! Each part of the page is one command and the figures of its last line, which is a JSON object:
//! its plain values, and its lists of objects as tables. Parts that are not asked for stay as they
//! are; nobody writes a figure by hand.
//!
//! Exit code 0: all commands succeeded and are on the page; 1: one failed, and its part says so.
#![allow(clippy::print_stderr)]

use anyhow::{Context as _, ensure};
use clap::Parser;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

const PAGE: &str = "docs/results.md";
const INTRODUCTION: &str = "# Results

What the proofs of this version printed, each under the command that printed it:
`./tests/run results` runs them all and writes this page, `./tests/run results NAME` one of them.
[Testing](testing.md) says what they do, and [the catalogue](catalogue.md) which case is tried
where.
";

/// One command and what it is about.
struct Part {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    command: &'static str,
    /// Values that say nothing by themselves.
    leave_out: &'static [&'static str],
}

const PARTS: &[Part] = &[
    Part {
        name: "simulation",
        title: "Three million schedules",
        about: "The cores, records and frames that ship, over simulated network, clocks and\n\
                disks: every invariant after every event.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin sim -- --schedules \
                3000000 --threads 2 -o json",
        leave_out: &["trace_hash"],
    },
    Part {
        name: "museum",
        title: "The bug museum",
        about: "Each bug is compiled in and switched on by itself; `schedules` is how many it\n\
                took until an invariant that is there for it was broken. The same seeds without\n\
                a bug break none.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin sim -- museum -o json",
        leave_out: &["seed"],
    },
    Part {
        name: "sweep",
        title: "A crash at every event",
        about: "Faultless schedules, and in each of them a death at every event: of the\n\
                coordinator, of each participant, as a kill and as a power loss.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin sim -- sweep",
        leave_out: &[],
    },
    Part {
        name: "model",
        title: "The model check",
        about: "Every order of messages, syncs, one crash and one duplicate with two\n\
                participants: all states of the step functions that ship.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin model -- -o json",
        leave_out: &[],
    },
    Part {
        name: "power-loss",
        title: "Power loss of real processes",
        about: "The real binary under load, on a disk that keeps only what was synced, and any\n\
                part of the rest.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin power_loss -- --rounds \
                50 -o json",
        leave_out: &[],
    },
    Part {
        name: "databases",
        title: "Transfers between PostgreSQL and MariaDB under kills",
        about: "One transfer after the other of each client, all on one machine, while\n\
                coordinator, banks and both servers are killed at random.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin databases -- --rounds \
                60 --clients 64 --commits 5000 --accounts 2000 -o json",
        leave_out: &["seed"],
    },
    Part {
        name: "throughput",
        title: "Throughput over two PostgreSQL databases",
        about: "Transactions a second, and what they are to a bare loop without a coordinator in\n\
                the same round; [Databases](databases.md#what-was-tried) says what the loops are.",
        command: "cargo run --release --locked -q -p unanimous-tests --bin two_databases",
        leave_out: &[],
    },
    Part {
        name: "mutants",
        title: "Mutants of core and recovery",
        about: "Small changes of the sources, each of which a test or the simulator must notice.",
        command: "./tests/run mutants report",
        leave_out: &[],
    },
];

/// Runs the proofs and writes docs/results.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these parts.
    names: Vec<String>,
}

fn main() -> ExitCode {
    match write(&Arguments::parse().names) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn write(names: &[String]) -> anyhow::Result<bool> {
    for name in names {
        let known = PARTS.iter().any(|part| part.name == name);
        ensure!(known, "no part is called {name}: {}", names_of_parts());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the root")?;
    let mut passed = true;
    for part in PARTS.iter().filter(|part| names.is_empty() || names.contains(&part.name.into())) {
        eprintln!("{}: {}", part.name, part.command);
        let (text, good) = run(root, part)?;
        passed &= good;
        // At once: what a later part comes to does not cost this one.
        replace(&root.join(PAGE), part, &text)?;
    }
    Ok(passed)
}

/// Runs the command. The text of its part, and whether it succeeded.
fn run(root: &Path, part: &Part) -> anyhow::Result<(String, bool)> {
    let output = Command::new("sh")
        .args(["-c", part.command])
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| part.command.to_owned())?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last = stdout.lines().last().unwrap_or_default();
    let report: Value = serde_json::from_str(last)
        .with_context(|| format!("{}: the last line is no JSON object: {last}", part.name))?;
    let good = output.status.success();
    let mut text = format!("\n## {}\n\n{}\n\n", part.title, part.about);
    text += &format!(
        "<!-- docs: not run: ./tests/run results {} runs it -->\n```console\n$ {}\n```\n\n",
        part.name, part.command
    );
    if !good {
        text += &format!("**Failed**: {}.\n\n", output.status);
    }
    text += &tables(&report, part.leave_out);
    Ok((text, good))
}

fn tables(report: &Value, leave_out: &[&str]) -> String {
    let Some(fields) = report.as_object() else { return String::new() };
    let wanted = |name: &String| !leave_out.contains(&name.as_str());
    let mut text = "| figure | value |\n| --- | ---: |\n".to_owned();
    for (name, value) in fields.iter().filter(|(name, _)| wanted(name)) {
        if let Some(value) = plain(value) {
            text += &format!("| {} | {value} |\n", words(name));
        }
    }
    for (name, value) in fields {
        let rows: Vec<_> =
            value.as_array().into_iter().flatten().filter_map(Value::as_object).collect();
        let Some(first) = rows.first() else { continue };
        let columns: Vec<&String> = first.keys().filter(|name| wanted(name)).collect();
        let heads: Vec<String> = columns.iter().map(|column| words(column)).collect();
        text += &format!("\n{} {}:\n\n| {} |\n", rows.len(), words(name), heads.join(" | "));
        text += &format!("|{}\n", " --- |".repeat(columns.len()));
        for row in rows {
            let cells = columns.iter().map(|column| row.get(*column).and_then(plain));
            let cells: Vec<String> = cells.map(Option::unwrap_or_default).collect();
            text += &format!("| {} |\n", cells.join(" | "));
        }
    }
    text
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A value that fits a cell.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            // A share is not rounded to the whole.
            Some(if number <= 1.0 { format!("{number:.4}") } else { format!("{number:.1}") })
        }
        Value::Number(number) => Some(thousands(&number.to_string())),
        Value::String(text) => Some(text.replace('|', "\\|")),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn thousands(digits: &str) -> String {
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Puts the part in its place on the page.
fn replace(page: &Path, part: &Part, text: &str) -> anyhow::Result<()> {
    let old = std::fs::read_to_string(page).unwrap_or_default();
    let mut new = INTRODUCTION.to_owned();
    for known in PARTS {
        let (begins, ends) = marks(known.name);
        let body = if known.name == part.name {
            Some(text)
        } else {
            old.split_once(&begins)
                .and_then(|(_, rest)| rest.split_once(&ends))
                .map(|(body, _)| body)
        };
        if let Some(body) = body {
            new += &format!("\n{begins}{body}{ends}\n");
        }
    }
    std::fs::write(page, new).with_context(|| page.display().to_string())
}

fn marks(name: &str) -> (String, String) {
    (format!("<!-- {name} -->"), format!("<!-- end of {name} -->"))
}

fn names_of_parts() -> String {
    PARTS.iter().map(|part| part.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_become_tables() {
        let report = serde_json::json!({
            "schedules": 3_000_000, "seconds": 161.26, "hash": "x", "nested": {"a": 1},
            "score": 0.975_4,
            "bugs": [{"name": "a|b", "found": true, "seed": 4}],
        });
        let text = tables(&report, &["hash", "seed"]);
        assert!(text.contains("| schedules | 3,000,000 |"), "{text}");
        assert!(text.contains("| seconds | 161.3 |"), "{text}");
        assert!(text.contains("| score | 0.9754 |"), "{text}");
        assert!(text.contains("1 bugs:\n\n| found | name |"), "{text}");
        assert!(text.contains("| true | a\\|b |"), "{text}");
        assert!(!text.contains("hash") && !text.contains("nested") && !text.contains("seed"));
    }

    #[test]
    fn a_part_replaces_itself_and_leaves_the_others() {
        let page = tempfile::NamedTempFile::new().unwrap();
        let path = page.path().to_owned();
        for (index, text) in [(1, "\nold\n"), (0, "\nfirst\n"), (1, "\nnew\n")] {
            replace(&path, &PARTS[index], text).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\nfirst\n") && text.contains("\nnew\n") && !text.contains("old"));
        assert!(text.find("first").unwrap() < text.find("new").unwrap());
    }
}
