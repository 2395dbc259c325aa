//! L4: no End before every branch of phase two has carried out the decision.

use super::{Fact, Invariant, Ledger, names, silent_at_rest};
use unanimous_core::{BranchId, BranchResult, Record};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L4",
    source: "protocol.md section 3, row \"branch acknowledged\"",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Handed(Record::End { gtrid }) = fact else { return None };
    let transaction = ledger.transaction(gtrid)?;
    let Some(named) = &transaction.commit_durable else {
        return (!transaction.heuristic_durable)
            .then(|| format!("{gtrid} ends in the log without a decision there"));
    };
    transaction.branches.iter().find_map(|branch| {
        let id = BranchId { gtrid: *gtrid, bqual: branch.bqual };
        // A resolved one ends when its branches are gone, however they ended.
        let ended = match transaction.resolved {
            true => branch.ended.is_some(),
            false => branch.ended == Some(BranchResult::Committed),
        };
        (names(named, &id) && !ended)
            .then(|| format!("{gtrid} ends before branch {} has committed", branch.bqual))
    })
}
