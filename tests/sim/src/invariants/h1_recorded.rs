//! H1: every branch that ended otherwise than decided is on record before it forgets, and in the
//! end all of them are. One that ended alone, and as decided, is noted before it forgets.

use super::{Branch, Fact, Invariant, Ledger, Rest, Transaction};
use unanimous_core::{BranchId, BranchResult};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "H1",
    source: "protocol.md section 1, rules 1 and 5; section 3, row \"branch heuristic\"",
    on_fact,
    at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let (id, what) = match fact {
        Fact::ToldForget(id) => (id, "told to forget"),
        Fact::Forgotten(id) => (id, "forgotten"),
        _ => return None,
    };
    let branch = ledger.branch(id)?;
    // Also one that ended as decided: without a record a restart would ask a branch that knows
    // nothing any more.
    // Given up by an operator, and then it knew nothing: that is what is on record.
    let given_up =
        ledger.transaction(&id.gtrid)?.operated && branch.recorded == Some(BranchResult::Hazard);
    ((branch.recorded.is_none() || branch.recorded != branch.ended) && !given_up)
        .then(|| format!("branch {id} is {what} before its end is on record: {branch:?}"))
}

fn at_rest(ledger: &Ledger, _: &Rest) -> Option<String> {
    ledger.transactions.iter().find_map(|transaction| {
        // A liar's word is on record instead, or the log is gone.
        if transaction.lied || transaction.orphaned {
            return None;
        }
        let branch = transaction.branches.iter().find(|branch| unrecorded(transaction, branch))?;
        let id = BranchId { gtrid: transaction.gtrid, bqual: branch.bqual };
        Some(format!("branch {id} decided alone, and no record says so: {branch:?}"))
    })
}

fn unrecorded(transaction: &Transaction, branch: &Branch) -> bool {
    let decided = match &transaction.commit_durable {
        Some(named) if named.contains(&branch.bqual) => BranchResult::Committed,
        _ => BranchResult::RolledBack,
    };
    branch.alone && branch.ended != Some(decided) && branch.recorded != branch.ended
}
