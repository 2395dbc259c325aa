//! AC5: after all failures are repaired and none new for a while, every process has decided.

use super::{Invariant, Ledger, Rest, silent_on_facts};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "AC5",
    source: "Bernstein, Hadzilacos, Goodman 1987, section 7.3; protocol.md section 1, rule 4",
    on_fact: silent_on_facts,
    at_rest,
};

fn at_rest(_: &Ledger, rest: &Rest) -> Option<String> {
    (!rest.unfinished.is_empty()).then(|| rest.unfinished.join("; "))
}
