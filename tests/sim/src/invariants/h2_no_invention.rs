//! H2: no heuristic outcome is reported unless a branch really ended so, against what was
//! really decided.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::record::{BranchRecord, OutcomeRecord};
use unanimous_core::{Bqual, BranchId, BranchResult, Decision, Outcome, Record};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "H2",
    source: "reliability.md, Heuristics; protocol.md section 7",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Answered(gtrid, outcome) => {
            let heuristic = !matches!(outcome, Outcome::Committed | Outcome::RolledBack);
            let transaction = ledger.transaction(gtrid)?;
            let alone = transaction.branches.iter().any(|branch| branch.alone);
            (heuristic && !alone && !transaction.operated)
                .then(|| format!("{gtrid} is said to have ended {outcome:?}"))
        }
        Fact::Handed(
            Record::Heuristic { gtrid, decision, branches, .. }
            | Record::Forced { gtrid, decision, branches, .. },
        ) => {
            let transaction = ledger.transaction(gtrid)?;
            let reason = transaction.operated || transaction.branches.iter().any(|b| b.alone);
            if !reason {
                return Some(format!("{gtrid} is recorded as heuristic: {branches:?}"));
            }
            let committed = transaction.commit_durable.as_deref().unwrap_or_default();
            // A report that arrives after the branch has forgotten it finds no record that it could
            // be compared with; in a session in order there is none.
            let late = |named: &BranchRecord| {
                transaction.branch(&named.bqual).is_some_and(|branch| branch.forgotten)
            };
            let contradicts = |named: &BranchRecord| {
                committed.contains(&named.bqual) != (*decision == Decision::Commit)
            };
            // An operator has given it up, or said how a commit in one phase ended.
            let operated = |named: &BranchRecord| {
                transaction.operated
                    && (named.result == Some(BranchResult::Hazard)
                        || transaction.commit_durable.is_none())
            };
            let excused = |named: &BranchRecord| late(named) || operated(named);
            if branches.iter().any(|named| contradicts(named) && !excused(named)) {
                return Some(format!("{gtrid} is recorded as decided {decision:?}: {branches:?}"));
            }
            branches.iter().filter(|named| !operated(named)).find_map(|named| {
                let id = BranchId { gtrid: *gtrid, bqual: named.bqual };
                invented(ledger, &id, named.result?)
            })
        }
        Fact::Handed(Record::Matched { gtrid, bqual, result }) => {
            invented(ledger, &BranchId { gtrid: *gtrid, bqual: *bqual }, *result)
        }
        Fact::Handed(Record::CarriedOutcomes { committed }) => {
            committed.iter().find_map(|OutcomeRecord { gtrid, branches, .. }| {
                let id = |bqual: &Bqual| BranchId { gtrid: *gtrid, bqual: *bqual };
                let mut branches = branches.iter();
                branches.find_map(|bqual| invented(ledger, &id(bqual), BranchResult::Committed))
            })
        }
        _ => None,
    }
}

fn invented(ledger: &Ledger, id: &BranchId, result: BranchResult) -> Option<String> {
    if ledger.transaction(&id.gtrid)?.lied {
        return None;
    }
    let branch = ledger.branch(id)?;
    // A branch without work was undone when it was asked about.
    let ended = branch.ended.unwrap_or(BranchResult::RolledBack);
    (ended != result).then(|| format!("branch {id} is recorded as {result:?}: {branch:?}"))
}
