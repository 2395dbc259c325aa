//! Requests that are not carried out: one list of reasons for sessions and unary calls.

use crate::examination::EXAMINATIONS_MAX;
use crate::filter::Mistake;
use crate::identity::Role;
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use unanimous_core::message::Refusal as CoreRefusal;
use unanimous_proto::v1;

/// The domain of every ErrorInfo.
pub(crate) const DOMAIN: &str = "unanimous";
/// When to try again at a limit that moves with every transaction.
const SOON_MS: u64 = 100;
/// When to try again elsewhere, or after a restart.
const LATER_MS: u64 = 1_000;

/// What [`Refusal::act`] may say.
const ACT_REASONS: [&str; 11] = [
    "TX_DECIDED",
    "VOTES_MISSING",
    "TX_UNDECIDED",
    "ONE_PHASE_UNDECIDED",
    "WAIT_FOR_LOG",
    "NOT_HEURISTIC",
    "BRANCHES_PENDING",
    "ALREADY_RESOLVED",
    "BRANCH_UNKNOWN",
    "BRANCH_FINISHED",
    "TX_MOVED",
];

/// Why a request was not carried out. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    code: Code,
    reason: &'static str,
    detail: String,
    retry_after_ms: u64,
    field: Option<&'static str>,
    metadata: HashMap<String, String>,
}

impl Refusal {
    fn new(code: Code, reason: &'static str, detail: impl Into<String>, retry_ms: u64) -> Self {
        let (field, metadata) = (None, HashMap::new());
        Self { code, reason, detail: detail.into(), retry_after_ms: retry_ms, field, metadata }
    }

