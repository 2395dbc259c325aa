//! What an experiment tells: rows for people on stderr, one JSON object as the last line of stdout.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is what this is for")]

use serde_json::{Map, Value};
use std::process::ExitCode;

/// Collects what was measured and what was wrong.
#[derive(Debug, Default)]
pub struct Report {
    fields: Map<String, Value>,
    violations: Vec<String>,
}

impl Report {
    /// A line for people.
    pub fn say(&self, line: impl AsRef<str>) {
        eprintln!("{}", line.as_ref());
    }

    /// A row of a table for people, its cells right-aligned.
    pub fn row(&self, cells: &[String]) {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>14}")).collect();
        eprintln!("{}", cells.join(" "));
    }

    /// A field of the object.
    pub fn field(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.to_owned(), value.into());
    }

    /// What must hold. If it does not, the experiment has failed, and goes on.
    pub fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            let what = otherwise();
            eprintln!("violation: {what}");
            self.violations.push(what);
        }
    }

    /// How many things did not hold.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.violations.len()
    }

    /// Prints the object. Exit code 1 if something did not hold, or the experiment broke off.
    #[must_use]
    pub fn end(mut self, ran: anyhow::Result<()>) -> ExitCode {
        if let Err(error) = ran {
            self.must(false, || format!("broken off: {error:#}"));
        }
        let failed = !self.violations.is_empty();
        self.fields.insert("violations".to_owned(), self.violations.len().into());
        println!("{}", Value::Object(self.fields));
        ExitCode::from(u8::from(failed))
    }
}

/// Bytes as people read them.
#[must_use]
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// A whole number of milliseconds.
#[must_use]
pub fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
