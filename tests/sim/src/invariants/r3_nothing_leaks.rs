//! R3: at rest no timer runs without a branch, and no request waits for an answer.

use super::{Invariant, Ledger, Rest, silent_on_facts};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "R3",
    source: "reliability.md, Resources",
    on_fact: silent_on_facts,
    at_rest,
};

fn at_rest(_: &Ledger, rest: &Rest) -> Option<String> {
    (!rest.leaked.is_empty()).then(|| rest.leaked.join("; "))
}
