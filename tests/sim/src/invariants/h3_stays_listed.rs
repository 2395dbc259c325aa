//! H3: a transaction with a branch that ended otherwise than decided stays on the operator's list.

use super::{Invariant, Ledger, Rest, Transaction, silent_on_facts};
use unanimous_core::BranchResult;

pub(super) const INVARIANT: Invariant = Invariant {
    name: "H3",
    source: "reliability.md, Heuristics; protocol.md section 7, \"what the log keeps\"",
    on_fact: silent_on_facts,
    at_rest,
};

fn at_rest(ledger: &Ledger, rest: &Rest) -> Option<String> {
    let missing = ledger.transactions.iter().find(|transaction| {
        let judged = !transaction.lied && !transaction.orphaned && !transaction.resolved;
        judged && deviates(transaction) && !rest.heuristic.contains(&transaction.gtrid)
    })?;
    Some(format!("{} is not listed: {:?}", missing.gtrid, missing.branches))
}

fn deviates(transaction: &Transaction) -> bool {
    transaction.branches.iter().any(|branch| {
        let decided = match &transaction.commit_durable {
            Some(named) if named.contains(&branch.bqual) => BranchResult::Committed,
            _ => BranchResult::RolledBack,
        };
        // A branch that was alone in its transaction decided for it.
        // Who asks about a branch that never was adds none.
        let enlisted = transaction.branches.iter().filter(|branch| branch.enlisted).count();
        let one_phase = enlisted == 1 && transaction.commit_durable.is_none();
        branch.alone && branch.ended != Some(decided) && !one_phase
    })
}
