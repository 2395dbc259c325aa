//! Data on stdout in the format asked for; talk on stderr.

use crate::cli::{Format, Global, TimeStyle};
use crate::errors::Failure;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

/// Something to show, in all forms.
#[derive(Debug, Default)]
pub(crate) struct Document {
    /// The whole as JSON.
    pub(crate) whole: Value,
    /// The lines of `jsonl`; `None`: the whole is one line.
    pub(crate) items: Option<Vec<Value>>,
    /// Column names and rows, for people. No header: rows of a name and a value.
    pub(crate) header: Vec<&'static str>,
    /// See `header`.
    pub(crate) rows: Vec<Vec<String>>,
    /// Columns that only `wide` shows, by index.
    pub(crate) wide_columns: Vec<usize>,
    /// Lines above the table.
    pub(crate) above: String,
    /// More lines below the table.
    pub(crate) below: String,
    /// What `id` shows.
    pub(crate) ids: Vec<String>,
}

/// How this run writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
    time: TimeStyle,
}

impl Output {
    /// As the global options say.
    pub(crate) fn new(global: &Global) -> Self {
        Self { format: global.output, time: global.time }
    }

    /// The format asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Writes a document to stdout.
    pub(crate) fn show(&self, document: &Document) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => document.table(false),
            Format::Wide => document.table(true),
            Format::Json => format!("{:#}\n", document.whole),
            Format::Jsonl => match &document.items {
                None => format!("{}\n", document.whole),
                Some(items) => items.iter().map(|item| format!("{item}\n")).collect(),
            },
            Format::Yaml => serde_saphyr::to_string(&document.whole)
                .map_err(|error| Failure::io("writing YAML", error, "use --output json"))?,
            Format::Id => document.ids.iter().map(|id| format!("{id}\n")).collect(),
        };
        write_stdout(text.as_bytes())
    }

    /// As [`Output::show`], as one of several: JSON is one line, YAML a document of its own.
    pub(crate) fn show_line(&self, document: &Document) -> Result<(), Failure> {
        if self.format == Format::Yaml {
            write_stdout(b"---\n")?;
        }
        match self.format {
            Format::Json => write_stdout(format!("{}\n", document.whole).as_bytes()),
            _ => self.show(document),
        }
    }

    /// A moment, given by its distance from now.
    pub(crate) fn ago(&self, age_ms: u64) -> String {
        match self.time {
            TimeStyle::Relative => short_duration(age_ms),
            TimeStyle::Local | TimeStyle::Utc => {
                let age = Duration::from_millis(age_ms);
                SystemTime::now().checked_sub(age).map_or_else(|| "-".to_owned(), |at| self.at(at))
            }
        }
    }

    /// A moment.
    pub(crate) fn at(&self, at: SystemTime) -> String {
        let Ok(timestamp) = jiff::Timestamp::try_from(at) else { return "-".to_owned() };
        let zoned = |zone| timestamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%.3f %:z");
        match self.time {
            TimeStyle::Relative => {
                let age = at.elapsed().unwrap_or_default().as_millis();
                format!("{} ago", short_duration(u64::try_from(age).unwrap_or(u64::MAX)))
            }
            TimeStyle::Local => zoned(jiff::tz::TimeZone::system()).to_string(),
            TimeStyle::Utc => zoned(jiff::tz::TimeZone::UTC).to_string(),
        }
    }
}

impl Document {
    /// For people; `wide` with all columns.
    pub(crate) fn table(&self, wide: bool) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let shown = |cells: Vec<String>| -> Vec<String> {
            let keep = |index: &usize| wide || !self.wide_columns.contains(index);
            cells.into_iter().enumerate().filter(|(i, _)| keep(i)).map(|(_, cell)| cell).collect()
        };
        if !self.header.is_empty() {
            table.set_header(shown(self.header.iter().map(|&name| name.to_owned()).collect()));
        }
        for row in &self.rows {
            table.add_row(shown(row.iter().map(|cell| escape(cell)).collect()));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let lines = if table.is_empty() { String::new() } else { table.trim_fmt() + "\n" };
        self.above.clone() + &lines + &self.below
    }
}

/// Writes data. A reader that has gone away is not an error: the program ends quietly.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(|error| Failure::io("writing to stdout", error, "df -h")),
    }
}

/// Says something to the person at the terminal. Nobody listening is no error.
pub(crate) fn talk(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether stderr takes colours.
pub(crate) fn stderr_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::io::stderr().is_terminal()
}

