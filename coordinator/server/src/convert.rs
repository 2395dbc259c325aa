//! Between the wire's messages and the core's. What comes from outside is checked here, once.

use unanimous_core::message::{Done, Ending, EnlistRefusal, Message, RollbackCause, Verdict, Vote};
use unanimous_core::record::{DETAIL_BYTES_MAX, cut};
use unanimous_core::{
    Bqual, BranchId, BranchResult, Decision, Evidence, FrameNumber, Gtrid, LogId, Outcome, Owner,
    Response,
};
use unanimous_proto::v1;

/// A message that means nothing here: malformed, or of a later version. It is ignored, which is the
/// same as losing it: its sender asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hold;

pub(crate) fn branch_id(wire: Option<&v1::BranchRef>) -> Result<BranchId, Hold> {
    let wire = wire.ok_or(Hold)?;
    Ok(BranchId {
        gtrid: Gtrid::from_bytes(&wire.gtrid).map_err(|_| Hold)?,
        bqual: Bqual::from_bytes(&wire.bqual).map_err(|_| Hold)?,
    })
}

pub(crate) fn branch_ref(branch: &BranchId) -> v1::BranchRef {
    v1::BranchRef {
        gtrid: branch.gtrid.as_bytes().to_vec(),
        bqual: branch.bqual.as_bytes().to_vec(),
    }
}

pub(crate) fn owner(owner: Owner) -> v1::Owner {
    v1::Owner {
        cluster: owner.log.cluster,
        slot: u32::from(owner.log.slot),
        incarnation: owner.log.incarnation,
        epoch: owner.epoch,
    }
}

/// `None` for one that cannot be ours: its slot has more than 16 bits.
pub(crate) fn seen_frame(wire: &v1::SeenFrame) -> Option<(Owner, FrameNumber)> {
    let slot = u16::try_from(wire.slot).ok()?;
    let log = LogId { cluster: wire.cluster, slot, incarnation: wire.incarnation };
    Some((Owner { log, epoch: wire.epoch }, FrameNumber(wire.frame)))
}

/// Evidence over its limits makes the vote a rollback: a commit without it could not be judged
/// later.
pub(crate) fn vote(wire: &v1::Vote) -> Result<Vote, Hold> {
    match wire.ballot() {
        v1::Ballot::Unspecified => Err(Hold),
        v1::Ballot::Commit => Ok(match evidence(wire.evidence.as_ref()) {
            Ok(evidence) => Vote::Commit { evidence },
            Err(reason) => Vote::Rollback { reason },
        }),
        v1::Ballot::ReadOnly => Ok(Vote::ReadOnly),
        v1::Ballot::Rollback => {
            Ok(Vote::Rollback { reason: cut(&wire.reason, DETAIL_BYTES_MAX).to_owned() })
        }
    }
}

fn evidence(wire: Option<&v1::Evidence>) -> Result<Option<Evidence>, String> {
    let Some(wire) = wire else { return Ok(None) };
    for (what, length, max) in [
        ("kind", wire.kind.len(), Evidence::KIND_BYTES_MAX),
        ("data", wire.data.len(), Evidence::DATA_BYTES_MAX),
    ] {
        if length > max {
            return Err(format!("the evidence's {what} has {length} bytes, the limit is {max}"));
        }
    }
    Ok(Some(Evidence { kind: wire.kind.clone(), data: wire.data.clone() }))
}

pub(crate) fn done(wire: v1::Done) -> Result<Done, Hold> {
    Ok(match wire {
        v1::Done::Unspecified => return Err(Hold),
        v1::Done::Done => Done::Done,
        v1::Done::RolledBack => Done::RolledBack,
        v1::Done::NotPrepared => Done::NotPrepared,
        v1::Done::HeuristicCommit => Done::Heuristic(BranchResult::Committed),
        v1::Done::HeuristicRollback => Done::Heuristic(BranchResult::RolledBack),
        v1::Done::HeuristicMixed => Done::Heuristic(BranchResult::Mixed),
        v1::Done::HeuristicHazard => Done::Heuristic(BranchResult::Hazard),
        v1::Done::Retry => Done::Retry,
        v1::Done::Forgotten => Done::Forgotten,
    })
}

