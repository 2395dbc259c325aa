//! EM: the ended mark never passes a transaction that may still be driven: participants drop their
//! proofs by it.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::coordinator::EndedMark;
use unanimous_core::{Gtrid, Record};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "EM",
    source: "protocol.md section 4, *Committed*: kept until the coordinator says ended",
    on_fact,
    at_rest: silent_at_rest,
};

/// Whether the mark says that this transaction has ended.
pub(super) fn passes(mark: &EndedMark, gtrid: &Gtrid) -> bool {
    let owner = gtrid.owner();
    owner.log == mark.log
        && (owner.epoch, gtrid.sequence()) <= (mark.epoch, mark.sequence)
        && !mark.exceptions.contains(gtrid)
}

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::ToldEnded(mark) => ledger.transactions.iter().find_map(|transaction| {
            let driven = transaction.commit_handed.is_some()
                || (transaction.commit_durable.is_some()
                    && !transaction.end_durable
                    && !transaction.heuristic_durable);
            (driven && passes(mark, &transaction.gtrid))
                .then(|| format!("the mark passes {}, which has no durable End", transaction.gtrid))
        }),
        Fact::Handed(Record::Commit { gtrid, .. }) => {
            let passed = ledger.transaction(gtrid)?.told_ended;
            passed.then(|| format!("{gtrid} commits after the mark has passed it"))
        }
        Fact::ToldOnePhase(id) => {
            let passed = ledger.transaction(&id.gtrid)?.told_ended;
            passed
                .then(|| format!("{} commits in one phase after the mark has passed it", id.gtrid))
        }
        _ => None,
    }
}
