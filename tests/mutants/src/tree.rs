//! A copy of the sources with the switches in it, and its test binaries.

use crate::list::Mutant;
use crate::switch::{Number, SWITCH, Switched, switched};
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CORE: &str = "coordinator/core/src/lib.rs";

/// A test binary, and where cargo would run it.
#[derive(Clone, Debug)]
pub(crate) struct Suite {
    pub(crate) package: String,
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) folder: PathBuf,
}

/// The sources of the workspace, by their paths from its root.
pub(crate) struct Sources {
    files: BTreeMap<String, Vec<u8>>,
}

impl Sources {
    /// What git knows of, or could: nothing that is ignored.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let listed = Command::new("git")
            .current_dir(root)
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"])
            .output()?;
        let mut files = BTreeMap::new();
        for path in String::from_utf8(listed.stdout)?.lines() {
            if let Ok(bytes) = std::fs::read(root.join(path)) {
                files.insert(path.to_owned(), bytes);
            }
        }
        Ok(Self { files })
    }

    /// A number that changes with whatever the outcome of a mutant depends on.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let parts = ["coordinator/core/", "recovery/", "tests/sim/", ".cargo/"];
        let matters = |path: &str| parts.iter().any(|part| path.starts_with(part));
        for (path, bytes) in self.files.iter().filter(|(path, _)| matters(path)) {
            (path, bytes).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// A number that changes with what ships of a file: its tests come last.
    pub(crate) fn stamp(&self, file: &str) -> u64 {
        let bytes = self.files.get(file).map(Vec::as_slice).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        let mut hasher = DefaultHasher::new();
        text.split("\n#[cfg(test)]").next().unwrap_or_default().hash(&mut hasher);
        hasher.finish()
    }

    /// Writes the copy. What has not changed is left alone, so that cargo builds only the rest.
    fn write(&self, folder: &Path, switched: &BTreeMap<String, Switched>) -> Result<()> {
        for (path, bytes) in &self.files {
            let mut text = match switched.get(path) {
                Some(switched) => switched.text.clone().into_bytes(),
                None => bytes.clone(),
            };
            if path == CORE {
                text.extend_from_slice(SWITCH.as_bytes());
            }
            let target = folder.join(path);
            if std::fs::read(&target).is_ok_and(|present| present == text) {
                continue;
            }
            std::fs::create_dir_all(target.parent().context("a file has a folder")?)?;
            std::fs::write(&target, text)?;
        }
        Ok(())
    }
}

/// What [`build`] makes.
pub(crate) struct Built {
    pub(crate) suites: Vec<Suite>,
    /// Mutants that cannot stand behind a switch.
    pub(crate) left_out: BTreeSet<Number>,
    /// Mutants that compile nowhere.
    pub(crate) unviable: BTreeSet<Number>,
}

/// The test binaries of the packages with all mutants in them that can stand behind a switch.
pub(crate) fn build(
    sources: &Sources,
    work: &Path,
    packages: &[String],
    mutants: &BTreeMap<Number, Mutant>,
) -> Result<Built> {
    let folder = work.join("tree");
    let (mut left_out, mut unviable) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let switched = switched_files(sources, mutants, &mut left_out)?;
        unviable.extend(switched.values().flat_map(|file| &file.unviable));
        sources.write(&folder, &switched)?;
        match compile(&folder, work, packages)? {
            Compiled::Suites(suites) => {
                left_out.retain(|number| !unviable.contains(number));
                return Ok(Built { suites, left_out, unviable });
            }
            Compiled::Errors(errors) => {
                let before = left_out.len();
                for error in &errors {
                    let Some(file) = switched.get(&error.file) else { continue };
                    unviable.extend(refused(file, error, mutants));
                    blame(file, error, &mut left_out);
                }
                if left_out.len() == before {
                    bail!("the compiler's errors belong to no mutant: {errors:?}");
                }
                let (none, nowhere) = (left_out.len(), unviable.len());
                eprintln!("{none} mutants stand behind no switch, {nowhere} compile nowhere");
            }
        }
    }
}

/// What an expression is, and not where it stands: the same wherever the mutant is put.
const OF_THE_EXPRESSION: &[&str] = &[
    "E0061", "E0107", "E0277", "E0308", "E0368", "E0369", "E0412", "E0423", "E0425", "E0433",
    "E0599", "E0600", "E0604", "E0605", "E0606", "E0614",
];

/// The mutants that have the error themselves, behind their switch: what they put there has not the
/// type that is needed, or no type at all. A function that returns `impl Trait` may return another
/// type than the one it does, but not both.
fn refused<'a>(
    file: &'a Switched,
    error: &'a Error,
    mutants: &'a BTreeMap<Number, Mutant>,
) -> impl Iterator<Item = Number> + 'a {
    let known = |code: &String| OF_THE_EXPRESSION.contains(&code.as_str());
    let of_the_expression = error.code.as_ref().is_some_and(known);
    let inside = |place: &std::ops::Range<usize>| {
        let switch = file.text[place.clone()].find('{').unwrap_or_default();
        place.start + switch < error.at.start && error.at.end <= place.end
    };
    let opaque = |number| mutants.get(number).is_some_and(|one| one.name.contains("-> impl "));
    let places = file
        .places
        .iter()
        .filter(move |(place, number)| of_the_expression && inside(place) && !opaque(number));
    places.map(|(_, number)| *number)
}

