//! A participant that breaks the protocol: it says what it should not, about branches of its own,
//! of others, and of transactions that never were.
//!
//! What it says of its own may spoil its transaction. All others must not notice.

use super::network::Up;
use super::world::World;
use crate::invariants::Fact;
use unanimous_core::id::resource_manager;
use unanimous_core::message::{Done, Vote};
use unanimous_core::{Answer, Bqual, BranchId, BranchResult, Gtrid};

/// Above every sequence of a schedule.
const NEVER_GIVEN_OUT: u64 = 1 << 32;

impl World {
    /// Says something untrue, if this schedule has such participants.
    pub(super) fn maybe_lie(&mut self, who: usize) {
        if !self.fault(self.swarm.misbehave) {
            return;
        }
        let Some(branch) = self.some_branch(who) else { return };
        if self.random.chance(400) {
            return self.send_up(who, Up::Inquire { branch });
        }
        let answer = self.some_answer();
        let own = self.participants[who].owns(&branch);
        self.fact(&Fact::Lied { branch, own, answer: &answer });
        self.send_up(who, Up::Answer { branch, answer });
    }

    /// Mostly one that there is; else one that there never was.
    fn some_branch(&mut self, who: usize) -> Option<BranchId> {
        let begun = self.ledger.transactions.len();
        let transaction = self.random.below(begun.min(4) as u64);
        let at = begun.checked_sub(1 + usize::try_from(transaction).unwrap_or(0))?;
        let transaction = &self.ledger.transactions[at];
        let (gtrid, branches) = (transaction.gtrid, transaction.branches.len());
        let mut branch = usize::try_from(self.random.below(branches as u64 + 1)).unwrap_or(0);
        if self.random.chance(600) {
            let node = &self.participants[who];
            let mut all = self.ledger.transactions[at].branches.iter();
            let own = all.position(|known| node.owns(&BranchId { gtrid, bqual: known.bqual }));
            branch = own.unwrap_or(branch);
        }
        if let Some(known) = self.ledger.transactions[at].branches.get(branch) {
            return Some(BranchId { gtrid, bqual: known.bqual });
        }
        let node = &self.participants[who];
        let manager = resource_manager(&node.name, &node.resource);
        let bqual = Bqual::new(manager, u32::MAX, gtrid.owner());
        let unknown = self.random.chance(500);
        let gtrid = if unknown { Gtrid::new(gtrid.owner(), NEVER_GIVEN_OUT, 0) } else { gtrid };
        Some(BranchId { gtrid, bqual })
    }

    fn some_answer(&mut self) -> Answer {
        let done = match self.random.below(11) {
            0 | 1 => return Answer::Voted(Vote::Commit { evidence: None }),
            2 => return Answer::Voted(Vote::ReadOnly),
            3 => return Answer::Voted(Vote::Rollback { reason: "a whim".to_owned() }),
            4 => Done::Done,
            5 => Done::RolledBack,
            6 => Done::NotPrepared,
            7 => Done::Retry,
            8 => Done::Forgotten,
            9 => Done::Heuristic(BranchResult::RolledBack),
            _ => Done::Heuristic(self.random.pick(&[
                BranchResult::Committed,
                BranchResult::Mixed,
                BranchResult::Hazard,
            ])),
        };
        Answer::Acknowledged { done, detail: String::new() }
    }
}
