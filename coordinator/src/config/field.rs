//! A place in the settings: how it is read from text and shown again.

use super::problem::BadValue;
use crate::cli::LogFormat;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// No count is larger: it is beyond every machine, and far from every overflow.
const COUNT_MAX: u64 = 1_000_000_000;
/// No size is larger, for the same reasons.
const BYTES_MAX: u64 = 1 << 50;
/// No duration is longer, in milliseconds: a year.
const DURATION_MS_MAX: u64 = 365 * 86_400_000;
/// Sizes have these units. Decimal ones are refused: too many people mean the binary ones.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Durations are shown in these, in milliseconds.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A value as it was given, before its key has judged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// In the environment or on the command line, where everything is text.
    Word(OsString),
    /// Text in the file.
    Text(String),
    /// A whole number in the file; `None`: negative, or beyond 64 bits.
    Whole(Option<u64>),
    /// true or false in the file.
    Truth(bool),
    /// Anything else in the file: no key takes it.
    Other,
}

/// A whole number of any width.
pub(super) trait Whole {
    fn read(&self) -> u64;
    /// Whether it fits.
    fn put(&mut self, value: u64) -> bool;
    fn max(&self) -> u64;
}

macro_rules! whole {
    ($($width:ty),+) => {
        $(impl Whole for $width {
            fn read(&self) -> u64 {
                u64::try_from(*self).unwrap_or(u64::MAX)
            }

            fn put(&mut self, value: u64) -> bool {
                <$width>::try_from(value).map(|value| *self = value).is_ok()
            }

            fn max(&self) -> u64 {
                u64::try_from(<$width>::MAX).unwrap_or(u64::MAX)
            }
        })+
    };
}
whole!(u16, u32, u64, usize);

