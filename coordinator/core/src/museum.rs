//! The bug museum's list: known mistakes, each switched on by itself, that the tests must find.
//!
//! A bug is one line at its site, `if on(Bug::...)`. Without the feature `museum` that is `false`
//! at compile time, and nothing that ships has the feature. Where each mistake comes from and
//! which invariant finds it stands in the simulator's exhibits.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A seeded bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// Its name for people and commands.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// A participant votes when the prepared record is in the page cache.
    VoteBeforeSync = "vote-before-sync",
    /// A participant acknowledges a commit when its record is in the page cache.
    AcknowledgeBeforeSync = "acknowledge-before-sync",
    /// The log tells the coordinator that a frame is durable when it is in the page cache.
    FlushedBeforeSync = "flushed-before-sync",
    /// A new life of the coordinator acts on what it read without syncing it.
    RecoveredTailUnsynced = "recovered-tail-unsynced",
    /// A restarted participant acts on what it read without syncing it.
    RecoveredBranchesUnsynced = "recovered-branches-unsynced",
    /// A failed sync is tried again, and its second success believed.
    SyncTriedAgain = "sync-tried-again",
    /// An operator's act has its effect when its entry in the audit is in the page cache.
    ActBeforeItsRecord = "act-before-its-record",
    /// A late prepare creates a branch.
    LatePrepareCreates = "late-prepare-creates",
    /// A participant rolls back prepared branches when it restarts.
    RestartForgetsPrepared = "restart-forgets-prepared",
    /// A branch that was undone while its session was away takes up work again.
    UndoneBranchJoins = "undone-branch-joins",
    /// Frames are dropped before the records that carry on what was in them are durable.
    DropsBeforeCarried = "drops-before-carried",
    /// One frame more is dropped than the core says.
    DropsOneFrameTooMany = "drops-one-frame-too-many",
    /// Frames are removed before the chain's new start is durable.
    RemovesBeforeStart = "removes-before-start",
    /// A step of a compaction leaves out what it should have carried.
    CompactionSkipsItem = "compaction-skips-item",
    /// An outcome is carried without its branches.
    OutcomeWithoutBranches = "outcome-without-branches",
    /// A transaction is carried as its Commit record was, without what has come since.
    CarriedWithoutResults = "carried-without-results",
    /// A frame counts as whole without a look at its checksum.
    ChecksumIgnored = "checksum-ignored",
    /// What was appended while a sync was under way counts as durable with it.
    FlushedTellsTooMuch = "flushed-tells-too-much",
    /// Outcomes are told before the decision's record is durable.
    AnswersBeforeDurable = "answers-before-durable",
    /// Phase two begins before the decision's record is durable.
    ActsBeforeDurable = "acts-before-durable",
    /// A transaction ends before its branches have acknowledged.
    ForgetsBeforeAcknowledged = "forgets-before-acknowledged",
    /// The time-out rolls back after the decision was handed to the log.
    TimesOutAfterDecision = "times-out-after-decision",
    /// The time-out rolls back what was asked to commit in one phase.
    TimesOutOnePhase = "times-out-one-phase",
    /// A client's rollback undoes a decision on its way to the log.
    RollbackAfterDecision = "rollback-after-decision",
    /// The first vote to commit decides.
    FirstVoteDecides = "first-vote-decides",
    /// A vote to roll back is outvoted by one to commit.
    MajorityDecides = "majority-decides",
    /// A vote that arrives twice counts for another branch.
    VoteCountedTwice = "vote-counted-twice",
    /// An acknowledgement that arrives twice counts for another branch.
    AcknowledgementCountedTwice = "acknowledgement-counted-twice",
    /// A branch may enlist when the decision has been made.
    LateEnlist = "late-enlist",
    /// How many branches the client counted is not compared.
    CountIgnored = "count-ignored",
    /// A voter with nothing to commit is told to commit.
    ReadOnlyInPhaseTwo = "read-only-in-phase-two",
    /// A life's epoch is the clock's, whatever the log says.
    EpochFromClock = "epoch-from-clock",
    /// A life speaks before its epoch is durable.
    BootNotAwaited = "boot-not-awaited",
    /// A restart takes no decision over from the log.
    RestartForgetsDecisions = "restart-forgets-decisions",
    /// A restart sets no timers for what it takes over.
    RestartWithoutTimers = "restart-without-timers",
    /// Phase two gives up after a few tries.
    GivesUp = "gives-up",
    /// An undecided transaction is answered as rolled back.
    PendingIsRolledBack = "pending-is-rolled-back",
    /// An outcome that is not known is answered as rolled back.
    UnknownIsRolledBack = "unknown-is-rolled-back",
    /// A branch that asks while its transaction is active is told rollback.
    InquiryEndsActive = "inquiry-ends-active",
    /// Below the outcome floor a client is told rolled back.
    FloorIgnored = "floor-ignored",
    /// Outcomes are dropped before the floor is durable.
    FloorNotAwaited = "floor-not-awaited",
    /// A missing record means rolled back for one-phase commits, too, which leave none.
    OnePhasePresumed = "one-phase-presumed",
    /// A branch that decided alone counts as if it had done as it was told.
    HeuristicCountsAsDone = "heuristic-counts-as-done",
    /// A branch that decided alone is told to forget before that is on record.
    ForgetBeforeRecord = "forget-before-record",
    /// A transaction counts as ended before its End is durable.
    EndNotAwaited = "end-not-awaited",
    /// Participants are told that everything up to the mark has ended, without exceptions.
    MarkWithoutExceptions = "mark-without-exceptions",
    /// The mark passes unfinished transactions for which it has no room.
    MarkPassesTheRest = "mark-passes-the-rest",
    /// New decisions are made although the log's space is low.
    LowSpaceIgnored = "low-space-ignored",
    /// A compaction drops the record of the epoch.
    BootNotCarried = "boot-not-carried",
    /// A compaction drops the outcome floor.
    FloorNotCarried = "floor-not-carried",
    /// A compaction drops which branches of an outcome have not forgotten.
    UnforgottenNotCarried = "unforgotten-not-carried",
    /// A compaction drops which branches of a transaction decided alone, as decided.
    MatchedNotCarried = "matched-not-carried",
    /// A prepared branch is rolled back when the coordinator stays silent.
    PreparedTimesOut = "prepared-times-out",
    /// A restarted participant does not say what an earlier life of it has ended alone.
    RestartForgetsAlone = "restart-forgets-alone",
    /// A branch that is told to wait, or to be left alone, is rolled back.
    PatienceIsRollback = "patience-is-rollback",
    /// An answer that changes nothing fences with an epoch that may never be durable.
    PatienceFences = "patience-fences",
    /// A participant votes when it is asked, and prepares then.
    VotesWhenAsked = "votes-when-asked",
    /// A participant acknowledges when it is told, and commits then.
    AcknowledgesWhenTold = "acknowledges-when-told",
    /// A prepared branch that is asked again says that it has nothing to commit.
    RepeatedVoteReadOnly = "repeated-vote-read-only",
    /// A busy resource counts as prepared.
    BusyIsPrepared = "busy-is-prepared",
    /// A busy resource counts as committed.
    BusyIsDone = "busy-is-done",
    /// A branch that decided alone is acknowledged as done.
    HeuristicHidden = "heuristic-hidden",
    /// A branch in doubt asks once and never again.
    InquiresOnce = "inquires-once",
    /// "No such branch" counts as committed.
    CommitWithoutProof = "commit-without-proof",
    /// "No such branch" counts as committed in one phase.
    OnePhaseWithoutProof = "one-phase-without-proof",
    /// A one-phase commit whose proof was dropped counts as rolled back.
    ProofDroppedUnseen = "proof-dropped-unseen",
    /// The log counts as durable when sled has flushed: only a power loss of the real process
    /// shows it.
    SkipOwnSync = "skip-own-sync",
}

impl std::str::FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.iter().copied().find(|bug| bug.name() == name);
        known.ok_or_else(|| format!("no bug is called {name:?}"))
    }
}

impl std::fmt::Display for Bug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether this is the bug of this process.
#[cfg(not(feature = "museum"))]
#[inline(always)]
#[must_use]
pub const fn on(_bug: Bug) -> bool {
    false
}

#[cfg(feature = "museum")]
static BUG: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(usize::MAX);

/// Whether this is the bug of this process.
#[cfg(feature = "museum")]
#[must_use]
pub fn on(bug: Bug) -> bool {
    BUG.load(std::sync::atomic::Ordering::Relaxed) == bug as usize
}

/// Makes this the bug of this process; `None`: it has none.
#[cfg(feature = "museum")]
pub fn switch_on(bug: Option<Bug>) {
    let bug = bug.map_or(usize::MAX, |bug| bug as usize);
    BUG.store(bug, std::sync::atomic::Ordering::Relaxed);
}
