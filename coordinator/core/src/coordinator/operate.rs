//! Operator acts (section 7): what each state allows, and what it does. An act has its effect when
//! its entry in the audit is durable, and not before.

use super::{Awaited, Branch, Coordinator, Item, State, Transaction, timer::TimerKind};
use crate::audit::{Act, ActRefusal, AuditEntry, AuditKind, AuditResult};
use crate::id::{Bqual, BranchId, Gtrid};
use crate::message::{CallerId, Done, Refusal, Response, RollbackCause};
use crate::museum::{Bug, on};
use crate::outcome::{BranchResult, Decision};
use crate::record::{DETAIL_BYTES_MAX, Record, cut};
use crate::{Lsn, Millis};

/// An act whose entry is being written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Recorded {
    by: CallerId,
    gtrid: Gtrid,
    version: u64,
    act: Act,
    /// What the operator saw, for the branch.
    evidence: String,
}

/// What an act would make of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// As it would stand right after it. What branches then answer is not in it.
    pub after: Transaction,
    /// Branches that are told something.
    pub told: Vec<Bqual>,
}

impl Coordinator {
    /// What an act would do now; `None`: there is no such transaction. Changes nothing.
    #[must_use]
    pub fn plan(&self, gtrid: &Gtrid, act: &Act) -> Option<Result<Planned, ActRefusal>> {
        let transaction = self.transactions.get(gtrid)?;
        Some(allowed(transaction, act).map(|()| planned(transaction, act)))
    }

    /// The entries of the audit from `number` on, in their order. The last ones may not be durable
    /// yet.
    pub fn audit(&self, number: u64) -> impl Iterator<Item = &AuditEntry> {
        self.audit.range(number..).map(|(_, (entry, _))| entry)
    }

    /// The number of the last entry that is durable, or 0.
    #[must_use]
    pub fn audit_durable(&self) -> u64 {
        let last = self.audit.iter().rev().find(|(_, (_, home))| *home <= self.durable);
        last.map_or(0, |(number, _)| *number)
    }

    /// How many entries the audit has.
    #[must_use]
    pub fn audit_len(&self) -> usize {
        self.audit.len()
    }

    /// The audit's last entry: the next one carries its hash.
    #[must_use]
    pub fn audit_head(&self) -> Option<&AuditEntry> {
        self.audit.last_key_value().map(|(_, (entry, _))| entry)
    }

    /// What an operator has decided about a prepared branch that no log knows.
    #[must_use]
    pub fn orphan_decision(&self, branch: &BranchId) -> Option<Decision> {
        self.orphan_decisions.get(branch).copied()
    }

    /// An operator's act. It has been planned at `version`; its entry says so.
    pub(super) fn on_operate(
        &mut self,
        by: CallerId,
        gtrid: Gtrid,
        version: u64,
        act: Act,
        entry: AuditEntry,
    ) {
        let Some(transaction) = self.transactions.get(&gtrid) else {
            return self.reply(by, Response::Unknown);
        };
        let moved = transaction.version != version
            || self.acts.values().any(|recorded| recorded.gtrid == gtrid);
        let refusal = match allowed(transaction, &act) {
            _ if moved => Some(ActRefusal::Moved),
            allowed => allowed.err(),
        };
        if let Some(refusal) = refusal {
            return self.reply(by, Response::ActRefused(refusal));
        }
        let evidence = entry.evidence.clone();
        let recorded = Recorded { by, gtrid, version, act, evidence };
        let Some(lsn) = self.record_audit(by, entry) else { return };
        if on(Bug::ActBeforeItsRecord) {
            return self.carry_out(Millis(0), recorded);
        }
        self.acts.insert(lsn, recorded);
        self.awaited.insert(lsn, Awaited::Act);
    }

    /// An entry without an effect on a transaction: a refusal, a proposal, an orphan's end.
    pub(super) fn on_audit(&mut self, by: CallerId, entry: AuditEntry) {
        if let Some(lsn) = self.record_audit(by, entry) {
            self.awaited.insert(lsn, Awaited::Audited(by));
        }
    }