fn evidence_wire(evidence: Option<Evidence>) -> Option<v1::Evidence> {
    evidence.map(|evidence| v1::Evidence { kind: evidence.kind, data: evidence.data })
}

pub(crate) fn message(branch: &BranchId, message: Message) -> v1::participate_response::Body {
    use v1::participate_response::Body;
    let branch = Some(branch_ref(branch));
    match message {
        Message::Prepare => Body::Prepare(v1::Prepare { branch }),
        Message::Decide { decision, frame, evidence } => {
            let decision = match decision {
                Decision::Commit => v1::Decision::Commit,
                Decision::Rollback => v1::Decision::Rollback,
            };
            Body::Decide(v1::Decide {
                branch,
                decision: decision.into(),
                frame: frame.0,
                evidence: evidence_wire(evidence),
            })
        }
        Message::CommitOnePhase => Body::Decide(v1::Decide {
            branch,
            decision: v1::Decision::CommitOnePhase.into(),
            frame: 0,
            evidence: None,
        }),
        Message::Forget => Body::Forget(v1::Forget { branch }),
    }
}

pub(crate) fn answer(branch: &BranchId, verdict: Verdict) -> v1::Answer {
    let (verdict, frame, evidence) = match verdict {
        Verdict::Commit { frame, evidence } => (v1::Verdict::Commit, frame.0, evidence),
        Verdict::Rollback => (v1::Verdict::Rollback, 0, None),
        Verdict::Wait => (v1::Verdict::Wait, 0, None),
        Verdict::LeaveAlone => (v1::Verdict::LeaveAlone, 0, None),
    };
    v1::Answer {
        branch: Some(branch_ref(branch)),
        verdict: verdict.into(),
        frame,
        evidence: evidence_wire(evidence),
    }
}

/// `None`: a reply of another kind.
pub(crate) fn enlisted(branch: &BranchId, response: Response) -> Option<v1::Enlisted> {
    let (status, remaining_ms, detail) = match response {
        Response::Enlisted { remaining_ms } => {
            (v1::EnlistStatus::Enlisted, remaining_ms.max(1), "")
        }
        Response::EnlistRefused(refusal) => {
            let (status, detail) = enlist_refusal(refusal);
            (status, 0, detail)
        }
        _ => return None,
    };
    Some(v1::Enlisted {
        branch: Some(branch_ref(branch)),
        status: status.into(),
        remaining_ms,
        detail: detail.to_owned(),
    })
}

fn enlist_refusal(refusal: EnlistRefusal) -> (v1::EnlistStatus, &'static str) {
    use v1::EnlistStatus as Status;
    match refusal {
        EnlistRefusal::RolledBack => (Status::RolledBack, "the transaction is rolled back"),
        EnlistRefusal::Inactive => (Status::Inactive, "the commit was requested already"),
        EnlistRefusal::UnknownTransaction => {
            (Status::UnknownTransaction, "no such transaction here")
        }
        EnlistRefusal::NotOurs => (
            Status::NotOurs,
            "the transaction or the branch's owner is another coordinator's, log's or epoch's",
        ),
        EnlistRefusal::TooManyBranches => {
            (Status::TooManyBranches, "the transaction has all the branches it may have")
        }
        EnlistRefusal::BqualTaken => {
            (Status::BqualTaken, "the bqual belongs to another participant or resource")
        }
    }
}

pub(crate) fn outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Committed => v1::Outcome::Committed,
        Outcome::RolledBack => v1::Outcome::RolledBack,
        Outcome::HeuristicCommit => v1::Outcome::HeuristicCommit,
        Outcome::HeuristicRollback => v1::Outcome::HeuristicRollback,
        Outcome::Mixed => v1::Outcome::HeuristicMixed,
        Outcome::Hazard => v1::Outcome::HeuristicHazard,
    }
}

/// The result in a reply to Commit, Rollback or Resolve; `None`: a reply of another kind.
pub(crate) fn result(response: Response) -> Option<v1::Result> {
    let bare =
        |outcome: v1::Outcome| v1::Result { outcome: outcome.into(), ..v1::Result::default() };
    match response {
        Response::Ended(ending) => Some(ended(ending)),
        Response::Pending => Some(bare(v1::Outcome::Pending)),
        Response::Unknown => Some(bare(v1::Outcome::Unknown)),
        _ => None,
    }
}

