//! The log's records folded into a table. Recovery is not a mode: what comes out re-enters the
//! ordinary path.

use super::{Awaited, Branch, Coordinator, Counters, Limits, Remembered, State, Transaction};
use crate::id::{Bqual, Gtrid, LogId, Owner, TransactionName};
use crate::message::RollbackCause;
use crate::outcome::{BranchResult, Decision, Outcome};
use crate::record::{BranchRecord, Record};
use crate::{FrameNumber, Lsn, Millis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the log says. Feed it every record, in order, of a log that is verified and durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recovered {
    transactions: BTreeMap<Gtrid, Transaction>,
    outcomes: BTreeMap<Gtrid, Remembered>,
    outcome_floor: Option<(u32, u64)>,
    epoch_max: u32,
}

impl Recovered {
    /// Takes the next record.
    pub fn fold(&mut self, record: Record) {
        match record {
            Record::Boot { epoch } => self.epoch_max = self.epoch_max.max(epoch),
            Record::Commit { gtrid, name, branches } => {
                self.insert(gtrid, name, Decision::Commit, branches);
            }
            Record::Heuristic { gtrid, name, decision, branches } => {
                self.insert(gtrid, name, decision, branches);
                if let Some(transaction) = self.transactions.get_mut(&gtrid) {
                    transaction.heuristic_logged = true;
                    let pending = transaction.pending().next().is_some();
                    if transaction.deviates() && !pending {
                        transaction.state = State::Heuristic;
                    }
                }
            }
            Record::Matched { gtrid, bqual, result } => self.matched(gtrid, bqual, result),
            Record::End { gtrid } => self.end(gtrid),
            Record::OutcomeFloor { epoch, sequence } => {
                self.outcome_floor = self.outcome_floor.max(Some((epoch, sequence)));
            }
        }
    }

    fn insert(
        &mut self,
        gtrid: Gtrid,
        name: TransactionName,
        decision: Decision,
        branches: Vec<BranchRecord>,
    ) {
        let (state, cause) = match decision {
            Decision::Commit => (State::Committing, None),
            Decision::Rollback => (State::RollingBack, Some(RollbackCause::Presumed)),
        };
        let mut transaction = Transaction::new(name, state, Millis(0), Millis(0));
        transaction.cause = cause;
        transaction.recovered = true;
        transaction.branches = branches.into_iter().map(Branch::from_record).collect();
        self.transactions.insert(gtrid, transaction);
    }

    /// A commit that is on record only here was one in one phase.
    fn matched(&mut self, gtrid: Gtrid, bqual: Bqual, result: BranchResult) {
        if let Some(branch) = self.transactions.get_mut(&gtrid).and_then(|t| t.branch_mut(&bqual)) {
            branch.result = Some(result);
            branch.matched = true;
        } else if let Some(remembered) = self.outcomes.get_mut(&gtrid) {
            remembered.note_unforgotten(bqual);
        } else if result == BranchResult::Committed {
            let (outcome, branches) = (Outcome::Committed, Box::from([bqual]));
            let unforgotten = BTreeSet::from([bqual]);
            let remembered = Remembered { outcome, cause: None, branches, unforgotten };
            self.outcomes.insert(gtrid, remembered);
        }
    }

    fn end(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.remove(&gtrid) else { return };
        let (outcome, branches) = match transaction.decision() {
            Decision::Commit => {
                let branches = transaction.branches.iter().map(|branch| branch.bqual).collect();
                (Outcome::Committed, branches)
            }
            Decision::Rollback => (Outcome::RolledBack, Box::default()),
        };
        let unforgotten = transaction.unforgotten();
        let cause = transaction.cause;
        self.outcomes.insert(gtrid, Remembered { outcome, cause, branches, unforgotten });
    }

    /// The next life's epoch: above every earlier one, whatever the clock says.
    #[must_use]
    pub fn next_epoch(&self, unix_seconds: u64) -> u32 {
        let clock = u32::try_from(unix_seconds).unwrap_or(u32::MAX);
        self.epoch_max.saturating_add(1).max(clock)
    }

    /// Unfinished and heuristic transactions, in the order they began.
    pub fn transactions(&self) -> impl Iterator<Item = (&Gtrid, &Transaction)> {
        self.transactions.iter()
    }

    /// The outcome of a finished transaction that the log knows.
    #[must_use]
    pub fn outcome(&self, gtrid: &Gtrid) -> Option<Outcome> {
        self.outcomes.get(gtrid).map(|remembered| remembered.outcome)
    }
}

/// Where a life starts in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Start {
    /// The log.
    pub log: LogId,
    /// The highest durable frame.
    pub frame: FrameNumber,
    /// The number of the next record.
    pub next_lsn: Lsn,
    /// The wall clock. Only to draw an epoch above one that was lost with a log's tail.
    pub unix_seconds: u64,
    /// For jitter.
    pub seed: u64,
}

impl Coordinator {
    /// A new life on what the log says. It asks for its Boot record at once and speaks to nobody
    /// before that is durable.
    #[must_use]
    pub fn start(limits: Limits, start: Start, now: Millis, recovered: Recovered) -> Self {
        let epoch = recovered.next_epoch(start.unix_seconds);
        let mut transactions = recovered.transactions;
        for transaction in transactions.values_mut() {
            transaction.begun_at = now;
            transaction.phase_since = now;
            transaction.timeout_at = now;
        }
        let unended: BTreeSet<Gtrid> = transactions
            .iter()
            .filter(|(gtrid, transaction)| {
                gtrid.owner().log == start.log && transaction.state != State::Heuristic
            })
            .map(|(gtrid, _)| *gtrid)
            .collect();
        let recovered_count = transactions.values().filter(|t| t.state != State::Heuristic).count();
        let mut coordinator = Self {
            limits,
            owner: Owner { log: start.log, epoch },
            seed: start.seed,
            next_sequence: 0,
            next_lsn: start.next_lsn.0,
            frame: start.frame,
            frame_at_start: start.frame,
            log_behind: false,
            started: false,
            transactions,
            timers: BTreeSet::new(),
            awaited: BTreeMap::new(),
            unended,
            outcomes: recovered.outcomes,
            outcome_floor: recovered.outcome_floor,
            floor_pending: false,
            actions: VecDeque::new(),
            counters: Counters {
                recovered: u64::try_from(recovered_count).unwrap_or(u64::MAX),
                ..Counters::default()
            },
        };
        let lsn = coordinator.append(Record::Boot { epoch }, true);
        coordinator.awaited.insert(lsn, Awaited::Boot);
        coordinator
    }

    /// Everything that the log left unfinished is driven now.
    pub(super) fn on_boot_durable(&mut self, now: Millis) {
        self.started = true;
        let unfinished: Vec<Gtrid> = self.transactions.keys().copied().collect();
        for gtrid in unfinished {
            self.drive(gtrid, None);
            self.schedule(now, gtrid);
            self.finish_if_done(now, gtrid);
        }
    }

    /// This life's first record is durable.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }
}