    pub(crate) fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        let refusal = Self::new(Code::InvalidArgument, "INVALID_ARGUMENT", detail, 0);
        Self { field: Some(field), ..refusal }
    }

    /// The place is told for programs too: `column`, from 1 in characters, and `nearest`, what was
    /// probably meant there.
    pub(crate) fn bad_filter(mistake: Mistake) -> Self {
        let refusal = Self::invalid("filter", mistake.to_string());
        let column = ("column".to_owned(), mistake.column.to_string());
        let nearest = mistake.nearest.map(|nearest| ("nearest".to_owned(), nearest));
        Self { metadata: [column].into_iter().chain(nearest).collect(), ..refusal }
    }

    pub(crate) fn unsupported(field: &'static str) -> Self {
        let detail = format!("this version does not know what to do with `{field}`");
        let refusal = Self::new(Code::Unimplemented, "UNSUPPORTED_FIELD", detail, 0);
        Self { field: Some(field), ..refusal }
    }

    /// No name is proven: `why`.
    pub(crate) fn not_authenticated(why: impl Into<String>) -> Self {
        Self::new(Code::Unauthenticated, "NOT_AUTHENTICATED", why, 0)
    }

    pub(crate) fn token_in_plaintext() -> Self {
        let detail = "a token came over a connection that is not encrypted: whoever listened has \
                      it now, so replace it, and use https://";
        Self::new(Code::Unauthenticated, "TOKEN_IN_PLAINTEXT", detail, 0)
    }

    /// The roles of which one would do are told for programs too: `roles`, separated by commas.
    pub(crate) fn role_missing(name: &str, wanted: &[Role]) -> Self {
        let words: Vec<&str> = wanted.iter().map(|role| role.word()).collect();
        let detail = format!("{name:?} is no {}", words.join(" and no "));
        let refusal = Self::new(Code::PermissionDenied, "ROLE_MISSING", detail, 0);
        Self { metadata: [("roles".to_owned(), words.join(","))].into(), ..refusal }
    }

    /// Each vote and each acknowledgement counts for the name of its session.
    pub(crate) fn not_your_name(name: &str, taken: &str) -> Self {
        let detail = format!("{name:?} may not take part as {taken:?}");
        Self::new(Code::PermissionDenied, "NOT_YOUR_NAME", detail, 0)
    }

    pub(crate) fn unknown_call() -> Self {
        let detail = "this version has no such call";
        Self::new(Code::Unimplemented, "UNSUPPORTED", detail, 0)
    }

    pub(crate) fn too_many_calls(max: usize) -> Self {
        let detail = format!("{max} calls wait for an answer, which is the limit");
        Self::new(Code::ResourceExhausted, "TOO_MANY_CALLS", detail, SOON_MS)
    }

    pub(crate) fn too_many_examinations() -> Self {
        let detail = format!("{EXAMINATIONS_MAX} examinations are under way, which is the limit");
        Self::new(Code::ResourceExhausted, "TOO_MANY_CALLS", detail, LATER_MS)
    }

    pub(crate) fn stopping() -> Self {
        Self::new(Code::Unavailable, "STOPPING", "the coordinator is stopping", LATER_MS)
    }

    pub(crate) fn log_busy() -> Self {
        let detail = "too much waits to be written to the log";
        Self::new(Code::ResourceExhausted, "LOG_BUSY", detail, SOON_MS)
    }

    pub(crate) fn log_slow(waiting_ms: u64) -> Self {
        let detail = format!("the log's disk has not answered for {waiting_ms} ms");
        Self::new(Code::ResourceExhausted, "LOG_SLOW", detail, LATER_MS)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, "NOT_FOUND", detail, 0)
    }

    pub(crate) fn nothing_to_retry(state: &str) -> Self {
        let detail = format!("it is {state} and waits for no branch");
        Self::new(Code::FailedPrecondition, "NOTHING_TO_RETRY", detail, 0)
    }

    pub(crate) fn ambiguous(detail: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, "AMBIGUOUS_ID", detail, 0)
    }

    /// The state of a transaction forbids an act. Programs find the three lines in the metadata.
    pub(crate) fn act(refusal: &v1::ActRefusal) -> Self {
        let v1::ActRefusal { reason, what, why, next } = refusal;
        let reason = ACT_REASONS.iter().find(|known| **known == reason).unwrap_or(&"INTERNAL");
        let refused = Self::new(Code::FailedPrecondition, reason, format!("{what}: {why}"), 0);
        let lines = [("what", what.clone()), ("why", why.clone()), ("next", next.join("\n"))];
        let lines = lines.map(|(name, line)| (name.to_owned(), line));
        Self { metadata: lines.into(), ..refused }
    }

    /// Its record is an outcome, which nothing changes any more.
    pub(crate) fn has_ended(outcome: &str) -> Self {
        let detail = format!("the transaction has ended: {outcome}");
        let refused = Self::new(Code::FailedPrecondition, "TX_ENDED", detail, 0);
        Self { metadata: [("outcome".to_owned(), outcome.to_owned())].into(), ..refused }
    }

    pub(crate) fn branch_unknown(named: &str) -> Self {
        let detail = format!("no branch of the transaction is, or is of, {named:?}");
        Self::new(Code::FailedPrecondition, "BRANCH_UNKNOWN", detail, 0)
    }

    pub(crate) fn branch_ambiguous(named: &str, ids: &[String]) -> Self {
        let detail = format!("{named} has {} branches: {}", ids.len(), ids.join(", "));
        Self::new(Code::FailedPrecondition, "BRANCH_AMBIGUOUS", detail, 0)
    }

    pub(crate) fn second_person_needed() -> Self {
        let detail = "here an act has an effect only when a second person has approved it";
        Self::new(Code::FailedPrecondition, "SECOND_PERSON_NEEDED", detail, 0)
    }

    pub(crate) fn same_person(verified: bool) -> Self {
        let detail = if verified {
            "whoever proposes an act cannot approve it"
        } else {
            "without certificates or tokens nobody can tell that it is a second person"
        };
        Self::new(Code::PermissionDenied, "SAME_PERSON", detail, 0)
    }

    pub(crate) fn proposal_unknown(number: u64) -> Self {
        let detail = format!(
            "no proposal {number} waits: it was approved, is older than a day, or was made before \
             the coordinator's last start"
        );
        Self::new(Code::NotFound, "PROPOSAL_UNKNOWN", detail, 0)
    }

    pub(crate) fn too_many_proposals(max: usize) -> Self {
        let detail = format!("{max} acts wait for a second person, which is the limit");
        Self::new(Code::ResourceExhausted, "TOO_MANY_CALLS", detail, LATER_MS)
    }

    pub(crate) fn not_an_orphan() -> Self {
        let detail = "no participant has asked about it in vain since the start: see ListOrphans";
        Self::new(Code::FailedPrecondition, "NOT_AN_ORPHAN", detail, 0)
    }

    /// For the audit, in one line.
    pub(crate) fn words(&self) -> String {
        format!("{}: {}", self.reason, self.detail)
    }

    /// A reply that does not fit its request: a defect of ours, and the outcome is not known.
    pub(crate) fn internal() -> Self {
        let detail = "the coordinator gave an answer of another kind; ask for the outcome";
        Self::new(Code::Internal, "INTERNAL", detail, 0)
    }

    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn wire(self) -> v1::Refused {
        v1::Refused {
            reason: self.reason.to_owned(),
            detail: self.detail,
            retry_after_ms: self.retry_after_ms,
        }
    }

    pub(crate) fn status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, self.metadata);
        if self.retry_after_ms > 0 {
            details.set_retry_info(Some(Duration::from_millis(self.retry_after_ms)));
        }
        if let Some(field) = self.field {
            details.add_bad_request_violation(field, self.detail.as_str());
        }
        Status::with_error_details(self.code, self.detail, details)
    }
}

