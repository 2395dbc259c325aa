//! Questions about in-doubt branches: in batches, one at a time, so that a hundred thousand of them
//! leave room for votes and acknowledgements.

use std::collections::{BTreeSet, VecDeque};
use unanimous_core::{BranchId, Millis};

/// Branches in one question (the wire's limit; a hello has the same).
pub(super) const BATCH_MAX: usize = 1_000;
/// The next batch waits until fewer calls of the resources are under way: each answer may have led
/// to one.
const CALLS_MAX: usize = 1_000;
/// After this time a batch holds nobody up any more: answers may be lost, and a resource that does
/// not return must not silence the others.
const BATCH_PATIENCE_MS: u64 = 5_000;

/// See the module's page.
#[derive(Default)]
pub(super) struct Inquiries {
    waiting: VecDeque<BranchId>,
    /// In `waiting`, or asked and not answered.
    known: BTreeSet<BranchId>,
    unanswered: BTreeSet<BranchId>,
    /// When the last batch holds up the next one no longer.
    patience: Millis,
}

impl Inquiries {
    /// Lets a branch wait for its turn, unless it waits or is asked about already.
    pub(super) fn want(&mut self, branch: BranchId) {
        if self.known.insert(branch) {
            self.waiting.push_back(branch);
        }
    }

    /// The coordinator has answered.
    pub(super) fn on_answered(&mut self, branch: &BranchId) {
        if self.unanswered.remove(branch) {
            self.known.remove(branch);
        }
    }

    /// The session is lost: on the next one everybody asks anew.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next batch, if it is time for one. Branches that are no longer in doubt are left out.
    pub(super) fn poll(
        &mut self,
        now: Millis,
        calls: usize,
        in_doubt: impl Fn(&BranchId) -> bool,
    ) -> Option<Vec<BranchId>> {
        let busy = !self.unanswered.is_empty() || calls >= CALLS_MAX;
        if self.waiting.is_empty() || (busy && now < self.patience) {
            return None;
        }
        for given_up in std::mem::take(&mut self.unanswered) {
            self.known.remove(&given_up);
        }
        let mut batch = Vec::new();
        while batch.len() < BATCH_MAX
            && let Some(branch) = self.waiting.pop_front()
        {
            if in_doubt(&branch) {
                batch.push(branch);
            } else {
                self.known.remove(&branch);
            }
        }
        self.unanswered.extend(&batch);
        self.patience = now.plus(BATCH_PATIENCE_MS);
        (!batch.is_empty()).then_some(batch)
    }

    /// When to poll again although nothing has happened.
    pub(super) fn deadline(&self) -> Option<Millis> {
        (!self.waiting.is_empty()).then_some(self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{Bqual, Gtrid, LogId, Owner};

    const START: Millis = Millis(1);

    fn branch(sequence: u64) -> BranchId {
        let log = LogId { cluster: 1, slot: 1, incarnation: 1 };
        let owner = Owner { log, epoch: 1 };
        BranchId { gtrid: Gtrid::new(owner, sequence, 0), bqual: Bqual::new(1, 1, owner) }
    }

    fn wanted(count: u64) -> Inquiries {
        let mut inquiries = Inquiries::default();
        for _ in 0..2 {
            (0..count).for_each(|sequence| inquiries.want(branch(sequence)));
        }
        inquiries
    }

    fn poll(inquiries: &mut Inquiries, now: Millis) -> Option<Vec<BranchId>> {
        inquiries.poll(now, 0, |_| true)
    }

    #[test]
    fn a_batch_goes_when_the_one_before_is_answered_and_each_branch_is_in_one() {
        let mut inquiries = wanted(2_500);
        let mut asked = BTreeSet::new();
        for expected in [1_000, 1_000, 500] {
            let batch = poll(&mut inquiries, START).unwrap();
            assert_eq!(batch.len(), expected);
            for branch in &batch {
                assert_eq!(poll(&mut inquiries, START), None, "one at a time");
                inquiries.on_answered(branch);
            }
            asked.extend(batch);
        }
        assert_eq!((asked.len(), poll(&mut inquiries, START)), (2_500, None));
        assert_eq!(inquiries.deadline(), None);
        inquiries.want(branch(7));
        assert_eq!(poll(&mut inquiries, START), Some(vec![branch(7)]), "again");
    }

    #[test]
    fn lost_answers_and_calls_that_do_not_return_hold_up_for_a_while_only() {
        let mut inquiries = wanted(1_500);
        let first = poll(&mut inquiries, START).unwrap();
        inquiries.want(first[0]);
        let patience = inquiries.deadline().unwrap();
        assert_eq!(poll(&mut inquiries, Millis(patience.0 - 1)), None);
        let second = poll(&mut inquiries, patience).unwrap();
        assert_eq!(second.len(), 500, "whoever waits for an answer does not wait for a turn");
        second.iter().for_each(|branch| inquiries.on_answered(branch));
        inquiries.want(first[0]);
        let busy = |inquiries: &mut Inquiries, now| inquiries.poll(now, CALLS_MAX, |_| true);
        assert_eq!(busy(&mut inquiries, patience), None);
        let again = inquiries.deadline().unwrap();
        assert_eq!(busy(&mut inquiries, again), Some(vec![first[0]]));
    }

    #[test]
    fn who_is_no_longer_in_doubt_is_not_asked_about() {
        let mut inquiries = wanted(3);
        let batch = inquiries.poll(START, 0, |id| *id == branch(1));
        assert_eq!(batch, Some(vec![branch(1)]));
        inquiries.on_answered(&branch(1));
        inquiries.want(branch(0));
        assert_eq!(poll(&mut inquiries, START), Some(vec![branch(0)]), "unless it is again");
        inquiries.want(branch(2));
        inquiries.clear();
        assert_eq!((poll(&mut inquiries, START), inquiries.deadline()), (None, None));
    }
}
