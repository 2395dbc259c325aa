//! Prepared branches that participants ask about and that this coordinator may not judge (section
//! 6: "leave alone"): listed for a person.

use std::collections::BTreeMap;
use unanimous_core::{BranchId, Millis, Owner, ParticipantName};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Orphan {
    pub(crate) participant: ParticipantName,
    pub(crate) reason: &'static str,
    pub(crate) first_asked_at: Millis,
    pub(crate) last_asked_at: Millis,
}

/// At most so many, since the start.
#[derive(Debug)]
pub(crate) struct Orphans {
    known: BTreeMap<BranchId, Orphan>,
    max: usize,
    not_listed: u64,
}

impl Orphans {
    pub(crate) fn new(max: usize) -> Self {
        Self { known: BTreeMap::new(), max, not_listed: 0 }
    }

    /// A participant was told to leave it alone.
    pub(crate) fn left_alone(
        &mut self,
        now: Millis,
        participant: &ParticipantName,
        branch: BranchId,
        reason: &'static str,
    ) {
        if let Some(known) = self.known.get_mut(&branch) {
            known.last_asked_at = now;
            return;
        }
        if self.known.len() >= self.max {
            self.not_listed += 1;
            return;
        }
        tracing::warn!(%branch, %participant, reason, "a prepared branch is left alone");
        let participant = participant.clone();
        let orphan = Orphan { participant, reason, first_asked_at: now, last_asked_at: now };
        self.known.insert(branch, orphan);
    }

    /// It was told an outcome after all.
    pub(crate) fn explained(&mut self, branch: &BranchId) {
        self.known.remove(branch);
    }

    /// Whether a participant has asked about it, and nothing explains it.
    pub(crate) fn knows(&self, branch: &BranchId) -> bool {
        self.known.contains_key(branch)
    }

    /// The ones asked about longest ago first.
    pub(crate) fn list(&self) -> Vec<(&BranchId, &Orphan)> {
        let mut list: Vec<_> = self.known.iter().collect();
        list.sort_by_key(|(_, orphan)| orphan.first_asked_at);
        list
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Questions about further ones, for which there was no room.
    pub(crate) fn not_listed(&self) -> u64 {
        self.not_listed
    }
}

/// Why a branch is left alone, for people.
pub(crate) fn reason(me: Owner, branch: &BranchId, log_behind: bool) -> &'static str {
    let owner = branch.bqual.owner();
    if (owner.log.cluster, owner.log.slot) != (me.log.cluster, me.log.slot) {
        "it belongs to another coordinator"
    } else if owner.log.incarnation != me.log.incarnation {
        "it belongs to another incarnation of this log: a restored, copied or replaced one"
    } else if log_behind || owner.epoch > me.epoch {
        "this log went back in time and may have lost its decision"
    } else {
        "nothing proves what became of it"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use unanimous_core::{Bqual, Gtrid, LogId};

    const ME: Owner = Owner { log: LogId { cluster: 1, slot: 2, incarnation: 3 }, epoch: 4 };

    fn branch(owner: Owner, number: u32) -> BranchId {
        BranchId { gtrid: Gtrid::new(owner, 1, 0), bqual: Bqual::new(1, number, owner) }
    }

    #[test]
    fn as_many_as_may_be_are_listed_and_the_rest_is_counted() {
        let bank = ParticipantName::new("bank").unwrap();
        let mut orphans = Orphans::new(2);
        for (at, number) in [(5, 2), (6, 1), (7, 2), (8, 3)] {
            orphans.left_alone(Millis(at), &bank, branch(ME, number), "why");
        }
        let list = orphans.list();
        let times: Vec<_> =
            list.iter().map(|(_, o)| (o.first_asked_at.0, o.last_asked_at.0)).collect();
        assert_eq!(times, [(5, 7), (6, 6)]);
        assert_eq!((orphans.len(), orphans.not_listed()), (2, 1));
        orphans.explained(&branch(ME, 2));
        assert_eq!(orphans.len(), 1);
    }

    #[test]
    fn the_reason_names_what_is_foreign() {
        let other = |change: fn(&mut Owner)| {
            let mut owner = ME;
            change(&mut owner);
            reason(ME, &branch(owner, 1), false)
        };
        assert!(other(|owner| owner.log.slot = 9).contains("another coordinator"));
        assert!(other(|owner| owner.log.incarnation = 9).contains("incarnation"));
        assert!(other(|owner| owner.epoch = 9).contains("back in time"));
        assert!(reason(ME, &branch(ME, 1), true).contains("back in time"));
    }
}
