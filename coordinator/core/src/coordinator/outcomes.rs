//! The memory of outcomes: finished transactions, for those who ask again.

use super::{Awaited, Coordinator, Item, Limits, Remembered, State};
use crate::Millis;
use crate::id::{Bqual, BranchId, Gtrid, Owner};
use crate::museum::{Bug, on};
use crate::outcome::Outcome;
use crate::record::Record;

impl Coordinator {
    /// Out of the table, into the memory of outcomes. What the log has a decision of needs an End.
    pub(super) fn forget(&mut self, now: Millis, gtrid: Gtrid, outcome: Outcome) {
        self.cancel_timers(gtrid);
        let Some(transaction) = self.transactions.remove(&gtrid) else { return };
        for branch in &transaction.branches {
            self.concern_ended(&branch.participant, &gtrid);
        }
        if matches!(transaction.state(), State::Committing | State::RollingBack)
            && transaction.home.is_some()
        {
            let lsn = self.append(Record::End { gtrid }, false);
            self.awaited.insert(lsn, Awaited::End(gtrid));
            if on(Bug::EndNotAwaited) {
                self.unended.remove(&gtrid);
            }
        } else {
            self.unended.remove(&gtrid);
        }
        let branches = match outcome {
            Outcome::RolledBack => Box::default(),
            _ => transaction.phase_two().map(|branch| branch.bqual).collect(),
        };
        let unforgotten = transaction.unforgotten();
        self.homes.remove(Item::Transaction(gtrid), transaction.home);
        // A rollback needs no record once its End is there.
        let home = transaction.home.filter(|_| outcome == Outcome::Committed);
        if let Some(home) = home {
            self.homes.set(Item::Outcome(gtrid), None, home);
        }
        let cause = transaction.cause;
        let remembered = Remembered { outcome, cause, branches, unforgotten, ended_at: now, home };
        self.outcomes.insert(gtrid, remembered);
        self.drop_old_outcomes(now);
    }

    /// The oldest outcomes are dropped when there are too many, or when they are too old: after a
    /// durable floor, so that a client asking about one of them is told "unknown" and never "rolled
    /// back" (section 6).
    pub(super) fn drop_old_outcomes(&mut self, now: Millis) {
        let Limits { outcomes_max, outcome_retention_ms, .. } = self.limits;
        let too_many = self.outcomes.len() > outcomes_max;
        let too_old = self.outcomes_check_at.is_some_and(|at| at <= now);
        if too_old {
            self.outcomes_check_at = None;
        }
        if self.floor_pending || !(too_many || too_old) {
            return self.schedule_outcomes_check(now);
        }
        // So many at a time that the floor costs little, and their removal no time that is felt.
        let step = (outcomes_max / 64).max(1);
        let surplus = self.outcomes.len().saturating_sub(outcomes_max);
        let wanted = if too_many { surplus.max(step) } else { 0 };
        let droppable = self.outcomes.iter().filter(|(_, kept)| kept.unforgotten.is_empty());
        let oldest: Vec<Gtrid> = droppable
            .enumerate()
            .take_while(|(count, (_, kept))| {
                let old = now.since(kept.ended_at) >= outcome_retention_ms;
                *count < wanted || (old && *count < step.max(wanted))
            })
            .map(|(_, (gtrid, _))| *gtrid)
            .collect();
        let place = |gtrid: &Gtrid| (gtrid.owner().epoch, gtrid.sequence());
        let ours = oldest.iter().filter(|gtrid| gtrid.owner().log == self.owner.log);
        match ours.map(place).max().filter(|highest| Some(*highest) > self.outcome_floor) {
            Some(place) => {
                self.raise_floor(place);
                if on(Bug::FloorNotAwaited) {
                    oldest.iter().for_each(|gtrid| self.drop_outcome(gtrid));
                }
            }
            // The floor covers them already, and other logs' transactions are never presumed.
            None => {
                oldest.iter().for_each(|gtrid| self.drop_outcome(gtrid));
                self.schedule_outcomes_check(now);
            }
        }
    }

    /// From when this is durable, a client is told "unknown" of what is at or below the place.
    pub(super) fn raise_floor(&mut self, (epoch, sequence): (u32, u64)) {
        self.floor_pending = true;
        let lsn = self.append(Record::OutcomeFloor { epoch, sequence }, true);
        self.awaited.insert(lsn, Awaited::Floor(epoch, sequence));
        self.homes.set(Item::Floor, self.floor_home.replace(lsn), lsn);
    }

    /// When the oldest will be too old. Those that end meanwhile are dropped together.
    fn schedule_outcomes_check(&mut self, now: Millis) {
        if self.outcomes_check_at.is_some() || self.floor_pending {
            return;
        }
        let retention_ms = self.limits.outcome_retention_ms;
        let oldest = self.outcomes.values().find(|kept| kept.unforgotten.is_empty());
        let pause = now.plus((retention_ms / 64).max(1));
        self.outcomes_check_at = oldest.map(|kept| kept.ended_at.plus(retention_ms).max(pause));
    }

    pub(super) fn on_floor_durable(&mut self, now: Millis, epoch: u32, sequence: u64) {
        self.floor_pending = false;
        self.outcome_floor = self.outcome_floor.max(Some((epoch, sequence)));
        let log = self.owner.log;
        let first = Gtrid::new(Owner { log, epoch: 0 }, 0, 0);
        let last = Gtrid::new(Owner { log, epoch }, sequence, u8::MAX);
        let dropped: Vec<Gtrid> = self
            .outcomes
            .range(first..=last)
            .filter(|(_, kept)| kept.unforgotten.is_empty())
            .map(|(gtrid, _)| *gtrid)
            .collect();
        dropped.iter().for_each(|gtrid| self.drop_outcome(gtrid));
        self.drop_old_outcomes(now);
    }

    /// Whether the transaction has ended, and is listed again for other branches than this one.
    pub(super) fn reopened_without(&self, id: &BranchId) -> bool {
        let listed = self.transactions.get(&id.gtrid);
        self.outcomes.contains_key(&id.gtrid)
            && listed.is_some_and(|listed| listed.branch(&id.bqual).is_none())
    }

    fn drop_outcome(&mut self, gtrid: &Gtrid) {
        if let Some(dropped) = self.outcomes.remove(gtrid) {
            self.homes.remove(Item::Outcome(*gtrid), dropped.home);
        }
    }
}

impl Remembered {
    /// Only branches that the outcome names count: others are judged by presumption anyway.
    pub(super) fn note_unforgotten(&mut self, bqual: Bqual) {
        if self.branches.contains(&bqual) {
            self.unforgotten.insert(bqual);
        }
    }
}
