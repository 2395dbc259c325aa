//! Every fact of a schedule, as the invariants need them.

use super::Fact;
use unanimous_core::coordinator::Recovered;
use unanimous_core::message::{Answer, Vote};
use unanimous_core::record::OutcomeRecord;
use unanimous_core::{
    AuditEntry, AuditKind, Bqual, BranchId, BranchResult, Decision, Gtrid, LogId, Lsn, Outcome,
    Record,
};

/// All facts so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Participants may decide alone in this schedule.
    pub decides_alone: bool,
    /// Nothing fails in this schedule.
    pub faultless: bool,
    /// Every transaction ever begun, in that order.
    pub transactions: Vec<Transaction>,
    /// The highest epoch that was handed to the log.
    pub epoch_max: Option<u32>,
    /// All records that were ever durable, folded: without those that only repeat others.
    pub logged: Recovered,
    /// The log's space is low.
    pub storage_low: bool,
    /// The highest epoch that was durable in this log.
    pub epoch_durable: Option<u32>,
    /// The log that the coordinator has, if it is not its first.
    pub log: Option<LogId>,
    /// Bits of a durable frame have flipped.
    pub rotted: bool,
}

/// What is known about a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transaction {
    /// Its id.
    pub gtrid: Gtrid,
    /// Its branches, in the order they enlisted.
    pub branches: Vec<Branch>,
    /// A client asked for the commit.
    pub commit_asked: bool,
    /// How many branches its client counted, if it said so.
    pub branches_counted: Option<u32>,
    /// The branches its Commit record names, while the log's answer is open.
    pub commit_handed: Option<Vec<Bqual>>,
    /// The branches its durable Commit record names.
    pub commit_durable: Option<Vec<Bqual>>,
    /// Its End is durable.
    pub end_durable: bool,
    /// A durable Heuristic record stands for it.
    pub heuristic_durable: bool,
    /// An operator has been told to say how a branch ended, or to give one up.
    pub operated: bool,
    /// A record of what an operator did says that its commit was asked for, durably.
    pub commit_forced: bool,
    /// Marked resolved, durably.
    pub resolved: bool,
    /// Participants were told that it has ended.
    pub told_ended: bool,
    /// What clients were told.
    pub answered: Vec<Outcome>,
    /// A participant has lied about a branch of its own in it.
    pub lied: bool,
    /// Its log is gone.
    pub orphaned: bool,
}

/// What is known about a branch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Branch {
    /// Names it in its transaction.
    pub bqual: Bqual,
    /// The coordinator has answered its enlistment.
    pub enlisted: bool,
    /// It has changed data.
    pub worked: bool,
    /// By how much, in sum.
    pub moved: i64,
    /// It voted commit.
    pub voted_commit: bool,
    /// It voted read-only.
    pub voted_read_only: bool,
    /// It voted rollback.
    pub voted_rollback: bool,
    /// Prepared on its participant's platter.
    pub prepared: bool,
    /// How it ended, durably.
    pub ended: Option<BranchResult>,
    /// It was ended by its operator.
    pub alone: bool,
    /// A process that did not hold it found nothing to roll back: another one may prepare it after
    /// that.
    pub found_nothing: bool,
    /// It has dropped its heuristic record: a report that still comes is an old one.
    pub forgotten: bool,
    /// Its participant has said of it what is not so.
    pub lied: bool,
    /// It was told to commit.
    pub told_commit: bool,
    /// It was told to roll back.
    pub told_rollback: bool,
    /// How the coordinator's durable Heuristic or Matched records say it ended.
    pub recorded: Option<BranchResult>,
}

impl Branch {
    fn new(bqual: Bqual) -> Self {
        Self {
            bqual,
            enlisted: false,
            worked: false,
            moved: 0,
            voted_commit: false,
            voted_read_only: false,
            voted_rollback: false,
            prepared: false,
            ended: None,
            alone: false,
            found_nothing: false,
            forgotten: false,
            lied: false,
            told_commit: false,
            told_rollback: false,
            recorded: None,
        }
    }
}

impl Branch {
    fn vote(&mut self, vote: &Vote) {
        match vote {
            Vote::Commit { .. } => self.voted_commit = true,
            Vote::ReadOnly => self.voted_read_only = true,
            Vote::Rollback { .. } => self.voted_rollback = true,
        }
    }
}

impl Transaction {
    fn new(gtrid: Gtrid) -> Self {
        Self {
            gtrid,
            branches: Vec::new(),
            commit_asked: false,
            branches_counted: None,
            commit_handed: None,
            commit_durable: None,
            end_durable: false,
            operated: false,
            commit_forced: false,
            resolved: false,
            heuristic_durable: false,
            told_ended: false,
            answered: Vec::new(),
            lied: false,
            orphaned: false,
        }
    }