impl From<CoreRefusal> for Refusal {
    fn from(refusal: CoreRefusal) -> Self {
        match refusal {
            CoreRefusal::TooManyTransactions { retry_after_ms } => Self::new(
                Code::ResourceExhausted,
                "TOO_MANY_TRANSACTIONS",
                "as many transactions as there may be are open",
                retry_after_ms,
            ),
            CoreRefusal::LogFull { retry_after_ms } => Self::new(
                Code::ResourceExhausted,
                "LOG_FULL",
                "there is no space to record decisions",
                retry_after_ms,
            ),
            CoreRefusal::AuditFull => Self::new(
                Code::ResourceExhausted,
                "AUDIT_FULL",
                "the audit has as many entries as `limits.audit_max` allows",
                0,
            ),
            CoreRefusal::Starting => {
                Self::new(Code::Unavailable, "STARTING", "the coordinator is starting", SOON_MS)
            }
            CoreRefusal::TimeoutTooLong { max_ms } => {
                let detail = format!("the time-out is longer than the limit of {max_ms} ms");
                let refusal = Self::new(Code::InvalidArgument, "TIMEOUT_TOO_LONG", detail, 0);
                Self { field: Some("timeout_ms"), ..refusal }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let refusal = Refusal::from(CoreRefusal::TooManyTransactions { retry_after_ms: 100 });
        let wire = refusal.clone().wire();
        let status = refusal.status();
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((wire.reason.as_str(), wire.retry_after_ms), (info.reason.as_str(), 100));
        assert_eq!(info.domain, "unanimous");
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(100)));
        assert_eq!(status.code(), Code::ResourceExhausted);
    }

    #[test]
    fn a_bad_filter_has_its_place_and_what_was_meant() {
        let mistake = crate::filter::parse("age>1m and nme=x").unwrap_err();
        let status = Refusal::bad_filter(mistake).status();
        assert!(status.message().starts_with("column 12: found `nme`, expected a field: "));
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        assert_eq!((metadata["column"].as_str(), metadata["nearest"].as_str()), ("12", "name"));
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "filter");
    }

    #[test]
    fn a_bad_field_is_named() {
        let status = Refusal::invalid("gtrid", "not 48 hexadecimal digits").status();
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "gtrid");
        assert!(details.retry_info().is_none());
    }
}
