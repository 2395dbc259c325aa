//! What a participant may decide alone (section 4, row "coordinator silent"): nothing, unless it
//! was given a policy. Then a branch that was in doubt for so long without a word of its
//! coordinator is ended, with a record of its resource before it, and reported until that is on the
//! coordinator's list.

use super::{Call, Participant, Returned, State};
use crate::Millis;
use crate::id::BranchId;
use crate::message::Done;
use crate::museum::{Bug, on};
use crate::outcome::{BranchResult, Decision};
use std::time::Duration;

/// How a branch ends whose coordinator is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeuristicPolicy {
    /// In doubt for so long without a word of the coordinator about the branch. "Wait" is a word.
    /// Counted anew by every life of the process.
    pub after_ms: u64,
    /// Which way, whatever the others do.
    pub decision: Decision,
}

impl HeuristicPolicy {
    /// Undone after so long a silence, rounded to milliseconds. To be preferred: if the others
    /// commit, what is missing can be done once more.
    #[must_use]
    pub fn rollback_after(silence: Duration) -> Self {
        Self { after_ms: whole_ms(silence), decision: Decision::Rollback }
    }

    /// Committed after so long a silence, rounded to milliseconds.
    #[must_use]
    pub fn commit_after(silence: Duration) -> Self {
        Self { after_ms: whole_ms(silence), decision: Decision::Commit }
    }

    /// Why a branch was ended by it, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let seconds = self.after_ms / 1_000;
        format!("decided alone by policy: no word of its coordinator for {seconds} s")
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Participant {
    /// Lets branches end without their coordinator.
    #[must_use]
    pub fn with_policy(mut self, policy: Option<HeuristicPolicy>) -> Self {
        self.policy = policy;
        self
    }

    /// The branch's clock begins, if there is a policy.
    pub(super) fn hear(&mut self, now: Millis, id: &BranchId) {
        if self.policy.is_none() {
            return;
        }
        if let Some(branch) = self.branches.get_mut(id) {
            branch.heard = Some(now);
        }
    }

    /// When the branch ends alone.
    pub(super) fn ends_alone_at(&self, id: &BranchId) -> Option<Millis> {
        let branch = self.branches.get(id).filter(|branch| branch.state == State::Prepared)?;
        Some(branch.heard?.plus(self.policy?.after_ms))
    }

    pub(super) fn end_alone(&mut self, id: BranchId) {
        let Some(policy) = self.policy else { return };
        let Some(branch) = self.branches.get_mut(&id) else { return };
        branch.state = State::EndingAlone;
        self.call(id, Call::EndAlone { decision: policy.decision, why: policy.words() });
    }

    /// An order came while the resource ends the branch: it is carried out if the resource has not.
    pub(super) fn order_after(&mut self, id: BranchId, order: Call) {
        if let Some(branch) = self.branches.get_mut(&id) {
            branch.call_after.get_or_insert(order);
        }
    }

    pub(super) fn on_ended_alone(&mut self, now: Millis, id: BranchId, result: Returned) {
        let Some(branch) = self.branches.get_mut(&id) else { return };
        let order = branch.call_after.take();
        match (result, order) {
            (Returned::Did(Done::Heuristic(result), words), _)
                if result != BranchResult::Hazard =>
            {
                let policy = self.policy.map(|policy| policy.words());
                let words = if words.is_empty() { policy.unwrap_or_default() } else { words };
                self.keep_heuristic(now, id, result, words);
            }
            (_, Some(order)) => {
                branch.tries = 0;
                branch.state = match order {
                    Call::Rollback => State::RollingBack,
                    _ => State::Committing,
                };
                self.call(id, order);
            }
            // Another process of the participant has ended it by order, and said so.
            (Returned::Did(Done::Done, _), None) => {
                self.drop_branch(&id);
            }
            // The resource could not do it, or does not know: it is in doubt as before.
            (Returned::Did(..) | Returned::Retry(_) | Returned::Voted(_), None) => {
                branch.state = State::Prepared;
                branch.tries = branch.tries.saturating_add(1);
                branch.heard = Some(now);
                self.inquire_later(now, id);
            }
        }
    }

    /// The resource has a branch on record that ended alone, in an earlier life.
    pub(super) fn on_found_alone(
        &mut self,
        now: Millis,
        id: BranchId,
        result: BranchResult,
        words: String,
    ) {
        if self.branches.contains_key(&id) || on(Bug::RestartForgetsAlone) {
            return;
        }
        self.branches.insert(id, super::Branch::new(State::Heuristic(result)));
        self.keep_heuristic(now, id, result, words);
    }
}
