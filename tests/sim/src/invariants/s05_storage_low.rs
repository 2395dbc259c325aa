//! S-05: while the log's space is low nothing begins and nothing new is decided to commit.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::Record;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "S-05",
    source: "architecture.md, \"full disk\"; reliability.md, catalogue S-05",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let what = match fact {
        Fact::Handed(Record::Commit { gtrid, .. }) => format!("{gtrid} is decided"),
        Fact::Begun(gtrid) => format!("{gtrid} begins"),
        _ => return None,
    };
    ledger.storage_low.then(|| format!("{what} while the log's space is low"))
}
