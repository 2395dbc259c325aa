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
