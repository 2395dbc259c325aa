//! How far a dangerous command may go: first the plan, then what forbids it, then who confirms it.
//! Pure: a plan and what was given in, the next step or the failure out.

use crate::codes::{self, Code};
use crate::confirm::{Danger, Word};
use crate::errors::Failure;
use tonic::Status;
use tonic_types::StatusExt;
use unanimous_proto::v1;

/// What was given that bears on it.
#[derive(Clone, Debug)]
pub(super) struct Given<'a> {
    pub(super) danger: Danger<'a>,
    pub(super) dry_run: bool,
    pub(super) propose: bool,
    pub(super) evidence: bool,
}

/// What comes after the plan was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: it was to be shown only.
    Shown,
    /// Leave it for a second person.
    Propose,
    /// The person at the terminal is asked, then it is sent.
    Ask,
    /// It is confirmed. What the plan forbids is sent too: the coordinator refuses it, and the
    /// audit knows that it was tried.
    Send,
}

/// The next step for a plan.
pub(super) fn step(plan: &v1::Plan, given: &Given<'_>, terminal: bool) -> Result<Step, Failure> {
    let confirmed = given.danger.is_given() && !given.dry_run;
    if let Some(refusal) = &plan.refusal {
        return if confirmed { Ok(Step::Send) } else { Err(refused(refusal)) };
    }
    if given.dry_run {
        return Ok(Step::Shown);
    }
    if plan.evidence_needed && !given.evidence {
        let why = "it will be asked how you know: what you saw of the branch, where it is";
        let next = format!("{} --evidence 'WHAT YOU SAW'", given.danger.again);
        return Err(Failure::new(Code::EvidenceNeeded, "--evidence is missing", why, next));
    }
    if given.propose {
        return Ok(Step::Propose);
    }
    if plan.second_person_needed && !confirmed {
        let why = "this coordinator is set up so that two people agree";
        return Err(second_person(why, &given.danger));
    }
    Ok(match given.danger.word(terminal)? {
        Word::Given => Step::Send,
        Word::Ask => Step::Ask,
    })
}

/// An act that was sent and not done, or of which nobody knows.
pub(super) fn not_done(
    status: &Status,
    plan: &v1::Plan,
    danger: &Danger<'_>,
    address: &str,
) -> Failure {
    let info = status.get_details_error_info();
    let (reason, words) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
    let told = words.get("what").map(|what| v1::ActRefusal {
        reason: reason.clone(),
        what: what.clone(),
        why: words.get("why").cloned().unwrap_or_default(),
        next: words.get("next").into_iter().flat_map(|next| next.lines()).map(Into::into).collect(),
    });
    match (codes::code(&reason), told) {
        (Some(Code::TxMoved), Some(told)) => refused(&told).or(&danger.again),
        (_, Some(told)) => refused(&told),
        (Some(Code::TxEnded), None) => ended(status, danger.id),
        (Some(Code::SecondPersonNeeded), None) => second_person(status.message(), danger),
        _ if is_unknown(status.code(), &reason) => match &plan.refusal {
            // On the plan's version it cannot have been done, and on another one it is refused.
            Some(refusal) => refused(refusal),
            None => unknown(status.message(), danger),
        },
        _ => Failure::from_status(status, address, "forcing it"),
    }
}

/// Without a reason of the coordinator's nobody knows whether it came so far.
pub(crate) fn is_unknown(answered: tonic::Code, reason: &str) -> bool {
    use tonic::Code as Answered;
    let lost = matches!(
        answered,
        Answered::Unavailable
            | Answered::Unknown
            | Answered::Cancelled
            | Answered::DeadlineExceeded
            | Answered::Internal
            | Answered::DataLoss
    );
    lost && (reason.is_empty() || reason == Code::Internal.word())
}

/// The act was sent, and there is no answer.
pub(crate) fn unknown(why: &str, danger: &Danger<'_>) -> Failure {
    let what = "it was sent, and nobody knows whether it was done";
    let next = format!("unanimous audit list --id {}", danger.id);
    Failure::new(Code::ActUnknown, what, why, next)
}

/// Whoever comes too late is told what there is on record.
pub(super) fn ended(status: &Status, gtrid: &str) -> Failure {
    let info = status.get_details_error_info();
    let outcome = info.and_then(|info| info.metadata.get("outcome").cloned()).unwrap_or_default();
    let what = format!("refused: it has ended, outcome {}", outcome.replace('_', " "));
    let why = "every branch has ended, and what was told is never taken back";
    Failure::new(Code::TxEnded, what, why, format!("unanimous tx history {gtrid}"))
}

