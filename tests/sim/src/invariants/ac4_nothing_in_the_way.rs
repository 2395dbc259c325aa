//! AC4: no failure and all yes, then commit.

use super::{Invariant, Ledger, Rest, silent_on_facts};
use unanimous_core::Outcome;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "AC4",
    source: "Bernstein, Hadzilacos, Goodman 1987, section 7.3; reliability.md P-01",
    on_fact: silent_on_facts,
    at_rest,
};

fn at_rest(ledger: &Ledger, _: &Rest) -> Option<String> {
    if !ledger.faultless {
        return None;
    }
    ledger.transactions.iter().find_map(|transaction| {
        let willing = transaction.commit_asked
            && !transaction.branches.iter().any(|branch| branch.voted_rollback);
        let refused = transaction.answered.contains(&Outcome::RolledBack)
            && !transaction.answered.contains(&Outcome::Committed);
        // A one-phase branch says no without a vote: its work is undone.
        let undone = transaction.branches.len() == 1
            && transaction.branches.iter().any(|branch| branch.ended.is_some());
        (willing && refused && !undone)
            .then(|| format!("{} was rolled back without a reason", transaction.gtrid))
    })
}
