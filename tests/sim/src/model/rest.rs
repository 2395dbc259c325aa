//! The fair continuation: no faults any more, everything arrives, every deadline comes. Then all
//! must have decided.

use super::step::Action;
use super::world::{Work, World};
use crate::bank::BALANCE_AT_START;
use crate::invariants::Rest;

/// After so many deadlines at every node everything must be at rest. The longest wait is for a
/// participant that is told to roll back five times and then left to ask.
const ROUNDS_MAX: usize = 40;

impl World {
    /// Goes on fairly from a copy of this state, and judges where that ends.
    pub(super) fn judge_continuation(&mut self) {
        let mut copy = self.clone();
        copy.go_on();
        if copy.violation.is_none() {
            copy.judge_rest(self);
        }
        self.violation = copy.violation;
    }

    fn go_on(&mut self) {
        for _ in 0..ROUNDS_MAX {
            while let Some(action) = self.ordinary().into_iter().next() {
                self.happen(action);
                self.seal();
                if self.violation.is_some() {
                    return;
                }
            }
            if self.unfinished().is_empty() {
                return;
            }
            self.coordinator_tick();
            for who in 0..self.nodes.len() {
                self.participant_tick(who);
            }
            self.seal();
        }
    }

    fn judge_rest(&mut self, before: &Self) {
        let mut rest = Rest { unfinished: self.unfinished(), ..Rest::default() };
        for node in &self.nodes {
            let mut bank = super::world::new_bank();
            node.records.iter().for_each(|record| bank.apply(record));
            rest.prepared.extend(bank.prepared());
            rest.participants.push((bank.sum(), BALANCE_AT_START));
        }
        // One that writes alone changes the sum; E3 still knows by how much.
        if self.work.len() > 1 && self.work.iter().all(|work| *work == Work::Writes) {
            rest.sum = rest.participants.iter().map(|(now, _)| now).sum();
            rest.sum_at_start = rest.participants.iter().map(|(_, start)| start).sum();
        }
        // AC4 speaks of transactions that nothing and nobody has stood in the way of.
        self.ledger.edit().faultless = !before.disturbed;
        if let Err(violation) = self.ledger.rest(&rest) {
            self.violation = Some(violation);
        }
        self.ledger.seal();
    }

    fn unfinished(&self) -> Vec<String> {
        let mut unfinished = Vec::new();
        match &self.coordinator {
            None => unfinished.push("the coordinator is down".to_owned()),
            Some(core) => unfinished.extend(
                core.transactions(None)
                    .map(|(gtrid, transaction)| format!("{gtrid} is {:?}", transaction.state())),
            ),
        }
        for (who, node) in self.nodes.iter().enumerate() {
            let state = node.core.as_ref().and_then(|core| core.state(&self.branch(who)));
            unfinished.extend(state.map(|state| format!("participant {who} is {state:?}")));
        }
        unfinished.extend(self.client.waiting.iter().map(|by| format!("{by:?} has no reply")));
        if self.ordinary() != Vec::<Action>::new() {
            unfinished.push("something is on its way".to_owned());
        }
        unfinished
    }
}
