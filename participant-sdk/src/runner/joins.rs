//! Branches that work calls of this process have joined, or want to join.

use crate::participant::{Branch, JoinError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::sync::{mpsc, oneshot};
use unanimous_core::{Bqual, BranchId, Gtrid, Millis, ResourceId};

/// Delays before an enlistment is sent again, in milliseconds.
const REPEAT_MS_MIN: u64 = 500;
const REPEAT_MS_MAX: u64 = 5_000;

/// A work call that wants to join.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) gtrid: Gtrid,
    /// Index of the participant's resource.
    pub(crate) resource: usize,
    pub(crate) reply: oneshot::Sender<Result<Branch, JoinError>>,
}

/// A piece of work that is over.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) branch: BranchId,
    pub(crate) failure: Option<String>,
    /// It wants the branch to vote at once.
    pub(crate) votes: bool,
}

/// One branch, from the first call that wants it until it is finished and all calls have left.
pub(super) struct Join {
    pub(super) resource: usize,
    /// Calls that wait for the coordinator's answer; without one it is enlisted.
    waiting: Vec<Joining>,
    pub(super) enlisted: bool,
    /// A call has taken the branch as new.
    pub(super) taken: bool,
    /// Calls that work.
    pub(super) working: u32,
    /// Something of it was undone: no new work, and never a commit.
    pub(super) undone: bool,
    /// Its work was ended with a vote: no new work.
    pub(super) voted: bool,
    /// A call has left after the branch was undone: what it did in between is undone once more.
    pub(super) undo_again: bool,
    /// Asked for its vote before the coordinator has asked.
    pub(super) early: bool,
    /// The resource was asked to prepare or to commit it.
    pub(super) asked: bool,
    repeat_at: Millis,
    tries: u32,
}

/// See the module's page.
pub(super) struct Joins {
    by_work: BTreeMap<(Gtrid, usize), BranchId>,
    joins: BTreeMap<BranchId, Join>,
    waiting: usize,
    /// Branches of this process of which nothing is left and nothing was ever committed. The
    /// coordinator may still decide by their answer: nobody else could prove that it was no.
    empty: BTreeSet<BranchId>,
    /// The same, oldest first.
    emptied: VecDeque<BranchId>,
    branches_max: usize,
    next_number: u32,
    left: mpsc::UnboundedSender<Left>,
}

/// What a call's wish to join comes to.
pub(super) enum Wish {
    /// It waits; send the enlistment.
    Enlist(BranchId),
    /// It waits for an enlistment that was sent.
    Waits,
    /// The branch is enlisted: let it join, or not.
    Joined(BranchId, Joining),
    /// Answered.
    Refused,
}

impl Joins {
    /// Branch numbers start at random, so that they are not used again by the next start of the
    /// process.
    pub(super) fn new(branches_max: usize, left: mpsc::UnboundedSender<Left>) -> Self {
        Self {
            by_work: BTreeMap::new(),
            joins: BTreeMap::new(),
            waiting: 0,
            empty: BTreeSet::new(),
            emptied: VecDeque::new(),
            branches_max,
            next_number: rand::random(),
            left,
        }
    }

    pub(super) fn want(&mut self, now: Millis, resource_manager: u32, joining: Joining) -> Wish {
        let work = (joining.gtrid, joining.resource);
        if let Some(id) = self.by_work.get(&work)
            && let Some(join) = self.joins.get_mut(id)
        {
            if join.enlisted {
                return Wish::Joined(*id, joining);
            }
            join.waiting.push(joining);
            return Wish::Waits;
        }
        if self.joins.len() >= self.branches_max {
            let _ = joining.reply.send(Err(JoinError::Overloaded));
            return Wish::Refused;
        }
        let id = self.number(joining.gtrid, resource_manager);
        let join = Join {
            resource: joining.resource,
            waiting: vec![joining],
            enlisted: false,
            taken: false,
            working: 0,
            undone: false,
            voted: false,
            undo_again: false,
            early: false,
            asked: false,
            repeat_at: now.plus(REPEAT_MS_MIN),
            tries: 0,
        };
        self.by_work.insert(work, id);
        self.joins.insert(id, join);
        self.waiting += 1;
        Wish::Enlist(id)
    }

    fn number(&mut self, gtrid: Gtrid, resource_manager: u32) -> BranchId {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        BranchId { gtrid, bqual: Bqual::new(resource_manager, number, gtrid.owner()) }
    }

    /// Whether a call of this process has joined the branch, and it is not finished.
    pub(super) fn joined(&self, id: &BranchId) -> bool {
        self.joins.get(id).is_some_and(|join| join.enlisted)
    }

