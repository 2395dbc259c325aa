//! Why a client could not do what it was asked for.

use crate::credentials::BadCredentials;
use crate::endpoint::BadAddress;
use crate::transaction::Escaped;
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The longest name of a client and of a transaction, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 64;

/// Why a client cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The coordinator's address cannot be used.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// The client's name is too long or has control characters.
    #[error("the client's name must be at most {NAME_BYTES_MAX} bytes without control characters")]
    Name,
}

/// Why a transaction did not begin. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The coordinator did not answer in the time given.
    #[error("no transaction: the coordinator did not answer in time")]
    Unreachable,
    /// The coordinator refuses, and went on refusing for the time given if it asked to try again.
    #[error("no transaction: the coordinator refused: {reason}: {}", Escaped(detail))]
    Refused {
        /// Upper snake case.
        reason: String,
        /// For people. Untrusted text.
        detail: String,
    },
    /// The coordinator answered with something this version cannot read.
    #[error("no transaction: the coordinator's answer cannot be read")]
    BadAnswer,
    /// The runtime that the client was connected in is shut down.
    #[error("no transaction: the runtime that the client was connected in is shut down")]
    ClientOver,
}

/// Why there is no answer to a question for an outcome. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The coordinator did not answer in the time given, or the transaction was not decided in it.
    #[error("the outcome was not known in the time given")]
    NoAnswer,
    /// The coordinator refuses the question.
    #[error("the coordinator refused to tell the outcome: {reason}: {}", Escaped(detail))]
    Refused {
        /// Upper snake case.
        reason: String,
        /// For people. Untrusted text.
        detail: String,
    },
    /// The runtime that the client was connected in is shut down. Nothing was asked.
    #[error("the runtime that the client was connected in is shut down")]
    ClientOver,
}

/// INTERNAL for what is wrong with the request itself: whoever called the service cannot help it.
impl From<BeginError> for Status {
    fn from(error: BeginError) -> Self {
        let (code, reason) = match &error {
            BeginError::Unreachable => (Code::Unavailable, "COORDINATOR_UNREACHABLE"),
            BeginError::ClientOver => (Code::Internal, "CLIENT_OVER"),
            BeginError::BadAnswer => (Code::Internal, "BAD_ANSWER"),
            BeginError::Refused { reason, .. } => (refusal_code(reason), reason.as_str()),
        };
        status(code, reason, error.to_string())
    }
}

impl From<ResolveError> for Status {
    fn from(error: ResolveError) -> Self {
        let (code, reason) = match &error {
            ResolveError::ClientOver => (Code::Internal, "CLIENT_OVER"),
            ResolveError::NoAnswer => (Code::Unknown, "OUTCOME_UNKNOWN"),
            ResolveError::Refused { reason, .. } => (refusal_code(reason), reason.as_str()),
        };
        status(code, reason, error.to_string())
    }
}

fn refusal_code(reason: &str) -> Code {
    match reason {
        "INVALID_ARGUMENT" | "TIMEOUT_TOO_LONG" | "UNSUPPORTED_FIELD" | "INTERNAL" => {
            Code::Internal
        }
        _ => Code::Unavailable,
    }
}

fn status(code: Code, reason: &str, words: String) -> Status {
    let details = ErrorDetails::with_error_info(reason, "unanimous", HashMap::default());
    Status::with_error_details(code, words, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_that_is_busy_is_unavailable_and_a_bad_request_is_our_own_defect() {
        let refused =
            |reason: &str| BeginError::Refused { reason: reason.to_owned(), detail: "\n".into() };
        for (error, code) in [
            (BeginError::Unreachable, Code::Unavailable),
            (refused("LOG_FULL"), Code::Unavailable),
            (refused("INVALID_ARGUMENT"), Code::Internal),
            (BeginError::BadAnswer, Code::Internal),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{status}");
            assert!(!status.message().contains('\n'), "{status}");
        }
    }
}
