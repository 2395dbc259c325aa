//! A participant's resource: its bank on a simulated disk, shared by all its processes.
//!
//! With one process it is embedded, and dies with it. With several it is a server of its own: a
//! process that dies leaves what is prepared, and what it has asked for is carried out.

use super::bank::{BALANCE_AT_START, Bank, BankRecord, Step};
use super::disk::Disk;
use super::participant::ParticipantStep;
use super::swarm::Swarm;
use super::world::{Happening, Node, World};
use crate::invariants::Fact;
use unanimous_core::museum::{Bug, on};
use unanimous_core::participant::{Call, Event, Returned};
use unanimous_core::{BranchId, BranchResult};

/// A record on its way to the disk.
#[derive(Clone, Debug)]
struct Write {
    record: BankRecord,
    result: Option<Returned>,
    /// Which process asked for it, in which of its lives.
    who: usize,
    life: u32,
}

/// The resource's process and machine.
pub(super) struct StoreNode {
    pub(super) sum_at_start: i64,
    /// Several processes of the participant reach it.
    pub(super) shared: bool,
    pub(super) bank: Bank,
    life: u32,
    /// It has read its disk.
    up: bool,
    disk: Disk<BankRecord>,
    /// Written, in the sync under way; written since.
    syncing: Vec<Write>,
    queued: Vec<Write>,
    /// Branches with changes that a death has left to the disk.
    left: Vec<BranchId>,
}

impl StoreNode {
    pub(super) fn new(swarm: &Swarm, shared: bool) -> Self {
        Self {
            sum_at_start: BALANCE_AT_START * i64::try_from(swarm.accounts).unwrap_or(0),
            shared,
            bank: Bank::new(0, false, shared),
            life: 0,
            up: false,
            disk: Disk::new(),
            syncing: Vec::new(),
            queued: Vec::new(),
            left: Vec::new(),
        }
    }

    /// The bank that a fresh process would read from the platter.
    pub(super) fn fold_disk(&self, swarm: &Swarm) -> Bank {
        let mut bank = Bank::new(swarm.accounts, swarm.evidence, self.shared);
        self.disk.items()[..self.disk.durable()].iter().for_each(|record| bank.apply(record));
        bank
    }

    /// What was prepared for a process that is gone is listed later; a branch whose log is gone
    /// waits for its operator.
    pub(super) fn at_rest(&self) -> bool {
        let listed = self.bank.prepared().next().is_none();
        listed && self.syncing.is_empty() && self.queued.is_empty()
    }

    fn writes_about(&self, branch: &BranchId) -> bool {
        self.queued.iter().chain(&self.syncing).any(|write| write.record.branch() == *branch)
    }
}

impl World {
    pub(super) fn bank(&mut self, who: usize) -> &mut Bank {
        &mut self.stores[self.participants[who].store].bank
    }

    /// The store is gone. `power`: so is the machine's page cache.
    pub(super) fn store_dies(&mut self, at: usize, power: bool) {
        let store = &mut self.stores[at];
        store.life += 1;
        store.up = false;
        store.left.extend(store.bank.active().filter(|id| store.bank.worked(id)));
        store.bank = Bank::new(0, false, store.shared);
        store.syncing.clear();
        store.queued.clear();
        if power {
            // A torn record is told by its checksum; what is left of it is no record.
            store.disk.power_lost(&mut self.random, |_, _| {});
        } else {
            store.disk.killed(&mut self.random);
        }
    }

    /// A process that shares the store is gone: its open work is undone, and nobody hears what
    /// becomes of its writes.
    pub(super) fn store_left_by(&mut self, who: usize) {
        let store = &mut self.stores[self.participants[who].store];
        let open: Vec<BranchId> = store
            .bank
            .active()
            .filter(|id| self.participants[who].branches.contains(id) && !store.writes_about(id))
            .collect();
        for id in open {
            let store = &mut self.stores[self.participants[who].store];
            let worked = store.bank.worked(&id);
            store.bank.drop_held(&id);
            if worked {
                self.fact(&Fact::Ended(id, BranchResult::RolledBack));
            }
        }
    }

    /// Reads the store's log and makes it durable, unless another process has done so.
    pub(super) fn open_store(&mut self, at: usize) {
        let store = &mut self.stores[at];
        if store.up {
            return;
        }
        store.up = true;
        let mut bank = Bank::new(self.swarm.accounts, self.swarm.evidence, store.shared);
        store.disk.items().iter().for_each(|record| bank.apply(record));
        let newly = if on(Bug::RecoveredBranchesUnsynced) {
            Vec::new()
        } else {
            let items = store.disk.written();
            store.disk.synced(items).to_vec()
        };
        let left: Vec<BranchId> =
            std::mem::take(&mut store.left).into_iter().filter(|id| !bank.knows(id)).collect();
        store.bank = bank;
        newly.iter().for_each(|record| self.bank_fact(record));
        for id in left {
            self.fact(&Fact::Ended(id, BranchResult::RolledBack));
        }
    }

    fn bank_fact(&mut self, record: &BankRecord) {
        let fact = match record {
            BankRecord::Prepared { branch, .. } => Fact::Prepared(*branch),
            BankRecord::Committed { branch, .. } => Fact::Ended(*branch, BranchResult::Committed),
            BankRecord::RolledBack { branch } => Fact::Ended(*branch, BranchResult::RolledBack),
            BankRecord::Alone { branch, result } => Fact::EndedAlone(*branch, *result),
            BankRecord::Forgotten { branch } => Fact::Forgotten(*branch),
        };
        self.fact(&fact);
    }

