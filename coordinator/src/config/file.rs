//! The file: from bytes to entries, each with its line.

use super::field::Given;
use super::keys::{KEYS, Key, sections};
use super::problem::Problem;
use crate::nearest::nearest;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A configuration is far shorter; something endless (/dev/zero) must not fill the memory.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Beginning of a value in an error, in characters.
const SHOWN_MAX: usize = 60;

/// A key with a value, before the key has judged it.
#[derive(Debug)]
pub(super) struct Entry {
    /// Index in [`KEYS`].
    pub(super) key: usize,
    /// From 1.
    pub(super) line: usize,
    /// What is there.
    pub(super) given: Given,
    /// As it is written there, its beginning.
    pub(super) shown: String,
}

/// The text of the file, or the one problem it has.
pub(super) fn read(path: &Path) -> Result<String, Vec<Problem>> {
    let file = path.display().to_string();
    let unreadable = |why: String| vec![Problem::unreadable(&file, why, format!("ls -la {file}"))];
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let longer = format!("it is longer than {} KiB: no configuration is", FILE_BYTES_MAX >> 10);
        return Err(unreadable(longer));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = line_of(error.as_bytes(), at);
        vec![Problem::syntax(&file, line, "it is not UTF-8 text")]
    })
}

/// What the text says, and what is wrong with its form and its names.
pub(super) fn parse(path: &Path, text: &str) -> (Vec<Entry>, Vec<Problem>) {
    let file = path.display().to_string();
    let (table, errors) = DeTable::parse_recoverable(text);
    let at = |span: Range<usize>| line_of(text.as_bytes(), span.start);
    let mut problems: Vec<_> = errors
        .iter()
        .map(|error| Problem::syntax(&file, error.span().map_or(1, &at), error.message()))
        .collect();
    let broken: Vec<_> = problems.iter().map(|problem| problem.line).collect();
    let mut reader = Reader { file: &file, text, entries: Vec::new(), problems: Vec::new() };
    for (name, value) in table.get_ref() {
        reader.section(name, value);
    }
    let Reader { mut entries, problems: named, .. } = reader;
    // What is left of a broken line says nothing.
    entries.retain(|entry| !broken.contains(&Some(entry.line)));
    problems.extend(named.into_iter().filter(|problem| !broken.contains(&problem.line)));
    (entries, problems)
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    entries: Vec<Entry>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn section(&mut self, name: &Spanned<impl AsRef<str>>, value: &Spanned<DeValue<'_>>) {
        let (line, section) = (self.line(&name.span()), name.get_ref().as_ref());
        let known = sections().contains(&section);
        match value.get_ref() {
            DeValue::Table(table) if known => {
                for (name, value) in table {
                    self.entry(section, name, value);
                }
            }
            DeValue::Table(_) => {
                let near = nearest(section, sections());
                let problem = Problem::unknown_section(self.file, line, section, near);
                self.problems.push(problem);
            }
            _ if known => {
                let shown = self.shown(&value.span());
                self.problems.push(Problem::section_value(self.file, line, section, &shown));
            }
            _ => self.unknown(section.to_owned(), section, line),
        }
    }

    fn entry(
        &mut self,
        section: &str,
        name: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let (line, name) = (self.line(&name.span()), name.get_ref().as_ref());
        let is = |key: &Key| key.section == section && key.name == name;
        let Some(key) = KEYS.iter().position(is) else {
            return self.unknown(format!("{section}.{name}"), name, line);
        };
        let given = match value.get_ref() {
            DeValue::String(text) => Given::Text(text.to_string()),
            DeValue::Integer(digits) => {
                Given::Whole(u64::from_str_radix(digits.as_str(), digits.radix()).ok())
            }
            DeValue::Boolean(value) => Given::Truth(*value),
            _ => Given::Other,
        };
        self.entries.push(Entry { key, line, given, shown: self.shown(&value.span()) });
    }

    /// The right name in the wrong section is meant before a similar name in the right one.
    fn unknown(&mut self, full: String, name: &str, line: usize) {
        let elsewhere = KEYS.iter().find(|key| key.name == name).map(Key::full);
        let near = elsewhere.or_else(|| {
            let all: Vec<_> = KEYS.iter().map(Key::full).collect();
            let by_name = || {
                let name = nearest(name, KEYS.iter().map(|key| key.name))?;
                KEYS.iter().find(|key| key.name == name).map(Key::full)
            };
            nearest(&full, all.iter().map(String::as_str)).map(ToOwned::to_owned).or_else(by_name)
        });
        self.problems.push(Problem::unknown_key(self.file, line, &full, near));
    }

    fn line(&self, span: &Range<usize>) -> usize {
        line_of(self.text.as_bytes(), span.start)
    }

    fn shown(&self, span: &Range<usize>) -> String {
        let written = self.text.get(span.clone()).unwrap_or_default();
        match written.char_indices().nth(SHOWN_MAX) {
            Some((end, _)) => format!("{}...", &written[..end]),
            None => written.to_owned(),
        }
    }
}

fn line_of(text: &[u8], at: usize) -> usize {
    1 + text.iter().take(at).filter(|byte| **byte == b'\n').count()
}
