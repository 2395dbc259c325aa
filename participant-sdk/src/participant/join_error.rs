//! Why work did not join a transaction.

use crate::HEADER_TRANSACTION;
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Why work did not join a transaction. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The call carries no transaction.
    #[error("the call has no header `{HEADER_TRANSACTION}`")]
    NoTransaction,
    /// The call's header is no gtrid.
    #[error("the header `{HEADER_TRANSACTION}` is not readable: {0}")]
    BadTransaction(String),
    /// The transaction is being rolled back.
    #[error("the transaction is rolled back")]
    RolledBack,
    /// The commit was requested already: the work comes too late.
    #[error("the transaction is being committed already")]
    Inactive,
    /// The coordinator does not know the transaction.
    #[error("the coordinator does not know the transaction")]
    UnknownTransaction,
    /// The transaction belongs to another coordinator, or to an earlier life of this one.
    #[error("the transaction belongs to another coordinator, or to an earlier life of it")]
    NotOurs,
    /// The transaction has as many branches as it may have.
    #[error("the transaction has as many branches as it may have")]
    TooManyBranches,
    /// The coordinator does not accept the resource.
    #[error("the coordinator does not accept the resource: {0}")]
    BadResource(String),
    /// Earlier work of this transaction here was undone: it can only roll back.
    #[error("earlier work of the transaction was undone here")]
    Undone,
    /// Earlier work of this transaction here was ended with a vote: nothing may follow it.
    #[error("earlier work of the transaction here was ended with its vote")]
    Voted,
    /// This participant has as many branches as it may have.
    #[error("the participant has as many branches as it may have; try again later")]
    Overloaded,
    /// The coordinator did not answer in the time given.
    #[error("the coordinator did not answer in time")]
    TimedOut,
    /// Another process has this one's instance id: see [`crate::ParticipantState::Replaced`].
    #[error("the participant was replaced by another process with the same instance id")]
    Replaced,
    /// The participant was stopped.
    #[error("the participant is stopped")]
    Stopped,
}

impl JoinError {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoTransaction => "NO_TRANSACTION",
            Self::BadTransaction(_) => "BAD_TRANSACTION",
            Self::RolledBack => "ROLLED_BACK",
            Self::Inactive => "INACTIVE",
            Self::UnknownTransaction => "UNKNOWN_TRANSACTION",
            Self::NotOurs => "NOT_OURS",
            Self::TooManyBranches => "TOO_MANY_BRANCHES",
            Self::BadResource(_) => "BAD_RESOURCE",
            Self::Undone => "UNDONE",
            Self::Voted => "VOTED",
            Self::Overloaded => "OVERLOADED",
            Self::TimedOut => "TIMED_OUT",
            Self::Replaced => "REPLACED",
            Self::Stopped => "STOPPED",
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::NoTransaction | Self::BadTransaction(_) => Code::InvalidArgument,
            Self::BadResource(_) => Code::Internal,
            Self::RolledBack | Self::Undone => Code::Aborted,
            Self::Inactive | Self::Voted | Self::UnknownTransaction | Self::NotOurs => {
                Code::FailedPrecondition
            }
            Self::TooManyBranches | Self::Overloaded => Code::ResourceExhausted,
            Self::TimedOut => Code::DeadlineExceeded,
            Self::Replaced | Self::Stopped => Code::Unavailable,
        }
    }
}

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Self {
        let details =
            ErrorDetails::with_error_info(error.reason(), "unanimous", HashMap::default());
        Self::with_error_details(error.code(), error.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_10_a_join_error_becomes_a_status_that_names_its_reason() {
        let status = Status::from(JoinError::Inactive);
        assert_eq!(status.code(), Code::FailedPrecondition);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("INACTIVE", "unanimous"));
    }
}
