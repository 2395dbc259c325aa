//! What is known of each branch, in memory.

use super::evidence::Xact;
use super::session::{Backend, Session, Sessions};
use deadpool::managed::Object;
use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use unanimous_core::BranchId;

/// A connection that a branch has for itself. Unless it has come to a clean end it is closed when
/// the last hold of it goes.
#[derive(Debug)]
pub(super) struct Pinned {
    object: Object<Sessions>,
    /// Handles of the work that could still send something.
    users: AtomicUsize,
    /// The guard has passed, and found that outside of blocks the connection only reads.
    guarded: AtomicBool,
    clean: AtomicBool,
}

impl Pinned {
    pub(super) fn new(object: Object<Sessions>) -> Self {
        let (users, [guarded, clean]) = Default::default();
        Self { object, users, guarded, clean }
    }

    pub(super) fn guarded(&self) {
        self.guarded.store(true, Ordering::SeqCst);
    }

    /// Nothing of the branch is left on it: it may go back to the pool.
    pub(super) fn release(&self) {
        self.clean.store(true, Ordering::SeqCst);
    }

    /// The same, and the server has answered just now.
    pub(super) fn release_fresh(&self) {
        if self.guarded.load(Ordering::SeqCst) {
            self.object.branch_ended();
        }
        self.release();
    }

    pub(super) fn in_use(&self) -> bool {
        self.users.load(Ordering::SeqCst) > 0
    }
}

impl Deref for Pinned {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.object
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if !self.clean.load(Ordering::SeqCst) {
            self.object.retire();
        }
    }
}

/// A handle of the work: while there is one, the connection is not ours alone.
#[derive(Debug)]
pub(super) struct User(pub(super) Arc<Pinned>);

impl User {
    fn new(pinned: &Arc<Pinned>) -> Self {
        pinned.users.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(pinned))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The connection of a branch, once its first work has begun.
pub(super) type Cell = Arc<OnceCell<Arc<Pinned>>>;

/// How far a branch is. Whatever is sent to the server is noted *before* it is sent, so that a call
/// that is broken off, or whose answer is lost, is looked into by the next one.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// Joined; worked on, if the cell has a connection.
    Open(Cell),
    /// It is being rolled back: over once this server process has done so, or is gone.
    Undoing(Backend),
    /// PREPARE TRANSACTION was sent: prepared or rolled back, once this server process is gone.
    Preparing(Backend),
    /// Seen prepared.
    Prepared(Held),
}

/// A prepared branch.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The connection that has prepared it, until it was tried once, or was wanted by others.
    pub(super) pinned: Option<Arc<Pinned>>,
    pub(super) since: Instant,
    /// `None`: it has only read.
    pub(super) xact: Option<Xact>,
    /// Every synchronous standby has it.
    pub(super) replicated: bool,
}

/// Transactions that are asked about once more when their branch is gone: so many of the latest.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug)]
struct Remembered {
    xact: Xact,
    /// It was committed here, and by order.
    ended: bool,
}

/// All branches.
#[derive(Debug, Default)]
pub(super) struct Table {
    stages: HashMap<BranchId, Stage>,
    xacts: HashMap<BranchId, Remembered>,
    /// The same, oldest first.
    order: VecDeque<BranchId>,
}

impl Table {
    pub(super) fn join(&mut self, branch: &BranchId) {
        self.stages.entry(*branch).or_insert_with(|| Stage::Open(Cell::default()));
    }

    pub(super) fn stage(&self, branch: &BranchId) -> Option<Stage> {
        self.stages.get(branch).cloned()
    }

    pub(super) fn set(&mut self, branch: &BranchId, stage: Stage) {
        self.stages.insert(*branch, stage);
    }

    pub(super) fn remove(&mut self, branch: &BranchId) {
        self.stages.remove(branch);
    }

