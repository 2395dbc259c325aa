//! What proves how a branch ended that the server no longer knows (section 4 of the contract).
//!
//! The server forgets a branch when it ends. So every branch that writes also writes a row of its
//! own name, the *marker*: there exactly if the branch committed. That a marker is *not* there
//! proves the opposite only where it would be: in the same table of the same server, which is what
//! the evidence of a vote names.

use unanimous_core::message::Done;
use unanimous_core::{BranchResult, Evidence};

const KIND: &str = "mysql-marker";
/// Random bytes that name a marker table.
pub(super) const NAME_LEN: usize = 24;

/// Names the table that markers are in: by a row of random bytes in the table itself, which goes
/// when the markers go, and by what the server calls itself, which a replica calls itself not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) table: [u8; NAME_LEN],
    pub(super) server: String,
}

impl Identity {
    /// What a vote carries.
    pub(super) fn evidence(&self) -> Evidence {
        let server = unanimous_core::record::cut(&self.server, Evidence::DATA_BYTES_MAX - NAME_LEN);
        of([&self.table, server.as_bytes()].concat())
    }
}

/// Evidence of this kind, by its data.
pub(super) fn of(data: Vec<u8>) -> Evidence {
    Evidence { kind: KIND.to_owned(), data }
}

/// A fresh look for a branch's marker, taken after the server had listed its prepared branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) marker: bool,
    /// `None`: the table is there and has no name, so it was emptied.
    pub(super) identity: Option<Identity>,
}

/// What to say of a branch that voted commit, was told to commit and is not listed any more.
pub(super) fn judge(look: &Look, evidence: Option<&Evidence>) -> Done {
    if look.marker {
        return Done::Done;
    }
    let here = look.identity.as_ref().map(Identity::evidence);
    match (here, evidence) {
        (Some(here), Some(evidence)) if here == *evidence => {
            Done::Heuristic(BranchResult::RolledBack)
        }
        _ => Done::Heuristic(BranchResult::Hazard),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: u8, server: &str) -> Identity {
        Identity { table: [name; NAME_LEN], server: server.to_owned() }
    }

    #[test]
    fn a_marker_proves_a_commit_and_its_absence_a_rollback_only_where_it_would_be() {
        const HAZARD: Done = Done::Heuristic(BranchResult::Hazard);
        const ROLLED_BACK: Done = Done::Heuristic(BranchResult::RolledBack);
        let here = || Some(identity(7, "1"));
        let other_kind = Evidence { kind: "postgresql".to_owned(), ..identity(7, "1").evidence() };
        for (marker, found, voted, expected) in [
            (true, here(), Some(identity(7, "1").evidence()), Done::Done),
            (true, here(), None, Done::Done),
            (true, None, Some(identity(8, "1").evidence()), Done::Done),
            (false, here(), Some(identity(7, "1").evidence()), ROLLED_BACK),
            (false, here(), Some(identity(7, "2").evidence()), HAZARD),
            (false, here(), Some(identity(8, "1").evidence()), HAZARD),
            (false, here(), Some(other_kind), HAZARD),
            (false, here(), None, HAZARD),
            (false, None, Some(identity(7, "1").evidence()), HAZARD),
            (false, None, None, HAZARD),
        ] {
            let look = Look { marker, identity: found };
            assert_eq!(judge(&look, voted.as_ref()), expected, "{look:?}, {voted:?}");
        }
    }

    #[test]
    fn evidence_is_never_longer_than_a_vote_may_carry() {
        let evidence = identity(1, &"\u{e4}".repeat(200)).evidence();
        assert!(evidence.data.len() <= Evidence::DATA_BYTES_MAX, "{}", evidence.data.len());
        assert!(evidence.data.starts_with(&[1; NAME_LEN]) && evidence.data.len() > 200);
    }
}