/// A place in the settings. Numbers are refused below `least`.
pub(super) enum Field<'a> {
    Switch(&'a mut bool),
    Count {
        at: &'a mut dyn Whole,
        least: u64,
    },
    Bytes {
        at: &'a mut dyn Whole,
        least: u64,
    },
    /// In milliseconds.
    Duration {
        at: &'a mut dyn Whole,
        least: u64,
    },
    Address(&'a mut SocketAddr),
    Path(&'a mut Option<PathBuf>),
    /// Which log lines are written.
    Directives(&'a mut String),
    Form(&'a mut LogFormat),
}

impl Field<'_> {
    /// The value, as a file has it; null: there is none.
    pub(super) fn show(&self) -> Value {
        match self {
            Self::Switch(at) => json!(**at),
            Self::Count { at, .. } => json!(at.read()),
            Self::Bytes { at, .. } => json!(bytes_text(at.read())),
            Self::Duration { at, .. } => json!(duration_text(at.read())),
            Self::Address(at) => json!(at.to_string()),
            Self::Path(at) => at.as_ref().map_or(Value::Null, |path| json!(path.to_string_lossy())),
            Self::Directives(at) => json!(at),
            Self::Form(at) => json!(at.word()),
        }
    }

    /// Puts a value in; a refused one changes nothing.
    pub(super) fn set(&mut self, given: &Given) -> Result<(), BadValue> {
        let rule = self.rule();
        let bad = || BadValue { rule: rule.clone(), meant: Vec::new() };
        match self {
            Self::Switch(at) => **at = truth(given).ok_or_else(bad)?,
            Self::Count { at, least } => {
                let value = given.whole().filter(|value| (*least..=COUNT_MAX).contains(value));
                value.filter(|value| at.put(*value)).ok_or_else(bad)?;
            }
            Self::Bytes { at, least } => {
                let value = bytes(given).map_err(|meant| BadValue { meant, ..bad() })?;
                let value = Some(value).filter(|value| (*least..=BYTES_MAX).contains(value));
                value.filter(|value| at.put(*value)).ok_or_else(bad)?;
            }
            Self::Duration { at, least } => {
                let value = duration(given).map_err(|meant| BadValue { meant, ..bad() })?;
                let value = Some(value).filter(|value| (*least..=DURATION_MS_MAX).contains(value));
                value.filter(|value| at.put(*value)).ok_or_else(bad)?;
            }
            Self::Address(at) => {
                **at = given.text().and_then(|text| text.parse().ok()).ok_or_else(bad)?;
            }
            Self::Path(at) => {
                let path = given.words().filter(|path| !path.is_empty()).ok_or_else(bad)?;
                **at = Some(path.into());
            }
            Self::Directives(at) => {
                let text = given.text().filter(|text| !text.trim().is_empty()).ok_or_else(bad)?;
                EnvFilter::try_new(text).map_err(|_| bad())?;
                **at = text.to_owned();
            }
            Self::Form(at) => {
                let form = given.text().and_then(|text| LogFormat::from_str(text, false).ok());
                **at = form.ok_or_else(bad)?;
            }
        }
        Ok(())
    }

    /// What the key takes.
    fn rule(&self) -> String {
        match self {
            Self::Switch(_) => "must be true or false".to_owned(),
            Self::Count { at, least } => {
                format!("must be a whole number from {least} to {}", at.max().min(COUNT_MAX))
            }
            Self::Bytes { least, .. } => format!(
                "must be a size in text, with its unit (B, KiB, MiB, GiB, TiB), from {} to {}",
                bytes_text(*least),
                bytes_text(BYTES_MAX)
            ),
            Self::Duration { least, .. } => format!(
                "must be a time in text, with its units (ms, s, m, h, d), from {} to {}",
                duration_text(*least),
                duration_text(DURATION_MS_MAX)
            ),
            Self::Address(_) => "must be an IP address and a port in text".to_owned(),
            Self::Path(_) => "must be a path in text, and not empty".to_owned(),
            Self::Directives(_) => "must be error, warn, info, debug, trace, or directives as \
                                    \"info,unanimous_server=debug\""
                .to_owned(),
            Self::Form(_) => "must be \"human\" or \"json\"".to_owned(),
        }
    }
}

impl Given {
    /// Text; a word that is not UTF-8 is none.
    fn text(&self) -> Option<&str> {
        self.words().and_then(OsStr::to_str)
    }

    fn words(&self) -> Option<&OsStr> {
        match self {
            Self::Word(word) => Some(word),
            Self::Text(text) => Some(text.as_ref()),
            _ => None,
        }
    }

    /// A number without a unit, and without quotes if it is in the file.
    fn whole(&self) -> Option<u64> {
        match self {
            Self::Whole(value) => *value,
            Self::Word(word) => digits(word.to_str()?),
            _ => None,
        }
    }
}

fn truth(given: &Given) -> Option<bool> {
    match given {
        Given::Truth(value) => Some(*value),
        Given::Word(word) => word.to_str()?.parse().ok(),
        _ => None,
    }
}

/// The size in bytes; refused with what may have been meant.
fn bytes(given: &Given) -> Result<u64, Vec<Value>> {
    let bare = given.whole().or_else(|| digits(given.text()?));
    if let Some(bare) = bare {
        return Err(vec![json!(bytes_text(bare))]);
    }
    let text = given.text().unwrap_or_default().trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (digits(&text[..at]), text[at..].trim());
    let named = |exact: bool, unit: &str| {
        let mut units = UNITS.iter();
        let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
        let like = |name: &&str| if exact { *name == unit } else { name.chars().next() == first };
        units.find(|(name, _)| like(name)).map(|(_, bytes)| *bytes)
    };
    let times = |unit: Option<u64>| number.and_then(|number| number.checked_mul(unit?));
    match times(named(true, unit)) {
        Some(bytes) => Ok(bytes),
        None => Err(times(named(false, unit)).map(|b| json!(bytes_text(b))).into_iter().collect()),
    }
}

/// The duration in milliseconds; refused with what may have been meant.
fn duration(given: &Given) -> Result<u64, Vec<Value>> {
    let bare = given.whole().or_else(|| digits(given.text()?));
    if let Some(bare) = bare {
        return Err(vec![json!(format!("{bare}s")), json!(format!("{bare}ms"))]);
    }
    let parsed = humantime::parse_duration(given.text().unwrap_or_default()).ok();
    let whole = parsed.filter(|duration| duration.subsec_nanos().is_multiple_of(1_000_000));
    whole.and_then(|duration| u64::try_from(duration.as_millis()).ok()).ok_or_else(Vec::new)
}

/// Digits only: no sign, no blank.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn bytes_text(bytes: u64) -> String {
    in_largest(&UNITS, bytes)
}

fn duration_text(duration_ms: u64) -> String {
    in_largest(&TIMES, duration_ms)
}

/// In the largest unit that divides it, so that what is read is what was written.
fn in_largest(units: &[(&str, u64)], value: u64) -> String {
    let divides = |(_, unit): &&(&str, u64)| value >= *unit && value.is_multiple_of(*unit);
    let last = units.last().copied().unwrap_or(("", 1));
    let (name, unit) = units.iter().find(divides).copied().unwrap_or(last);
    format!("{}{name}", value / unit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn word(text: &str) -> Given {
        Given::Word(text.into())
    }

    #[test]
    fn sizes_have_units() {
        let table = [
            ("0B", Ok(0)),
            ("1B", Ok(1)),
            ("64MiB", Ok(64 << 20)),
            ("64 MiB", Ok(64 << 20)),
            ("3KiB", Ok(3 << 10)),
            ("1TiB", Ok(1 << 40)),
            ("64", Err(vec!["64B"])),
            ("65536", Err(vec!["64KiB"])),
            ("64MB", Err(vec!["64MiB"])),
            ("64m", Err(vec!["64MiB"])),
            ("64 gib", Err(vec!["64GiB"])),
            ("-64MiB", Err(vec![])),
            ("1.5GiB", Err(vec![])),
            ("99999999999999999999B", Err(vec![])),
            ("99999999999TiB", Err(vec![])),
            ("MiB", Err(vec![])),
            ("", Err(vec![])),
            ("é", Err(vec![])),
        ];
        for (text, expected) in table {
            let expected = expected.map_err(|meant| meant.into_iter().map(Value::from).collect());
            assert_eq!(bytes(&word(text)), expected, "{text}");
            assert_eq!(bytes(&Given::Text(text.to_owned())), expected, "{text}");
        }
        assert_eq!(bytes(&Given::Whole(Some(1_024))), Err(vec![json!("1KiB")]));
        assert_eq!(bytes(&Given::Other), Err(vec![]));
    }

    #[test]
    fn durations_have_units() {
        let table = [
            ("0s", Ok(0)),
            ("500ms", Ok(500)),
            ("30s", Ok(30_000)),
            ("1m 30s", Ok(90_000)),
            ("24h", Ok(86_400_000)),
            ("1d", Ok(86_400_000)),
            ("30", Err(vec!["30s", "30ms"])),
            ("0", Err(vec!["0s", "0ms"])),
            ("5us", Err(vec![])),
            ("1001us", Err(vec![])),
            ("-1s", Err(vec![])),
            ("soon", Err(vec![])),
            ("", Err(vec![])),
        ];
        for (text, expected) in table {
            let expected = expected.map_err(|meant| meant.into_iter().map(Value::from).collect());
            assert_eq!(duration(&word(text)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_given() {
        for value in [0, 1, 1_023, 1_024, 4 << 20, BYTES_MAX, BYTES_MAX - 1] {
            assert_eq!(bytes(&word(&bytes_text(value))), Ok(value));
        }
        for value in [0, 1, 999, 1_000, 90_061_001, DURATION_MS_MAX] {
            assert_eq!(duration(&word(&duration_text(value))), Ok(value));
        }
    }

    #[test]
    fn a_refused_value_changes_nothing() {
        let mut number = 7_u16;
        let mut field = Field::Count { at: &mut number, least: 1 };
        for bad in ["0", "65536", "1000000001", "-1", "+1", "1.0", "", " 1", "one"] {
            let refused = field.set(&word(bad)).unwrap_err();
            assert_eq!(refused.rule, "must be a whole number from 1 to 65535", "{bad:?}");
        }
        for bad in [Given::Whole(None), Given::Truth(true), Given::Text("1".into())] {
            assert!(field.set(&bad).is_err(), "{bad:?}");
        }
        assert_eq!(field.show(), json!(7));
        field.set(&word("65535")).unwrap();
        assert_eq!(number, 65_535);
    }
}