    fn record_audit(&mut self, by: CallerId, entry: AuditEntry) -> Option<Lsn> {
        if self.audit.len() >= self.limits.audit_max || !self.started {
            let refusal = if self.started { Refusal::AuditFull } else { Refusal::Starting };
            self.reply(by, Response::Refused(refusal));
            return None;
        }
        debug_assert_eq!(self.audit_head().map_or(0, |last| last.number) + 1, entry.number);
        let number = entry.number;
        let lsn = self.append(Record::OperatorAct { entry: Box::new(entry.clone()) }, true);
        self.homes.set(Item::Audit(number), None, lsn);
        self.audit.insert(number, (entry, lsn));
        Some(lsn)
    }

    pub(super) fn on_audited(&mut self, by: CallerId, lsn: Lsn) {
        let written = self.audit.values().rev().find(|(_, home)| *home == lsn);
        let decided = written.and_then(|(entry, _)| orphan_decision(entry));
        self.orphan_decisions.extend(decided);
        self.reply(by, Response::Audited);
    }

    pub(super) fn on_act_durable(&mut self, now: Millis, lsn: Lsn) {
        if let Some(recorded) = self.acts.remove(&lsn) {
            self.carry_out(now, recorded);
        }
    }

    /// The act is on record: it has its effect, unless the transaction has moved meanwhile.
    fn carry_out(&mut self, now: Millis, recorded: Recorded) {
        let Recorded { by, gtrid, version, act, evidence } = recorded;
        let stands = self.transactions.get(&gtrid).is_some_and(|transaction| {
            transaction.version == version && allowed(transaction, &act).is_ok()
        });
        if !stands {
            return self.reply(by, Response::Overtaken);
        }
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        let undecided =
            matches!(transaction.state, State::Active | State::MarkedRollback | State::Preparing);
        match act {
            Act::Rollback if undecided => {
                self.counters.forced += 1;
                self.roll_back(now, gtrid, Some(RollbackCause::Forced));
                self.reply(by, Response::Operated);
            }
            Act::Rollback | Act::Commit => {
                self.retry_now(now, gtrid);
                self.reply(by, Response::Operated);
            }
            Act::Assert { .. } | Act::Abandon { .. } => {
                self.counters.forced += 1;
                transaction.acted.push(by);
                let one_phase = transaction.state == State::OnePhase;
                transaction.apply(&act, &evidence);
                self.log_heuristic(gtrid);
                let transaction = self.transactions.get_mut(&gtrid).filter(|_| one_phase);
                if let Some(transaction) = transaction {
                    transaction.enter(now, State::Heuristic);
                    self.cancel_timers(gtrid);
                }
            }
            Act::Resolve => {
                transaction.acted.push(by);
                transaction.apply(&act, &evidence);
                self.log_heuristic(gtrid);
                self.retire_later(now, gtrid);
            }
        }
    }

    /// The record of what an operator did is durable.
    pub(super) fn reply_acted(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get_mut(&gtrid) else { return };
        for by in std::mem::take(&mut transaction.acted) {
            self.reply(by, Response::Operated);
        }
    }

    /// A branch says at last what an operator has said for it: it is seen gone. If the two
    /// contradict each other the transaction is mixed, and on the list again.
    pub(super) fn on_asserted_acknowledged(
        &mut self,
        now: Millis,
        id: BranchId,
        done: Done,
        detail: &str,
    ) {
        let Some(transaction) = self.transactions.get_mut(&id.gtrid) else { return };
        let decided = super::finish::decided_as(transaction.decision());
        let Some(branch) = transaction.branch_mut(&id.bqual) else { return };
        let told = match done {
            Done::Done => decided,
            Done::RolledBack | Done::NotPrepared => BranchResult::RolledBack,
            Done::Heuristic(told) => told,
            Done::Retry | Done::Forgotten => return,
        };
        let known = branch.result.unwrap_or(told);
        branch.asserted = false;
        branch.forget_pending |= matches!(done, Done::Heuristic(_));
        let contradicts =
            told != known && told != BranchResult::Hazard && known != BranchResult::Hazard;
        branch.result = Some(match told {
            BranchResult::Hazard => known,
            _ if contradicts => BranchResult::Mixed,
            told => told,
        });
        branch.detail = cut(detail, DETAIL_BYTES_MAX).to_owned();
        transaction.resolved &= !contradicts;
        transaction.version += 1;
        if contradicts {
            self.counters.heuristic += 1;
        }
        self.log_heuristic(id.gtrid);
        self.finish_if_done(now, id.gtrid);
    }

