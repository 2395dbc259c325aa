//! When a missing record may be read as "rolled back" (section 6). The most dangerous question in
//! the protocol: answered in one place, without side effects.

use crate::id::{Gtrid, Owner};
use crate::museum::{Bug, on};

/// What this coordinator knows about itself and its log when it is asked about a transaction it has
/// no record of.
///
/// That the log has been fully read, verified and synced, and that the transaction is not in the
/// table, is the caller's to know: a [`crate::Coordinator`] exists only after the one and asks only
/// after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// This life.
    pub owner: Owner,
    /// The next sequence number of this life: ids from it on have not been given out.
    pub next_sequence: u64,
    /// A participant has been told a frame that this log does not hold: the log went back in time.
    pub log_behind: bool,
    /// The highest (epoch, sequence) whose outcome was dropped.
    pub outcome_floor: Option<(u32, u64)>,
}

/// Whether a participant whose branch has no record may be told to roll back. `branch_owner` is the
/// owner in its bqual: the coordinator that drives the branch, not always the one that began the
/// transaction.
#[must_use]
pub fn rollback_for_participant(standing: &Standing, gtrid: &Gtrid, branch_owner: Owner) -> bool {
    let mine = branch_owner.log == standing.owner.log;
    let past = branch_owner.epoch <= standing.owner.epoch;
    mine && past && !standing.log_behind && begun(standing, gtrid)
}

/// Whether a client may be told "rolled back" about a transaction without a record. One-phase
/// commits leave no record, so it must have counted at least two branches.
#[must_use]
pub fn rolled_back_for_client(
    standing: &Standing,
    gtrid: &Gtrid,
    branches_counted: Option<u32>,
) -> bool {
    let owner = gtrid.owner();
    let mine = owner.log == standing.owner.log;
    let past = owner.epoch <= standing.owner.epoch;
    let above_floor =
        standing.outcome_floor.is_none_or(|floor| (owner.epoch, gtrid.sequence()) > floor)
            || on(Bug::FloorIgnored);
    let two_phase = branches_counted.is_some_and(|count| count >= 2) || on(Bug::OnePhasePresumed);
    mine && past && !standing.log_behind && begun(standing, gtrid) && above_floor && two_phase
}

/// False for an id of this life that has not been given out yet: it may still come to mean
/// something.
fn begun(standing: &Standing, gtrid: &Gtrid) -> bool {
    gtrid.owner() != standing.owner || gtrid.sequence() < standing.next_sequence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::LogId;

    const LOG: LogId = LogId { cluster: 1, slot: 1, incarnation: 7 };
    const ME: Owner = Owner { log: LOG, epoch: 10 };
    const STANDING: Standing =
        Standing { owner: ME, next_sequence: 100, log_behind: false, outcome_floor: Some((9, 50)) };

    fn id(owner: Owner, sequence: u64) -> Gtrid {
        Gtrid::new(owner, sequence, 0)
    }

    #[test]
    fn a_participant_is_told_rollback_only_for_branches_of_mine() {
        let older = Owner { epoch: 9, ..ME };
        assert!(rollback_for_participant(&STANDING, &id(ME, 99), ME));
        assert!(
            rollback_for_participant(&STANDING, &id(older, 1), older),
            "the floor binds clients only"
        );
        assert!(!rollback_for_participant(&STANDING, &id(ME, 100), ME), "not given out yet");
        for (what, owner) in [
            ("epoch", Owner { epoch: 11, ..ME }),
            ("cluster", Owner { log: LogId { cluster: 2, ..LOG }, ..ME }),
            ("slot", Owner { log: LogId { slot: 10, ..LOG }, ..ME }),
            ("incarnation", Owner { log: LogId { incarnation: 8, ..LOG }, ..ME }),
        ] {
            assert!(!rollback_for_participant(&STANDING, &id(owner, 1), owner), "{what}");
        }
        let behind = Standing { log_behind: true, ..STANDING };
        assert!(!rollback_for_participant(&behind, &id(ME, 1), ME));
    }

    #[test]
    fn a_subordinates_branch_is_judged_by_its_own_owner() {
        let root = Owner { log: LogId { slot: 2, ..LOG }, epoch: 77 };
        assert!(rollback_for_participant(&STANDING, &id(root, 5), ME));
        assert!(!rollback_for_participant(&STANDING, &id(ME, 5), root));
    }

    #[test]
    fn a_client_is_told_rolled_back_only_above_the_floor_and_with_two_branches() {
        let older = Owner { epoch: 9, ..ME };
        assert!(rolled_back_for_client(&STANDING, &id(ME, 1), Some(2)));
        assert!(rolled_back_for_client(&STANDING, &id(older, 51), Some(2)));
        assert!(!rolled_back_for_client(&STANDING, &id(older, 50), Some(2)), "at the floor");
        assert!(
            !rolled_back_for_client(&STANDING, &id(ME, 1), Some(1)),
            "one phase leaves no record"
        );
        assert!(!rolled_back_for_client(&STANDING, &id(ME, 1), None));
        assert!(!rolled_back_for_client(&STANDING, &id(ME, 100), Some(2)), "not given out yet");
        let foreign = Owner { log: LogId { incarnation: 8, ..LOG }, ..ME };
        assert!(!rolled_back_for_client(&STANDING, &id(foreign, 1), Some(2)));
        let behind = Standing { log_behind: true, ..STANDING };
        assert!(!rolled_back_for_client(&behind, &id(ME, 1), Some(2)));
    }
}
