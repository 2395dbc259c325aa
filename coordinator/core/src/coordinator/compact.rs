//! Compaction as ordinary appends: what is live moves to the end of the log, then what lies before
//! may go.
//!
//! Everything live has a *home*: the first of the records that tell its state. A step moves the
//! items with the lowest homes. When no home is left at or below `upto`, every item has a record
//! of its whole state between there and the last record, or was begun after `upto`; so once the
//! last record is durable, nothing at or below `upto` is needed any more.

use super::{Coordinator, Transaction};
use crate::id::{Gtrid, ParticipantName};
use crate::museum::{Bug, on};
use crate::record::{OutcomeRecord, Record};
use crate::{Action, Lsn};
use std::collections::BTreeSet;

/// Branches in one record of outcomes: a record stays far below the longest.
const OUTCOME_BRANCHES_MAX: usize = 1_024;

/// Something that the log keeps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Item {
    /// This life's first record.
    Boot,
    /// The highest dropped outcome.
    Floor,
    /// An unfinished or heuristic transaction.
    Transaction(Gtrid),
    /// A remembered outcome.
    Outcome(Gtrid),
    /// A known participant.
    Participant(ParticipantName),
    /// An entry of the audit.
    Audit(u64),
}

/// Every item by the first of the records that tell its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Homes(BTreeSet<(Lsn, Item)>);

impl Homes {
    /// The item's state begins at `new` from now on.
    pub(super) fn set(&mut self, item: Item, old: Option<Lsn>, new: Lsn) {
        if let Some(old) = old {
            self.remove(item.clone(), Some(old));
        }
        self.0.insert((new, item));
    }

    /// The item is live no more.
    pub(super) fn remove(&mut self, item: Item, home: Option<Lsn>) {
        if let Some(home) = home {
            self.0.remove(&(home, item));
        }
    }

    fn first(&self) -> Option<Lsn> {
        self.0.first().map(|(home, _)| *home)
    }
}

impl Coordinator {
    pub(super) fn on_compact(&mut self, upto: Lsn, items_max: usize) {
        let upto = upto.min(self.durable);
        if !self.started || self.cut.is_some() {
            return;
        }
        let mut outcomes = Vec::new();
        let mut branches = 0;
        for _ in 0..items_max {
            let Some((home, item)) = self.homes.0.first().filter(|(home, _)| *home <= upto) else {
                break;
            };
            let (home, item) = (*home, item.clone());
            if let Item::Outcome(gtrid) = item {
                let Some(outcome) = self.outcome_record(gtrid) else {
                    self.homes.remove(item, Some(home));
                    continue;
                };
                branches += outcome.branches.len() + outcome.unforgotten.len() + 1;
                outcomes.push(outcome);
                self.homes.remove(item, Some(home));
                if branches >= OUTCOME_BRANCHES_MAX {
                    self.carry_outcomes(std::mem::take(&mut outcomes));
                    branches = 0;
                }
            } else {
                self.carry(item, home);
            }
        }
        self.carry_outcomes(outcomes);
        if self.homes.first().is_none_or(|first| first > upto) {
            let last = Lsn(self.next_lsn - 1);
            self.cut = Some((last, Lsn(upto.0 + 1)));
            self.cut_if_durable();
        }
    }

