//! How a transaction ended, and why not as asked.

use crate::client::{BeginError, Resolution, ResolveError};
use std::collections::HashMap;
use std::fmt;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimous_core::{Gtrid, Outcome};
use unanimous_proto::v1;

/// The transaction is committed: durably, everywhere or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The transaction.
    pub gtrid: Gtrid,
    /// Every branch is known to have finished.
    pub completed: bool,
}

/// Why a transaction was rolled back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollback {
    /// The cause.
    pub reason: RollbackReason,
    /// The participant that voted rollback, or empty.
    pub participant: String,
    /// Its words, or those of whoever asked for the rollback. Untrusted text.
    pub detail: String,
}

impl fmt::Display for Rollback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            RollbackReason::Voted if !self.participant.is_empty() => {
                write!(f, "{} voted no", Escaped(&self.participant))?;
            }
            reason => write!(f, "{reason}")?,
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", Escaped(&self.detail))?;
        }
        Ok(())
    }
}

/// The cause of a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RollbackReason {
    /// The client, or a person, asked for it.
    Requested,
    /// The time-out passed before a decision.
    TimedOut,
    /// A participant voted rollback.
    Voted,
    /// Another number of branches was enlisted than the work replies told.
    BranchCount,
    /// The coordinator stopped before a decision.
    Presumed,
    /// The client's lease was lost.
    LeaseLost,
    /// The coordinator has no space to record a decision. Trying again later may help.
    LogFull,
    /// An operator rolled it back by force.
    Forced,
    /// A cause that this version does not know.
    Other,
}

impl RollbackReason {
    /// Upper snake case, for programs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::TimedOut => "TIMED_OUT",
            Self::Voted => "VOTED",
            Self::BranchCount => "BRANCH_COUNT",
            Self::Presumed => "PRESUMED",
            Self::LeaseLost => "LEASE_LOST",
            Self::LogFull => "LOG_FULL",
            Self::Forced => "FORCED",
            Self::Other => "OTHER",
        }
    }

    /// The whole business act, begun anew, may well succeed: nobody said no to it, and nothing is
    /// wrong with how its branches were counted.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::TimedOut | Self::Presumed | Self::LeaseLost | Self::LogFull => true,
            Self::Requested | Self::Voted | Self::BranchCount | Self::Forced | Self::Other => false,
        }
    }
}

impl fmt::Display for RollbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "its rollback was asked for",
            Self::TimedOut => "it was not decided in its time",
            Self::Voted => "a participant voted no",
            Self::BranchCount => {
                "the replies of its calls told another number of branches than were enlisted (a \
                 reply was lost, or a service does not tell its branches)"
            }
            Self::Presumed => "the coordinator stopped before a decision",
            Self::LeaseLost => "its client was lost",
            Self::LogFull => "the coordinator has no space to record a decision",
            Self::Forced => "an operator rolled it back",
            Self::Other => "for a reason that this version does not know",
        })
    }
}

impl From<i32> for RollbackReason {
    fn from(reason: i32) -> Self {
        match v1::RollbackReason::try_from(reason) {
            Ok(v1::RollbackReason::Requested) => Self::Requested,
            Ok(v1::RollbackReason::TimedOut) => Self::TimedOut,
            Ok(v1::RollbackReason::Voted) => Self::Voted,
            Ok(v1::RollbackReason::BranchCount) => Self::BranchCount,
            Ok(v1::RollbackReason::Presumed) => Self::Presumed,
            Ok(v1::RollbackReason::LeaseLost) => Self::LeaseLost,
            Ok(v1::RollbackReason::LogFull) => Self::LogFull,
            Ok(v1::RollbackReason::Forced) => Self::Forced,
            Ok(v1::RollbackReason::Unspecified) | Err(_) => Self::Other,
        }
    }
}

