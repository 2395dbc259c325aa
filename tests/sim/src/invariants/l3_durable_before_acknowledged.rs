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
        // Who asks late about what was resolved, and is not kept any more, is told what is
        // presumed, and has ended so.
        Some(BranchResult::RolledBack) if branch.told_rollback => {
            !branch.told_commit || ledger.transaction(&id.gtrid)?.resolved
        }
        Some(result) => !branch.told_commit || result == BranchResult::Committed,
    };
    (!fits).then(|| format!("branch {id} acknowledges what is not durable: {branch:?}"))
}
