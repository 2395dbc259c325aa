//! Which mutants there are: cargo-mutants says so.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

/// One mistake that somebody could make.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    /// Its name as cargo-mutants prints it, with line and column.
    pub(crate) name: String,
    pub(crate) package: String,
    /// From the root of the workspace.
    pub(crate) file: String,
    pub(crate) genre: Genre,
    /// What is replaced, in bytes of the file.
    pub(crate) span: Range<usize>,
    pub(crate) replacement: String,
    /// The source line that it begins in.
    pub(crate) line: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    package: String,
    file: String,
    genre: Genre,
    span: Span,
    replacement: String,
}

#[derive(Deserialize)]
struct Span {
    start: Place,
    end: Place,
}

/// Counted from 1, columns in characters.
#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

impl Mutant {
    /// The name without line and column: it lasts as long as its line of code.
    pub(crate) fn lasting_name(&self) -> String {
        let rest = self.name.splitn(4, ':').nth(3).unwrap_or_default();
        format!("{}:{rest}", self.file)
    }

    /// A line of the bug museum: compiled out, and `sim museum` shows that its mutant is found.
    pub(crate) fn is_of_the_museum(&self) -> bool {
        self.line.contains("on(Bug::")
    }
}

/// The mutants of these packages that `.cargo/mutants.toml` does not exclude, in the order of the
/// source.
pub(crate) fn mutants(root: &Path, packages: &[String]) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command.current_dir(root).args(["mutants", "--list", "--json"]);
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command.output().context("running cargo mutants")?;
    ensure!(
        output.status.success(),
        "cargo mutants (`cargo install --locked cargo-mutants`): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listed: Vec<Listed> = serde_json::from_slice(&output.stdout)?;
    let mut texts = BTreeMap::new();
    let mut mutants = Vec::new();
    for Listed { name, package, file, genre, span, replacement } in listed {
        if !texts.contains_key(&file) {
            let text = std::fs::read_to_string(root.join(&file))?;
            texts.insert(file.clone(), text);
        }
        let text = &texts[&file];
        let line = text.lines().nth(span.start.line - 1).unwrap_or_default().trim().to_owned();
        let span = offset(text, &span.start)..offset(text, &span.end);
        mutants.push(Mutant { name, package, file, genre, span, replacement, line });
    }
    Ok(mutants)
}

fn offset(text: &str, place: &Place) -> usize {
    let mut lines = text.split_inclusive('\n');
    let before: usize = lines.by_ref().take(place.line - 1).map(str::len).sum();
    let line = lines.next().unwrap_or_default();
    before + line.chars().take(place.column - 1).map(char::len_utf8).sum::<usize>()
}