/// Why a transaction is not (known to be) ended as asked. Becomes a [`Status`] with `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// It is rolled back, with all its work.
    #[error("transaction {} was rolled back: {rollback}", gtrid.short())]
    RolledBack {
        /// The transaction.
        gtrid: Gtrid,
        /// Why.
        rollback: Rollback,
    },
    /// It is committed, although a rollback was asked for: that came too late.
    #[error("transaction {} was committed before its rollback was asked for", gtrid.short())]
    CommittedBefore {
        /// The transaction.
        gtrid: Gtrid,
    },
    /// Nobody can tell now whether it is committed or rolled back. [`crate::Client::resolve`] asks
    /// again, given both of these. The business act must not be tried again before that.
    #[error("the outcome of transaction {} is unknown: ask again", gtrid.short())]
    Unknown {
        /// The transaction.
        gtrid: Gtrid,
        /// The number of branches that the commit claimed. Kept: with it a coordinator without a
        /// record may be certain.
        branches: Option<u32>,
    },
    /// Branches ended otherwise than decided. It is on the operator's list.
    #[error("transaction {} ended otherwise than decided ({outcome:?}): an operator has to look",
        gtrid.short())]
    Heuristic {
        /// The transaction.
        gtrid: Gtrid,
        /// How.
        outcome: Outcome,
    },
    /// The coordinator refused the request, which changed nothing, for as long as the client had
    /// patience: the transaction is rolled back, at the latest by its time-out.
    #[error("the coordinator refused to end transaction {}: {reason}: {}",
        gtrid.short(), Escaped(detail))]
    Refused {
        /// The transaction.
        gtrid: Gtrid,
        /// Upper snake case.
        reason: String,
        /// For people. Untrusted text.
        detail: String,
    },
    /// The runtime that the client was connected in is shut down, and nothing was sent: the
    /// transaction is rolled back, at the latest by its time-out.
    #[error("transaction {} was not ended: the runtime of its client is shut down", gtrid.short())]
    ClientOver {
        /// The transaction.
        gtrid: Gtrid,
    },
}

impl CommitError {
    /// The transaction.
    #[must_use]
    pub fn gtrid(&self) -> Gtrid {
        match self {
            Self::RolledBack { gtrid, .. }
            | Self::CommittedBefore { gtrid }
            | Self::Unknown { gtrid, .. }
            | Self::Heuristic { gtrid, .. }
            | Self::ClientOver { gtrid }
            | Self::Refused { gtrid, .. } => *gtrid,
        }
    }

    /// The transaction is rolled back, and the whole business act, begun anew, may well succeed:
    /// see [`RollbackReason::is_retryable`]. Never for an unknown outcome.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::RolledBack { rollback, .. } if rollback.reason.is_retryable())
    }

    /// What a question for the outcome, asked instead of or after the request, has told.
    pub(crate) fn from_resolution(
        gtrid: Gtrid,
        branches: Option<u32>,
        error: ResolveError,
    ) -> Self {
        match error {
            ResolveError::NoAnswer => Self::Unknown { gtrid, branches },
            ResolveError::ClientOver => Self::ClientOver { gtrid },
            ResolveError::Refused { reason, detail } => Self::Refused { gtrid, reason, detail },
        }
    }

    /// What a commit comes to.
    pub(crate) fn of_commit(
        gtrid: Gtrid,
        branches: Option<u32>,
        resolution: Resolution,
    ) -> Result<Committed, Self> {
        match resolution {
            Resolution::Committed { completed } => Ok(Committed { gtrid, completed }),
            Resolution::RolledBack(rollback) => Err(Self::RolledBack { gtrid, rollback }),
            Resolution::Heuristic(outcome) => Err(Self::Heuristic { gtrid, outcome }),
            Resolution::Unknown => Err(Self::Unknown { gtrid, branches }),
        }
    }

    /// What a rollback comes to.
    pub(crate) fn of_rollback(
        gtrid: Gtrid,
        branches: Option<u32>,
        resolution: Resolution,
    ) -> Result<Rollback, Self> {
        match resolution {
            Resolution::RolledBack(rollback) => Ok(rollback),
            Resolution::Committed { .. } => Err(Self::CommittedBefore { gtrid }),
            Resolution::Heuristic(outcome) => Err(Self::Heuristic { gtrid, outcome }),
            Resolution::Unknown => Err(Self::Unknown { gtrid, branches }),
        }
    }
}

