//! What the log of accounts keeps. Marks: **F** forced, **L** lazy.

use crate::mark::passes_parts;
use serde::{Deserialize, Serialize};
use unanimous_core::coordinator::EndedMark;
use unanimous_core::{BranchId, BranchResult, Gtrid, LogId, Lsn};

/// One account's change: its number and the cents it gets.
pub(super) type Move = (u32, i64);

/// One record. New kinds are added at the end: the position is the tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Record {
    /// **F** The first record: so many accounts with the same balance.
    Opened { accounts: u32, balance_cents: i64 },
    /// **F** before the vote.
    Prepared { branch: BranchId, moves: Vec<Move> },
    /// **F** before the acknowledgement. The moves are those of the branch's `Prepared`, or stand
    /// here when it was committed in one phase.
    Committed { branch: BranchId, moves: Option<Vec<Move>> },
    /// **F** A prepared branch was undone.
    RolledBack { branch: BranchId },
    /// **L** The proofs of these committed branches are dropped.
    Ended { mark: Mark },
    /// **F** A balance was changed outside of any transaction, to prove that the check of the sums
    /// can fail.
    Adjusted { account: u32, delta_cents: i64 },
    /// **L** A piece of the snapshot that begins with the record `begun`: what was true when this
    /// record was appended.
    Snapshot { begun: Lsn, piece: Piece },
    /// **L** The snapshot is whole. Once this is durable, no record below `begun` is needed.
    SnapshotEnd { begun: Lsn },
    /// **F** A prepared branch ended without its coordinator, by policy: the record is the effect.
    Alone { branch: BranchId, end: AloneEnd },
    /// **F** The coordinator has it on its list: a branch that ended alone is forgotten.
    Forgotten { branch: BranchId },
}

/// How a branch ended alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AloneEnd {
    pub(super) committed: bool,
    /// For people.
    pub(super) why: String,
}

impl AloneEnd {
    pub(super) fn result(&self) -> BranchResult {
        if self.committed { BranchResult::Committed } else { BranchResult::RolledBack }
    }
}

/// What a piece of a snapshot carries; the pieces come in this order, `Alone` after `Proofs`. New
/// kinds are added at the end: the position is the tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Piece {
    /// The first one: how many accounts there are, their sum at the beginning, and how many
    /// branches were ever committed.
    Head { accounts: u32, opened_cents: i64, committed_total: u64 },
    /// Branches that were prepared before the snapshot began, with the LSN of their `Prepared`,
    /// which their votes name.
    Branches { branches: Vec<(BranchId, Lsn, Vec<Move>)> },
    /// Branches that were committed before the snapshot began, with the LSN of their `Committed`.
    Proofs { proofs: Vec<(BranchId, Lsn)> },
    /// One coordinator's log's mark.
    Mark { mark: Mark },
    /// The next accounts' balances in cents, account 1 first.
    Balances { cents: Vec<i64> },
    /// Branches that ended alone before the snapshot began, with the LSN of their `Alone`.
    Alone { branches: Vec<(BranchId, Lsn, AloneEnd)> },
}

/// An [`EndedMark`] as kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) log: LogId,
    pub(super) epoch: u32,
    pub(super) sequence: u64,
    pub(super) exceptions: Vec<Gtrid>,
}

impl Mark {
    /// Whether the transaction had ended durably when the mark was made.
    pub(super) fn covers(&self, gtrid: &Gtrid) -> bool {
        passes_parts(self.log, (self.epoch, self.sequence), &self.exceptions, gtrid)
    }
}

impl From<&EndedMark> for Mark {
    fn from(mark: &EndedMark) -> Self {
        Self {
            log: mark.log,
            epoch: mark.epoch,
            sequence: mark.sequence,
            exceptions: mark.exceptions.clone(),
        }
    }
}
