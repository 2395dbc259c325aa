//! What operators do, and the audit of it.

use crate::id::{Bqual, Gtrid};
use crate::outcome::BranchResult;
use serde::{Deserialize, Serialize};

/// What an operator does to a transaction (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// Roll back what is undecided; what is rolling back already is sent again.
    Rollback,
    /// Send the commit of a transaction that is decided so again.
    Commit,
    /// A branch has ended so: the operator has looked.
    Assert {
        /// Which.
        bqual: Bqual,
        /// How it ended.
        end: BranchResult,
    },
    /// A branch is gone for good: it is not driven any more, and nobody knows how it ended.
    Abandon {
        /// Which.
        bqual: Bqual,
    },
    /// A heuristic outcome has been settled: off the list.
    Resolve,
}

impl Act {
    /// Every kind, for tables. The branch is the same in all that have one.
    #[must_use]
    pub fn all(bqual: Bqual) -> [Self; 5] {
        let end = BranchResult::Committed;
        let (assert, abandon) = (Self::Assert { bqual, end }, Self::Abandon { bqual });
        [Self::Rollback, Self::Commit, assert, abandon, Self::Resolve]
    }

    /// The branch that it is about.
    #[must_use]
    pub fn bqual(&self) -> Option<Bqual> {
        match self {
            Self::Assert { bqual, .. } | Self::Abandon { bqual } => Some(*bqual),
            Self::Rollback | Self::Commit | Self::Resolve => None,
        }
    }
}

/// Why the state of a transaction forbids an act. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActRefusal {
    /// It is decided, the other way.
    Decided,
    /// Only its branches' votes can decide to commit.
    VotesMissing,
    /// Its branches are not in phase two yet: it can be rolled back as a whole.
    Undecided,
    /// Its only branch has been asked to commit in one phase, and that branch alone decides.
    OnePhase,
    /// Its decision is being written to the log: the log's answer comes first.
    WaitForLog,
    /// It is not on the list of heuristic outcomes.
    NotHeuristic,
    /// It is not on that list yet: branches have not answered.
    BranchesPending,
    /// It is off the list already.
    Resolved,
    /// It has no such branch in phase two.
    BranchUnknown,
    /// The branch has said itself how it ended, or that is asserted already.
    BranchFinished,
    /// It does not stand as it stood in the plan, or another act on it is being recorded.
    Moved,
}

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AuditKind {
    /// [`Act::Rollback`].
    Rollback,
    /// [`Act::Commit`].
    Commit,
    /// [`Act::Assert`].
    Assert,
    /// [`Act::Abandon`].
    Abandon,
    /// [`Act::Resolve`].
    Resolve,
    /// A decision about a prepared branch that no log knows.
    Orphan,
    /// A call that was refused for its caller's role.
    Call,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AuditResult {
    /// Allowed: it has its effect when the entry is durable.
    Done,
    /// Not allowed: nothing is changed.
    Refused,
    /// Left for a second person.
    Proposed,
    /// The transaction moved while the act's entry was being written: no effect.
    Overtaken,
}

/// One entry of the audit. The driver makes it, since the clock and the caller are the driver's;
/// texts are bounded there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AuditEntry {
    /// From 1, without a gap.
    pub number: u64,
    /// Milliseconds since 1970, UTC.
    pub at_ms: u64,
    /// From the caller's certificate or token.
    pub who: String,
    /// The other end of the caller's connection.
    pub from: String,
    /// What it is about.
    pub kind: AuditKind,
    /// What became of it.
    pub result: AuditResult,
    /// The transaction, if it is about one.
    pub gtrid: Option<Gtrid>,
    /// The branch, if it is about one.
    pub bqual: Option<Bqual>,
    /// How the branch is said to have ended, or is to end.
    pub end: Option<BranchResult>,
    /// The transaction's state before, in words.
    pub before: String,
    /// And after.
    pub after: String,
    /// As it was shown; of a refusal the reason.
    pub plan: String,
    /// The operator's words.
    pub reason: String,
    /// What the operator saw of the branch's end.
    pub evidence: String,
    /// The entry of the proposal or act that this one is about, or 0.
    pub concerns: u64,
    /// Hash of the entry before.
    pub previous: [u8; 32],
    /// Hash of this one.
    pub hash: [u8; 32],
}
