//! F2: nobody is told anything about a branch of another log.

use super::{Fact, Invariant, Ledger, silent_at_rest};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "F2",
    source: "protocol.md section 2, *incarnation* and *owner*; reliability.md, Fencing",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let (Fact::Told(id, _) | Fact::ToldOnePhase(id) | Fact::ToldForget(id)) = fact else {
        return None;
    };
    let log = ledger.log?;
    (id.bqual.owner().log != log).then(|| format!("{log:?} gives orders to branch {id}"))
}
