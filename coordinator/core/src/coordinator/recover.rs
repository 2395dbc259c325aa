//! The log's records folded into a table. Recovery is not a mode: what comes out re-enters the
//! ordinary path.

use super::operate::orphan_decision;
use super::{
    Awaited, Branch, Coordinator, Counters, Homes, Item, KnownParticipant, Limits, Remembered,
    State, Transaction,
};
use crate::audit::AuditEntry;
use crate::id::{Bqual, BranchId, Gtrid, LogId, Owner, ParticipantName, TransactionName};
use crate::message::RollbackCause;
use crate::museum::{Bug, on};
use crate::outcome::{BranchResult, Decision, Outcome};
use crate::record::{BranchRecord, OutcomeRecord, Record};
use crate::{FrameNumber, Lsn, Millis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the log says. Feed it every record, in order, of a log that is verified and durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Recovered {
    transactions: BTreeMap<Gtrid, Transaction>,
    outcomes: BTreeMap<Gtrid, Remembered>,
    outcome_floor: Option<(u32, u64)>,
    floor_home: Option<Lsn>,
    participants: BTreeMap<ParticipantName, KnownParticipant>,
    audit: BTreeMap<u64, (AuditEntry, Lsn)>,
    orphan_decisions: BTreeMap<BranchId, Decision>,
    epoch_max: u32,
}

impl Recovered {
    /// Takes the next record.
    pub fn fold(&mut self, lsn: Lsn, record: Record) {
        match record {
            Record::Boot { epoch } => self.epoch_max = self.epoch_max.max(epoch),
            Record::Commit { gtrid, name, branches } => {
                self.insert(lsn, gtrid, name, Decision::Commit, branches);
            }
            Record::Heuristic { gtrid, name, decision, branches } => {
                self.insert(lsn, gtrid, name, decision, branches);
                self.heuristic(&gtrid);
            }
            Record::Matched { gtrid, bqual, result } => self.matched(&gtrid, bqual, result),
            Record::End { gtrid } => self.end(gtrid),
            Record::OutcomeFloor { epoch, sequence } => {
                self.outcome_floor = self.outcome_floor.max(Some((epoch, sequence)));
                self.floor_home = Some(lsn);
            }
            Record::Carried { gtrid, name, decision, heuristic, branches, matched } => {
                self.insert(lsn, gtrid, name, decision, branches);
                if let Some(transaction) = self.transactions.get_mut(&gtrid) {
                    for branch in &mut transaction.branches {
                        branch.matched = matched.contains(&branch.bqual);
                    }
                }
                if heuristic {
                    self.heuristic(&gtrid);
                }
            }
            Record::CarriedOutcomes { committed } => {
                for OutcomeRecord { gtrid, branches, unforgotten } in committed {
                    let unforgotten = unforgotten.into_iter().collect();
                    let remembered = committed_outcome(lsn, branches.into(), unforgotten);
                    self.outcomes.insert(gtrid, remembered);
                }
            }
            Record::Forced { gtrid, name, decision, branches, matched, asserted, resolved } => {
                self.insert(lsn, gtrid, name, decision, branches);
                if let Some(transaction) = self.transactions.get_mut(&gtrid) {
                    transaction.resolved = resolved;
                    for branch in &mut transaction.branches {
                        branch.matched = matched.contains(&branch.bqual);
                        branch.asserted = asserted.contains(&branch.bqual);
                    }
                }
                self.heuristic(&gtrid);
            }
            Record::OperatorAct { entry } => {
                self.orphan_decisions.extend(orphan_decision(&entry));
                self.audit.insert(entry.number, (*entry, lsn));
            }
            Record::Forgotten { gtrid, bqual } => self.forgotten(&gtrid, &bqual),
            Record::Participant { name, resources } => {
                self.participants.insert(name, KnownParticipant { resources, home: lsn });
            }
            Record::Labelled { gtrid, labels } => {
                if let Some(transaction) = self.transactions.get_mut(&gtrid) {
                    transaction.labels = labels;
                }
            }
        }
    }

    fn heuristic(&mut self, gtrid: &Gtrid) {
        let Some(transaction) = self.transactions.get_mut(gtrid) else { return };
        transaction.heuristic_logged = true;
        if transaction.pending().next().is_none() {
            transaction.state = State::Heuristic;
        }
    }

    fn insert(
        &mut self,
        lsn: Lsn,
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
        transaction.home = Some(lsn);
        transaction.branches = branches.into_iter().map(Branch::from_record).collect();
        self.transactions.insert(gtrid, transaction);
    }

    /// Without its transaction it is older than what was carried, and nothing follows from it.
    fn matched(&mut self, gtrid: &Gtrid, bqual: Bqual, result: BranchResult) {
        if let Some(branch) = self.transactions.get_mut(gtrid).and_then(|t| t.branch_mut(&bqual)) {
            branch.result = Some(result);
            branch.matched = true;
        } else if let Some(remembered) = self.outcomes.get_mut(gtrid) {
            remembered.note_unforgotten(bqual);
        }
    }

    fn forgotten(&mut self, gtrid: &Gtrid, bqual: &Bqual) {
        if let Some(branch) = self.transactions.get_mut(gtrid).and_then(|t| t.branch_mut(bqual)) {
            branch.matched = false;
        } else if let Some(remembered) = self.outcomes.get_mut(gtrid) {
            remembered.unforgotten.remove(bqual);
        }
    }

    fn end(&mut self, gtrid: Gtrid) {
        let Some(transaction) = self.transactions.remove(&gtrid) else { return };
        // Resolved, and behind the floor: clients are told "unknown".
        if transaction.resolved {
            return;
        }
        let (outcome, branches) = match transaction.decision() {
            Decision::Commit => {
                let branches = transaction.branches.iter().map(|branch| branch.bqual).collect();
                (Outcome::Committed, branches)
            }
            Decision::Rollback => (Outcome::RolledBack, Box::default()),
        };
        let unforgotten = transaction.unforgotten();
        // A rollback needs no record once its End is there.
        let home = transaction.home.filter(|_| outcome == Outcome::Committed);
        let (cause, ended_at) = (transaction.cause, Millis(0));
        let remembered = Remembered { outcome, cause, branches, unforgotten, ended_at, home };
        self.outcomes.insert(gtrid, remembered);
    }

    /// The next life's epoch: above every earlier one, whatever the clock says.
    #[must_use]
    pub fn next_epoch(&self, unix_seconds: u64) -> u32 {
        let clock = u32::try_from(unix_seconds).unwrap_or(u32::MAX);
        let stored = if on(Bug::EpochFromClock) { 0 } else { self.epoch_max };
        stored.saturating_add(1).max(clock)
    }

    /// What operators did, in its order.
    pub fn audit(&self) -> impl Iterator<Item = &AuditEntry> {
        self.audit.values().map(|(entry, _)| entry)
    }

    /// Unfinished and heuristic transactions, in the order they began.
    pub fn transactions(&self) -> impl Iterator<Item = (&Gtrid, &Transaction)> {
        self.transactions.iter()
    }

    /// Every transaction that the log knows as decided to commit, finished or not, in the order of
    /// their ids within each kind.
    pub fn committed(&self) -> impl Iterator<Item = &Gtrid> {
        let unfinished = self.transactions.iter();
        let unfinished = unfinished.filter(|(_, transaction)| transaction.cause.is_none());
        let ended = self.outcomes.iter();
        let ended = ended.filter(|(_, remembered)| remembered.outcome == Outcome::Committed);
        unfinished.map(|(gtrid, _)| gtrid).chain(ended.map(|(gtrid, _)| gtrid))
    }

    /// The highest (epoch, sequence) whose outcome was dropped.
    #[must_use]
    pub fn outcome_floor(&self) -> Option<(u32, u64)> {
        self.outcome_floor
    }

    /// The outcome of a finished transaction that the log knows.
    #[must_use]
    pub fn outcome(&self, gtrid: &Gtrid) -> Option<Outcome> {
        self.outcomes.get(gtrid).map(|remembered| remembered.outcome)
    }

    /// The finished transactions that the log knows, in the order of their ids: each with its
    /// outcome, its branches of phase two, and those of them that decided alone and have not said
    /// that they forgot.
    pub fn outcomes(&self) -> impl Iterator<Item = (&Gtrid, Outcome, &[Bqual], &BTreeSet<Bqual>)> {
        self.outcomes.iter().map(|(gtrid, remembered)| {
            let Remembered { outcome, branches, unforgotten, .. } = remembered;
            (gtrid, *outcome, &branches[..], unforgotten)
        })
    }

    /// The participants that the log remembers, in the order of their names.
    pub fn participants(&self) -> impl Iterator<Item = (&ParticipantName, &KnownParticipant)> {
        self.participants.iter()
    }
}

fn committed_outcome(
    home: Lsn,
    branches: Box<[Bqual]>,
    unforgotten: BTreeSet<Bqual>,
) -> Remembered {
    let (outcome, cause) = (Outcome::Committed, None);
    let ended_at = Millis(0);
    Remembered { outcome, cause, branches, unforgotten, ended_at, home: Some(home) }
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

/// The transactions with a branch of each participant.
fn concerned(
    transactions: &BTreeMap<Gtrid, Transaction>,
) -> BTreeMap<ParticipantName, BTreeSet<Gtrid>> {
    let mut concerned: BTreeMap<ParticipantName, BTreeSet<Gtrid>> = BTreeMap::new();
    for (gtrid, transaction) in transactions {
        for branch in &transaction.branches {
            concerned.entry(branch.participant.clone()).or_default().insert(*gtrid);
        }
    }
    concerned
}

/// Where in the log everything that was recovered begins.
fn recovered_homes(
    transactions: &BTreeMap<Gtrid, Transaction>,
    outcomes: &BTreeMap<Gtrid, Remembered>,
    floor_home: Option<Lsn>,
    participants: &BTreeMap<ParticipantName, KnownParticipant>,
    audit: &BTreeMap<u64, (AuditEntry, Lsn)>,
) -> Homes {
    let mut homes = Homes::default();
    for (gtrid, transaction) in transactions {
        if let Some(home) = transaction.home {
            homes.set(Item::Transaction(*gtrid), None, home);
        }
    }
    for (gtrid, remembered) in outcomes {
        if let Some(home) = remembered.home {
            homes.set(Item::Outcome(*gtrid), None, home);
        }
    }
    if let Some(home) = floor_home {
        homes.set(Item::Floor, None, home);
    }
    for (name, known) in participants {
        homes.set(Item::Participant(name.clone()), None, known.home);
    }
    for (number, (_, home)) in audit {
        homes.set(Item::Audit(*number), None, *home);
    }
    homes
}

impl Coordinator {
    /// A new life on what the log says. It asks for its Boot record at once and speaks to nobody
    /// before that is durable.
    #[must_use]
    pub fn start(limits: Limits, start: Start, now: Millis, recovered: Recovered) -> Self {
        let epoch = recovered.next_epoch(start.unix_seconds);
        let mut transactions = recovered.transactions;
        if on(Bug::RestartForgetsDecisions) {
            transactions.clear();
        }
        for transaction in transactions.values_mut() {
            (transaction.begun_at, transaction.phase_since) = (now, now);
            transaction.timeout_at = now;
        }
        let unended: BTreeSet<Gtrid> = transactions
            .iter()
            .filter(|(gtrid, transaction)| gtrid.owner().log == start.log && !transaction.settled())
            .map(|(gtrid, _)| *gtrid)
            .collect();
        let mut outcomes = recovered.outcomes;
        outcomes.values_mut().for_each(|remembered| remembered.ended_at = now);
        let homes = recovered_homes(
            &transactions,
            &outcomes,
            recovered.floor_home,
            &recovered.participants,
            &recovered.audit,
        );
        let concerned = concerned(&transactions);
        let recovered_count = transactions.values().filter(|t| t.state != State::Heuristic).count();
        let mut coordinator = Self {
            limits,
            owner: Owner { log: start.log, epoch },
            seed: start.seed,
            next_sequence: 0,
            next_lsn: start.next_lsn.0,
            durable: Lsn(start.next_lsn.0.saturating_sub(1)),
            frame: start.frame,
            frame_at_start: start.frame,
            log_behind: false,
            started: on(Bug::BootNotAwaited),
            storage_low: false,
            transactions,
            concerned,
            redrives: BTreeMap::new(),
            redrives_cut_short: BTreeSet::new(),
            participants: recovered.participants,
            timers: BTreeSet::new(),
            awaited: BTreeMap::new(),
            unended,
            outcomes,
            outcome_floor: recovered.outcome_floor,
            floor_pending: false,
            outcomes_check_at: None,
            homes,
            floor_home: recovered.floor_home,
            audit: recovered.audit,
            acts: BTreeMap::new(),
            orphan_decisions: recovered.orphan_decisions,
            boot_home: start.next_lsn,
            cut: None,
            actions: VecDeque::new(),
            counters: Counters {
                recovered: u64::try_from(recovered_count).unwrap_or(u64::MAX),
                ..Counters::default()
            },
        };
        let lsn = coordinator.append(Record::Boot { epoch }, true);
        coordinator.awaited.insert(lsn, Awaited::Boot);
        coordinator.homes.set(Item::Boot, None, lsn);
        coordinator
    }

    /// Everything that the log left unfinished is driven now: to those that are back already as the
    /// window allows, to the others when they come, or by its timer.
    pub(super) fn on_boot_durable(&mut self, now: Millis) {
        self.started = true;
        let unfinished: Vec<Gtrid> = self.transactions.keys().copied().collect();
        for gtrid in unfinished {
            if !on(Bug::RestartWithoutTimers) {
                self.schedule(now, gtrid);
            }
            if self.transactions.get(&gtrid).is_some_and(Transaction::resolved) {
                self.retire_later(now, gtrid);
            }
            self.finish_if_done(now, gtrid);
        }
        self.drop_old_outcomes(now);
        self.redrive_all(now);
    }

    /// This life's first record is durable.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }
}
