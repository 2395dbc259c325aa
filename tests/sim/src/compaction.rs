//! When the log is compacted, and when its space is low: what the server's driver decides, at
//! random moments.

use super::coordinator::CoordinatorStep;
use super::world::World;
use crate::invariants::Fact;
use unanimous_core::message::Request;
use unanimous_core::museum::{Bug, on};
use unanimous_core::{CallerId, Coordinator, Event, Lsn, Record};

/// More items than a schedule has.
const ALL: usize = 1_000;
/// Requests without a reply: their caller is nobody.
pub(super) const NOBODY: CallerId = CallerId(u64::MAX);

/// A compaction under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compaction {
    upto: Lsn,
    items_max: usize,
    begun_at_step: u64,
}

impl World {
    /// A compaction begins, unless one is under way.
    pub(super) fn maybe_compact(&mut self) {
        if self.coordinator.compaction.is_some() || !self.fault(self.swarm.compact) {
            return;
        }
        let (first, last) = self.coordinator.log.durable();
        let upto = match self.random.below(4) {
            0 => last,
            _ => Lsn(self.random.between(first.0.min(last.0), last.0)),
        };
        // Beyond the end in one step only: in small ones it would chase its own moves for ever.
        let (upto, items_max) = match self.random.pick(&[1, 1, 2, 3, 8, ALL]) {
            ALL => (Lsn(upto.0 + self.random.below(20)), ALL),
            items_max => (upto, items_max),
        };
        let begun_at_step = self.trace.step;
        self.coordinator.compaction = Some(Compaction { upto, items_max, begun_at_step });
        let delay_ms = self.random.between(0, 20);
        self.coordinator_later(delay_ms, CoordinatorStep::Compact);
    }

    /// Its next step. The core says when it was the last one.
    pub(super) fn compact(&mut self) {
        let under_way = self.coordinator.compaction;
        let Some(Compaction { upto, items_max, .. }) = under_way else { return };
        let started = self.coordinator.core.as_ref().is_some_and(Coordinator::started);
        let life = self.coordinator.life;
        self.coordinate(Event::Requested {
            by: NOBODY,
            request: Request::Compact { upto, items_max },
        });
        if self.coordinator.life != life || self.coordinator.compaction != under_way {
            return;
        }
        let delay_ms = self.random.between(0, 20);
        self.coordinator_later(delay_ms, CoordinatorStep::Compact);
        if on(Bug::DropsBeforeCarried) && started && items_max == ALL {
            let (_, last) = self.coordinator.log.durable();
            self.drop_below(Lsn(upto.min(last).0 + 1));
        }
    }

    /// The log's space is low for a while, or ample again.
    pub(super) fn space(&mut self, low: bool) {
        if self.coordinator.core.is_none() {
            return;
        }
        let life = self.coordinator.life;
        self.fact(&Fact::Storage { low });
        self.coordinate(Event::Requested { by: NOBODY, request: Request::Storage { low } });
        if low && !self.stays_low && self.coordinator.life == life {
            let delay_ms = self.random.between(20, 1_500);
            self.coordinator_later(delay_ms, CoordinatorStep::Space { low: false });
        }
    }

    /// The bugs of a compaction.
    pub(super) fn spoil(record: Record) -> Record {
        match record {
            Record::Carried { .. } | Record::CarriedOutcomes { .. }
                if on(Bug::CompactionSkipsItem) =>
            {
                Record::OutcomeFloor { epoch: 0, sequence: 0 }
            }
            Record::CarriedOutcomes { mut committed } if on(Bug::OutcomeWithoutBranches) => {
                committed.iter_mut().for_each(|outcome| outcome.branches.clear());
                Record::CarriedOutcomes { committed }
            }
            Record::Carried { gtrid, name, decision, mut branches, .. }
                if on(Bug::CarriedWithoutResults) =>
            {
                branches.iter_mut().for_each(|branch| branch.result = None);
                let (heuristic, matched) = (false, Vec::new());
                Record::Carried { gtrid, name, decision, heuristic, branches, matched }
            }
            record => record,
        }
    }
}
