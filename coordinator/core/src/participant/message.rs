//! What goes into the participant and what comes out of it.

use crate::FrameNumber;
use crate::id::{BranchId, Owner};
use crate::message::{Answer, Done, Verdict, Vote};
use crate::outcome::{BranchResult, Decision};
use crate::record::Evidence;

/// Everything that can happen to a participant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The coordinator has enlisted the branch (again): work begins.
    Joined {
        /// The branch.
        branch: BranchId,
        /// Until the transaction's time-out.
        remaining_ms: u64,
    },
    /// A piece of work that joined is over. One that failed makes the branch vote rollback.
    Left {
        /// The branch.
        branch: BranchId,
        /// Why it must not commit.
        failure: Option<String>,
    },
    /// The resource listed the branch as prepared, at the start.
    Recovered {
        /// The branch.
        branch: BranchId,
        /// What its vote carries, if it has to be repeated.
        evidence: Option<Evidence>,
    },
    /// The resource has a branch on record that ended alone and is not forgotten, at the start or
    /// while it runs.
    FoundAlone {
        /// The branch.
        branch: BranchId,
        /// How it ended.
        result: BranchResult,
        /// Why, for people.
        words: String,
    },
    /// The coordinator says something about a branch.
    Told {
        /// Who says so.
        sender: Owner,
        /// The branch.
        branch: BranchId,
        /// What.
        order: Order,
    },
    /// A call of the resource has returned.
    Returned {
        /// The branch.
        branch: BranchId,
        /// With what.
        result: Returned,
    },
    /// A session is open: in-doubt branches are asked about at once.
    Connected,
    /// The deadline has come. Harmless at any other time.
    Ticked,
}

/// What the coordinator says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Vote.
    Prepare,
    /// Commit or roll back.
    Decide {
        /// Which.
        decision: Decision,
        /// The coordinator's highest durable frame.
        frame: FrameNumber,
        /// From the vote.
        evidence: Option<Evidence>,
    },
    /// Commit without a prepare.
    CommitOnePhase,
    /// Forget a heuristic result.
    Forget,
    /// The answer to an inquiry.
    Answer(Verdict),
}

/// What a resource's call came to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Returned {
    /// From prepare.
    Voted(Vote),
    /// From all other calls: with words for people.
    Did(Done, String),
    /// The resource could not be asked, or does not know: call again. Why, for people.
    Retry(String),
}

/// What the participant wants done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Call the resource; `Returned` brings the result. At most one call a branch is under way.
    Call {
        /// The branch.
        branch: BranchId,
        /// Which call.
        call: Call,
    },
    /// Say it to the coordinator, or drop it.
    Send {
        /// The branch.
        branch: BranchId,
        /// What.
        answer: Answer,
    },
    /// Ask the coordinator, or drop it.
    Inquire {
        /// The branch.
        branch: BranchId,
    },
}

/// A call of the resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Make it durable, so that both outcomes are possible. Unknown: vote rollback, create nothing.
    Prepare,
    /// Commit it. Unknown: what can be proved.
    Commit {
        /// From the vote, as the coordinator kept it.
        evidence: Option<Evidence>,
    },
    /// Commit it, prepared or not; the answer decides. Unknown: what can be proved.
    CommitOnePhase,
    /// Undo it. Unknown: done.
    Rollback,
    /// Drop the memory of a heuristic result.
    Forget,
    /// End a prepared branch without its coordinator: on record first, then done. Ended by order
    /// meanwhile: done.
    EndAlone {
        /// How.
        decision: Decision,
        /// Why, for people: it belongs on the record.
        why: String,
    },
}
