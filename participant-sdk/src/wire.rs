//! Between the wire's messages and the protocol's types. What has an unknown value, or no id, is
//! `None`: hold and ask again.

use crate::finding::{Finding, Severity};
use crate::resource::Prepared;
use unanimous_core::coordinator::EndedMark;
use unanimous_core::message::{Answer, Done, Verdict, Vote};
use unanimous_core::participant::Order;
use unanimous_core::record::{DETAIL_BYTES_MAX, cut};
use unanimous_core::{
    Bqual, BranchId, BranchResult, Decision, Evidence, FrameNumber, Gtrid, LogId, Owner, ResourceId,
};
use unanimous_proto::v1;
use v1::participate_request::Body as Say;
use v1::participate_response::Body as Heard;

/// The wire's limits of an answer to Examine.
const EXAMINED_BRANCHES_MAX: usize = 1_000;
const EXAMINED_FINDINGS_MAX: usize = 100;
const FINDING_TEXT_BYTES_MAX: usize = 1_024;

pub(crate) fn branch_ref(branch: &BranchId) -> v1::BranchRef {
    v1::BranchRef {
        gtrid: branch.gtrid.as_bytes().to_vec(),
        bqual: branch.bqual.as_bytes().to_vec(),
    }
}

pub(crate) fn branch_id(branch: Option<&v1::BranchRef>) -> Option<BranchId> {
    let branch = branch?;
    let gtrid = Gtrid::from_bytes(&branch.gtrid).ok()?;
    Some(BranchId { gtrid, bqual: Bqual::from_bytes(&branch.bqual).ok()? })
}

pub(crate) fn owner(owner: Option<&v1::Owner>) -> Option<Owner> {
    let owner = owner?;
    let slot = u16::try_from(owner.slot).ok()?;
    let log = LogId { cluster: owner.cluster, slot, incarnation: owner.incarnation };
    Some(Owner { log, epoch: owner.epoch })
}

pub(crate) fn seen_frame((owner, frame): (Owner, FrameNumber)) -> v1::SeenFrame {
    v1::SeenFrame {
        cluster: owner.log.cluster,
        slot: u32::from(owner.log.slot),
        incarnation: owner.log.incarnation,
        frame: frame.0,
        epoch: owner.epoch,
    }
}

/// A mark with an exception that cannot be read is no mark: it would pass a transaction that has
/// not ended.
pub(crate) fn ended_mark(mark: &v1::EndedMark) -> Option<EndedMark> {
    let slot = u16::try_from(mark.slot).ok()?;
    let exceptions: Result<_, _> =
        mark.exceptions.iter().map(|gtrid| Gtrid::from_bytes(gtrid)).collect();
    Some(EndedMark {
        log: LogId { cluster: mark.cluster, slot, incarnation: mark.incarnation },
        epoch: mark.epoch,
        sequence: mark.sequence,
        exceptions: exceptions.ok()?,
    })
}

/// What a message of the session orders about a branch.
pub(crate) fn order(body: &Heard) -> Option<(BranchId, Order)> {
    Some(match body {
        Heard::Prepare(prepare) => (branch_id(prepare.branch.as_ref())?, Order::Prepare),
        Heard::Decide(decide) => (branch_id(decide.branch.as_ref())?, decided(decide)?),
        Heard::Forget(forget) => (branch_id(forget.branch.as_ref())?, Order::Forget),
        Heard::Answer(answer) => {
            (branch_id(answer.branch.as_ref())?, Order::Answer(verdict(answer)?))
        }
        Heard::Welcome(_) | Heard::Enlisted(_) | Heard::Goodbye(_) | Heard::Examine(_) => {
            return None;
        }
    })
}

fn decided(decide: &v1::Decide) -> Option<Order> {
    let frame = FrameNumber(decide.frame);
    let evidence = || decide.evidence.as_ref().map(evidence);
    match v1::Decision::try_from(decide.decision).ok()? {
        v1::Decision::Unspecified => None,
        v1::Decision::Commit => {
            Some(Order::Decide { decision: Decision::Commit, frame, evidence: evidence() })
        }
        v1::Decision::Rollback => {
            Some(Order::Decide { decision: Decision::Rollback, frame, evidence: None })
        }
        v1::Decision::CommitOnePhase => Some(Order::CommitOnePhase),
    }
}

fn verdict(answer: &v1::Answer) -> Option<Verdict> {
    match v1::Verdict::try_from(answer.verdict).ok()? {
        v1::Verdict::Unspecified => None,
        v1::Verdict::Commit => Some(Verdict::Commit {
            frame: FrameNumber(answer.frame),
            evidence: answer.evidence.as_ref().map(evidence),
        }),
        v1::Verdict::Rollback => Some(Verdict::Rollback),
        v1::Verdict::Wait => Some(Verdict::Wait),
        v1::Verdict::LeaveAlone => Some(Verdict::LeaveAlone),
    }
}

fn evidence(evidence: &v1::Evidence) -> Evidence {
    Evidence { kind: evidence.kind.clone(), data: evidence.data.clone() }
}

/// What a branch says to the coordinator.
pub(crate) fn say(branch: &BranchId, answer: Answer) -> v1::ParticipateRequest {
    let reference = Some(branch_ref(branch));
    let body = match answer {
        Answer::Voted(vote) => Say::Vote(ballot(reference, vote)),
        Answer::Acknowledged { done, detail } => Say::Acknowledged(v1::Acknowledged {
            branch: reference,
            done: did(done).into(),
            detail: cut(&detail, DETAIL_BYTES_MAX).to_owned(),
        }),
    };
    v1::ParticipateRequest { body: Some(body) }
}

