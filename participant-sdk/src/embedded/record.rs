//! What the log of accounts keeps. Marks: **F** forced, **L** lazy.

use crate::mark::passes_parts;
use serde::{Deserialize, Serialize};
use unanimous_core::coordinator::EndedMark;
use unanimous_core::{BranchId, Gtrid, LogId};

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