/// Text from outside, safe for a terminal.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}') {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// As [`escape`], line by line.
pub(crate) fn escape_lines(text: &str) -> String {
    text.lines().map(|line| escape(line) + "\n").collect()
}

/// As a POSIX shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// A duration for people: "4m12s", "31m", "0.3s".
pub(crate) fn short_duration(duration_ms: u64) -> String {
    let seconds = duration_ms / 1_000;
    match seconds {
        0..10 => format!("{}.{}s", seconds, duration_ms % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A number for people: "3 214".
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Made once: a stream of transactions has many messages.
static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(unanimous_proto::FILE_DESCRIPTOR_SET).map_err(|error| error.to_string())
});

/// The canonical JSON of a message of package `unanimous.v1`, default values included.
pub(crate) fn canonical_json(name: &str, message: &impl prost::Message) -> Result<Value, Failure> {
    let failed = |error: String| Failure::io("writing JSON", error, "use --output table");
    let descriptor = descriptor(name).map_err(failed)?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| failed(error.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| failed(error.to_string()))
}

/// A message of package `unanimous.v1` from its canonical JSON; the error is for people.
pub(crate) fn from_canonical_json<M: prost::Message + Default>(
    name: &str,
    json: &[u8],
) -> Result<M, String> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let dynamic = DynamicMessage::deserialize(descriptor(name)?, &mut json);
    let dynamic = dynamic.map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    M::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| error.to_string())
}

fn descriptor(name: &str) -> Result<MessageDescriptor, String> {
    let pool = POOL.as_ref().map_err(Clone::clone)?;
    let found = pool.get_message_by_name(&format!("unanimous.v1.{name}"));
    found.ok_or_else(|| format!("there is no message {name}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use unanimous_proto::v1;

    #[test]
    fn durations_are_short() {
        let table = [
            (0, "0.0s"),
            (349, "0.3s"),
            (59_999, "59s"),
            (252_000, "4m12s"),
            (3_600_000, "1h00m"),
            (90_000_000, "1d01h"),
        ];
        for (duration_ms, text) in table {
            assert_eq!(short_duration(duration_ms), text);
        }
    }

    #[test]
    fn numbers_are_grouped() {
        let table = [
            (0, "0"),
            (999, "999"),
            (3_214, "3 214"),
            (123_456, "123 456"),
            (1_000_000, "1 000 000"),
        ];
        for (number, text) in table {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let table =
            [("a-b", "a-b"), ("", "''"), ("a b", "'a b'"), ("a'b", "'a'\\''b'"), ("$x", "'$x'")];
        for (word, shown) in table {
            assert_eq!(quoted(word), shown);
        }
    }

    #[test]
    fn json_is_canonical_with_default_values() {
        let transaction = v1::Transaction {
            gtrid: "ab".into(),
            state: v1::TransactionState::Committing.into(),
            age_ms: 7,
            ..v1::Transaction::default()
        };
        let json = canonical_json("Transaction", &transaction).unwrap();
        assert_eq!(json["state"], "TRANSACTION_STATE_COMMITTING");
        assert_eq!(json["ageMs"], "7");
        assert_eq!(json["stuck"], false);
        assert_eq!(json["waitingOn"], serde_json::json!([]));
        let text = json.to_string();
        let read = from_canonical_json::<v1::Transaction>("Transaction", text.as_bytes());
        assert_eq!(read, Ok(transaction));
        for bad in ["", "{", "[]", "{\"no\":1}", "{\"stuck\":7}", "{} {}", "{}x"] {
            let read = from_canonical_json::<v1::Transaction>("Transaction", bad.as_bytes());
            assert!(read.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn z_08_hostile_text_cannot_reach_the_terminal() {
        assert_eq!(
            escape("a\u{1b}[31m\n\0\u{9b}é\u{202e}"),
            "a\\u{1b}[31m\\n\\u{0}\\u{9b}é\\u{202e}"
        );
    }

    #[test]
    fn wide_columns_are_shown_only_wide() {
        let document = Document {
            header: vec!["ID", "NAME"],
            rows: vec![vec!["1".into(), "x\ny".into()]],
            wide_columns: vec![1],
            ..Document::default()
        };
        assert_eq!(document.table(false), "ID\n1\n");
        assert_eq!(document.table(true), "ID  NAME\n1   x\\ny\n");
    }
}