fn ended(ending: Ending) -> v1::Result {
    let mut result = v1::Result {
        outcome: outcome(ending.outcome).into(),
        completed: ending.completed,
        ..v1::Result::default()
    };
    let reason = match ending.cause {
        None => v1::RollbackReason::Unspecified,
        Some(RollbackCause::Requested) => v1::RollbackReason::Requested,
        Some(RollbackCause::TimedOut) => v1::RollbackReason::TimedOut,
        Some(RollbackCause::Voted { participant, reason }) => {
            result.participant = participant.as_str().to_owned();
            result.detail = reason;
            v1::RollbackReason::Voted
        }
        Some(RollbackCause::BranchCount) => v1::RollbackReason::BranchCount,
        Some(RollbackCause::LogFull) => v1::RollbackReason::LogFull,
        Some(RollbackCause::Presumed) => v1::RollbackReason::Presumed,
        Some(RollbackCause::Forced) => v1::RollbackReason::Forced,
    };
    if ending.outcome == Outcome::RolledBack {
        result.rollback_reason = reason.into();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_vote(ballot: i32, evidence: Option<v1::Evidence>, reason: &str) -> v1::Vote {
        v1::Vote { branch: None, ballot, evidence, reason: reason.to_owned() }
    }

    #[test]
    fn unknown_enum_values_and_bad_ids_mean_hold() {
        assert_eq!(vote(&a_vote(0, None, "")), Err(Hold));
        assert_eq!(vote(&a_vote(77, None, "")), Err(Hold));
        assert_eq!(done(v1::Done::try_from(99).unwrap_or_default()), Err(Hold));
        assert_eq!(branch_id(None), Err(Hold));
        for (gtrid, bqual) in [(23, 24), (24, 23), (0, 24), (25, 24), (24, 4_000)] {
            let wire = v1::BranchRef { gtrid: vec![1; gtrid], bqual: vec![0; bqual] };
            assert_eq!(branch_id(Some(&wire)), Err(Hold), "{gtrid} {bqual}");
        }
        let later_version = v1::BranchRef { gtrid: vec![2; 24], bqual: vec![0; 24] };
        assert_eq!(branch_id(Some(&later_version)), Err(Hold));
    }

    #[test]
    fn oversized_evidence_is_a_vote_for_rollback() {
        let at_limit = v1::Evidence { kind: "k".repeat(32), data: vec![7; 256] };
        let commit = v1::Ballot::Commit.into();
        assert!(matches!(
            vote(&a_vote(commit, Some(at_limit.clone()), "")),
            Ok(Vote::Commit { evidence: Some(_) })
        ));
        for over in [
            v1::Evidence { kind: "k".repeat(33), ..at_limit.clone() },
            v1::Evidence { data: vec![7; 257], ..at_limit },
        ] {
            let vote = vote(&a_vote(commit, Some(over), "")).unwrap();
            assert!(matches!(vote, Vote::Rollback { reason } if reason.contains("limit")));
        }
    }

    #[test]
    fn a_long_reason_is_cut_at_a_characters_border() {
        let rollback = v1::Ballot::Rollback.into();
        let vote = vote(&a_vote(rollback, None, &"ü".repeat(DETAIL_BYTES_MAX))).unwrap();
        assert_eq!(vote, Vote::Rollback { reason: "ü".repeat(DETAIL_BYTES_MAX / 2) });
    }

    #[test]
    fn a_seen_frame_with_a_slot_that_no_coordinator_has_is_left_out() {
        let seen = v1::SeenFrame { slot: 65_536, ..v1::SeenFrame::default() };
        assert_eq!(seen_frame(&seen), None);
    }

    #[test]
    fn only_a_rollback_has_a_rollback_reason() {
        let cause = Some(RollbackCause::TimedOut);
        let ending = |outcome| Ending { outcome, cause: cause.clone(), completed: true };
        assert_eq!(
            ended(ending(Outcome::RolledBack)).rollback_reason(),
            v1::RollbackReason::TimedOut
        );
        assert_eq!(
            ended(ending(Outcome::HeuristicCommit)).rollback_reason(),
            v1::RollbackReason::Unspecified
        );
    }
}
