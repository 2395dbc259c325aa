//! `unanimous check`: one line for a monitoring system that speaks the plugin protocol of Nagios,
//! which Icinga, Naemon, Sensu and many more speak too.
//!
//! It alone ends with their exit codes, 0 to 3, also where every other command has others.

use crate::cli::{CheckArgs, Global};
use crate::connect;
use crate::errors::Failure;
use crate::output::{Document, Output, escape};
use crate::runtime;
use serde_json::{Value, json};
use std::process::ExitCode;
use unanimous_proto::v1;

/// How bad it is, as the protocol numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Verdict {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A number, and above what it is worth a word.
struct Measure {
    name: &'static str,
    /// For people: "2 stuck".
    words: &'static str,
    value: u64,
    warn: Option<u64>,
    critical: Option<u64>,
}

impl Measure {
    fn verdict(&self) -> Verdict {
        let above = |limit: Option<u64>| limit.is_some_and(|limit| self.value > limit);
        match (above(self.critical), above(self.warn)) {
            (true, _) => Verdict::Critical,
            (false, true) => Verdict::Warning,
            (false, false) => Verdict::Ok,
        }
    }

    /// `label=value;warning;critical`.
    fn performance(&self) -> String {
        let limit = |limit: Option<u64>| limit.map(|limit| limit.to_string()).unwrap_or_default();
        format!("{}={};{};{}", self.name, self.value, limit(self.warn), limit(self.critical))
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "value": self.value,
            "warning_above": self.warn,
            "critical_above": self.critical,
            "verdict": self.verdict().word(),
        })
    }
}

/// What is said on stdout, and how it ends.
struct Report {
    verdict: Verdict,
    /// What is wrong, the worst first; or that all is well.
    words: String,
    measures: Vec<Measure>,
}

/// Asks, and says it in one line. Fails only if that line cannot be written.
pub(crate) fn run(args: &CheckArgs, global: &Global, output: Output) -> Result<ExitCode, Failure> {
    let report = match asked(global) {
        Ok(status) => judge(&status, args),
        Err(failure) => {
            let words = failure.to_string();
            Report { verdict: Verdict::Unknown, words, measures: Vec::new() }
        }
    };
    output.show_line(&Document {
        whole: report.json(),
        above: report.line(),
        ids: vec![report.verdict.word().to_owned()],
        ..Document::default()
    })?;
    Ok(ExitCode::from(report.verdict as u8))
}

fn asked(global: &Global) -> Result<v1::GetStatusResponse, Failure> {
    let address = &global.admin_address;
    runtime()?.block_on(async {
        let mut admin = connect::admin(global).await?;
        let status = admin.get_status(v1::GetStatusRequest {}).await;
        let status = status.map_err(|status| Failure::from_status(&status, address, "asking"))?;
        Ok(status.into_inner())
    })
}

fn judge(status: &v1::GetStatusResponse, args: &CheckArgs) -> Report {
    let measures = measures(status, args);
    let given_up = v1::LogDirectoryState::GivenUp;
    let lost = status.log_directories.iter().any(|directory| directory.state() == given_up);
    let lacking = args.min_participants.saturating_sub(status.participants_connected);
    let facts = [
        (status.log_behind, Verdict::Critical, "the log is behind what participants were told"),
        (status.log_space_low, Verdict::Critical, "the log's file system is nearly full"),
        (lost, Verdict::Critical, "a directory of the log is given up"),
        (lacking > 0, Verdict::Warning, "participants are away"),
    ];
    let facts = facts.into_iter().filter(|(is_so, ..)| *is_so);
    let mut found: Vec<(Verdict, String)> =
        facts.map(|(_, verdict, words)| (verdict, words.to_owned())).collect();
    let bad = measures.iter().filter(|one| one.verdict() != Verdict::Ok);
    found.extend(bad.map(|one| (one.verdict(), format!("{} {}", one.value, one.words))));
    // The order stays within a verdict.
    found.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
    let verdict = found.first().map_or(Verdict::Ok, |(verdict, _)| *verdict);
    let words: Vec<String> = found.into_iter().map(|(_, words)| words).collect();
    let words = if words.is_empty() { status.summary.clone() } else { words.join(", ") };
    Report { verdict, words, measures }
}

fn measures(status: &v1::GetStatusResponse, args: &CheckArgs) -> Vec<Measure> {
    let measure =
        |name, words, value, (warn, critical)| Measure { name, words, value, warn, critical };
    let participants = u64::from(status.participants_connected);
    vec![
        measure(
            "heuristic",
            "with a heuristic outcome",
            status.transactions_heuristic,
            (args.warn_heuristic, Some(args.crit_heuristic)),
        ),
        measure(
            "stuck",
            "stuck",
            status.transactions_stuck,
            (Some(args.warn_stuck), args.crit_stuck),
        ),
        measure(
            "orphans",
            "branches that no record explains",
            status.orphans,
            (Some(args.warn_orphans), args.crit_orphans),
        ),
        measure(
            "in_doubt",
            "in doubt",
            status.transactions_in_doubt,
            (args.warn_in_doubt, args.crit_in_doubt),
        ),
        measure("transactions", "transactions", status.transactions, (None, None)),
        measure("participants", "participants", participants, (None, None)),
        measure(
            "log_waiting_ms",
            "ms the disk has not answered",
            status.log_waiting_ms,
            (None, None),
        ),
        measure("log_free_bytes", "bytes free", status.log_free_bytes, (None, None)),
    ]
}