/// What the coordinator says of an act that the state forbids.
fn refused(refusal: &v1::ActRefusal) -> Failure {
    // A refusal of a newer version has a reason of its own in its words.
    let code = codes::code(&refusal.reason).unwrap_or(Code::Refused);
    let what = match refusal.what.as_str() {
        what if what.starts_with("refused") => what.to_owned(),
        what => format!("refused: {what}"),
    };
    let mut next = refusal.next.iter().map(String::as_str);
    let first = next.next().unwrap_or("unanimous tx list");
    next.fold(Failure::new(code, what, &refusal.why, first), Failure::or)
}

/// One person alone may not.
pub(crate) fn second_person(why: &str, danger: &Danger<'_>) -> Failure {
    let what = "refused: a second person has to approve it";
    Failure::new(Code::SecondPersonNeeded, what, why, format!("{} --propose", danger.again))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::plan::tests::plan;
    use super::*;
    use crate::errors::Exit;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    const ID: &str = "010101010101010101010101010101010101010121f70c55";

    /// Words: `confirm`, `other`, `dry`, `propose`, `evidence`.
    fn given(words: &str) -> Given<'static> {
        let has = |word| words.split(' ').any(|one| one == word);
        let other = has("other").then_some("21f70c55");
        let confirm = has("confirm").then_some(ID).or(other);
        let danger = Danger { id: ID, given: confirm, again: "unanimous force x".to_owned() };
        let (dry_run, propose, evidence) = (has("dry"), has("propose"), has("evidence"));
        Given { danger, dry_run, propose, evidence }
    }

    /// Words: `refused`, `evidence`, `second`.
    fn planned(words: &str) -> v1::Plan {
        let has = |word| words.split(' ').any(|one| one == word);
        let refusal = v1::ActRefusal {
            reason: "TX_DECIDED".into(),
            what: "refused: the decision is COMMIT".into(),
            why: "the branches would differ".into(),
            next: vec!["unanimous tx retry 21f70c55".into(), "unanimous status".into()],
        };
        v1::Plan {
            refusal: has("refused").then_some(refusal),
            evidence_needed: has("evidence"),
            second_person_needed: has("second"),
            ..plan()
        }
    }

    #[test]
    fn each_step_comes_after_what_may_stop_it() {
        let usage = Err((Code::EvidenceNeeded, Exit::Usage));
        let second = Err((Code::SecondPersonNeeded, Exit::Refused));
        let decided = Err((Code::TxDecided, Exit::Refused));
        let no = Err((Code::NotConfirmed, Exit::NotConfirmed));
        let table = [
            ("", "", false, no),
            ("", "", true, Ok(Step::Ask)),
            ("", "other", false, no),
            ("", "other", true, no),
            ("", "confirm", false, Ok(Step::Send)),
            ("", "dry", false, Ok(Step::Shown)),
            ("", "dry confirm", false, Ok(Step::Shown)),
            ("", "propose", false, Ok(Step::Propose)),
            ("refused", "", true, decided),
            ("refused", "other", true, decided),
            ("refused", "dry", true, decided),
            ("refused", "dry confirm", true, decided),
            ("refused", "propose", true, decided),
            ("refused", "confirm", true, Ok(Step::Send)),
            ("evidence", "", true, usage),
            ("evidence", "confirm", true, usage),
            ("evidence", "propose", true, usage),
            ("evidence", "dry", true, Ok(Step::Shown)),
            ("evidence", "evidence", true, Ok(Step::Ask)),
            ("evidence", "evidence confirm", false, Ok(Step::Send)),
            ("second", "", true, second),
            ("second", "other", true, second),
            ("second", "dry", true, Ok(Step::Shown)),
            ("second", "propose", true, Ok(Step::Propose)),
            ("second", "confirm", true, Ok(Step::Send)),
        ];
        for (plan, words, terminal, expected) in table {
            let step = step(&planned(plan), &given(words), terminal);
            let step = step.map_err(|failure| (failure.code(), failure.exit()));
            assert_eq!(step, expected, "{plan:?} {words:?} {terminal}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_coordinators_words() {
        let told = step(&planned("refused"), &given(""), true).unwrap_err().lines(false);
        assert_eq!(
            told,
            "error[TX_DECIDED]: refused: the decision is COMMIT\n  \
             why:  the branches would differ\n  \
             next: unanimous tx retry 21f70c55\n        or unanimous status\n        \
             or unanimous explain TX_DECIDED\n"
        );
        let newer = v1::ActRefusal { reason: "OF_TOMORROW".into(), ..v1::ActRefusal::default() };
        let told = refused(&newer);
        assert_eq!((told.code(), told.exit()), (Code::Refused, Exit::Refused));
    }

    #[test]
    fn a_refusal_after_the_plan_is_told_in_the_same_three_lines() {
        let lines = [("what", "refused: it moved"), ("why", "a vote came"), ("next", "a b\nc d")];
        let lines = lines.map(|(name, line)| (name.to_owned(), line.to_owned()));
        let metadata = HashMap::from(lines);
        let details = ErrorDetails::with_error_info("TX_MOVED", "unanimous", metadata);
        let status = Status::with_error_details(tonic::Code::FailedPrecondition, "x", details);
        let told = not_done(&status, &plan(), &given("").danger, "http://h").lines(false);
        assert_eq!(
            told,
            "error[TX_MOVED]: refused: it moved\n  why:  a vote came\n  next: a b\n        \
             or c d\n        or unanimous force x\n        or unanimous explain TX_MOVED\n"
        );
    }

    #[test]
    fn what_was_forbidden_and_is_lost_was_not_done() {
        let lost = Status::deadline_exceeded("the log is slow");
        let told = not_done(&lost, &planned("refused"), &given("confirm").danger, "http://h");
        assert_eq!((told.code(), told.exit()), (Code::TxDecided, Exit::Refused));
    }

    #[test]
    fn what_was_sent_and_not_done_ends_with_its_reason_or_as_unknown() {
        use tonic::Code as Answered;
        let table = [
            (Answered::FailedPrecondition, "TX_MOVED", Code::TxMoved, Exit::Refused),
            (Answered::FailedPrecondition, "TX_DECIDED", Code::TxDecided, Exit::Refused),
            (
                Answered::FailedPrecondition,
                "SECOND_PERSON_NEEDED",
                Code::SecondPersonNeeded,
                Exit::Refused,
            ),
            (Answered::FailedPrecondition, "TX_ENDED", Code::TxEnded, Exit::Refused),
            (Answered::FailedPrecondition, "OF_TOMORROW", Code::Refused, Exit::Refused),
            (Answered::ResourceExhausted, "AUDIT_FULL", Code::AuditFull, Exit::Failed),
            (Answered::PermissionDenied, "NOT_ALLOWED", Code::NotAllowed, Exit::NotAllowed),
            (Answered::PermissionDenied, "", Code::NotAllowed, Exit::NotAllowed),
            (Answered::PermissionDenied, "SAME_PERSON", Code::SamePerson, Exit::NotAllowed),
            (Answered::NotFound, "NOT_FOUND", Code::NotFound, Exit::NotFound),
            (Answered::Unavailable, "STOPPING", Code::Stopping, Exit::Unreachable),
            (Answered::Unavailable, "", Code::ActUnknown, Exit::OutcomeUnknown),
            (Answered::Cancelled, "", Code::ActUnknown, Exit::OutcomeUnknown),
            (Answered::DeadlineExceeded, "", Code::ActUnknown, Exit::OutcomeUnknown),
            (Answered::Unknown, "", Code::ActUnknown, Exit::OutcomeUnknown),
            (Answered::Internal, "INTERNAL", Code::ActUnknown, Exit::OutcomeUnknown),
        ];
        for (answered, reason, code, exit) in table {
            let details = ErrorDetails::with_error_info(reason, "unanimous", HashMap::default());
            let status = Status::with_error_details(answered, "x", details);
            let failure = not_done(&status, &plan(), &given("confirm").danger, "http://h");
            assert_eq!((failure.code(), failure.exit()), (code, exit), "{answered:?} {reason}");
        }
        let lost = not_done(&Status::unavailable("gone"), &plan(), &given("").danger, "http://h");
        let next = format!("next: unanimous audit list --id {ID}\n");
        assert!(lost.lines(false).contains(&next), "{}", lost.lines(false));
    }
}
