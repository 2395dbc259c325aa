//! What is wrong with a configuration, and where each value comes from.

use super::keys::Key;
use crate::codes::Code;
use crate::errors::Failure;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Where a value comes from. The later in this list, the stronger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nobody has said anything.
    Default,
    /// The file, at this line.
    File { path: PathBuf, line: usize },
    /// The environment.
    Environment,
    /// The command line.
    Flag,
}

impl Source {
    /// One word for programs.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        }
    }

    /// Where exactly, in a few characters.
    pub(super) fn place(&self, key: &Key) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::File { path, line } => format!("{}:{line}", path.display()),
            Self::Environment => key.variable(),
            Self::Flag => key.option(),
        }
    }

    /// Where exactly, after the value in an error.
    fn words(&self, key: &Key) -> String {
        match self {
            Self::Default => "(the default)".to_owned(),
            Self::File { path, line } => format!("in {} line {line}", path.display()),
            Self::Environment => format!("from {} in the environment", key.variable()),
            Self::Flag => format!("from {} on the command line", key.option()),
        }
    }

    /// How the value is written there.
    fn assigned(&self, key: &Key, value: &Value) -> String {
        let bare = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        match self {
            Self::Default | Self::File { .. } => format!("{} = {value}", key.name),
            Self::Environment => format!("{}={bare}", key.variable()),
            Self::Flag => format!("{} {bare}", key.option()),
        }
    }

    fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } => Some(*line),
            _ => None,
        }
    }
}

/// A value that its key does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadValue {
    /// What the key takes.
    pub(super) rule: String,
    /// What may have been meant.
    pub(super) meant: Vec<Value>,
}

/// One thing that is wrong. A configuration with a problem is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    code: Code,
    what: String,
    why: String,
    next: Vec<String>,
    key: Option<String>,
    /// In the file, from 1; `None`: it is not in the file.
    pub(super) line: Option<usize>,
}

impl Problem {
    fn new(code: Code, what: String, why: impl Into<String>, next: String) -> Self {
        Self { code, what, why: why.into(), next: vec![next], key: None, line: None }
    }

    fn of(mut self, key: &str, line: Option<usize>) -> Self {
        self.key = Some(key.to_owned());
        self.line = line;
        self
    }

    /// A file that gives no text.
    pub(super) fn unreadable(file: &str, why: impl Into<String>, next: String) -> Self {
        Self::new(Code::ConfigUnreadable, format!("{file} cannot be read"), why, next)
    }

    /// A line that is not TOML.
    pub(super) fn syntax(file: &str, line: usize, why: &str) -> Self {
        let what = format!("{file} line {line} is not TOML");
        let next = "unanimous config init, to see how it is written".to_owned();
        let mut problem = Self::new(Code::ConfigSyntax, what, why, next);
        problem.line = Some(line);
        problem
    }

    /// A key nobody has; `near` is what may have been meant.
    pub(super) fn unknown_key(file: &str, line: usize, name: &str, near: Option<String>) -> Self {
        let what = format!("unknown key {name} in {file} line {line}");
        let why = "a key that nobody reads would be a setting without effect";
        let next = near.unwrap_or_else(|| "unanimous config init, to see every key".to_owned());
        Self::new(Code::ConfigUnknownKey, what, why, next).of(name, Some(line))
    }

    /// A section nobody has; `near` is what may have been meant.
    pub(super) fn unknown_section(file: &str, line: usize, name: &str, near: Option<&str>) -> Self {
        let what = format!("unknown section [{name}] in {file} line {line}");
        let why = "keys that nobody reads would be settings without effect";
        let every = || "unanimous config init, to see every section".to_owned();
        let next = near.map_or_else(every, |section| format!("[{section}]"));
        Self::new(Code::ConfigUnknownSection, what, why, next).of(name, Some(line))
    }

    /// A section that is written as if it were a key.
    pub(super) fn section_value(file: &str, line: usize, name: &str, shown: &str) -> Self {
        let what = format!("{name} = {shown} in {file} line {line}");
        let why = format!("{name} is a section, with its keys on the lines below [{name}]");
        Self::new(Code::ConfigBadValue, what, why, format!("[{name}]")).of(name, Some(line))
    }

    /// A variable that is one slip away from one that is read.
    pub(super) fn unknown_variable(name: &str, meant: &str) -> Self {
        let what = format!("unknown variable {name} in the environment");
        let why = format!("nobody reads it, and {meant} was probably meant");
        let next = format!("env -u {name} {meant}=VALUE ...");
        Self::new(Code::ConfigUnknownVariable, what, why, next)
    }

    /// A value that its key does not take.
    pub(super) fn bad_value(key: &Key, source: &Source, shown: &str, bad: &BadValue) -> Self {
        let what = format!("{} = {shown} {}", key.full(), source.words(key));
        let next: Vec<_> = bad.meant.iter().map(|value| source.assigned(key, value)).collect();
        let problem = Self::new(Code::ConfigBadValue, what, &bad.rule, String::new());
        Self { next, ..problem.of(&key.full(), source.line()) }
    }

    /// A value that contradicts another one.
    pub(super) fn contradiction(key: &Key, source: &Source, value: &Value, bad: BadValue) -> Self {
        let what = format!("{} = {value} {}", key.full(), source.words(key));
        let next = bad.meant.first().map(|value| source.assigned(key, value));
        let next = next.unwrap_or_else(|| "unanimous config init, to see every key".to_owned());
        let problem = Self::new(Code::ConfigContradiction, what, bad.rule, next);
        problem.of(&key.full(), source.line())
    }

    /// As [`Problem::contradiction`], for a field of the server that has no key.
    pub(super) fn nameless(path: &str, rule: String) -> Self {
        let next = "unanimous config init, to see every key".to_owned();
        Self::new(Code::ConfigContradiction, format!("{path} is wrong"), rule, next)
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        json!({
            "code": self.code.word(),
            "key": self.key,
            "line": self.line,
            "what": self.what,
            "why": self.why,
            "next": self.next,
        })
    }

    /// In the three lines of every error.
    pub(super) fn failure(&self) -> Failure {
        let mut next = self.next.iter();
        let first = next.next().map_or("unanimous config init", String::as_str);
        let failure = Failure::new(self.code, &self.what, &self.why, first);
        next.fold(failure, |failure, next| failure.or(next))
    }
}
