//! L2: no vote for commit before the prepared branch is durable.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::message::Vote;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L2",
    source: "protocol.md section 4, row \"prepare\"; reliability.md CP-1",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Voted(id, Vote::Commit { .. }) = fact else { return None };
    let prepared = ledger.branch(id)?.prepared;
    (!prepared).then(|| format!("branch {id} votes commit, and is not prepared durably"))
}
