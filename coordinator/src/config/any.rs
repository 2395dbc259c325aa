//! Whatever is in the file: it is taken or told. (The fuzzing targets cannot reach it: this crate
//! is no library.)
#![allow(clippy::unwrap_used)]

use super::field::Field;
use super::keys::{KEYS, Key, Settings, sections};
use super::resolve::{Layers, Resolved, resolve};
use super::{Problem, text};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;

/// What slips into a file, and what nobody should have put there.
const PIECES: [&str; 41] = [
    "",
    "[",
    "]",
    "[[",
    "]]",
    "=",
    "\"",
    "'",
    "'''",
    "\"\"\"",
    "\n",
    "\r",
    "\r\n",
    "#",
    "{",
    "}",
    ",",
    ".",
    "-",
    "_",
    "0x",
    "1e9",
    "nan",
    "true",
    "1",
    "18446744073709551616",
    "1.5",
    "1979-05-27",
    "9999999999d",
    "TiB",
    "\\",
    "\n\"\\u001b[2J\" = 1\n",
    "\n[\"\\u0007\"]\n",
    "\0",
    "\u{1b}[2J",
    "é",
    "\u{feff}",
    "limits",
    "\n[limits]\n",
    "log.",
    "\ntimeout_max = '1s'\n",
];

/// A value of the key's kind.
fn value(key: &Key, number: u32) -> String {
    match (key.field)(&mut Settings::default()) {
        Field::Switch(_) => number.is_multiple_of(2).to_string(),
        Field::Count { .. } => number.to_string(),
        Field::Bytes { .. } => format!("'{number} KiB'"),
        Field::Duration { .. } => format!("'{}m {}ms'", number / 7, number % 7),
        Field::Address(_) => format!("'[::1]:{}'", number % 65_536),
        Field::Path(_) => format!(r#""/{number} \u00e9""#),
        Field::Directives(_) => format!("'warn,a{number}=debug'"),
        Field::Form(_) => "'json'".to_owned(),
    }
}

/// Bytes to drop at a place, and what to put there.
fn edits() -> impl Strategy<Value = Vec<(Index, usize, &'static str)>> {
    vec((any::<Index>(), 0..6_usize, select(&PIECES[..])), 0..4)
}

/// The written file without its words; `changed`: other values for some keys.
fn values(settings: &Settings, changed: &[(Index, u32)]) -> String {
    let line = |(at, key): (usize, &Key)| {
        let other = changed.iter().find(|(index, _)| index.index(KEYS.len()) == at);
        match (other, key.value(settings)) {
            (Some((_, number)), _) => format!("{} = {}\n", key.name, value(key, *number)),
            (None, Value::Null) => String::new(),
            (None, value) => format!("{} = {value}\n", key.name),
        }
    };
    let section = |section| {
        let keys = KEYS.iter().enumerate().filter(|(_, key)| key.section == section);
        format!("[{section}]\n{}", keys.map(line).collect::<String>())
    };
    sections().into_iter().map(section).collect()
}

fn edited(mut text: String, edits: &[(Index, usize, &str)]) -> String {
    for (at, dropped, piece) in edits {
        let from = text.floor_char_boundary(at.index(text.len() + 1));
        let upto = text.ceil_char_boundary((from + dropped).min(text.len()));
        text.replace_range(from..upto, piece);
    }
    text
}

fn read(text: &str) -> Result<Resolved, Vec<Problem>> {
    resolve(Layers { file: Some(("f".into(), text.to_owned())), ..Layers::default() })
}

proptest! {
    #[test]
    fn every_file_is_taken_as_it_would_be_written_or_told_with_its_lines(
        changed in vec((any::<Index>(), 1..100_000_u32), 0..4),
        edits in edits(),
        words in any::<bool>(),
    ) {
        let begun = if words { text() } else { values(&Settings::default(), &changed) };
        let file = edited(begun, &edits);
        match read(&file) {
            Ok(Resolved { settings, .. }) => {
                let again = read(&values(&settings, &[])).map(|again| again.settings);
                prop_assert_eq!(again, Ok(settings));
            }
            Err(problems) => {
                let lines = file.split('\n').count();
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)));
                    let told = problem.failure().lines(false);
                    prop_assert!(!told.contains(|c: char| c.is_control() && c != '\n'), "{told}");
                }
            }
        }
    }
}
