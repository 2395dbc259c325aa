//! L1: no commit message and no client success before the decision is durable.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::{BranchResult, Decision, Outcome};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L1",
    source: "protocol.md section 1, rule 2; section 3, row \"log says durable\"",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Told(id, Decision::Commit) => {
            let transaction = ledger.transaction(&id.gtrid)?;
            // A late question about a one-phase commit is answered to whom has committed it.
            // And who has lied about that commit is told what it has said.
            let denied = transaction.lied && transaction.commit_handed.is_none();
            // A commit in one phase that an operator has given up is on record as asked for.
            let durable = transaction.commit_durable.is_some()
                || transaction.commit_forced
                || denied
                || transaction.branch(&id.bqual)?.ended == Some(BranchResult::Committed);
            (!durable).then(|| format!("branch {id} is told commit without a durable record"))
        }
        Fact::Answered(gtrid, Outcome::Committed) => {
            // A liar may say that its one phase is over.
            let transaction = ledger.transaction(gtrid).filter(|known| !known.lied)?;
            // Without a record only what changed nothing, or what its only branch has committed
            // durably.
            let shown_by_data = transaction
                .branches
                .iter()
                .filter(|branch| branch.worked)
                .all(|branch| branch.ended == Some(BranchResult::Committed));
            (transaction.commit_durable.is_none() && !shown_by_data).then(|| {
                format!("a client is told committed about {gtrid} without a durable record")
            })
        }
        _ => None,
    }
}