    pub(super) fn get_mut(&mut self, id: &BranchId) -> Option<&mut Join> {
        self.joins.get_mut(id)
    }

    /// The coordinator has enlisted the branch: those who still wait. `None`: it was not asked, or
    /// said so before.
    pub(super) fn enlisted(&mut self, id: &BranchId) -> Option<Vec<Joining>> {
        let join = self.joins.get_mut(id).filter(|join| !join.enlisted)?;
        join.enlisted = true;
        self.waiting -= 1;
        let mut waiting = std::mem::take(&mut join.waiting);
        waiting.retain(|joining| !joining.reply.is_closed());
        Some(waiting)
    }

    /// The coordinator has not enlisted it: everybody who waits is told.
    pub(super) fn refused(&mut self, id: &BranchId, error: &JoinError) {
        if self.joins.get(id).is_none_or(|join| join.enlisted) {
            return;
        }
        for joining in self.remove(id) {
            let _ = joining.reply.send(Err(error.clone()));
        }
    }

    /// The id is taken: the same wish under another number.
    pub(super) fn renumber(&mut self, id: &BranchId) -> Option<BranchId> {
        if self.joins.get(id).is_none_or(|join| join.enlisted) {
            return None;
        }
        let join = self.joins.remove(id)?;
        let next = self.number(id.gtrid, id.bqual.resource_manager());
        self.by_work.insert((id.gtrid, join.resource), next);
        self.joins.insert(next, join);
        Some(next)
    }

    /// Hands the branch to a call. `false`: the call is gone, and has done nothing.
    pub(super) fn hand_out(
        &mut self,
        id: &BranchId,
        resource: ResourceId,
        joining: Joining,
    ) -> bool {
        let Some(join) = self.joins.get_mut(id) else { return false };
        let branch = Branch::new(*id, resource, !join.taken, self.left.clone());
        join.working += 1;
        match joining.reply.send(Ok(branch)) {
            Ok(()) => {
                join.taken = true;
                true
            }
            Err(unseen) => {
                if let Ok(branch) = unseen {
                    branch.disarm();
                }
                false
            }
        }
    }

    /// Forgets a branch; those who still wait.
    pub(super) fn remove(&mut self, id: &BranchId) -> Vec<Joining> {
        let Some(join) = self.joins.remove(id) else { return Vec::new() };
        self.by_work.remove(&(id.gtrid, join.resource));
        self.waiting -= usize::from(!join.enlisted);
        join.waiting
    }

    /// Whether enlistments wait for an answer.
    pub(super) fn any_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Enlistments to send again: those whose time has come, or all of them on a new session.
    /// Wishes of calls that are gone are dropped.
    pub(super) fn repeat(&mut self, now: Millis, all: bool) -> Vec<(BranchId, usize)> {
        let (mut due, mut gone) = (Vec::new(), Vec::new());
        for (id, join) in self.joins.iter_mut().filter(|(_, join)| !join.enlisted) {
            join.waiting.retain(|joining| !joining.reply.is_closed());
            if join.waiting.is_empty() {
                gone.push(*id);
            } else if all || join.repeat_at <= now {
                let delay_ms = REPEAT_MS_MIN << join.tries.min(16);
                join.repeat_at = now.plus(delay_ms.min(REPEAT_MS_MAX));
                join.tries = join.tries.saturating_add(1);
                due.push((*id, join.resource));
            }
        }
        for id in gone {
            self.remove(&id);
            // Perhaps the coordinator has enlisted it, and only its answer is missing.
            self.note_empty(id);
        }
        due
    }

    /// Nothing of the branch is left, and nothing was committed. As many are remembered as there
    /// may be branches at a time: whether the coordinator ever asks for one is not known.
    pub(super) fn note_empty(&mut self, id: BranchId) {
        if self.empty.insert(id) {
            self.emptied.push_back(id);
        }
        while self.emptied.len() > self.branches_max {
            if let Some(oldest) = self.emptied.pop_front() {
                self.empty.remove(&oldest);
            }
        }
    }

    /// Whether it is known that nothing of the branch was ever committed, and never will be: a call
    /// that still waits for the coordinator's answer does not join any more.
    pub(super) fn ends_empty(&mut self, id: &BranchId) -> bool {
        if self.joins.get(id).is_some_and(|join| !join.enlisted) {
            self.refused(id, &JoinError::Undone);
            self.note_empty(*id);
        }
        self.empty.contains(id)
    }

    /// Everybody who waits is told why it is in vain.
    pub(super) fn give_up(&mut self, error: &JoinError) {
        for joining in self.joins.values_mut().flat_map(|join| join.waiting.drain(..)) {
            let _ = joining.reply.send(Err(error.clone()));
        }
    }
}
