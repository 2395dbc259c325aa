//! L9: identifiers are never reused, and epochs only grow, over restarts, lost tails and jumps of
//! the clock.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::Record;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L9",
    source: "protocol.md section 2, *epoch*",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Begun(gtrid) => {
            ledger.transaction(gtrid).map(|_| format!("{gtrid} is given out twice"))
        }
        Fact::Handed(Record::Boot { epoch }) => {
            let before = ledger.epoch_durable.filter(|before| before > epoch)?;
            Some(format!("epoch {epoch} begins after {before}"))
        }
        _ => None,
    }
}
