//! L6: to replay the log twice is to replay it once: nothing in it depends on what was there
//! before.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::coordinator::Recovered;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L6",
    source: "reliability.md, Log; protocol.md section 3, row \"restart or takeover\"",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(_: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Replayed(once, twice) = fact else { return None };
    (!same(once, twice)).then(|| format!("the log says {once:?}, and read twice over {twice:?}"))
}

/// In what is driven and presumed. The second pass may remember an outcome again whose transaction
/// was reopened after its End.
fn same(once: &Recovered, twice: &Recovered) -> bool {
    once.transactions().eq(twice.transactions())
        && once.outcome_floor() == twice.outcome_floor()
        && once.next_epoch(0) == twice.next_epoch(0)
        && once.participants().eq(twice.participants())
}
