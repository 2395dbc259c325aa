//! L7: what was durable is read again, whole and in order; a log with flipped bits is refused, and
//! nothing of it is acted on.

use super::{Fact, Invariant, Ledger, silent_at_rest};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L7",
    source: "reliability.md, Log, and catalogue S-02; architecture.md, recovery",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Unreadable(frame) => {
            (!ledger.rotted).then(|| format!("durable frame {frame} cannot be read"))
        }
        Fact::Recovered(_) => {
            ledger.rotted.then(|| "a life begins on a log with flipped bits".to_owned())
        }
        _ => None,
    }
}
