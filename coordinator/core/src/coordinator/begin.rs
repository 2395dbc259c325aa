//! Begin and enlist.

use super::timer::TimerKind;
use super::{Branch, Coordinator, State, Transaction};
use crate::id::{Gtrid, KIND_TRANSACTION, Labels, TransactionName, resource_manager};
use crate::message::{EnlistRefusal, Enlistment, Refusal, Response, RollbackCause, Vote};
use crate::museum::{Bug, on};
use crate::record::DETAIL_BYTES_MAX;
use crate::record::cut;
use crate::tally::Ballot;
use crate::{CallerId, Millis};

/// The hint that goes with a refusal at the limit.
const RETRY_AFTER_MS: u64 = 100;
/// And with one for want of space.
const SPACE_RETRY_AFTER_MS: u64 = 1_000;

impl Coordinator {
    pub(super) fn on_begin(
        &mut self,
        now: Millis,
        by: CallerId,
        name: TransactionName,
        labels: Labels,
        timeout_ms: u64,
    ) {
        let timeout_ms = if timeout_ms == 0 { self.limits.timeout_ms_default } else { timeout_ms };
        let refusal = if !self.started {
            Some(Refusal::Starting)
        } else if timeout_ms > self.limits.timeout_ms_max {
            Some(Refusal::TimeoutTooLong { max_ms: self.limits.timeout_ms_max })
        } else if self.storage_low && !on(Bug::LowSpaceIgnored) {
            Some(Refusal::LogFull { retry_after_ms: SPACE_RETRY_AFTER_MS })
        } else if self.transactions.len() >= self.limits.transactions_max {
            Some(Refusal::TooManyTransactions { retry_after_ms: RETRY_AFTER_MS })
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.counters.refused += 1;
            return self.reply(by, Response::Refused(refusal));
        }
        let gtrid = Gtrid::new(self.owner, self.next_sequence, KIND_TRANSACTION);
        self.next_sequence += 1;
        self.counters.begun += 1;
        let timeout_at = now.plus(timeout_ms);
        let transaction = Transaction::new(name, State::Active, now, timeout_at);
        self.transactions.insert(gtrid, Transaction { labels, ..transaction });
        self.unended.insert(gtrid);
        self.timers.insert((timeout_at, gtrid, TimerKind::Timeout));
        self.reply(by, Response::Begun { gtrid, timeout_ms });
    }

    pub(super) fn on_enlist(&mut self, now: Millis, by: CallerId, enlistment: Enlistment) {
        let response = match self.enlist(now, enlistment) {
            Ok(remaining_ms) => Response::Enlisted { remaining_ms },
            Err(refusal) => Response::EnlistRefused(refusal),
        };
        self.reply(by, response);
    }

    fn enlist(&mut self, now: Millis, enlistment: Enlistment) -> Result<u64, EnlistRefusal> {
        let Enlistment { branch: id, participant, instance, resource, inquires, vote } = enlistment;
        let owned = id.bqual.owner() == self.owner
            && id.bqual.resource_manager() == resource_manager(&participant, &resource);
        let branches_max = self.limits.branches_max;
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else {
            return Err(self.refuse_unknown(&id.gtrid));
        };
        if !owned {
            return Err(EnlistRefusal::NotOurs);
        }
        match transaction.state {
            State::Active => {}
            State::Deciding | State::Committing if on(Bug::LateEnlist) => {}
            State::MarkedRollback | State::RollingBack => return Err(EnlistRefusal::RolledBack),
            State::Preparing
            | State::OnePhase
            | State::Deciding
            | State::Committing
            | State::Heuristic => return Err(EnlistRefusal::Inactive),
        }
        let remaining_ms = transaction.timeout_at.since(now);
        let enlisted = transaction.branches.len();
        match transaction.branch(&id.bqual) {
            Some(known) if known.participant == participant && known.resource == resource => {}
            Some(_) => return Err(EnlistRefusal::BqualTaken),
            None if enlisted >= branches_max => {
                self.counters.refused += 1;
                return Err(EnlistRefusal::TooManyBranches);
            }
            None => {
                transaction.version += 1;
                transaction.branches.push(Branch {
                    bqual: id.bqual,
                    participant: participant.clone(),
                    resource,
                    instance: Some(instance),
                    inquires,
                    ballot: Ballot::Outstanding,
                    evidence: None,
                    result: None,
                    detail: String::new(),
                    forget_pending: false,
                    matched: false,
                    left_to_ask: false,
                    last_error: String::new(),
                    asserted: false,
                });
                self.concern(&participant, id.gtrid);
            }
        }
        if let Some(vote) = vote {
            self.on_early_vote(now, id, vote);
        }
        Ok(remaining_ms)
    }

    /// An ended transaction is told apart from one that never was, as far as it is remembered.
    fn refuse_unknown(&self, gtrid: &Gtrid) -> EnlistRefusal {
        if gtrid.owner() != self.owner {
            return EnlistRefusal::NotOurs;
        }
        match self.outcomes.get(gtrid) {
            Some(remembered) if remembered.cause.is_some() => EnlistRefusal::RolledBack,
            Some(_) => EnlistRefusal::Inactive,
            None => EnlistRefusal::UnknownTransaction,
        }
    }

    /// A vote in Active (section 3, *early prepare*). Read-only is not taken: its locks must hold
    /// until the others have worked, so the branch will be asked.
    pub(super) fn on_early_vote(&mut self, now: Millis, id: crate::BranchId, vote: Vote) {
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let Some(branch) = transaction.branch_mut(&id.bqual) else { return };
        match vote {
            Vote::Commit { evidence } => {
                branch.ballot = Ballot::Commit;
                branch.evidence = evidence;
                transaction.version += 1;
            }
            Vote::ReadOnly => self.counters.unexpected += 1,
            Vote::Rollback { reason } => {
                branch.ballot = Ballot::Rollback;
                branch.detail = cut(&reason, DETAIL_BYTES_MAX).to_owned();
                let (participant, reason) = (branch.participant.clone(), branch.detail.clone());
                transaction.cause = Some(RollbackCause::Voted { participant, reason });
                transaction.enter(now, State::MarkedRollback);
            }
        }
    }
}
