//! E3: every success a client was told is visible, every rollback is not; and the data are those of
//! the committed branches.

use super::{Invariant, Ledger, Rest, Transaction, silent_on_facts};
use unanimous_core::{BranchResult, Outcome};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "E3", source: "reliability.md, Data", on_fact: silent_on_facts, at_rest };

fn at_rest(ledger: &Ledger, rest: &Rest) -> Option<String> {
    let judged = ledger.transactions.iter().filter(|transaction| !transaction.lied);
    let told = judged.into_iter().find_map(contradicted);
    let moved: i64 = ledger
        .transactions
        .iter()
        .flat_map(|transaction| &transaction.branches)
        .filter(|branch| branch.ended == Some(BranchResult::Committed))
        .map(|branch| branch.moved)
        .sum();
    let found: i64 = rest.participants.iter().map(|(now, start)| now - start).sum();
    told.or_else(|| {
        (moved != found)
            .then(|| format!("the accounts moved by {found}, the committed branches by {moved}"))
    })
}

fn contradicted(transaction: &Transaction) -> Option<String> {
    let forbidden = match (
        transaction.answered.contains(&Outcome::Committed),
        transaction.answered.contains(&Outcome::RolledBack),
    ) {
        // One that changed nothing may later read rolled back (section 3, row "vote").
        (true, true) if transaction.branches.iter().any(|branch| branch.worked) => {
            return Some(format!("{} was told both outcomes", transaction.gtrid));
        }
        (true, true) => return None,
        (true, false) => [Some(BranchResult::RolledBack), None],
        (false, true) => [Some(BranchResult::Committed); 2],
        (false, false) => return None,
    };
    let branch = transaction
        .branches
        .iter()
        .find(|branch| branch.worked && !branch.alone && forbidden.contains(&branch.ended))?;
    let (gtrid, told) = (transaction.gtrid, &transaction.answered);
    Some(format!("a client was told {told:?} about {gtrid}, and branch {branch:?}"))
}
