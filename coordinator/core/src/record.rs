//! What the log keeps, and when each record must be durable.
//!
//! Marks: **F** forced (durable before anything that shows it), **L** lazy (written with the next
//! group). A rollback of plain two-phase commit writes nothing: it is presumed (section 6).
//!
//! Foreseen, with their places reserved in the codec's tag table: Intent (last resource), Abort,
//! Prepared (subordinate), Branch (TCC over HTTP), Begin (sagas, messages). A reader
//! that meets a tag it does not know refuses the log as of a newer format; nothing is skipped.

use crate::audit::AuditEntry;
use crate::id::{Bqual, Gtrid, Labels, ParticipantName, ResourceId, TransactionName};
use crate::outcome::{BranchResult, Decision};
use serde::{Deserialize, Serialize};

/// One record of the coordinator's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Record {
    /// **F** A life of the coordinator begins. Durable before its first transaction, so epochs
    /// never repeat.
    Boot {
        /// max(last epoch + 1, unix seconds).
        epoch: u32,
    },
    /// **F** The decision commit, with everything needed to finish the transaction.
    Commit {
        /// The transaction.
        gtrid: Gtrid,
        /// For lists.
        name: TransactionName,
        /// The branches that voted commit; read-only voters are left out of phase two.
        branches: Vec<BranchRecord>,
    },
    /// **F** A branch ended otherwise than decided, or nobody knows how. Carries the whole
    /// transaction as it stands; a later one for the same transaction replaces it.
    Heuristic {
        /// The transaction.
        gtrid: Gtrid,
        /// For lists.
        name: TransactionName,
        /// What was decided (one-phase: what was asked for).
        decision: Decision,
        /// All branches of phase two with their results so far.
        branches: Vec<BranchRecord>,
    },
    /// **L** A branch decided alone, and as decided. For the record only.
    Matched {
        /// The transaction.
        gtrid: Gtrid,
        /// The branch.
        bqual: Bqual,
        /// How it ended.
        result: BranchResult,
    },
    /// **L** Every branch has acknowledged: the decision need not be driven any more. Its outcome
    /// is remembered.
    End {
        /// The transaction.
        gtrid: Gtrid,
    },
    /// **F** Outcomes of this log's transactions up to and including (epoch, sequence) are about to
    /// be dropped: from here on a missing record at or below it proves nothing to a client.
    OutcomeFloor {
        /// The epoch of the highest dropped outcome.
        epoch: u32,
        /// Its sequence number.
        sequence: u64,
    },
    /// **L** The whole state of an unfinished or heuristic transaction, moved to the end of the log
    /// so that older frames may go. It replaces all earlier records of the transaction.
    Carried {
        /// The transaction.
        gtrid: Gtrid,
        /// For lists.
        name: TransactionName,
        /// What was decided.
        decision: Decision,
        /// A Heuristic record of it was in the log.
        heuristic: bool,
        /// All branches of phase two with their results so far.
        branches: Vec<BranchRecord>,
        /// Those that decided alone, as decided, and have not said that they forgot.
        matched: Vec<Bqual>,
    },
    /// **L** Remembered outcomes, moved in the same way. Each was a commit; one in one phase is on
    /// record only so, if its branch decided alone.
    CarriedOutcomes {
        /// In the order of their ids.
        committed: Vec<OutcomeRecord>,
    },
    /// **L** A branch that decided alone, as decided, has forgotten: it will not report again.
    Forgotten {
        /// The transaction.
        gtrid: Gtrid,
        /// The branch.
        bqual: Bqual,
    },
    /// **L** A participant that this coordinator has met, with the resources that it has declared
    /// so far: known ones are listed while they are away. A later one of the same name replaces it.
    Participant {
        /// Its name.
        name: ParticipantName,
        /// In order.
        resources: Vec<ResourceId>,
    },
    /// **F** As [`Record::Heuristic`], of a transaction that an operator has acted on; as
    /// [`Record::Carried`] when it moves (then **L**). A later record of its whole state replaces
    /// it.
    Forced {
        /// The transaction.
        gtrid: Gtrid,
        /// For lists.
        name: TransactionName,
        /// What was decided (one-phase: what was asked for).
        decision: Decision,
        /// All branches of phase two with their results so far.
        branches: Vec<BranchRecord>,
        /// Those that decided alone, as decided, and have not said that they forgot.
        matched: Vec<Bqual>,
        /// Those whose result is an operator's word, and that have not been seen gone.
        asserted: Vec<Bqual>,
        /// It is off the list of heuristic outcomes.
        resolved: bool,
    },
    /// **F** An entry of the audit, before any effect of what it tells; **L** when it moves. Kept
    /// for ever. Nothing of a transaction follows from it: the act's effect has records of its own.
    /// A decision about an orphan is in force with it.
    OperatorAct {
        /// The entry.
        entry: Box<AuditEntry>,
    },
    /// **L** The labels of the transaction whose Commit, Heuristic, Forced or Carried record
    /// comes before
    /// it. For people: nothing follows from it, and without that record it is nothing.
    Labelled {
        /// The transaction.
        gtrid: Gtrid,
        /// Its labels; at least one.
        labels: Labels,
    },
}

/// The outcome of a finished transaction that was committed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OutcomeRecord {
    /// The transaction.
    pub gtrid: Gtrid,
    /// The branches of phase two.
    pub branches: Vec<Bqual>,
    /// Those that decided alone, as decided, and have not said that they forgot.
    pub unforgotten: Vec<Bqual>,
}

/// A branch in a record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BranchRecord {
    /// The branch.
    pub bqual: Bqual,
    /// Whom to tell.
    pub participant: ParticipantName,
    /// Which of its resources; phase two goes only to instances that declare it.
    pub resource: ResourceId,
    /// How the branch takes part.
    pub kind: BranchKind,
    /// The participant asks about its in-doubt branches for ever.
    pub inquires: bool,
    /// From the vote.
    pub evidence: Option<Evidence>,
    /// How it ended, if that is known.
    pub result: Option<BranchResult>,
    /// The participant's words about the result. At most [`DETAIL_BYTES_MAX`].
    pub detail: String,
}

/// How a branch takes part. Last resource and subordinate are foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BranchKind {
    /// Prepares and commits.
    TwoPhase,
}

/// The longest detail kept with a branch, in bytes.
pub const DETAIL_BYTES_MAX: usize = 256;

/// What a resource can later be asked for, so that "no such branch" can be judged. Opaque to the
/// coordinator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Evidence {
    /// Which rule reads it. At most 32 bytes.
    pub kind: String,
    /// At most 256 bytes.
    pub data: Vec<u8>,
}

impl Evidence {
    /// The longest kind, in bytes.
    pub const KIND_BYTES_MAX: usize = 32;
    /// The longest data, in bytes.
    pub const DATA_BYTES_MAX: usize = 256;
}

/// Cuts text to `bytes_max` bytes at a character's border.
#[must_use]
pub fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn text_is_cut_at_a_characters_border() {
        assert_eq!(cut("häuser", 2), "h");
        assert_eq!(cut("häuser", 3), "hä");
        assert_eq!(cut("h", 512), "h");
    }
}
