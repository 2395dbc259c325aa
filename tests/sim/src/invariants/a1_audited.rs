//! A1: what an operator does is in the audit, durably, before it has any effect; and the audit has
//! no gap.

use super::{Fact, Invariant, Ledger, Rest};
use unanimous_core::{AuditKind, AuditResult, Gtrid, Record};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "A1",
    source: "reliability.md, Audit; protocol.md section 7, \"before its effect\"",
    on_fact,
    at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    let Fact::Handed(Record::Forced { gtrid, asserted, resolved, .. }) = fact else { return None };
    if !asserted.is_empty() && !entered(ledger, gtrid, &[AuditKind::Assert, AuditKind::Abandon]) {
        return Some(format!("{gtrid} has an asserted branch, and no durable entry says so"));
    }
    (*resolved && !entered(ledger, gtrid, &[AuditKind::Resolve]))
        .then(|| format!("{gtrid} is resolved, and no durable entry says so"))
}

fn entered(ledger: &Ledger, gtrid: &Gtrid, kinds: &[AuditKind]) -> bool {
    ledger.logged.audit().any(|entry| {
        entry.gtrid == Some(*gtrid)
            && kinds.contains(&entry.kind)
            && entry.result == AuditResult::Done
    })
}

fn at_rest(ledger: &Ledger, _: &Rest) -> Option<String> {
    let gap = (1..).zip(ledger.logged.audit()).find(|(number, entry)| *number != entry.number);
    gap.map(|(number, entry)| format!("entry {number} of the audit is {}", entry.number))
}
