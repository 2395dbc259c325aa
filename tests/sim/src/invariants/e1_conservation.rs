//! E1: the sum of all balances is what it was, but for what operators did alone and what liars
//! spoilt.

use super::{Invariant, Ledger, Rest, silent_on_facts};
use unanimous_core::BranchResult;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "E1", source: "reliability.md, Data", on_fact: silent_on_facts, at_rest };

fn at_rest(ledger: &Ledger, rest: &Rest) -> Option<String> {
    let alone: i64 = ledger
        .transactions
        .iter()
        .filter(|transaction| !transaction.lied)
        .flat_map(|transaction| {
            let committed = transaction.commit_durable.is_some();
            transaction.branches.iter().filter(|branch| branch.alone).map(move |branch| {
                match (committed, branch.ended) {
                    (false, Some(BranchResult::Committed)) => branch.moved,
                    (true, Some(BranchResult::RolledBack)) => -branch.moved,
                    _ => 0,
                }
            })
        })
        .sum();
    let spoilt: i64 = ledger
        .transactions
        .iter()
        .filter(|transaction| transaction.lied)
        .flat_map(|transaction| &transaction.branches)
        .filter(|branch| branch.ended == Some(BranchResult::Committed))
        .map(|branch| branch.moved)
        .sum();
    let expected = rest.sum_at_start + alone + spoilt;
    (rest.sum != expected).then(|| format!("the sum is {}, expected {expected}", rest.sum))
}
