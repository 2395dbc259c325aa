//! What goes into the coordinator and what comes out of it.

use crate::audit::{Act, ActRefusal, AuditEntry};
use crate::id::{
    BranchId, Gtrid, InstanceId, Labels, Owner, ParticipantName, ResourceId, TransactionName,
};
use crate::outcome::{BranchResult, Decision, Outcome};
use crate::record::{Evidence, Record};
use crate::{FrameNumber, Lsn};

/// Names a caller that waits for a reply. Given out by the driver; the coordinator only hands it
/// back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerId(pub u64);

/// Everything that can happen to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody asked for something. Exactly one [`Action::Reply`] follows, now or later, except
    /// for [`Request::Attach`], [`Request::Compact`] and [`Request::Storage`], which have none.
    Requested {
        /// Who gets the reply.
        by: CallerId,
        /// What is asked.
        request: Request,
    },
    /// A participant answered about a branch. The session layer has checked that `from` is who it
    /// says.
    Answered {
        /// The participant whose session it came from.
        from: ParticipantName,
        /// Its resource that the branch's id names.
        resource: ResourceId,
        /// The branch.
        branch: BranchId,
        /// Its answer.
        answer: Answer,
    },
    /// Every record up to `upto` is durable; the last of them stands in `frame`.
    Flushed {
        /// The last durable record.
        upto: Lsn,
        /// The frame that holds it.
        frame: FrameNumber,
    },
    /// The deadline has come. Harmless at any other time.
    Ticked,
}

/// What callers ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// Begin a transaction.
    Begin {
        /// For lists.
        name: TransactionName,
        /// For lists and filters.
        labels: Labels,
        /// Milliseconds until it is rolled back if undecided; 0 means the default.
        timeout_ms: u64,
    },
    /// Add a branch. Idempotent by the branch's id.
    Enlist(Enlistment),
    /// End the transaction with a commit if all agree.
    Commit {
        /// The transaction.
        gtrid: Gtrid,
        /// How many branches the caller counted in its work replies.
        expected_branches: Option<u32>,
        /// When to reply.
        wait: Wait,
    },
    /// End the transaction with a rollback, if it is not too late.
    Rollback {
        /// The transaction.
        gtrid: Gtrid,
    },
    /// Tell a client what became of a transaction.
    Resolve {
        /// The transaction.
        gtrid: Gtrid,
        /// How many branches the caller counted.
        expected_branches: Option<u32>,
        /// Reply when it is decided, instead of [`Response::Pending`].
        wait: bool,
    },
    /// Send what the transaction's branches have not answered once more, now, and start its delays
    /// afresh. Changes no decision.
    Retry {
        /// The transaction.
        gtrid: Gtrid,
    },
    /// An operator's act. Replied to when its effect is durable, or begun.
    Operate {
        /// On which transaction.
        gtrid: Gtrid,
        /// Its version in the operator's plan.
        version: u64,
        /// What.
        act: Act,
        /// For the audit: durable before any effect.
        entry: Box<AuditEntry>,
    },
    /// An entry for the audit that has no effect on a transaction: a refusal, a proposal, a
    /// decision about an orphan. Replied to when it is durable.
    Audit {
        /// The entry.
        entry: Box<AuditEntry>,
    },
    /// Tell a participant what became of its branch.
    Inquire {
        /// The asking participant.
        from: ParticipantName,
        /// Its branch.
        branch: BranchId,
    },
    /// A participant's session has opened: what is pending for its resources is sent again, some at
    /// once and each further one with an answer ([`crate::Limits::redrive_window`]). No reply.
    Attach {
        /// The participant.
        participant: ParticipantName,
        /// The resources it reaches.
        resources: Vec<ResourceId>,
        /// The highest frame it was ever told with a decision, and in which life of which log.
        seen: Vec<(Owner, FrameNumber)>,
    },
    /// One bounded step of a compaction: what is live and was recorded at or before `upto` moves to
    /// the end of the log. When nothing is left there, and the moves are durable,
    /// [`Action::Drop`] says so. Repeat it until then. No reply.
    Compact {
        /// Up to where the log is to be freed: at most the last durable record, and the same in all
        /// steps of one compaction.
        upto: Lsn,
        /// How many transactions and outcomes at most.
        items_max: usize,
    },
    /// The log's space has become low, or ample again. While it is low nothing begins and nothing
    /// new is decided to commit; what is decided is finished. No reply.
    Storage {
        /// Too little space for new decisions.
        low: bool,
    },
}

/// A branch that wants to be part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Enlistment {
    /// Its id, made by the participant.
    pub branch: BranchId,
    /// Whose branch it is.
    pub participant: ParticipantName,
    /// The process that holds the work until it is prepared.
    pub instance: InstanceId,
    /// Which of the participant's resources.
    pub resource: ResourceId,
    /// The participant asks about in-doubt branches for ever.
    pub inquires: bool,
    /// An early vote.
    pub vote: Option<Vote>,
}

/// When a commit is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wait {
    /// When the decision is durable.
    Decided,
    /// When every branch has finished.
    Completed,
}

/// What participants answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// To prepare, or early.
    Voted(Vote),
    /// To a decision or to forget.
    Acknowledged {
        /// What was done.
        done: Done,
        /// The participant's words, for people.
        detail: String,
    },
}

/// A branch's vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Prepared durably; both outcomes are possible.
    Commit {
        /// What the decision brings back.
        evidence: Option<Evidence>,
    },
    /// Changed nothing, and is finished.
    ReadOnly,
    /// Cannot commit; undone.
    Rollback {
        /// Why, for people.
        reason: String,
    },
}