    /// Writes one item's whole state again.
    fn carry(&mut self, item: Item, home: Lsn) {
        if (on(Bug::BootNotCarried) && item == Item::Boot)
            || (on(Bug::FloorNotCarried) && item == Item::Floor)
        {
            return self.homes.remove(item, Some(home));
        }
        let record = match &item {
            Item::Boot => Some(Record::Boot { epoch: self.owner.epoch }),
            Item::Floor => {
                self.outcome_floor.map(|(epoch, sequence)| Record::OutcomeFloor { epoch, sequence })
            }
            Item::Transaction(gtrid) => self.transactions.get(gtrid).map(|t| t.carried(*gtrid)),
            Item::Participant(name) => self.participants.get(name).map(|known| {
                let resources = known.resources.clone();
                Record::Participant { name: name.clone(), resources }
            }),
            Item::Audit(number) => self.audit.get(number).map(|(entry, _)| {
                let entry = Box::new(entry.clone());
                Record::OperatorAct { entry }
            }),
            Item::Outcome(_) => None,
        };
        debug_assert!(record.is_some(), "what has a home is live: {item:?}");
        let Some(record) = record else { return self.homes.remove(item, Some(home)) };
        let new = self.append(record, false);
        match &item {
            Item::Boot => self.boot_home = new,
            Item::Floor => self.floor_home = Some(new),
            Item::Transaction(gtrid) => {
                if let Some(transaction) = self.transactions.get_mut(gtrid) {
                    transaction.home = Some(new);
                }
            }
            Item::Participant(name) => {
                if let Some(known) = self.participants.get_mut(name) {
                    known.home = new;
                }
            }
            Item::Audit(number) => {
                if let Some((_, audit_home)) = self.audit.get_mut(number) {
                    *audit_home = new;
                }
            }
            Item::Outcome(_) => {}
        }
        if let Item::Transaction(gtrid) = &item {
            self.append_labels(*gtrid, false);
        }
        self.homes.set(item, Some(home), new);
    }

    fn outcome_record(&self, gtrid: Gtrid) -> Option<OutcomeRecord> {
        let remembered = self.outcomes.get(&gtrid)?;
        debug_assert!(remembered.outcome == crate::Outcome::Committed, "{gtrid}");
        Some(OutcomeRecord {
            gtrid,
            branches: remembered.branches.to_vec(),
            unforgotten: if on(Bug::UnforgottenNotCarried) {
                Vec::new()
            } else {
                remembered.unforgotten.iter().copied().collect()
            },
        })
    }

    fn carry_outcomes(&mut self, mut committed: Vec<OutcomeRecord>) {
        if committed.is_empty() {
            return;
        }
        committed.sort_by_key(|outcome| outcome.gtrid);
        let gtrids: Vec<Gtrid> = committed.iter().map(|outcome| outcome.gtrid).collect();
        let home = self.append(Record::CarriedOutcomes { committed }, false);
        for gtrid in gtrids {
            if let Some(remembered) = self.outcomes.get_mut(&gtrid) {
                remembered.home = Some(home);
            }
            self.homes.set(Item::Outcome(gtrid), None, home);
        }
    }

    /// Everything live is durable beyond the cut.
    pub(super) fn cut_if_durable(&mut self) {
        if let Some((last, below)) = self.cut
            && last <= self.durable
        {
            self.cut = None;
            self.actions.push_back(Action::Drop { below });
        }
    }
}

impl Transaction {
    /// The whole state, as one record: two could be torn apart by a crash.
    fn carried(&self, gtrid: Gtrid) -> Record {
        self.forced(gtrid).unwrap_or_else(|| Record::Carried {
            gtrid,
            name: self.name.clone(),
            decision: self.decision(),
            heuristic: self.heuristic_logged,
            branches: self.phase_two().map(super::Branch::record).collect(),
            matched: if on(Bug::MatchedNotCarried) {
                Vec::new()
            } else {
                self.unforgotten().into_iter().collect()
            },
        })
    }

    /// The same of one that an operator has acted on; `None`: none has.
    pub(super) fn forced(&self, gtrid: Gtrid) -> Option<Record> {
        let (asserted, resolved) = (self.asserted(), self.resolved);
        (resolved || !asserted.is_empty()).then(|| Record::Forced {
            gtrid,
            name: self.name.clone(),
            decision: self.decision(),
            branches: self.phase_two().map(super::Branch::record).collect(),
            matched: self.unforgotten().into_iter().collect(),
            asserted,
            resolved,
        })
    }
}