impl Report {
    /// `|` begins the numbers, so none stands in the words.
    fn line(&self) -> String {
        let words = escape(&self.words).replace('|', "/");
        let numbers: Vec<String> = self.measures.iter().map(Measure::performance).collect();
        let bar = if numbers.is_empty() { "" } else { " | " };
        format!("UNANIMOUS {} - {words}{bar}{}\n", self.verdict.word(), numbers.join(" "))
    }

    fn json(&self) -> Value {
        json!({
            "verdict": self.verdict.word(),
            "exit": self.verdict as u8,
            "words": self.words,
            "measures": self.measures.iter().map(Measure::json).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(more: &[&str]) -> CheckArgs {
        let cli = Cli::parse_from([&["unanimous", "check"], more].concat());
        let Command::Check(args) = cli.command else { panic!() };
        args
    }

    fn status(change: impl Fn(&mut v1::GetStatusResponse)) -> v1::GetStatusResponse {
        let mut status = v1::GetStatusResponse {
            summary: "serving; 0 transactions in doubt".into(),
            participants_connected: 2,
            log_free_bytes: 1_000,
            ..v1::GetStatusResponse::default()
        };
        change(&mut status);
        status
    }

    #[test]
    fn a_healthy_line_has_numbers_with_their_limits() {
        assert_eq!(
            judge(&status(|_| ()), &args(&[])).line(),
            "UNANIMOUS OK - serving; 0 transactions in doubt | heuristic=0;;0 stuck=0;0; \
             orphans=0;0; in_doubt=0;; transactions=0;; participants=2;; log_waiting_ms=0;; \
             log_free_bytes=1000;;\n"
        );
    }

    #[test]
    fn each_limit_has_its_verdict() {
        type Change = fn(&mut v1::GetStatusResponse);
        let given_up = |status: &mut v1::GetStatusResponse| {
            status.log_directories = vec![v1::LogDirectory {
                state: v1::LogDirectoryState::GivenUp.into(),
                ..v1::LogDirectory::default()
            }];
        };
        let table: [(Change, &[&str], Verdict); 17] = [
            (|s| s.transactions_stuck = 1, &[], Verdict::Warning),
            (|s| s.transactions_stuck = 1, &["--warn-stuck", "1"], Verdict::Ok),
            (|s| s.transactions_stuck = 2, &["--crit-stuck", "1"], Verdict::Critical),
            (|s| s.transactions_heuristic = 1, &[], Verdict::Critical),
            (|s| s.transactions_heuristic = 1, &["--crit-heuristic", "1"], Verdict::Ok),
            (
                |s| s.transactions_heuristic = 1,
                &["--crit-heuristic", "1", "--warn-heuristic", "0"],
                Verdict::Warning,
            ),
            (|s| s.orphans = 1, &[], Verdict::Warning),
            (|s| s.orphans = 3, &["--warn-orphans", "3"], Verdict::Ok),
            (|s| s.orphans = 3, &["--crit-orphans", "2"], Verdict::Critical),
            (|s| s.transactions_in_doubt = 9, &[], Verdict::Ok),
            (|s| s.transactions_in_doubt = 9, &["--warn-in-doubt", "8"], Verdict::Warning),
            (|s| s.transactions_in_doubt = 9, &["--crit-in-doubt", "8"], Verdict::Critical),
            (|s| s.log_space_low = true, &[], Verdict::Critical),
            (|s| s.log_behind = true, &[], Verdict::Critical),
            (given_up, &[], Verdict::Critical),
            (|_| (), &["--min-participants", "2"], Verdict::Ok),
            (|_| (), &["--min-participants", "3"], Verdict::Warning),
        ];
        for (at, (change, given, expected)) in table.into_iter().enumerate() {
            assert_eq!(judge(&status(change), &args(given)).verdict, expected, "row {at}");
        }
    }

    #[test]
    fn the_worst_comes_first_and_nothing_breaks_the_line() {
        let bad = status(|status| {
            status.transactions_stuck = 2;
            status.log_behind = true;
        });
        let line = judge(&bad, &args(&[])).line();
        let start =
            "UNANIMOUS CRITICAL - the log is behind what participants were told, 2 stuck | ";
        assert!(line.starts_with(start), "{line}");
        let words = "a|b\nc\u{1b}".to_owned();
        let report = Report { verdict: Verdict::Unknown, words, measures: Vec::new() };
        assert_eq!(report.line(), "UNANIMOUS UNKNOWN - a/b\\nc\\u{1b}\n");
    }
}