    pub(super) fn retire_later(&mut self, now: Millis, gtrid: Gtrid) {
        let at = now.plus(self.limits.outcome_retention_ms.max(1));
        self.timers.insert((at, gtrid, TimerKind::Retire));
    }

    /// A resolved transaction goes when its outcome need not be remembered any more, its branches
    /// are seen gone, and a client that asks can be told no more than "unknown".
    pub(super) fn on_retire(&mut self, now: Millis, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.get(&gtrid).filter(|found| found.resolved) else {
            return;
        };
        let held = |branch: &Branch| branch.asserted || branch.forget_pending || branch.matched;
        if transaction.heuristic_pending.is_some() || transaction.branches.iter().any(held) {
            return self.retire_later(now, gtrid);
        }
        let place = (gtrid.owner().epoch, gtrid.sequence());
        if gtrid.owner().log == self.owner.log && Some(place) > self.outcome_floor {
            if !self.floor_pending {
                self.raise_floor(place);
            }
            let soon = now.plus(self.limits.retry_ms_min.max(1));
            self.timers.insert((soon, gtrid, TimerKind::Retire));
            return;
        }
        self.cancel_timers(gtrid);
        self.unended.remove(&gtrid);
        let Some(transaction) = self.transactions.remove(&gtrid) else { return };
        for branch in &transaction.branches {
            self.concern_ended(&branch.participant, &gtrid);
        }
        self.append(Record::End { gtrid }, false);
        self.homes.remove(Item::Transaction(gtrid), transaction.home);
    }
}

/// What an entry decides about a branch that no log knows.
pub(super) fn orphan_decision(entry: &AuditEntry) -> Option<(BranchId, Decision)> {
    if (entry.kind, entry.result) != (AuditKind::Orphan, AuditResult::Done) {
        return None;
    }
    let branch = BranchId { gtrid: entry.gtrid?, bqual: entry.bqual? };
    match entry.end? {
        BranchResult::Committed => Some((branch, Decision::Commit)),
        BranchResult::RolledBack => Some((branch, Decision::Rollback)),
        BranchResult::Mixed | BranchResult::Hazard => None,
    }
}