/// What a branch did about a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Done {
    /// As decided, durably, now or earlier.
    Done,
    /// One-phase: rolled back instead.
    RolledBack,
    /// Commit came before a vote; undone.
    NotPrepared,
    /// Decided alone, or nobody knows.
    Heuristic(BranchResult),
    /// Not now: ask again.
    Retry,
    /// The heuristic record is forgotten.
    Forgotten,
}

/// What the coordinator wants done. Each may be carried out the moment it is polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Hand a record to the log. `Flushed` tells when it is durable.
    Append {
        /// Its number; they come without a gap.
        lsn: Lsn,
        /// What to keep.
        record: Record,
        /// Somebody waits for it. A lazy record may wait for company.
        force: bool,
    },
    /// Records below this one are needed no more.
    Drop {
        /// The first that is needed.
        below: Lsn,
    },
    /// Deliver a message or drop it; the coordinator sends again.
    Send {
        /// Where to.
        to: Route,
        /// About which branch.
        branch: BranchId,
        /// What to say.
        message: Message,
    },
    /// Answer a caller, who may be gone.
    Reply {
        /// Who asked.
        to: CallerId,
        /// The answer.
        response: Response,
    },
}

/// Which session gets a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// A session of this participant ...
    pub participant: ParticipantName,
    /// ... that declares this resource, ...
    pub resource: ResourceId,
    /// ... this process if it is there.
    pub instance: Option<InstanceId>,
    /// Only this process: another one could not do what is asked, and would have to guess.
    pub holder_only: bool,
}

/// What the coordinator says to a branch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Vote.
    Prepare,
    /// Commit or roll back. A commit is durable in the coordinator's log at or before `frame`.
    Decide {
        /// Which.
        decision: Decision,
        /// The highest durable frame.
        frame: FrameNumber,
        /// From the vote, with a commit.
        evidence: Option<Evidence>,
    },
    /// Commit without a prepare: the answer decides.
    CommitOnePhase,
    /// The heuristic result is on the durable list.
    Forget,
}

/// What the coordinator replies to a caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Response {
    /// To `Begin`.
    Begun {
        /// The new transaction.
        gtrid: Gtrid,
        /// The time-out in force.
        timeout_ms: u64,
    },
    /// To `Enlist`: part of the transaction.
    Enlisted {
        /// Milliseconds until the time-out.
        remaining_ms: u64,
    },
    /// To `Enlist`: not part of it; undo.
    EnlistRefused(EnlistRefusal),
    /// To `Commit`, `Rollback`, `Resolve`: the transaction's outcome.
    Ended(Ending),
    /// To `Resolve`: not decided yet.
    Pending,
    /// To `Commit`, `Rollback`, `Resolve`: no record, and nothing may be presumed. To `Retry` and
    /// `Operate`: no such transaction in the table.
    Unknown,
    /// To `Retry`.
    Retried {
        /// Branches that something was sent to; none: it waits for no branch.
        branches: usize,
    },
    /// To `Operate`: done.
    Operated,
    /// To `Operate`: the state forbids it.
    ActRefused(ActRefusal),
    /// To `Operate`: the transaction moved while the entry was being written; no effect.
    Overtaken,
    /// To `Audit`: durable.
    Audited,
    /// To `Inquire`.
    Verdict(Verdict),
    /// Not carried out, nothing changed.
    Refused(Refusal),
}

/// An outcome with what explains it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ending {
    /// What became of the transaction.
    pub outcome: Outcome,
    /// Why it was rolled back, if it was.
    pub cause: Option<RollbackCause>,
    /// All branches have finished.
    pub completed: bool,
}

/// Why a transaction was rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RollbackCause {
    /// Asked for.
    Requested,
    /// Its time-out passed.
    TimedOut,
    /// A participant voted rollback.
    Voted {
        /// Who.
        participant: ParticipantName,
        /// Its words.
        reason: String,
    },
    /// The caller counted another number of branches than enlisted.
    BranchCount,
    /// There is no space to record a decision.
    LogFull,
    /// No record.
    Presumed,
    /// An operator rolled it back.
    Forced,
}

/// Why a branch was not enlisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EnlistRefusal {
    /// The transaction is rolled back.
    RolledBack,
    /// The commit was requested already.
    Inactive,
    /// No such transaction.
    UnknownTransaction,
    /// Another coordinator's, log's or epoch's.
    NotOurs,
    /// The transaction has all the branches it may have.
    TooManyBranches,
    /// The id belongs to another participant's or resource's branch.
    BqualTaken,
}

/// Why a request was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// As many transactions as there may be: try again later.
    TooManyTransactions {
        /// After this time.
        retry_after_ms: u64,
    },
    /// There is no space to record decisions: try again later.
    LogFull {
        /// After this time.
        retry_after_ms: u64,
    },
    /// The log has not taken this life's first record yet: try again soon.
    Starting,
    /// The audit has as many entries as it may have.
    AuditFull,
    /// Longer than the limit.
    TimeoutTooLong {
        /// The limit.
        max_ms: u64,
    },
}

/// What a participant is told about its branch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Commit it.
    Commit {
        /// The highest durable frame.
        frame: FrameNumber,
        /// From the vote, if it is still known.
        evidence: Option<Evidence>,
    },
    /// Roll it back.
    Rollback,
    /// Not decided: ask again.
    Wait,
    /// Nothing may be presumed: keep it and ask again; a person has to look.
    LeaveAlone,
}
