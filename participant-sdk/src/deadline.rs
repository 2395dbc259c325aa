//! The remaining time of a call: the header `grpc-timeout`.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

const HEADER_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// gRPC allows eight digits.
const DIGITS_MAX: usize = 8;
const VALUE_MAX: u128 = 99_999_999;

/// Writes the time unless the headers have a shorter one. A time of zero would mean none to some,
/// so it is at least a millisecond.
pub(crate) fn limit(headers: &mut HeaderMap, remaining: Duration) {
    if remaining == Duration::MAX || of(headers).is_some_and(|timeout| timeout <= remaining) {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(format(remaining)) {
        headers.insert(HEADER_TIMEOUT, value);
    }
}

/// The time that the headers give; `None`: no limit, or none that can be read.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > DIGITS_MAX || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

fn format(timeout: Duration) -> String {
    let timeout_ms = timeout.as_millis().max(1);
    if timeout_ms <= VALUE_MAX {
        return format!("{timeout_ms}m");
    }
    format!("{}S", u128::from(timeout.as_secs()).min(VALUE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(timeout: &str) -> HeaderMap {
        HeaderMap::from_iter([(HEADER_TIMEOUT, HeaderValue::try_from(timeout).unwrap())])
    }

    fn limited(timeout: &str, remaining: Duration) -> String {
        let mut headers = headers(timeout);
        limit(&mut headers, remaining);
        headers[HEADER_TIMEOUT].to_str().unwrap().to_owned()
    }

    #[test]
    fn every_unit_is_read_and_nothing_else() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7_200)),
            ("2M", Duration::from_secs(120)),
            ("5S", Duration::from_secs(5)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
        ] {
            assert_eq!(of(&headers(text)), Some(expected), "{text}");
        }
        for text in ["", "5", "S", "-5S", "+5S", "100000000m", "5x", "5 S"] {
            assert_eq!(of(&headers(text)), None, "{text:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    #[test]
    fn the_shorter_time_wins_and_none_is_zero() {
        let second = Duration::from_secs(1);
        assert_eq!(limited("5S", second), "1000m");
        assert_eq!(limited("500m", second), "500m");
        assert_eq!(limited("nonsense", second), "1000m");
        assert_eq!(limited("5S", Duration::ZERO), "1m");
        assert_eq!(limited("5S", Duration::MAX), "5S", "not known");
        let year = Duration::from_secs(365 * 24 * 3_600);
        assert_eq!(limited("nonsense", year), "31536000S");
        let mut none = HeaderMap::new();
        limit(&mut none, Duration::MAX);
        assert!(none.is_empty());
    }
}
