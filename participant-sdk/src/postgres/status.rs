//! What a failed statement is to the handler's caller.

use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DEADLOCK: (Code, &str) = (Code::Aborted, "DEADLOCK");
const RIGHTS: (Code, &str) = (Code::PermissionDenied, "NOT_GRANTED");
const GONE: (Code, &str) = (Code::Unavailable, "DATABASE_UNAVAILABLE");

/// By the beginning of the SQLSTATE; the longest counts. The reasons are those of `mysql`.
const TABLE: &[(&str, (Code, &str))] = &[
    ("08", GONE),
    ("23", (Code::FailedPrecondition, "CONSTRAINT_VIOLATED")),
    ("23505", (Code::AlreadyExists, "DUPLICATE_KEY")),
    ("25006", (Code::Unavailable, "DATABASE_READ_ONLY")),
    ("40", DEADLOCK),
    ("42501", RIGHTS),
    ("53", (Code::ResourceExhausted, "DATABASE_OVERLOADED")),
    ("55P03", (Code::Aborted, "LOCK_TIMEOUT")),
    ("57", GONE),
    ("57014", (Code::DeadlineExceeded, "STATEMENT_TIMEOUT")),
];

/// A failed statement as the answer to the work call: `.map_err(postgres::status)?`. Its ErrorInfo
/// has a reason for programs; ABORTED and UNAVAILABLE are worth another try, in another
/// transaction. The branch votes rollback.
#[must_use]
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
pub fn status(error: tokio_postgres::Error) -> Status {
    let (code, reason) = match error.code() {
        Some(state) => of(state.code()),
        None if error.is_closed() => GONE,
        None => (Code::Internal, "STATEMENT_FAILED"),
    };
    let words = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
    let details = ErrorDetails::with_error_info(reason, "unanimous", HashMap::default());
    Status::with_error_details(code, words, details)
}

fn of(state: &str) -> (Code, &'static str) {
    let fits = TABLE.iter().filter(|(begins, _)| state.starts_with(begins));
    let found = fits.max_by_key(|(begins, _)| begins.len());
    found.map_or((Code::Internal, "STATEMENT_FAILED"), |(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_of_a_state_counts() {
        for (state, code, reason) in [
            ("23505", Code::AlreadyExists, "DUPLICATE_KEY"),
            ("23514", Code::FailedPrecondition, "CONSTRAINT_VIOLATED"),
            ("40001", Code::Aborted, "DEADLOCK"),
            ("40P01", Code::Aborted, "DEADLOCK"),
            ("57014", Code::DeadlineExceeded, "STATEMENT_TIMEOUT"),
            ("57P01", Code::Unavailable, "DATABASE_UNAVAILABLE"),
            ("42P01", Code::Internal, "STATEMENT_FAILED"),
        ] {
            assert_eq!(of(state), (code, reason), "{state}");
        }
    }
}
