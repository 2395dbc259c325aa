//! L10: "rolled back" is told only about what never commits, neither before nor after.

use super::{Fact, Invariant, Ledger, names, silent_at_rest};
use unanimous_core::{BranchId, BranchResult, Decision, Outcome, Record};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L10",
    source: "protocol.md section 1, rule 3; section 6",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Told(id, Decision::Rollback) => {
            let named = ledger.transaction(&id.gtrid)?.commit_durable.as_ref()?;
            // A late question of a branch that has ended since is answered into the void: section 4
            // ignores any answer in none and Committed.
            let waits = ledger.branch(id)?.ended.is_none();
            (waits && names(named, id))
                .then(|| format!("branch {id} of a durable commit is told rollback"))
        }
        Fact::Answered(gtrid, Outcome::RolledBack) => {
            let transaction = ledger.transaction(gtrid)?;
            transaction
                .committed()
                .then(|| format!("a client is told rolled back about {gtrid}, which committed"))
        }
        Fact::Handed(Record::Commit { gtrid, branches, .. })
        | Fact::Durable(Record::Commit { gtrid, branches, .. }) => {
            let transaction = ledger.transaction(gtrid)?;
            if transaction.answered.contains(&Outcome::RolledBack) {
                return Some(format!("{gtrid} commits, and a client was told rolled back"));
            }
            branches.iter().find_map(|named| {
                let told = transaction.branch(&named.bqual)?.told_rollback;
                let id = BranchId { gtrid: *gtrid, bqual: named.bqual };
                told.then(|| format!("{gtrid} commits, and branch {id} was told rollback"))
            })
        }
        Fact::Ended(id, BranchResult::Committed) => {
            let told = ledger.transaction(&id.gtrid)?.answered.contains(&Outcome::RolledBack);
            told.then(|| format!("branch {id} commits, and a client was told rolled back"))
        }
        _ => None,
    }
}
