//! L12: nothing handed to the log can be rolled back until the log answers.

use super::{Fact, Invariant, Ledger, names, silent_at_rest};
use unanimous_core::{Decision, Outcome};

pub(super) const INVARIANT: Invariant = Invariant {
    name: "L12",
    source: "protocol.md section 3, rows \"rollback request\" and \"log write or sync failed\"",
    on_fact,
    at_rest: silent_at_rest,
};

fn on_fact(ledger: &Ledger, fact: &Fact<'_>) -> Option<String> {
    match fact {
        Fact::Told(id, Decision::Rollback) => {
            let handed = ledger.transaction(&id.gtrid)?.commit_handed.as_ref()?;
            names(handed, id)
                .then(|| format!("branch {id} is told rollback while the log has its commit"))
        }
        Fact::Answered(gtrid, Outcome::RolledBack) => {
            let handed = ledger.transaction(gtrid)?.commit_handed.is_some();
            handed.then(|| {
                format!("a client is told {gtrid} is rolled back while the log has its commit")
            })
        }
        _ => None,
    }
}
