//! `unanimous config`, and what `serve` is told: command line before environment before file before
//! default.
//!
//! Reading order: `keys` (the one table of all keys), `field` (how a value is read and shown),
//! `file`, `resolve` (one value for each key, or every problem there is), `problem` (how it is
//! told).

mod field;
mod file;
mod keys;
mod problem;
mod resolve;

use crate::access;
use crate::cli::{ConfigCommand, Format, SettingArgs};
use crate::codes::Code;
use crate::errors::Failure;
use crate::output::{Document, Output, stderr_colour, talk, write_stdout};
use keys::KEYS;
use problem::Problem;
use resolve::Layers;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

pub(crate) use keys::Settings;
pub(crate) use resolve::{Resolved, variables};

/// Problems beyond this many are counted only: a file that is no configuration has one a line.
const TOLD_MAX: usize = 20;
/// Where the comments of a written file end.
const COLUMNS: usize = 98;

/// Does a `config` command. None of them needs a coordinator.
pub(crate) fn run(command: &ConfigCommand, output: Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Init { file } => init(file.as_deref()),
        ConfigCommand::Check { file } => check(file, output),
        ConfigCommand::Show(args) => show(args, output),
    }
}

/// What `serve` does with these options, in this environment. All problems but the last are told
/// here.
pub(crate) fn load(args: &SettingArgs) -> Result<Resolved, Failure> {
    let environment = std::env::vars_os().collect();
    let read = |path: &Path| Ok((path.to_owned(), file::read(path)?));
    let file = args.config.as_deref().map(read).transpose();
    file.and_then(|file| resolve::resolve(Layers { file, environment, flags: args.given() }))
        .map_err(|problems| tell(&problems))
}

/// Tells all problems but the last, which ends the command.
fn tell(problems: &[Problem]) -> Failure {
    let (shown, more) = problems.split_at(problems.len().min(TOLD_MAX));
    let mut failures = shown.iter().map(Problem::failure);
    let counted = (!more.is_empty()).then(|| {
        let what = format!("and {} more problems", more.len());
        let why = format!("only {TOLD_MAX} are shown");
        let next = "the same command, when these are solved";
        Failure::new(Code::ConfigManyProblems, what, why, next)
    });
    let last = counted.or_else(|| failures.next_back());
    failures.for_each(|failure| talk(failure.lines(stderr_colour()).trim_end()));
    last.unwrap_or_else(|| Failure::io("reading the configuration", "no reason", "ulimit -a"))
}

fn init(file: Option<&Path>) -> Result<(), Failure> {
    let text = text();
    let Some(path) = file else { return write_stdout(text.as_bytes()) };
    // Never over a file that somebody has written.
    let made = File::create_new(path);
    let shown = path.display();
    match made.and_then(|mut made| made.write_all(text.as_bytes()).and_then(|()| made.sync_all())) {
        Ok(()) => {
            talk(format!("{shown} is written; next: unanimous serve --config {shown} --init"));
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let (what, why) = (format!("{shown} exists"), "config init overwrites nothing");
            let next = format!("unanimous config check {shown}");
            Err(Failure::new(Code::ConfigExists, what, why, next)
                .or("unanimous config init ANOTHER_FILE"))
        }
        Err(error) => {
            let next = "unanimous config init, to see it on stdout";
            Err(Failure::io(&format!("writing {shown}"), error, next))
        }
    }
}

/// The whole file: every key with its default and its reason.
fn text() -> String {
    let mut text = paragraph(
        "What unanimous serve is told: unanimous serve --config FILE. Every key is here with its \
         default and what happens at its limit; a key that is left out has its default, one that \
         is not known is an error.",
    );
    text += &paragraph(
        "The command line wins over the environment, the environment over this file. Paths are \
         relative to where serve is started.",
    );
    let default = Settings::default();
    for section in keys::sections() {
        text += &format!("\n[{section}]\n");
        for key in KEYS.iter().filter(|key| key.section == section) {
            let from = match key.option().as_str() {
                "" => format!("Environment: {}.", key.variable()),
                option => format!("Option: {option}. Environment: {}.", key.variable()),
            };
            let line = match (key.value(&default), key.example) {
                (Value::Null, example) => {
                    format!("# {} = {}\n", key.name, json!(example.unwrap_or_default()))
                }
                (value, _) => format!("{} = {value}\n", key.name),
            };
            text += &format!("\n{}{}{line}", paragraph(key.reason), paragraph(&from));
        }
    }
    text
}

/// Comment lines of whole words.
fn paragraph(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), "#".to_owned());
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > COLUMNS {
            lines += &std::mem::replace(&mut line, "#".to_owned());
            lines.push('\n');
        }
        line.push(' ');
        line += word;
    }
    lines + &line + "\n"
}

fn check(path: &Path, output: Output) -> Result<(), Failure> {
    let resolved = file::read(path).and_then(|text| {
        let file = Some((path.to_owned(), text));
        resolve::resolve(Layers { file, ..Layers::default() })
    });
    let shown = path.display().to_string();
    let document = |problems: &[Problem]| Document {
        whole: json!({
            "file": shown,
            "ok": problems.is_empty(),
            "problems": problems.iter().map(Problem::json).collect::<Vec<_>>(),
        }),
        rows: vec![vec![format!("{shown}: OK")]],
        ids: vec![shown.clone()],
        ..Document::default()
    };
    match resolved {
        Ok(resolved) => {
            access::load(&resolved.settings)?;
            output.show(&document(&[]))
        }
        Err(problems) => {
            if !matches!(output.format(), Format::Table | Format::Wide | Format::Id) {
                output.show(&document(&problems))?;
            }
            Err(tell(&problems))
        }
    }
}

fn show(args: &SettingArgs, output: Output) -> Result<(), Failure> {
    let resolved = load(args)?;
    for name in &resolved.unknown_variables {
        talk(format!("warning: nobody reads {name} in the environment"));
    }
    let default = Settings::default();
    let (mut items, mut rows) = (Vec::new(), Vec::new());
    for (key, source) in KEYS.iter().zip(&resolved.sources) {
        let value = key.value(&resolved.settings);
        let place = source.place(key);
        items.push(json!({
            "key": key.full(),
            "value": value,
            "source": source.word(),
            "place": place,
            "default": key.value(&default),
        }));
        let words = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let words = if value.is_null() { "-".to_owned() } else { words };
        rows.push(vec![key.full(), words, place, key.variable()]);
    }
    output.show(&Document {
        whole: json!({ "settings": items }),
        items: Some(items),
        header: vec!["KEY", "VALUE", "SOURCE", "ENVIRONMENT"],
        rows,
        wide_columns: vec![3],
        ids: KEYS.iter().map(keys::Key::full).collect(),
        ..Document::default()
    })
}

#[cfg(test)]
mod any;
#[cfg(test)]
mod tests;