    /// The cell of a branch that takes work.
    pub(super) fn cell(&self, branch: &BranchId) -> Option<Cell> {
        match self.stages.get(branch) {
            Some(Stage::Open(cell)) => Some(Arc::clone(cell)),
            _ => None,
        }
    }

    /// A handle for work, unless the branch was ended while the connection was being made.
    pub(super) fn user(&self, branch: &BranchId, pinned: &Arc<Pinned>) -> Option<User> {
        let cell = self.cell(branch)?;
        let same = cell.get().is_some_and(|current| Arc::ptr_eq(current, pinned));
        same.then(|| User::new(pinned))
    }

    /// Takes the connection of a prepared branch: it is tried once.
    pub(super) fn take_pinned(&mut self, branch: &BranchId) -> Option<Arc<Pinned>> {
        match self.stages.get_mut(branch) {
            Some(Stage::Prepared(held)) => held.pinned.take(),
            _ => None,
        }
    }

    /// Every synchronous standby has the prepared branch.
    pub(super) fn replicated(&mut self, branch: &BranchId) {
        if let Some(Stage::Prepared(held)) = self.stages.get_mut(branch) {
            held.replicated = true;
        }
    }

    /// Takes the connections of branches that have been in doubt for so long: after PREPARE
    /// TRANSACTION they hold nothing.
    pub(super) fn unpin(&mut self, age: Duration) -> Vec<Arc<Pinned>> {
        let held = self.stages.values_mut().filter_map(|stage| match stage {
            Stage::Prepared(held) if held.since.elapsed() >= age => held.pinned.take(),
            _ => None,
        });
        held.collect()
    }

    pub(super) fn remember(&mut self, branch: &BranchId, xact: Xact) {
        // A list that was read before the branch ended may come late.
        if self.xacts.get(branch).is_some_and(|known| known.xact == xact) {
            return;
        }
        if self.xacts.insert(*branch, Remembered { xact, ended: false }).is_none() {
            self.order.push_back(*branch);
        }
        while self.order.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.xacts.remove(&oldest);
            }
        }
    }

    /// The branch was committed here, by order: it is over.
    pub(super) fn end(&mut self, branch: &BranchId) {
        self.stages.remove(branch);
        if let Some(remembered) = self.xacts.get_mut(branch) {
            remembered.ended = true;
        }
    }

    pub(super) fn remembered(&self, branch: &BranchId) -> Option<Xact> {
        self.xacts.get(branch).map(|known| known.xact)
    }

    /// Unless it has ended here by order: a rollback that comes late is no decision.
    pub(super) fn undecided(&self, branch: &BranchId) -> Option<Xact> {
        self.xacts.get(branch).filter(|known| !known.ended).map(|known| known.xact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{Bqual, Gtrid, LogId, Owner};

    #[test]
    fn the_latest_transactions_are_remembered_in_bounded_room() {
        let owner = Owner { log: LogId { cluster: 1, slot: 1, incarnation: 1 }, epoch: 1 };
        let branch = |sequence| BranchId {
            gtrid: Gtrid::new(owner, sequence, 0),
            bqual: Bqual::new(1, 1, owner),
        };
        let mut table = Table::default();
        let len = u64::try_from(REMEMBERED_MAX).unwrap();
        for xid in 0..=len {
            table.remember(&branch(xid), Xact { system: 1, timeline: 1, xid });
            table.remember(&branch(xid), Xact { system: 1, timeline: 1, xid: xid + 1 });
        }
        assert_eq!((table.xacts.len(), table.order.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert_eq!(table.remembered(&branch(0)), None);
        let last = branch(len);
        let xact = Xact { system: 1, timeline: 1, xid: len + 1 };
        assert_eq!((table.remembered(&last), table.undecided(&last)), (Some(xact), Some(xact)));
        table.end(&last);
        table.remember(&last, xact);
        assert_eq!((table.remembered(&last), table.undecided(&last)), (Some(xact), None));
    }
}
