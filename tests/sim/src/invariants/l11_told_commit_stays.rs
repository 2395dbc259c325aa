//! L11: once a client was told committed, the decision or its effects exist at every later time.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::{BranchResult, Gtrid, Outcome};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L11",
    source: "protocol.md section 1, rule 2; reliability.md, Log",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Recovered(recovered) = fact else { return None };
    let committed: Vec<&Gtrid> = recovered.committed().collect();
    let lost = ledger.transactions.iter().find(|transaction| {
        let told = transaction.answered.contains(&Outcome::Committed)
            || transaction.branches.iter().any(|branch| branch.told_commit);
        // Resolved: a person has settled how its branches ended, and it may be forgotten.
        told && !transaction.lied
            && !transaction.resolved
            && !transaction.orphaned
            && !committed.contains(&&transaction.gtrid)
            && transaction
                .branches
                .iter()
                .any(|branch| branch.worked && branch.ended != Some(BranchResult::Committed))
    })?;
    Some(format!("{} was told committed, and this life's log does not know it", lost.gtrid))
}
