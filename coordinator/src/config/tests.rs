//! The table, the layers and the command line agree.
#![allow(clippy::unwrap_used)]

use super::field::Field;
use super::keys::{KEYS, Key, Settings};
use super::resolve::{Layers, Resolved, resolve};
use crate::cli::Cli;
use clap::CommandFactory;
use serde_json::Value;

/// Three values that differ from each other and the default.
fn values(key: &Key) -> [&'static str; 3] {
    match (key.field)(&mut Settings::default()) {
        // A switch has only one other value, and its option gives that one.
        Field::Switch(_) => ["true", "false", "true"],
        Field::Count { .. } if key.name == "branches_max" => ["61", "62", "63"],
        Field::Count { .. } if key.name == "session_queue" => ["20001", "20002", "20003"],
        Field::Count { .. } => ["61", "62", "63"],
        Field::Bytes { .. } => ["161KiB", "162KiB", "163KiB"],
        Field::Duration { .. } if key.name == "timeout_max" => ["61d", "62d", "63d"],
        Field::Duration { .. } if key.name == "retry_min" => ["61ms", "62ms", "63ms"],
        Field::Duration { .. } => ["11s", "12s", "13s"],
        Field::Address(_) => ["127.0.0.1:61", "127.0.0.1:62", "127.0.0.1:63"],
        Field::Path(_) => ["/a", "/b", "/c"],
        Field::Directives(_) => ["error", "warn", "debug"],
        Field::Form(_) => ["json", "human", "json"],
    }
}

fn file_with(key: &Key, word: &str) -> (std::path::PathBuf, String) {
    let bare =
        matches!((key.field)(&mut Settings::default()), Field::Switch(_) | Field::Count { .. });
    let value = if bare { word.to_owned() } else { format!("{word:?}") };
    ("f.toml".into(), format!("[{}]\n{} = {value}\n", key.section, key.name))
}

fn shown(resolved: &Resolved, index: usize) -> (String, String) {
    let value = match KEYS[index].value(&resolved.settings) {
        Value::String(text) => text,
        value => value.to_string(),
    };
    (value, resolved.sources[index].place(&KEYS[index]))
}

/// Command line before environment before file before default, for every key there is.
#[test]
fn every_key_is_taken_from_every_place_and_the_stronger_place_wins() {
    for (index, key) in KEYS.iter().enumerate() {
        let [in_file, in_environment, on_line] = values(key);
        let mut layers = Layers { file: Some(file_with(key, in_file)), ..Layers::default() };
        let take = |layers: &Layers| {
            let Layers { file, environment, flags } = layers;
            let (file, environment) = (file.clone(), environment.clone());
            let resolved = resolve(Layers { file, environment, flags: flags.clone() });
            shown(&resolved.unwrap_or_else(|problems| panic!("{problems:?}")), index)
        };
        assert_eq!(take(&layers), (in_file.to_owned(), "f.toml:2".to_owned()));
        layers.environment = vec![(key.variable().into(), in_environment.into())];
        assert_eq!(take(&layers), (in_environment.to_owned(), key.variable()));
        if key.flag.is_some() {
            let full: &'static str = Box::leak(key.full().into_boxed_str());
            layers.flags = vec![(full, on_line.into())];
            assert_eq!(take(&layers), (on_line.to_owned(), key.option()));
        }
    }
}

#[test]
fn the_written_file_is_the_default_and_has_every_key() {
    let text = super::text();
    let layers = |text: String| Layers { file: Some(("f".into(), text)), ..Layers::default() };
    let resolved = resolve(layers(text.clone())).unwrap();
    assert_eq!(resolved.settings, Settings::default());
    for (key, source) in KEYS.iter().zip(&resolved.sources) {
        let commented = key.value(&Settings::default()).is_null();
        assert_eq!(source.word(), if commented { "default" } else { "file" }, "{}", key.full());
    }
    // What is only an example is valid too.
    let mut examples = text;
    for key in KEYS.iter().filter(|key| key.example.is_some()) {
        let comment = format!("\n# {} = ", key.name);
        assert!(examples.contains(&comment), "{}", key.full());
        examples = examples.replace(&comment, &comment.replace("# ", ""));
    }
    let resolved = resolve(layers(examples)).unwrap();
    assert!(resolved.sources.iter().all(|source| source.word() == "file"));
}

/// The options of `serve` are those of the table, and their help says what the table says.
#[test]
fn the_help_of_serve_agrees_with_the_table() {
    let cli = Cli::command();
    let serve = cli.find_subcommand("serve").unwrap();
    let default = Settings::default();
    let mut told = 0;
    for argument in serve.get_arguments() {
        let help = argument.get_long_help().map(ToString::to_string).unwrap_or_default();
        let Some(flag) = argument.get_long().filter(|_| help.contains("[env: ")) else { continue };
        let key = KEYS.iter().find(|key| key.flag == Some(flag)).unwrap();
        assert!(help.contains(&format!("[env: {}]", key.variable())), "{help}");
        match key.value(&default) {
            Value::Null | Value::Bool(_) => assert!(!help.contains("[default: "), "{help}"),
            Value::String(text) => assert!(help.contains(&format!("[default: {text}]")), "{help}"),
            value => assert!(help.contains(&format!("[default: {value}]")), "{help}"),
        }
        told += 1;
    }
    assert_eq!(told, KEYS.iter().filter(|key| key.flag.is_some()).count());
}

/// Every option reaches its key: the words come back as the value.
#[test]
fn every_option_is_given_to_its_key() {
    use clap::Parser;
    let options = KEYS.iter().filter(|key| key.flag.is_some());
    for key in options {
        let word = values(key)[0];
        let mut args = vec!["unanimous".to_owned(), "config".into(), "show".into(), key.option()];
        if !matches!((key.field)(&mut Settings::default()), Field::Switch(_)) {
            args.push(word.to_owned());
        }
        let parsed = Cli::try_parse_from(args).unwrap().command;
        let crate::cli::Command::Config(crate::cli::ConfigCommand::Show(args)) = parsed else {
            panic!("another command")
        };
        assert_eq!(args.given(), [(key.full().as_str(), word.into())]);
    }
}