/// ABORTED: rolled back. UNKNOWN: the outcome is not known. DATA_LOSS: heuristic. Each with an
/// ErrorInfo that has the whole `gtrid`.
impl From<CommitError> for Status {
    fn from(error: CommitError) -> Self {
        let mut metadata = HashMap::from([("gtrid".to_owned(), error.gtrid().to_string())]);
        let (code, reason) = match &error {
            CommitError::RolledBack { rollback, .. } => {
                metadata.insert("rollback_reason".to_owned(), rollback.reason.as_str().to_owned());
                metadata.insert("participant".to_owned(), rollback.participant.clone());
                (Code::Aborted, "ROLLED_BACK")
            }
            CommitError::CommittedBefore { .. } => (Code::FailedPrecondition, "COMMITTED_BEFORE"),
            CommitError::Unknown { .. } => (Code::Unknown, "OUTCOME_UNKNOWN"),
            CommitError::Heuristic { .. } => (Code::DataLoss, "HEURISTIC"),
            CommitError::ClientOver { .. } => (Code::Internal, "CLIENT_OVER"),
            CommitError::Refused { reason, .. } => (Code::Unavailable, reason.as_str()),
        };
        let details = ErrorDetails::with_error_info(reason, "unanimous", metadata);
        Self::with_error_details(code, error.to_string(), details)
    }
}

/// Why [`crate::Client::run`] did not commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError<E> {
    /// There was no transaction.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The work failed: the transaction was never asked to commit, and is rolled back, at the
    /// latest by its time-out.
    #[error("{0}")]
    Work(E),
    /// The work was done, and the commit failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<RunError<Self>> for Status {
    fn from(error: RunError<Self>) -> Self {
        match error {
            RunError::Begin(error) => error.into(),
            RunError::Work(status) => status,
            RunError::Commit(error) => error.into(),
        }
    }
}

/// Text of others, for people: what would command a terminal is shown as an escape.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '"' | '\'' | '\\' => write!(f, "{c}"),
            c => write!(f, "{}", c.escape_debug()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{LogId, Owner};

    fn gtrid() -> Gtrid {
        let log = LogId { cluster: 1, slot: 1, incarnation: 1 };
        Gtrid::new(Owner { log, epoch: 1 }, 1, 0)
    }

    fn rolled_back(reason: RollbackReason, participant: &str, detail: &str) -> CommitError {
        let (participant, detail) = (participant.to_owned(), detail.to_owned());
        let rollback = Rollback { reason, participant, detail };
        CommitError::RolledBack { gtrid: gtrid(), rollback }
    }

    #[test]
    fn errors_are_sentences_and_foreign_words_cannot_command_a_terminal() {
        let id = gtrid().short();
        let voted = rolled_back(RollbackReason::Voted, "bank-b", "Müller's has \"3\"\n\u{1b}[2J");
        let voted_words = "bank-b voted no: Müller's has \"3\"\\n\\u{1b}[2J";
        assert_eq!(voted.to_string(), format!("transaction {id} was rolled back: {voted_words}"));
        let late = rolled_back(RollbackReason::TimedOut, "", "");
        let late_words = "was rolled back: it was not decided in its time";
        assert_eq!(late.to_string(), format!("transaction {id} {late_words}"));
    }

    #[test]
    fn only_what_is_rolled_back_and_not_refused_by_anybody_is_tried_again() {
        use RollbackReason::*;
        let retryable =
            [Requested, TimedOut, Voted, BranchCount, Presumed, LeaseLost, LogFull, Other]
                .map(|reason| rolled_back(reason, "", "").is_retryable());
        assert_eq!(retryable, [false, true, false, false, true, true, true, false]);
        let gtrid = gtrid();
        for error in [
            CommitError::Unknown { gtrid, branches: None },
            CommitError::CommittedBefore { gtrid },
            CommitError::Heuristic { gtrid, outcome: Outcome::Mixed },
        ] {
            assert!(!error.is_retryable(), "{error}");
        }
    }

    #[test]
    fn a_status_tells_the_whole_id_and_what_happened() {
        let unknown = CommitError::Unknown { gtrid: gtrid(), branches: None };
        let voted = rolled_back(RollbackReason::Voted, "bank-b", "no");
        for (error, code, reason) in
            [(unknown, Code::Unknown, "OUTCOME_UNKNOWN"), (voted, Code::Aborted, "ROLLED_BACK")]
        {
            let status = Status::from(RunError::Commit(error));
            let info = status.get_details_error_info().unwrap();
            assert_eq!((status.code(), &*info.reason), (code, reason));
            assert_eq!(info.metadata["gtrid"], gtrid().to_string());
        }
        let work = Status::from(RunError::Work(Status::not_found("account 7")));
        assert_eq!((work.code(), work.message()), (Code::NotFound, "account 7"));
    }
}