fn ballot(branch: Option<v1::BranchRef>, vote: Vote) -> v1::Vote {
    let (ballot, evidence, reason) = match vote {
        Vote::Commit { evidence } => (v1::Ballot::Commit, evidence, String::new()),
        Vote::ReadOnly => (v1::Ballot::ReadOnly, None, String::new()),
        Vote::Rollback { reason } => {
            (v1::Ballot::Rollback, None, cut(&reason, DETAIL_BYTES_MAX).to_owned())
        }
    };
    let evidence = evidence.map(|e| v1::Evidence { kind: e.kind, data: e.data });
    v1::Vote { branch, ballot: ballot.into(), evidence, reason }
}

fn did(done: Done) -> v1::Done {
    match done {
        Done::Done => v1::Done::Done,
        Done::RolledBack => v1::Done::RolledBack,
        Done::NotPrepared => v1::Done::NotPrepared,
        Done::Heuristic(BranchResult::Committed) => v1::Done::HeuristicCommit,
        Done::Heuristic(BranchResult::RolledBack) => v1::Done::HeuristicRollback,
        Done::Heuristic(BranchResult::Mixed) => v1::Done::HeuristicMixed,
        Done::Heuristic(BranchResult::Hazard) => v1::Done::HeuristicHazard,
        Done::Retry => v1::Done::Retry,
        Done::Forgotten => v1::Done::Forgotten,
    }
}

/// What a resource holds prepared and how it is set up, or why it cannot be asked; both within the
/// wire's limits.
pub(crate) fn examined(
    examination: u64,
    resource: &ResourceId,
    seen: Result<(Vec<Prepared>, Vec<Finding>), String>,
) -> v1::Examined {
    let resource_id = resource.as_str().to_owned();
    match seen {
        Ok((prepared, findings)) => v1::Examined {
            examination,
            resource_id,
            failed: String::new(),
            prepared_total: prepared.len() as u64,
            prepared: prepared
                .iter()
                .take(EXAMINED_BRANCHES_MAX)
                .map(|one| branch_ref(&one.branch))
                .collect(),
            findings: findings.into_iter().take(EXAMINED_FINDINGS_MAX).map(finding).collect(),
        },
        Err(why) => v1::Examined {
            examination,
            resource_id,
            failed: cut(&why, DETAIL_BYTES_MAX).to_owned(),
            ..v1::Examined::default()
        },
    }
}

fn finding(finding: Finding) -> v1::Finding {
    let severity = match finding.severity {
        Severity::Warning => v1::Severity::Warning,
        Severity::Unsafe | Severity::Unfit => v1::Severity::Critical,
    };
    v1::Finding {
        code: finding.code.to_owned(),
        severity: severity.into(),
        what: cut(&finding.what, FINDING_TEXT_BYTES_MAX).to_owned(),
        why: cut(&finding.why, FINDING_TEXT_BYTES_MAX).to_owned(),
        next: cut(&finding.next, FINDING_TEXT_BYTES_MAX).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference() -> v1::BranchRef {
        let log = LogId { cluster: 1, slot: 2, incarnation: 3 };
        let owner = Owner { log, epoch: 4 };
        let branch = BranchId { gtrid: Gtrid::new(owner, 5, 0), bqual: Bqual::new(6, 7, owner) };
        branch_ref(&branch)
    }

    /// Unknown and unspecified values mean "hold and ask again": nothing comes of them.
    #[test]
    fn unknown_values_order_nothing() {
        for value in [0, 99, -1] {
            let decide =
                v1::Decide { branch: Some(reference()), decision: value, ..v1::Decide::default() };
            assert_eq!(order(&Heard::Decide(decide)), None, "{value}");
            let answer =
                v1::Answer { branch: Some(reference()), verdict: value, ..v1::Answer::default() };
            assert_eq!(order(&Heard::Answer(answer)), None, "{value}");
        }
    }

    #[test]
    fn malformed_ids_order_nothing() {
        let good = reference();
        for bad in [
            None,
            Some(v1::BranchRef { gtrid: vec![], ..good.clone() }),
            Some(v1::BranchRef { gtrid: vec![9; 24], ..good.clone() }),
            Some(v1::BranchRef { bqual: vec![1; 25], ..good.clone() }),
        ] {
            let prepare = v1::Prepare { branch: bad.clone() };
            assert_eq!(order(&Heard::Prepare(prepare)), None, "{bad:?}");
        }
        assert!(order(&Heard::Prepare(v1::Prepare { branch: Some(good) })).is_some());
    }

    #[test]
    fn a_mark_with_an_unreadable_exception_is_no_mark() {
        let mark = v1::EndedMark { slot: 1, epoch: 2, sequence: 3, ..v1::EndedMark::default() };
        assert!(ended_mark(&mark).is_some());
        let exceptions = vec![reference().gtrid, vec![1, 2]];
        assert_eq!(ended_mark(&v1::EndedMark { exceptions, ..mark.clone() }), None);
        assert_eq!(ended_mark(&v1::EndedMark { slot: 65_536, ..mark }), None);
    }

    #[test]
    fn long_words_are_cut() {
        let branch = branch_id(Some(&reference())).unwrap();
        let words = Answer::Voted(Vote::Rollback { reason: "ü".repeat(600) });
        let Some(Say::Vote(vote)) = say(&branch, words).body else { unreachable!() };
        assert_eq!(vote.reason, "ü".repeat(DETAIL_BYTES_MAX / 2));
    }
}