/// The table of section 7.
fn allowed(transaction: &Transaction, act: &Act) -> Result<(), ActRefusal> {
    use State::{
        Active, Committing, Deciding, Heuristic, MarkedRollback, OnePhase, Preparing, RollingBack,
    };
    match (act, transaction.state) {
        (_, Deciding) => Err(ActRefusal::WaitForLog),
        (Act::Rollback, Active | MarkedRollback | Preparing | RollingBack)
        | (Act::Commit, Committing) => Ok(()),
        (Act::Rollback | Act::Commit, OnePhase) => Err(ActRefusal::OnePhase),
        (Act::Rollback, Committing | Heuristic) | (Act::Commit, RollingBack | Heuristic) => {
            Err(ActRefusal::Decided)
        }
        (Act::Commit, Active | MarkedRollback | Preparing) => Err(ActRefusal::VotesMissing),
        (Act::Assert { .. } | Act::Abandon { .. }, Active | MarkedRollback | Preparing) => {
            Err(ActRefusal::Undecided)
        }
        (Act::Assert { bqual, end }, OnePhase | Committing | RollingBack | Heuristic) => {
            let branch = in_phase_two(transaction, bqual)?;
            let open = match branch.result {
                None | Some(BranchResult::Hazard) => true,
                Some(known) => branch.asserted && known != *end,
            };
            open.then_some(()).ok_or(ActRefusal::BranchFinished)
        }
        (Act::Abandon { bqual }, OnePhase | Committing | RollingBack | Heuristic) => {
            let branch = in_phase_two(transaction, bqual)?;
            let driven = branch.result.is_none() || branch.forget_pending;
            driven.then_some(()).ok_or(ActRefusal::BranchFinished)
        }
        (Act::Resolve, Heuristic) if transaction.resolved => Err(ActRefusal::Resolved),
        // Its record is being written: what it says is not known to be kept.
        (Act::Resolve, Heuristic) if transaction.heuristic_pending.is_some() => {
            Err(ActRefusal::WaitForLog)
        }
        (Act::Resolve, Heuristic) => Ok(()),
        (Act::Resolve, Committing | RollingBack) if transaction.heuristic_logged => {
            Err(ActRefusal::BranchesPending)
        }
        (Act::Resolve, _) => Err(ActRefusal::NotHeuristic),
    }
}

fn in_phase_two<'a>(transaction: &'a Transaction, bqual: &Bqual) -> Result<&'a Branch, ActRefusal> {
    let branch = transaction.branch(bqual).ok_or(ActRefusal::BranchUnknown)?;
    if branch.in_phase_two() { Ok(branch) } else { Err(ActRefusal::BranchFinished) }
}

fn planned(transaction: &Transaction, act: &Act) -> Planned {
    let mut after = transaction.clone();
    after.apply(act, "");
    let undecided = matches!(after.state, State::Active | State::MarkedRollback | State::Preparing);
    if *act == Act::Rollback && undecided {
        after.cause.get_or_insert(RollbackCause::Forced);
        after.state = State::RollingBack;
    }
    let told = match act {
        Act::Rollback | Act::Commit => after.pending().map(|branch| branch.bqual).collect(),
        Act::Assert { .. } | Act::Abandon { .. } | Act::Resolve => Vec::new(),
    };
    if act.bqual().is_some() && after.pending().next().is_none() {
        after.state = State::Heuristic;
    }
    Planned { after, told }
}

impl Transaction {
    /// What an act changes in the transaction itself.
    fn apply(&mut self, act: &Act, evidence: &str) {
        match act {
            Act::Rollback | Act::Commit => return,
            Act::Resolve => self.resolved = true,
            Act::Assert { bqual, end } => {
                let Some(branch) = self.branch_mut(bqual) else { return };
                branch.result = Some(*end);
                branch.asserted = true;
                branch.detail = cut(evidence, DETAIL_BYTES_MAX).to_owned();
            }
            Act::Abandon { bqual } => {
                let Some(branch) = self.branch_mut(bqual) else { return };
                let end = *branch.result.get_or_insert(BranchResult::Hazard);
                // What it has said itself stays its own word: only the forgetting is given up.
                branch.asserted |= end == BranchResult::Hazard;
                branch.forget_pending = false;
            }
        }
        self.version += 1;
    }

    /// Listed, and no branch needs the proof of its end any more: participants may drop it. One
    /// that an operator has spoken for may come back and commit, until the transaction is resolved.
    pub(super) fn settled(&self) -> bool {
        let spoken_for = self.branches.iter().any(|branch| branch.asserted);
        self.state == State::Heuristic && (self.resolved || !spoken_for)
    }

    /// Whose end is an operator's word.
    pub(super) fn asserted(&self) -> Vec<Bqual> {
        let asserted = self.branches.iter().filter(|branch| branch.asserted);
        asserted.map(|branch| branch.bqual).collect()
    }

    /// It was marked resolved: a person has settled what is heuristic about it.
    #[must_use]
    pub fn resolved(&self) -> bool {
        self.resolved
    }
}
