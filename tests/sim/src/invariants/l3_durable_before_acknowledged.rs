//! L3: no acknowledgement before the branch's end is durable.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::BranchResult;
use unanimous_core::message::Done;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L3",
    source: "protocol.md section 4, rows \"commit\" and \"rollback\"; reliability.md CP-6",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Acknowledged(id, Done::Done) = fact else { return None };
    let branch = ledger.branch(id)?;
    let fits = match branch.ended {
        // One process may have found nothing, and say so when another one has prepared: that one
        // asks, and presumes as this one did.
        None => (!branch.prepared || branch.found_nothing) && !branch.told_commit,
        // What was resolved and is not kept any more is presumed by who asks late.
        Some(result) => {
            let forgotten = ledger.transaction(&id.gtrid)?.resolved;
            !branch.told_commit || result == BranchResult::Committed || forgotten
        }
    };
    (!fits).then(|| format!("branch {id} acknowledges what is not durable: {branch:?}"))
}
