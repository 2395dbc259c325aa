//! L8: what is dropped from the log is not missed: a reader of the rest recovers what a reader of
//! every record ever durable would, down to the outcomes above the floor.

use super::{Fact, Invariant, Ledger, silent_at_rest};
use unanimous_core::coordinator::{Branch, Recovered, Transaction};
use unanimous_core::{BranchId, BranchResult, Gtrid, Outcome};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L8",
    source: "architecture.md, invariant 8; protocol.md section 7, \"what the log keeps\"",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let (Fact::Recovered(rest) | Fact::Retained(rest)) = fact else { return None };
    let whole = &ledger.logged;
    let (floor, floor_of_rest) = (whole.outcome_floor(), rest.outcome_floor());
    if floor != floor_of_rest {
        return Some(format!("the outcome floor is {floor:?}, the rest says {floor_of_rest:?}"));
    }
    let (epoch, epoch_of_rest) = (whole.next_epoch(0), rest.next_epoch(0));
    if epoch != epoch_of_rest {
        return Some(format!("the next epoch is {epoch}, the rest says {epoch_of_rest}"));
    }
    let audits = [whole, rest].map(|recovered| recovered.audit().collect::<Vec<_>>());
    if audits[0] != audits[1] {
        return Some(format!("the audit is {:?}, the rest says {:?}", audits[0], audits[1]));
    }
    transactions(ledger, rest).or_else(|| outcomes(ledger, rest)).or_else(|| names(whole, rest))
}

fn transactions(ledger: &Ledger, rest: &Recovered) -> Option<String> {
    let gtrids = |recovered: &Recovered| -> Vec<Gtrid> {
        recovered.transactions().map(|(gtrid, _)| *gtrid).collect()
    };
    let (whole, left) = (gtrids(&ledger.logged), gtrids(rest));
    if whole != left {
        return Some(format!("unfinished or heuristic are {whole:?}, the rest says {left:?}"));
    }
    let both = ledger.logged.transactions().zip(rest.transactions());
    both.into_iter().find_map(|((gtrid, whole), (_, left))| {
        differs(ledger, gtrid, whole, left)
            .then(|| format!("{gtrid} is {whole:?}, the rest says {left:?}"))
    })
}

fn differs(ledger: &Ledger, gtrid: &Gtrid, whole: &Transaction, left: &Transaction) -> bool {
    if ledger.transaction(gtrid).is_some_and(|transaction| transaction.lied) {
        return whole.decision() != left.decision();
    }
    whole.name != left.name
        || whole.decision() != left.decision()
        || whole.heuristic_logged() != left.heuristic_logged()
        || whole.resolved() != left.resolved()
        || whole.branches.len() != left.branches.len()
        || whole
            .branches
            .iter()
            .zip(&left.branches)
            .any(|(whole, left)| branch_differs(ledger, gtrid, left_as(whole, left), left))
}

/// The rest may know more: that a branch has done as decided, and the words with which it said so,
/// are noted only when its transaction is carried.
fn left_as<'a>(whole: &'a Branch, left: &'a Branch) -> (&'a Branch, Option<BranchResult>) {
    (whole, whole.result.or(left.result))
}

fn branch_differs(
    ledger: &Ledger,
    gtrid: &Gtrid,
    (whole, result): (&Branch, Option<BranchResult>),
    left: &Branch,
) -> bool {
    let identity = |branch: &Branch| {
        (branch.bqual, branch.participant.clone(), branch.resource.clone(), branch.inquires)
    };
    let learnt = whole.result.is_none() && left.result.is_some();
    identity(whole) != identity(left)
        || whole.evidence != left.evidence
        || (whole.matched && !left.matched)
        || whole.asserted != left.asserted
        || result != left.result
        || (!whole.detail.is_empty() && whole.detail != left.detail)
        || (learnt && !really(ledger, &BranchId { gtrid: *gtrid, bqual: left.bqual }, left.result))
}

/// The branch has ended so. One without work was undone when it was asked about.
fn really(ledger: &Ledger, id: &BranchId, result: Option<BranchResult>) -> bool {
    let ended = ledger.branch(id).and_then(|branch| branch.ended);
    ended.or(Some(BranchResult::RolledBack)) == result
}

/// A liar may deny what has long been dropped: noted, and of no consequence.
fn outcomes(ledger: &Ledger, rest: &Recovered) -> Option<String> {
    let whole = &ledger.logged;
    let honest = |gtrid: &Gtrid| ledger.transaction(gtrid).is_none_or(|known| !known.lied);
    let floor = whole.outcome_floor();
    let above = |gtrid: &Gtrid| Some((gtrid.owner().epoch, gtrid.sequence())) > floor;
    let kept = |recovered: &Recovered| -> Vec<_> {
        recovered
            .outcomes()
            .filter(|(gtrid, outcome, ..)| *outcome == Outcome::Committed && honest(gtrid))
            .filter(|(gtrid, _, _, unforgotten)| above(gtrid) || !unforgotten.is_empty())
            .map(|(gtrid, _, branches, unforgotten)| {
                (*gtrid, branches.to_vec(), unforgotten.clone())
            })
            .collect()
    };
    let (known, left) = (kept(whole), kept(rest));
    (known != left).then(|| format!("outcomes are {known:?}, the rest says {left:?}"))
}

fn names(whole: &Recovered, rest: &Recovered) -> Option<String> {
    let known = |recovered: &Recovered| -> Vec<_> {
        recovered
            .participants()
            .map(|(name, known)| (name.clone(), known.resources.clone()))
            .collect()
    };
    let (whole, left) = (known(whole), known(rest));
    (whole != left).then(|| format!("participants are {whole:?}, the rest says {left:?}"))
}
