//! R1: after quiescence no branch is prepared, for no transaction is unfinished.

use super::{Invariant, Ledger, Rest, silent_on_facts};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "R1",
    source: "reliability.md, Resources",
    on_fact: silent_on_facts,
    at_rest,
};

fn at_rest(_: &Ledger, rest: &Rest) -> Option<String> {
    let first = rest.prepared.first()?;
    Some(format!("{} branches are prepared, first {first}", rest.prepared.len()))
}
