//! Clients and participants ask (section 6).

use super::{Coordinator, State};
use crate::CallerId;
use crate::id::{BranchId, Gtrid, ParticipantName};
use crate::message::{Ending, Response, RollbackCause, Verdict, Wait};
use crate::museum::{Bug, on};
use crate::outcome::{Decision, Outcome};
use crate::presume;

impl Coordinator {
    pub(super) fn on_resolve(
        &mut self,
        by: CallerId,
        gtrid: Gtrid,
        expected_branches: Option<u32>,
        wait: bool,
    ) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else {
            return self.reply_without_record(by, &gtrid, expected_branches);
        };
        match transaction.state {
            State::Active
            | State::MarkedRollback
            | State::Preparing
            | State::OnePhase
            | State::Deciding => {
                if wait {
                    transaction.waiters.push((by, Wait::Decided));
                } else if on(Bug::PendingIsRolledBack) {
                    self.reply(by, presumed_rolled_back());
                } else {
                    self.reply(by, Response::Pending);
                }
            }
            State::Committing | State::RollingBack => self.reply_as_decided(by, &gtrid),
            State::Heuristic => self.reply_heuristic(by, gtrid),
        }
    }

    /// A client asks about a transaction that is not in the table.
    pub(super) fn reply_without_record(
        &mut self,
        by: CallerId,
        gtrid: &Gtrid,
        expected_branches: Option<u32>,
    ) {
        let response = if let Some(remembered) = self.outcomes.get(gtrid) {
            Response::Ended(Ending {
                outcome: remembered.outcome,
                cause: remembered.cause.clone(),
                completed: true,
            })
        } else if on(Bug::UnknownIsRolledBack)
            || presume::rolled_back_for_client(&self.standing(), gtrid, expected_branches)
        {
            presumed_rolled_back()
        } else {
            Response::Unknown
        };
        self.reply(by, response);
    }

    pub(super) fn on_inquire(&mut self, by: CallerId, from: &ParticipantName, branch: BranchId) {
        let verdict = self.verdict(from, &branch);
        self.reply(by, Response::Verdict(verdict));
    }

    fn verdict(&self, from: &ParticipantName, id: &BranchId) -> Verdict {
        if !self.started {
            return Verdict::Wait;
        }
        let standing = self.standing();
        let Some(transaction) = self.transactions.get(&id.gtrid) else {
            return match self.outcomes.get(&id.gtrid) {
                Some(remembered) if remembered.outcome == Outcome::Committed => {
                    if remembered.branches.contains(&id.bqual) {
                        Verdict::Commit { frame: self.frame, evidence: None }
                    } else {
                        self.presumed(&standing, id)
                    }
                }
                Some(_) => Verdict::Rollback,
                None => self.presumed(&standing, id),
            };
        };
        let branch = transaction.branch(&id.bqual).filter(|branch| branch.in_phase_two());
        match (transaction.state, branch) {
            (State::Active | State::Preparing, _) if on(Bug::InquiryEndsActive) => {
                Verdict::Rollback
            }
            (State::Active | State::Preparing | State::OnePhase | State::Deciding, _) => {
                Verdict::Wait
            }
            (State::MarkedRollback | State::RollingBack, _) => Verdict::Rollback,
            (State::Heuristic, _) if transaction.heuristic_pending.is_some() => Verdict::Wait,
            (State::Committing | State::Heuristic, Some(branch)) if branch.participant == *from => {
                match transaction.decision() {
                    Decision::Commit => {
                        Verdict::Commit { frame: self.frame, evidence: branch.evidence.clone() }
                    }
                    Decision::Rollback => Verdict::Rollback,
                }
            }
            // The record does not name the branch.
            (State::Committing | State::Heuristic, _) => self.presumed(&standing, id),
        }
    }

    fn presumed(&self, standing: &presume::Standing, id: &BranchId) -> Verdict {
        if presume::rollback_for_participant(standing, &id.gtrid, id.bqual.owner()) {
            return Verdict::Rollback;
        }
        match self.orphan_decision(id) {
            Some(Decision::Commit) => Verdict::Commit { frame: self.frame, evidence: None },
            Some(Decision::Rollback) => Verdict::Rollback,
            None => Verdict::LeaveAlone,
        }
    }
}

fn presumed_rolled_back() -> Response {
    let cause = Some(RollbackCause::Presumed);
    Response::Ended(Ending { outcome: Outcome::RolledBack, cause, completed: true })
}
