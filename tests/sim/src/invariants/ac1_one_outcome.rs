//! AC1: all processes that decide, decide the same.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::BranchResult;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "AC1",
    source: "Bernstein, Hadzilacos, Goodman 1987, section 7.3; protocol.md section 1, rule 1",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Ended(id, result) = fact else { return None };
    let transaction = ledger.transaction(&id.gtrid)?;
    // A branch that changed nothing has no outcome.
    if !transaction.branch(&id.bqual)?.worked {
        return None;
    }
    let opposite = match result {
        BranchResult::Committed => BranchResult::RolledBack,
        BranchResult::RolledBack => BranchResult::Committed,
        BranchResult::Mixed | BranchResult::Hazard => return None,
    };
    let other = transaction.branches.iter().find(|other| {
        other.bqual != id.bqual && other.worked && !other.alone && other.ended == Some(opposite)
    })?;
    let (gtrid, bqual) = (id.gtrid, id.bqual);
    Some(format!("of {gtrid}, branch {bqual} ended {result:?} and {} {opposite:?}", other.bqual))
}
