//! Work calls: how they join branches, and how they leave them.

use super::Runner;
use super::joins::{Join, Joining, Left, Wish};
use crate::crash::crash_point;
use crate::participant::{JoinError, ParticipantState};
use crate::wire;
use unanimous_core::BranchId;
use unanimous_core::participant::{Event, Order, State};
use unanimous_proto::v1;
use v1::participate_request::Body as Say;

impl Runner {
    pub(super) fn on_join(&mut self, joining: Joining) {
        if self.standing.borrow().state == ParticipantState::Replaced {
            let _ = joining.reply.send(Err(JoinError::Replaced));
            return;
        }
        let Some(number) = self.resources.get(joining.resource).map(|resource| resource.number)
        else {
            return;
        };
        let (now, resource) = (self.now(), joining.resource);
        match self.joins.want(now, number, joining) {
            Wish::Enlist(branch) => self.enlist(&branch, resource),
            Wish::Joined(branch, joining) => self.let_join(branch, joining, 0),
            Wish::Waits | Wish::Refused => {}
        }
    }

    fn enlist(&mut self, branch: &BranchId, resource: usize) {
        let Some(registered) = self.resources.get(resource) else { return };
        let enlist = v1::Enlist {
            branch: Some(wire::branch_ref(branch)),
            resource_id: registered.id.as_str().to_owned(),
            vote: None,
        };
        self.say(Say::Enlist(enlist));
    }

    pub(super) fn enlist_again(&mut self, all: bool) {
        for (branch, resource) in self.joins.repeat(self.now(), all) {
            self.enlist(&branch, resource);
        }
    }

    /// A second call of a transaction needs no answer of the coordinator: if the commit was
    /// requested meanwhile, the prepare that is on its way finds unfinished work and votes
    /// rollback.
    fn let_join(&mut self, branch: BranchId, joining: Joining, remaining_ms: u64) {
        let (undone, voted) =
            self.joins.get_mut(&branch).map_or((true, false), |join| (join.undone, join.voted));
        let state = self.core.state(&branch);
        if undone || state.is_some_and(|state| state != State::Active) {
            let stands = matches!(state, Some(State::Preparing | State::Prepared));
            let error = if voted && stands { JoinError::Voted } else { JoinError::Undone };
            let _ = joining.reply.send(Err(error));
            return;
        }
        let Some(resource) = self.registered(&branch).map(|found| found.id.clone()) else { return };
        self.handle(Event::Joined { branch, remaining_ms });
        self.joins.hand_out(&branch, resource, joining);
    }

    pub(super) fn on_enlisted(&mut self, enlisted: &v1::Enlisted) {
        use v1::EnlistStatus as Status;
        let Some(branch) = wire::branch_id(enlisted.branch.as_ref()) else { return };
        let error = match enlisted.status() {
            // Hold: the enlistment is sent again.
            Status::Unspecified => return,
            Status::Enlisted => return self.on_joined(branch, enlisted.remaining_ms),
            Status::BqualTaken => {
                if let Some(renumbered) = self.joins.renumber(&branch)
                    && let Some(resource) =
                        self.joins.get_mut(&renumbered).map(|join| join.resource)
                {
                    self.enlist(&renumbered, resource);
                }
                return;
            }
            Status::RolledBack => JoinError::RolledBack,
            Status::Inactive => JoinError::Inactive,
            Status::UnknownTransaction => JoinError::UnknownTransaction,
            Status::NotOurs => JoinError::NotOurs,
            Status::TooManyBranches => JoinError::TooManyBranches,
            Status::BadResource => JoinError::BadResource(enlisted.detail.clone()),
        };
        self.joins.refused(&branch, &error);
    }

    fn on_joined(&mut self, branch: BranchId, remaining_ms: u64) {
        let Some(waiting) = self.joins.enlisted(&branch) else { return };
        crash_point("participant.join.enlisted");
        if !waiting.is_empty()
            && let Some(registered) = self.registered(&branch)
        {
            registered.resource.joined(&branch);
        }
        for joining in waiting {
            self.let_join(branch, joining, remaining_ms);
        }
        if let Some(join) = self.joins.get_mut(&branch).filter(|join| !join.taken) {
            // Nobody works, but the coordinator counts on it: it stays, as one that failed, until
            // it is asked for or its time is over. Forgotten, it could not say that it did nothing.
            join.undone = true;
            self.handle(Event::Joined { branch, remaining_ms });
            let failure = Some("its call was gone before it had joined".to_owned());
            self.handle(Event::Left { branch, failure });
        }
    }

    pub(super) fn on_left(&mut self, left: Left) {
        let Left { branch, failure, votes } = left;
        self.handle(Event::Left { branch, failure });
        let active = self.core.state(&branch) == Some(State::Active);
        if let Some(join) = self.joins.get_mut(&branch) {
            join.working = join.working.saturating_sub(1);
            join.undo_again |= !active;
        }
        self.settle(&branch);
        if votes {
            self.vote_early(branch);
        }
    }

    /// Asks the branch for its vote, if nobody works under it any more, in the name of the life
    /// that began the transaction: the one that said welcome may be a later one, which is not
    /// durable yet.
    fn vote_early(&mut self, branch: BranchId) {
        let (active, wants) = (
            self.core.state(&branch) == Some(State::Active),
            self.registered(&branch).is_some_and(|found| found.resource.votes_early(&branch)),
        );
        let idle = |join: &&mut Join| join.working == 0 && active && wants;
        let Some(join) = self.joins.get_mut(&branch).filter(idle) else { return };
        join.voted = true;
        join.early = true;
        let (sender, order) = (branch.gtrid.owner(), Order::Prepare);
        self.handle(Event::Told { sender, branch, order });
        self.settle(&branch);
    }

    /// A branch that was undone while calls still worked under it is put back as one that failed:
    /// whatever they did after the undoing is undone as well, and can in no way be prepared.
    pub(super) fn settle(&mut self, branch: &BranchId) {
        let state = self.core.state(branch);
        let Some(join) = self.joins.get_mut(branch).filter(|join| join.enlisted) else { return };
        join.undone |= state != Some(State::Active);
        if state.is_some() {
            return;
        }
        if join.working == 0 && !join.undo_again {
            self.joins.remove(branch);
            return;
        }
        join.undo_again = false;
        let (working, branch) = (join.working, *branch);
        // One more than work: it leaves with the failure.
        for _ in 0..=working {
            self.handle(Event::Joined { branch, remaining_ms: 0 });
        }
        let failure = Some("it was undone while its work was under way".to_owned());
        self.handle(Event::Left { branch, failure });
    }
}
