//! From the file, the environment and the command line to one value for each key.

use super::field::Given;
use super::file;
use super::keys::{KEYS, Key, Settings};
use super::problem::{BadValue, Problem, Source};
use crate::cli::CredentialArgs;
use crate::nearest::is_slip_of;
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Variables with our prefix that are not for keys.
const OTHER_VARIABLES: [&str; 3] =
    ["UNANIMOUS_CONFIG", "UNANIMOUS_ADDRESS", "UNANIMOUS_ADMIN_ADDRESS"];

fn other_variables() -> impl Iterator<Item = &'static str> {
    OTHER_VARIABLES.into_iter().chain(CredentialArgs::VARIABLES)
}

const PREFIX: &str = "UNANIMOUS_";

/// Everything that was said, the weaker first.
#[derive(Debug, Default)]
pub(super) struct Layers {
    /// The file and its text.
    pub(super) file: Option<(PathBuf, String)>,
    /// All variables.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Full names of keys, and what was given with their options.
    pub(super) flags: Vec<(&'static str, OsString)>,
}

/// One value for each key.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The values.
    pub(crate) settings: Settings,
    /// Where each comes from, by the index in [`KEYS`].
    pub(super) sources: Vec<Source>,
    /// Variables with our prefix that nobody reads.
    pub(crate) unknown_variables: Vec<String>,
}

/// Names of all variables that change what `serve` does.
pub(crate) fn variables() -> impl Iterator<Item = String> {
    KEYS.iter().map(Key::variable).chain([OTHER_VARIABLES[0].to_owned()])
}

/// The values, or everything that is wrong, in the order of the file.
pub(super) fn resolve(layers: Layers) -> Result<Resolved, Vec<Problem>> {
    let mut resolver = Resolver {
        resolved: Resolved {
            settings: Settings::default(),
            sources: vec![Source::Default; KEYS.len()],
            unknown_variables: Vec::new(),
        },
        problems: Vec::new(),
    };
    if let Some((path, text)) = &layers.file {
        resolver.take_file(path, text);
    }
    resolver.take_environment(layers.environment);
    for (name, word) in layers.flags {
        if let Some(key) = KEYS.iter().position(|key| key.full() == name) {
            resolver.take(key, Source::Flag, &Given::Word(word.clone()), &word.to_string_lossy());
        }
    }
    // With a value missing, what the others demand of it cannot be judged.
    if resolver.problems.is_empty() {
        resolver.take_contradictions();
    }
    let Resolver { resolved, mut problems } = resolver;
    problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
    if problems.is_empty() { Ok(resolved) } else { Err(problems) }
}

struct Resolver {
    resolved: Resolved,
    problems: Vec<Problem>,
}

impl Resolver {
    fn take(&mut self, index: usize, source: Source, given: &Given, shown: &str) {
        let key = &KEYS[index];
        match (key.field)(&mut self.resolved.settings).set(given) {
            Ok(()) => self.resolved.sources[index] = source,
            Err(mut bad) => {
                if bad.meant.is_empty() {
                    bad.meant.push(fitting(key));
                }
                self.problems.push(Problem::bad_value(key, &source, shown, &bad));
            }
        }
    }

    fn take_file(&mut self, path: &Path, text: &str) {
        let (entries, problems) = file::parse(path, text);
        self.problems.extend(problems);
        for entry in entries {
            let source = Source::File { path: path.to_owned(), line: entry.line };
            self.take(entry.key, source, &entry.given, &entry.shown);
        }
    }

    fn take_environment(&mut self, environment: Vec<(OsString, OsString)>) {
        for (name, word) in environment {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || other_variables().any(|other| other == name) {
                continue;
            }
            match KEYS.iter().position(|key| key.variable() == name) {
                Some(key) => {
                    let given = Given::Word(word.clone());
                    self.take(key, Source::Environment, &given, &word.to_string_lossy());
                }
                None => self.take_unknown(name),
            }
        }
    }

    fn take_unknown(&mut self, name: String) {
        let known = KEYS.iter().map(|key| (key.variable(), key.systematic_variable()));
        let others = other_variables().map(|known| (known.to_owned(), known.to_owned()));
        let meant = known.chain(others).find(|(known, systematic)| {
            name == *systematic || is_slip_of(&name, known) || is_slip_of(&name, systematic)
        });
        match meant {
            Some((known, _)) => self.problems.push(Problem::unknown_variable(&name, &known)),
            None => self.resolved.unknown_variables.push(name),
        }
    }

    fn take_contradictions(&mut self) {
        for (path, rule) in broken_rules(&self.resolved.settings) {
            self.tell_contradiction(path, rule);
        }
        // The server names one field at a time: told once and put back, so that the next one shows.
        let (mut settings, mut told) = (self.resolved.settings.clone(), Vec::new());
        while let Err(error) = settings.server.check() {
            let path = format!(".server.{}", error.key);
            if told.contains(&path) {
                break;
            }
            self.tell_contradiction(&path, error.rule);
            if let Some(key) = KEYS.iter().find(|key| key.path == path) {
                put_back(key, &mut settings);
            }
            told.push(path);
        }
    }

    fn tell_contradiction(&mut self, path: &str, rule: String) {
        let value = |key: &Key| key.value(&self.resolved.settings);
        let told = KEYS.iter().zip(&self.resolved.sources).find(|(key, _)| key.path == path);
        let problem = match told {
            Some((key, source)) => {
                let good = fitting(key);
                let meant = if good == value(key) { Vec::new() } else { vec![good] };
                Problem::contradiction(key, source, &value(key), BadValue { rule, meant })
            }
            None => Problem::nameless(path, rule),
        };
        self.problems.push(problem);
    }
}

fn put_back(key: &Key, settings: &mut Settings) {
    let word = match fitting(key) {
        Value::String(text) => text,
        value => value.to_string(),
    };
    let put = (key.field)(settings).set(&Given::Word(word.into()));
    debug_assert!(put.is_ok(), "{} does not take its own default", key.full());
}

/// A value that the key takes, for an error's last line.
fn fitting(key: &Key) -> Value {
    match key.value(&Settings::default()) {
        Value::Null => key.example.unwrap_or_default().into(),
        value => value,
    }
}

/// Fields that contradict others, beyond what the server itself checks, and what they have to be.
fn broken_rules(settings: &Settings) -> Vec<(&'static str, String)> {
    let mut broken = Vec::new();
    let limits = &settings.server.limits;
    let value = |path: &str| {
        let key = KEYS.iter().find(|key| key.path == path);
        key.map(|key| format!("{} = {}", key.full(), key.value(settings))).unwrap_or_default()
    };
    if settings.listen == settings.admin_listen && settings.listen.port() != 0 {
        let rule = "must differ from listen.sessions: the ports serve different callers";
        broken.push((".admin_listen", rule.to_owned()));
    }
    if settings.second_dir.is_some() && settings.second_dir == settings.data_dir {
        let rule =
            "must differ from log.data_dir: a second copy in the same place protects nothing";
        broken.push((".second_dir", rule.to_owned()));
    }
    if limits.timeout_ms_default > limits.timeout_ms_max {
        let max = value(".server.limits.timeout_ms_max");
        let rule = format!(
            "must not be above {max}: every Begin without a time-out of its own \
                            would be refused"
        );
        broken.push((".server.limits.timeout_ms_default", rule));
    }
    if limits.retry_ms_min > limits.retry_ms_max {
        let max = value(".server.limits.retry_ms_max");
        broken.push((".server.limits.retry_ms_min", format!("must not be above {max}")));
    }
    broken
}
