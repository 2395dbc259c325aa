//! AC2: no process reverses its decision.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::{BranchResult, Decision};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "AC2",
    source: "Bernstein, Hadzilacos, Goodman 1987, section 7.3; protocol.md section 3",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Ended(id, result) | Fact::EndedAlone(id, result) => {
            let before = ledger.branch(id)?.ended?;
            (before != *result).then(|| format!("branch {id} ended {before:?}, then {result:?}"))
        }
        Fact::Worked(id, _) => {
            let before = ledger.branch(id)?.ended?;
            (before == BranchResult::RolledBack).then(|| format!("branch {id}, undone, works on"))
        }
        Fact::Told(id, Decision::Commit) => {
            let branch = ledger.branch(id)?;
            (branch.told_rollback && branch.ended.is_none())
                .then(|| format!("branch {id} was told rollback, now commit"))
        }
        Fact::Told(id, Decision::Rollback) => {
            let branch = ledger.branch(id)?;
            // A late question of a branch that has ended since is answered into the void.
            (branch.told_commit && branch.ended.is_none())
                .then(|| format!("branch {id} was told commit, now rollback"))
        }
        _ => None,
    }
}