    /// Calls the bank. What needs a record returns when that is durable.
    pub(super) fn call(&mut self, who: usize, branch: BranchId, call: &Call) {
        let holds = self.participants[who].branches.contains(&branch);
        let at = self.participants[who].store;
        // A record about it is on its way to the disk: the bank answers when it is there.
        if self.stores[at].writes_about(&branch) || self.fault(self.swarm.resource_retry) {
            return self.return_later(who, branch, Returned::Retry("busy".to_owned()));
        }
        let store = &mut self.stores[at];
        let bank = &mut store.bank;
        let found_nothing = *call == Call::Rollback && bank.is_nothing_to(&branch, holds);
        let worked = bank.worked(&branch) && bank.active().any(|id| id == branch);
        match bank.call(&branch, call, holds) {
            Step::Now(result) => {
                if worked && !bank.knows(&branch) {
                    self.fact(&Fact::Ended(branch, BranchResult::RolledBack));
                }
                if found_nothing {
                    self.fact(&Fact::FoundNothing(branch));
                }
                self.return_later(who, branch, result);
            }
            Step::After(record, result) => self.write(who, record, Some(result)),
        }
    }

    fn return_later(&mut self, who: usize, branch: BranchId, result: Returned) {
        let delay_ms = self.random.between(0, 2);
        self.participant_later(who, delay_ms, ParticipantStep::Return { branch, result });
    }

    pub(super) fn write(&mut self, who: usize, record: BankRecord, result: Option<Returned>) {
        let node = &self.participants[who];
        let (at, life) = (node.store, node.life);
        self.stores[at].queued.push(Write { record, result, who, life });
        self.flush_bank(at);
    }

    fn flush_bank(&mut self, at: usize) {
        let store = &mut self.stores[at];
        if !store.syncing.is_empty() || store.queued.is_empty() {
            return;
        }
        store.syncing = std::mem::take(&mut store.queued);
        store.syncing.iter().for_each(|write| store.disk.write(write.record.clone()));
        let items = store.disk.written();
        let early: Vec<(usize, BranchId, Returned)> = if on(Bug::VoteBeforeSync) {
            take_results(store, |record| matches!(record, BankRecord::Prepared { .. }))
        } else if on(Bug::AcknowledgeBeforeSync) {
            take_results(store, |record| matches!(record, BankRecord::Committed { .. }))
        } else {
            Vec::new()
        };
        let life = store.life;
        let delay_ms = self.random.between(0, self.swarm.sync_ms);
        self.after(delay_ms, Happening::Store { at, life, items });
        for (who, branch, result) in early {
            self.return_later(who, branch, result);
        }
    }

    /// The sync of the store's records returns, unless the store has died since.
    pub(super) fn store_synced(&mut self, at: usize, life: u32, items: usize) {
        if life != self.stores[at].life {
            return;
        }
        self.trace.note(&items);
        if self.fault(self.swarm.fail_sync) {
            self.trace.line(|| format!("the sync of store {at} fails"));
            let (power, delay_ms) = self.death(Node::Participant(at));
            return self.kill_store(at, power, delay_ms);
        }
        let store = &mut self.stores[at];
        store.disk.synced(items);
        let synced = std::mem::take(&mut store.syncing);
        for write in &synced {
            self.stores[at].bank.apply(&write.record);
            self.bank_fact(&write.record);
        }
        self.flush_bank(at);
        for Write { record, result, who, life } in synced {
            // The process may die on the way, or before.
            if self.participants[who].life != life {
                let delay_ms = self.random.between(50, 1_000);
                self.participant_later(who, delay_ms, ParticipantStep::Scan);
            } else if let Some(result) = result {
                self.participate(who, Event::Returned { branch: record.branch(), result });
            }
        }
    }

    /// A branch of a log that is gone is told to wait for ever. When faults are over its operator
    /// ends it as the others have ended, which a person can find out.
    pub(super) fn maybe_end_by_hand(&mut self, who: usize, branch: BranchId) {
        let Some(transaction) = self.ledger.transaction(&branch.gtrid) else { return };
        if !self.healed || !transaction.orphaned {
            return;
        }
        let committed = transaction.committed()
            || transaction
                .branches
                .iter()
                .any(|other| other.told_commit || other.ended == Some(BranchResult::Committed));
        let result = if committed { BranchResult::Committed } else { BranchResult::RolledBack };
        self.end_alone(who, branch, result);
    }

    pub(super) fn end_alone(&mut self, who: usize, branch: BranchId, result: BranchResult) {
        let store = &self.stores[self.participants[who].store];
        if !store.writes_about(&branch) && store.bank.prepared().any(|id| id == branch) {
            self.write(who, BankRecord::Alone { branch, result }, None);
        }
    }
}

fn take_results(
    store: &mut StoreNode,
    which: impl Fn(&BankRecord) -> bool,
) -> Vec<(usize, BranchId, Returned)> {
    let taken = store.syncing.iter_mut().filter(|write| which(&write.record));
    taken
        .filter_map(|write| {
            let branch = write.record.branch();
            write.result.take().map(|result| (write.who, branch, result))
        })
        .collect()
}