    /// One of its branches.
    #[must_use]
    pub fn branch(&self, bqual: &Bqual) -> Option<&Branch> {
        self.branches.iter().find(|branch| branch.bqual == *bqual)
    }

    fn branch_mut(&mut self, bqual: Bqual) -> &mut Branch {
        let at =
            self.branches.iter().position(|branch| branch.bqual == bqual).unwrap_or_else(|| {
                self.branches.push(Branch::new(bqual));
                self.branches.len() - 1
            });
        &mut self.branches[at]
    }

    /// What was decided, as far as it can be seen from outside: a durable Commit record, or a
    /// one-phase branch that has committed.
    #[must_use]
    pub fn committed(&self) -> bool {
        self.commit_durable.is_some()
            || self
                .branches
                .iter()
                .any(|branch| branch.ended == Some(BranchResult::Committed) && !branch.alone)
    }
}

impl Ledger {
    /// A transaction that was begun.
    #[must_use]
    pub fn transaction(&self, gtrid: &Gtrid) -> Option<&Transaction> {
        self.transactions.iter().rev().find(|transaction| transaction.gtrid == *gtrid)
    }

    /// A branch that enlisted or was heard of.
    #[must_use]
    pub fn branch(&self, id: &BranchId) -> Option<&Branch> {
        self.transaction(&id.gtrid)?.branch(&id.bqual)
    }

    fn transaction_mut(&mut self, gtrid: &Gtrid) -> Option<&mut Transaction> {
        self.transactions.iter_mut().rev().find(|transaction| transaction.gtrid == *gtrid)
    }

    fn with_branch(&mut self, id: &BranchId, change: impl FnOnce(&mut Branch)) {
        if let Some(transaction) = self.transaction_mut(&id.gtrid) {
            change(transaction.branch_mut(id.bqual));
        }
    }

    pub(super) fn note(&mut self, fact: &Fact<'_>) {
        match fact {
            Fact::Begun(gtrid) => self.transactions.push(Transaction::new(*gtrid)),
            Fact::Enlisted(id) => self.with_branch(id, |branch| branch.enlisted = true),
            Fact::Worked(id, sum) => self.with_branch(id, |branch| {
                branch.worked = true;
                branch.moved += sum;
            }),
            Fact::Voted(id, vote) => self.with_branch(id, |branch| branch.vote(vote)),
            Fact::Lied { branch: id, own, answer } => self.note_lie(id, *own, answer),
            Fact::Prepared(id) => self.with_branch(id, |branch| branch.prepared = true),
            Fact::Ended(id, result) => {
                self.with_branch(id, |branch| branch.ended = Some(*result));
            }
            Fact::EndedAlone(id, result) => self.with_branch(id, |branch| {
                branch.ended = Some(*result);
                branch.alone = true;
            }),
            Fact::Told(id, decision) => self.with_branch(id, |branch| match decision {
                Decision::Commit => branch.told_commit = true,
                Decision::Rollback => branch.told_rollback = true,
            }),
            Fact::CommitAsked(gtrid, counted) => {
                // The first one counts: later ones join it.
                if let Some(transaction) =
                    self.transaction_mut(gtrid).filter(|transaction| !transaction.commit_asked)
                {
                    transaction.commit_asked = true;
                    transaction.branches_counted = *counted;
                }
            }
            Fact::Handed(record) => self.note_handed(record),
            Fact::Durable(record) => self.note_durable(record),
            Fact::Storage { low } => self.storage_low = *low,
            Fact::CoordinatorGone => {
                self.storage_low = false;
                for transaction in &mut self.transactions {
                    transaction.commit_handed = None;
                }
            }
            Fact::ToldEnded(mark) => {
                for transaction in &mut self.transactions {
                    transaction.told_ended |=
                        super::em_ended_mark::passes(mark, &transaction.gtrid);
                }
            }
            Fact::Answered(gtrid, outcome) => {
                if let Some(transaction) = self.transaction_mut(gtrid) {
                    transaction.answered.push(*outcome);
                }
            }
            Fact::FoundNothing(id) => self.with_branch(id, |branch| branch.found_nothing = true),
            Fact::Forgotten(id) => self.with_branch(id, |branch| branch.forgotten = true),
            Fact::NewLog(log) => {
                self.log = Some(*log);
                self.logged = Recovered::default();
                self.epoch_durable = None;
                self.transactions.iter_mut().for_each(|transaction| transaction.orphaned = true);
            }
            Fact::Rotted(_) => self.rotted = true,
            Fact::Restored => self.rotted = false,
            Fact::Acknowledged(..)
            | Fact::Unreadable(_)
            | Fact::Replayed(..)
            | Fact::Recovered(_)
            | Fact::Retained(_)
            | Fact::ToldOnePhase(_)
            | Fact::ToldForget(_) => {}
        }
    }