fn switched_files(
    sources: &Sources,
    mutants: &BTreeMap<Number, Mutant>,
    left_out: &mut BTreeSet<Number>,
) -> Result<BTreeMap<String, Switched>> {
    let mut by_file: BTreeMap<&str, Vec<(Number, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in mutants.iter().filter(|(number, _)| !left_out.contains(number)) {
        by_file.entry(&mutant.file).or_default().push((*number, mutant));
    }
    let mut files = BTreeMap::new();
    for (file, mutants) in by_file {
        let in_core = file.starts_with("coordinator/core/");
        let switch = if in_core { "crate::mutant::on" } else { "unanimous_core::mutant::on" };
        let text = std::str::from_utf8(sources.files.get(file).context("a file of a mutant")?)?;
        let done = switched(text, &mutants, switch).with_context(|| file.to_owned())?;
        left_out.extend(done.unplaced.iter().chain(&done.unviable));
        files.insert(file.to_owned(), done);
    }
    Ok(files)
}

enum Compiled {
    Suites(Vec<Suite>),
    Errors(Vec<Error>),
}

/// An error of the compiler's, and where: in which bytes.
#[derive(Debug)]
struct Error {
    code: Option<String>,
    file: String,
    at: std::ops::Range<usize>,
}

#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line {
    CompilerMessage {
        message: Message,
    },
    CompilerArtifact {
        manifest_path: PathBuf,
        target: Target,
        executable: Option<PathBuf>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Message {
    level: String,
    code: Option<ErrorCode>,
    spans: Vec<Span>,
    rendered: Option<String>,
}

#[derive(Deserialize)]
struct ErrorCode {
    code: String,
}

#[derive(Deserialize)]
struct Span {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
    is_primary: bool,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn compile(folder: &Path, work: &Path, packages: &[String]) -> Result<Compiled> {
    let mut command = Command::new("cargo");
    command
        .current_dir(folder)
        .args(["test", "--no-run", "--locked", "--lib", "--tests", "--message-format=json"])
        // Once built and run by the thousand; the assertions stay.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_TARGET_DIR", work.join("build"))
        .stdin(Stdio::null());
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command.output().context("running cargo test")?;
    let (mut suites, mut errors, mut rendered) = (Vec::new(), Vec::new(), String::new());
    for line in String::from_utf8(output.stdout)?.lines() {
        match serde_json::from_str(line)? {
            Line::CompilerMessage { message } if message.level == "error" => {
                rendered.push_str(message.rendered.as_deref().unwrap_or_default());
                let code = message.code.map(|code| code.code);
                let primary = message.spans.into_iter().filter(|span| span.is_primary);
                errors.extend(primary.map(|span| Error {
                    code: code.clone(),
                    file: span.file_name,
                    at: span.byte_start..span.byte_end,
                }));
            }
            Line::CompilerArtifact { manifest_path, target, executable: Some(program) } => {
                let folder = manifest_path.parent().context("a manifest has a folder")?;
                suites.push(Suite {
                    package: package_of(folder, packages),
                    name: target.name,
                    program,
                    folder: folder.to_owned(),
                });
            }
            _ => {}
        }
    }
    match (output.status.success(), errors.is_empty()) {
        (true, _) => Ok(Compiled::Suites(suites)),
        (false, false) => Ok(Compiled::Errors(errors)),
        (false, true) => bail!("{rendered}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn package_of(folder: &Path, packages: &[String]) -> String {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    packages.iter().find(|package| package.ends_with(name)).cloned().unwrap_or_default()
}

/// The mutants that an error touches; or else the choices of the expression that it is in.
fn blame(switched: &Switched, error: &Error, left_out: &mut BTreeSet<Number>) {
    let at = &error.at;
    let touched: Vec<Number> = switched
        .places
        .iter()
        .filter(|(place, _)| place.start < at.end && at.start < place.end)
        .map(|(_, number)| *number)
        .collect();
    if touched.is_empty() && error.code.as_deref() == Some("E0271") {
        // What is returned is not the iterator that was promised just before. The plain ones, of
        // which there can be doubt least, come first.
        let mut following: Vec<_> =
            switched.places.iter().filter(|(place, _)| place.start >= at.end).collect();
        following.sort_by_key(|(place, _)| place.start);
        let same_body = following.windows(2).take_while(|pair| pair[1].0.start == pair[0].0.end);
        left_out.extend(following.get(same_body.count()).map(|(_, number)| *number));
    } else if touched.is_empty() {
        // Both sides of a choice must have one type: the error is in the other side, just after.
        let nearest = switched.places.iter().filter(|(place, _)| place.end <= at.start);
        left_out.extend(nearest.max_by_key(|(place, _)| place.end).map(|(_, number)| *number));
    }
    left_out.extend(touched);
}
