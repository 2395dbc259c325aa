//! AC3: commit only if all voted yes (read-only counts as yes), phase two goes to exactly those
//! that prepared, and all are as many as the client counted.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::Record;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "AC3",
    source: "Bernstein, Hadzilacos, Goodman 1987, section 7.3; protocol.md section 3, row \"vote\"",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Handed(Record::Commit { gtrid, branches, .. }) = fact else { return None };
    let transaction = ledger.transaction(gtrid)?;
    if let Some(stranger) = branches.iter().find(|named| transaction.branch(&named.bqual).is_none())
    {
        return Some(format!("{gtrid} commits branch {}, which never enlisted", stranger.bqual));
    }
    let enlisted = transaction.branches.iter().filter(|branch| branch.enlisted);
    let count = enlisted.clone().count();
    if let Some(counted) = transaction.branches_counted.filter(|n| usize::try_from(*n) != Ok(count))
    {
        return Some(format!("{gtrid} commits {count} branches, and its client counted {counted}"));
    }
    enlisted.into_iter().find_map(|branch| {
        let named = branches.iter().any(|named| named.bqual == branch.bqual);
        let fits = if named { branch.voted_commit } else { branch.voted_read_only };
        (!fits).then(|| {
            let place = if named { "in" } else { "outside" };
            format!("{gtrid} commits with branch {} {place} phase two: {branch:?}", branch.bqual)
        })
    })
}