    /// What is said counts for the decision. A branch that is not the liar's own is none of its
    /// business.
    fn note_lie(&mut self, id: &BranchId, own: bool, answer: &Answer) {
        let Some(transaction) = self.transaction_mut(&id.gtrid).filter(|_| own) else { return };
        transaction.lied = true;
        let branch = transaction.branches.iter_mut().find(|branch| branch.bqual == id.bqual);
        let Some(branch) = branch else { return };
        branch.lied = true;
        if let Answer::Voted(vote) = answer {
            branch.vote(vote);
        }
    }

    fn note_handed(&mut self, record: &Record) {
        match record {
            Record::Boot { epoch } => self.epoch_max = self.epoch_max.max(Some(*epoch)),
            Record::Commit { gtrid, branches, .. } => {
                if let Some(transaction) = self.transaction_mut(gtrid) {
                    let branches = branches.iter().map(|branch| branch.bqual).collect();
                    transaction.commit_handed = Some(branches);
                }
            }
            Record::Heuristic { .. }
            | Record::Matched { .. }
            | Record::End { .. }
            | Record::OutcomeFloor { .. }
            | Record::Carried { .. }
            | Record::CarriedOutcomes { .. }
            | Record::Forgotten { .. }
            | Record::Participant { .. }
            | Record::Forced { .. }
            | Record::Labelled { .. } => {}
            Record::OperatorAct { entry } => self.note_operated(entry),
        }
    }

    /// What is said of a branch may be an operator's word from now on.
    fn note_operated(&mut self, entry: &AuditEntry) {
        let of_branch = matches!(entry.kind, AuditKind::Assert | AuditKind::Abandon);
        let gtrid = entry.gtrid.filter(|_| of_branch);
        if let Some(transaction) = gtrid.and_then(|gtrid| self.transaction_mut(&gtrid)) {
            transaction.operated = true;
        }
    }

    fn note_durable(&mut self, record: &Record) {
        if !self.repeats(record) {
            self.logged.fold(Lsn(0), record.clone());
        }
        match record {
            Record::Commit { gtrid, branches, .. } => {
                if let Some(transaction) = self.transaction_mut(gtrid) {
                    transaction.commit_handed = None;
                    let branches = branches.iter().map(|branch| branch.bqual).collect();
                    transaction.commit_durable = Some(branches);
                }
            }
            Record::Forced { gtrid, decision, branches, asserted, resolved, .. } => {
                let Some(transaction) = self.transaction_mut(gtrid) else { return };
                transaction.commit_forced |= *decision == Decision::Commit;
                transaction.heuristic_durable = true;
                transaction.resolved = *resolved;
                for branch in branches {
                    if branch.result.is_some() && !asserted.contains(&branch.bqual) {
                        transaction.branch_mut(branch.bqual).recorded = branch.result;
                    }
                }
            }
            Record::Heuristic { gtrid, branches, .. } => {
                let Some(transaction) = self.transaction_mut(gtrid) else { return };
                transaction.heuristic_durable = true;
                transaction.resolved = false;
                for branch in branches {
                    if branch.result.is_some() {
                        transaction.branch_mut(branch.bqual).recorded = branch.result;
                    }
                }
            }
            Record::Matched { gtrid, bqual, result } => {
                let id = BranchId { gtrid: *gtrid, bqual: *bqual };
                self.with_branch(&id, |branch| branch.recorded = Some(*result));
            }
            Record::End { gtrid } => {
                if let Some(transaction) = self.transaction_mut(gtrid) {
                    transaction.end_durable = true;
                }
            }
            Record::Boot { epoch } => self.epoch_durable = self.epoch_durable.max(Some(*epoch)),
            Record::OutcomeFloor { .. }
            | Record::Carried { .. }
            | Record::Forgotten { .. }
            | Record::Participant { .. }
            | Record::OperatorAct { .. }
            | Record::Labelled { .. } => {}
            Record::CarriedOutcomes { committed } => {
                for OutcomeRecord { gtrid, unforgotten, .. } in committed {
                    for bqual in unforgotten {
                        let id = BranchId { gtrid: *gtrid, bqual: *bqual };
                        let result = Some(BranchResult::Committed);
                        self.with_branch(&id, |branch| branch.recorded = result);
                    }
                }
            }
        }
    }

    /// The record says again what others have said. A commit in one phase whose branch decided
    /// alone has no other.
    fn repeats(&self, record: &Record) -> bool {
        match record {
            Record::Carried { .. } => true,
            Record::CarriedOutcomes { committed } => {
                let [OutcomeRecord { gtrid, branches, unforgotten }] = &committed[..] else {
                    return true;
                };
                branches.len() != 1
                    || branches != unforgotten
                    || self.logged.outcome(gtrid).is_some()
            }
            _ => false,
        }
    }
}
